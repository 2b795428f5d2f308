//! Upstreams that know idempotency keys can tell a question that is asked again from a new one: the key stays the same
//! over further attempts, and when another worker takes over; no two questions share one.

use handoff_e2e::upstream::{Dialect, Protocol, code, words};
use handoff_e2e::{Answer, Daemon, Upstream, eventually, process};
use nix::sys::signal::Signal;

fn backed_by(llm: &Upstream) -> String {
    format!("[backend]\nprovider = \"llm\"\n{}", llm.backend_toml("llm", Dialect::OpenAi))
}

fn keys(llm: &Upstream) -> Vec<String> {
    let requests = llm.requests();
    let keys = requests.iter().map(|seen| seen.request.header("idempotency-key").expect("a key").to_owned());
    keys.collect()
}

#[test]
fn over_further_attempts() {
    let llm = Upstream::start(Protocol::H2c);
    llm.script_each([
        Answer::openai_error(500, "server_error", "internal", "no"),
        Answer::sse().head().reset(code::INTERNAL_ERROR),
        Answer::openai().answer(),
    ]);
    let daemon = Daemon::confined(2, &backed_by(&llm));
    for _ in 0..2 {
        let response = daemon.hand_over(r#"{"prompt":"x","request_id":"of-the-site"}"#).response();
        assert!(response.is_complete() && response.text() == words(10), "{response:?}");
    }
    let keys = keys(&llm);
    let [first, second, third, other] = &keys[..] else { panic!("{keys:?}") };
    assert!(first == second && second == third, "{keys:?}");
    assert_ne!(other, first, "another question");
    let bodies: Vec<_> = llm.requests().into_iter().map(|seen| seen.request.body).collect();
    assert!(bodies[0] == bodies[1] && bodies[1] == bodies[2], "the same bytes");
}

#[test]
fn when_another_worker_takes_over() {
    let llm = Upstream::start(Protocol::H1);
    llm.script_each([Answer::sse().head().hang(), Answer::openai().answer()]);
    let daemon = Daemon::confined(2, &backed_by(&llm));
    let client = daemon.hand_over(r#"{"prompt":"x"}"#);
    llm.wait_for_request(0);
    let holder = eventually("somebody holds it", || daemon.holders().first().map(|(pid, _)| *pid));
    process::signal(holder, Signal::SIGKILL);
    let response = client.response();
    assert!(response.is_complete() && response.text() == words(10), "{response:?}");
    let keys = keys(&llm);
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
}

#[test]
fn two_daemons_share_none() {
    let llm = Upstream::start(Protocol::H1);
    let (one, other) = (Daemon::confined(2, &backed_by(&llm)), Daemon::confined(2, &backed_by(&llm)));
    for daemon in [&one, &other] {
        assert!(daemon.hand_over(r#"{"prompt":"x"}"#).response().is_complete());
    }
    let keys = keys(&llm);
    assert_ne!(keys[0], keys[1]);
}
