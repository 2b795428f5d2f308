//! One event may be as large as configured: it arrives whole. A larger one ends the answer with a word, and nobody's memory.

use handoff_e2e::upstream::{Dialect, Protocol};
use handoff_e2e::{Answer, Daemon, Upstream};
use serde_json::json;

const EVENT_BYTES: usize = 5 << 20;

fn backed_by(llm: &Upstream, keys: &str) -> Daemon {
    Daemon::confined(
        2,
        &format!("[backend]\nprovider = \"llm\"\n{}{keys}", llm.backend_toml("llm", Dialect::OpenAi)),
    )
}

fn huge() -> Answer {
    let content = "x".repeat(EVENT_BYTES);
    let event = format!("data: {}\n\n", json!({"choices": [{"index": 0, "delta": {"content": content}}]}));
    let talk = Answer::openai().words(2);
    talk.with_after(1, [handoff_e2e::upstream::Step::Send(event.into_bytes())])
}

#[test]
fn whole_where_it_is_allowed() {
    for protocol in [Protocol::H1, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        llm.script(huge());
        let daemon = backed_by(&llm, "");
        let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
        assert!(response.is_complete(), "{response:?}");
        let text = response.text();
        assert_eq!(text.len(), "w0 w1 ".len() + EVENT_BYTES);
        assert!(text.starts_with("w0 xxx") && text.ends_with("xxxw1 "));
    }
}

#[test]
fn with_a_word_where_it_is_not() {
    let llm = Upstream::start(Protocol::H1);
    llm.script(huge());
    let daemon = backed_by(&llm, "event_max_mb = 1\n");
    let workers = daemon.workers("ready");
    let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
    assert_eq!((response.status, response.text().as_str()), (200, "w0 "), "{response:?}");
    assert_eq!(response.error_code().as_deref(), Some("upstream_error"), "{response:?}");
    assert!(!response.body.contains("[DONE]"), "{response:?}");
    // An event that never ends is the same.
    let endless = handoff_e2e::upstream::Step::SendForever(vec![b'x'; 65_536], std::time::Duration::ZERO);
    llm.script(Answer::openai().broken_after(1, [endless]));
    let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
    assert_eq!(response.error_code().as_deref(), Some("upstream_error"), "{response:?}");
    llm.wait_for_cancel(1);
    assert!(llm.requests()[1].bytes_sent < 16 << 20, "it is not read on and on");
    assert_eq!(daemon.workers("ready"), workers, "nobody has died of it");
}
