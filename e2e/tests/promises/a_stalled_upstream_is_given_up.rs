//! An upstream that stops, that only gives signs of life, or that never ends is given up in time: its client is told, and
//! it is told itself. One that is only slow is waited for.

use std::time::Duration;

use handoff_e2e::upstream::{Dialect, Protocol, Step, words};
use handoff_e2e::{Answer, Daemon, Upstream};

fn backed_by(llm: &Upstream, dialect: Dialect, keys: &str) -> Daemon {
    Daemon::confined(2, &format!("[backend]\nprovider = \"llm\"\n{}{keys}", llm.backend_toml("llm", dialect)))
}

fn ping() -> Step {
    Step::Send(b": ping\n\n".to_vec())
}

/// After the first two words: an error event, and the upstream hears of it.
fn is_given_up(llm: &Upstream, daemon: &Daemon, (number, code, reason): (usize, &str, &str)) {
    let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
    assert_eq!((response.status, response.broken), (200, None), "{reason}: {response:?}");
    assert_eq!(response.error_code().as_deref(), Some(code), "{reason}: {response:?}");
    assert!(response.text().starts_with(&words(2)), "{reason}: {response:?}");
    assert!(!response.body.contains("[DONE]"), "{reason}: {response:?}");
    llm.wait_for_cancel(number);
    let counted = format!("handoffd_backend_failures_total{{backend=\"llm\",reason=\"{reason}\"");
    handoff_e2e::eventually("it is counted", || (daemon.metric(&counted) >= 1.0).then_some(()));
}

#[test]
fn that_says_nothing_or_nothing_that_matters() {
    const KEYS: &str = "idle_timeout_secs = 0.3\nidle_content_timeout_secs = 0.6\ntotal_timeout_secs = 10\n";
    for (protocol, dialect) in [(Protocol::H1, Dialect::OpenAi), (Protocol::H2Tls, Dialect::Anthropic)] {
        let llm = Upstream::start(protocol);
        let daemon = backed_by(&llm, dialect, KEYS);
        let talk = handoff_e2e::upstream::Talk::new(dialect);
        llm.script(talk.broken_after(2, [Step::Hang]));
        is_given_up(&llm, &daemon, (0, "stream_idle_timeout", "idle_timeout"));
        for alive in [&b": ping\n\n"[..], b"event: ping\ndata: {\"type\": \"ping\"}\n\n"] {
            let alive = Step::SendForever(alive.to_vec(), Duration::from_millis(50));
            llm.script(talk.broken_after(2, [alive]));
            is_given_up(&llm, &daemon, (llm.request_count(), "stream_idle_timeout", "content_timeout"));
        }
    }
}

#[test]
fn that_never_ends() {
    for protocol in [Protocol::H1, Protocol::H2c] {
        let llm = Upstream::start(protocol);
        let daemon = backed_by(&llm, Dialect::OpenAi, "total_timeout_secs = 0.6\n");
        let word = Answer::openai().parts().content.swap_remove(9);
        let talk = Answer::openai();
        llm.script(talk.broken_after(2, [Step::SendForever(word, Duration::from_millis(5))]));
        is_given_up(&llm, &daemon, (0, "stream_too_long", "total_timeout"));
    }
}

#[test]
fn but_not_one_that_is_slow() {
    let llm = Upstream::start(Protocol::H1);
    let daemon =
        backed_by(&llm, Dialect::OpenAi, "idle_timeout_secs = 1.0\nidle_content_timeout_secs = 3.0\n");
    let pause = || Step::Wait(Duration::from_millis(400));
    let silence = [pause(), ping(), pause(), ping(), pause(), ping(), pause()];
    llm.script(Answer::openai().with_after(5, silence));
    let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
    assert!(response.is_complete() && response.text() == words(10), "{response:?}");
}
