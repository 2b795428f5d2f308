//! A thread is a conversation that the upstream keeps: a question that may be in it already is not said again, neither
//! there nor elsewhere.

use handoff_e2e::Daemon;
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Upstream};
use serde_json::json;

#[test]
fn a_run_that_broke_off_is_begun_again_only_where_nothing_is_kept() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = Daemon::start(&format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}retries = 1\n",
        llm.backend_toml("llm", Dialect::LangGraph)
    ));
    let runs = || llm.requests().iter().filter(|seen| seen.request.path.ends_with("/runs/stream")).count();
    let broken = Answer::sse().named_event("metadata", &json!({"run_id": "r"})).cut();
    let refused = Answer::json(503, &json!({"detail": "busy"}));
    for (answer, thread, expected) in [(&broken, None, 2), (&broken, Some("t"), 1), (&refused, Some("t"), 2)]
    {
        let before = runs();
        llm.script_by_path([("/threads", Answer::json(200, &json!({}))), ("/runs/stream", answer.clone())]);
        let response = daemon.hand_over(json!({"prompt": "x", "thread_id": thread}).to_string()).response();
        assert!(matches!(response.status, 502 | 503), "{response:?}");
        assert_eq!(runs() - before, expected, "{thread:?} {answer:?}");
    }
}
