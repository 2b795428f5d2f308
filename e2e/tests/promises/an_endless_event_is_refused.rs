//! An event may be large, and no larger than configured: an upstream that never ends one cannot fill a worker.

use std::fmt::Write as _;
use std::time::Duration;

use handoff_e2e::Asker;
use handoff_e2e::asker::{ONCE, name};
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Talk, Upstream, words};
use serde_json::json;

/// Events of one megabyte at most, or as large as they may be by themselves.
const SMALL: &str = "event_max_mb = 1\n";

#[test]
fn that_never_has_its_blank_line() {
    for protocol in [Protocol::H1, Protocol::H2c] {
        let llm = Upstream::start(protocol);
        let asker = Asker::in_every_dialect(&llm, &format!("{ONCE}{SMALL}"));
        let endless = [
            (Dialect::OpenAi, "data: x\n"),
            (Dialect::OpenAi, "x"),
            (Dialect::Responses, "event: response.created\n"),
            (Dialect::Anthropic, "data:"),
            (Dialect::Ollama, "{\"message\":"),
            (Dialect::LangGraph, "id: 1\n"),
        ];
        for (dialect, endless) in endless {
            let endless = || Step::SendForever(endless.repeat(10_000).into_bytes(), Duration::ZERO);
            let about = |format| json!({"backend": name(dialect), "format": format});
            llm.script(Talk::new(dialect).broken_after(0, [endless()]));
            asker.ask(&about("content")).is_refused(502, "upstream_error", "upstream_failed");
            llm.script(Talk::new(dialect).broken_after(4, [endless()]));
            for format in ["content", "raw"] {
                asker.ask(&about(format)).is_broken_after(4, "upstream_error", "upstream_failed");
            }
            llm.wait_for_cancel(llm.request_count() - 1);
        }
        let failures = endless.map(|(dialect, _)| (name(dialect), "too_large", 3));
        asker.adds_up(&failures, &[("upstream_failed", 18)]);
    }
}

#[test]
fn while_a_large_one_goes_through() {
    let mut text = String::new();
    while text.len() < 5_000_000 {
        let _ = write!(text, "{} ", text.len());
    }
    let llm = Upstream::start(Protocol::H1AndH2c);
    let asker = Asker::in_every_dialect(&llm, ONCE);
    for dialect in Dialect::ALL {
        llm.script(Talk::new(dialect).words(1).answer().replace("w0 ", &text));
        let told = asker.ask(&json!({"backend": name(dialect)}));
        assert!(told.response.is_complete() && told.response.text() == text, "{dialect:?}: {told:?}");
    }
    llm.script(Answer::anthropic().words(1).answer().replace("w0 ", &text));
    let told = asker.ask(&json!({"backend": "messages", "format": "raw"}));
    assert!(told.response.body.contains(&text), "{told:?}");
    assert_eq!(told.session["outcome"], "complete");
}

#[test]
fn and_what_stands_between_events_is_none() {
    let llm = Upstream::start(Protocol::H1);
    let asker = Asker::in_every_dialect(&llm, &format!("{ONCE}{SMALL}"));
    let comments = ": keep-alive\n".repeat(300_000);
    llm.script(Answer::openai().with_after(4, [Step::Send(comments.into_bytes())]));
    asker.ask(&json!({})).is_complete(&words(10));
}
