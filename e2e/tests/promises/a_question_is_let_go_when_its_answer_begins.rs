//! A question may have megabytes of conversation and pictures: once its answer has begun, nobody needs it, and a worker
//! does not keep it for as long as the answer takes.

use handoff_e2e::apache::hand_over_large;
use handoff_e2e::process::status;
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};
use handoff_e2e::{Client, Daemon, eventually};

const QUESTION_KIB: usize = 1024;
const QUESTIONS: usize = 40;

fn rss_kib(pid: u32) -> usize {
    status(pid, "VmRSS").trim_end_matches(" kB").parse().expect("a number of KiB")
}

#[test]
fn many_large_questions_under_way_take_little_memory() {
    for protocol in [Protocol::H1, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        llm.script(Answer::openai().with_after(1, [Step::Hang]));
        let daemon = Daemon::start(&format!(
            "[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}",
            llm.backend_toml("llm", Dialect::OpenAi)
        ));
        let worker = daemon.workers("ready")[0];
        let question = format!(r#"{{"prompt":"{}"}}"#, "x ".repeat(QUESTION_KIB * 1024 / 2));
        let ask = || {
            let mut client = hand_over_large(&daemon.socket(), question.as_bytes());
            drop(client.read_until("w0"));
            client
        };
        let first = ask();
        let before = rss_kib(worker);
        let others: Vec<Client> = (1..QUESTIONS).map(|_| ask()).collect();
        eventually("the questions are gone", || {
            (rss_kib(worker).saturating_sub(before) < QUESTIONS * QUESTION_KIB / 4).then_some(())
        });
        drop((first, others));
    }
}
