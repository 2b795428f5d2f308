//! A question may have megabytes of conversation and pictures: once its answer has begun, nobody needs it, and a worker
//! does not keep it for as long as the answer takes.

use handoff_e2e::apache::hand_over_large;
use handoff_e2e::process::own_memory;
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};
use handoff_e2e::{Client, Daemon, eventually};

const QUESTION_BYTES: usize = 1 << 20;
const QUESTIONS: usize = 40;

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
        let question = format!(r#"{{"prompt":"{}"}}"#, "x ".repeat(QUESTION_BYTES / 2));
        let ask = || {
            let mut client = hand_over_large(&daemon.socket(), question.as_bytes());
            drop(client.read_until("w0"));
            client
        };
        let first = ask();
        let before = own_memory(worker);
        let others: Vec<Client> = (1..QUESTIONS).map(|_| ask()).collect();
        eventually("the questions are gone", || {
            (own_memory(worker).saturating_sub(before) < (QUESTIONS * QUESTION_BYTES / 4) as u64)
                .then_some(())
        });
        drop((first, others));
    }
}
