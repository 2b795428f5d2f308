//! What nobody waits for any more is asked of nobody: a client that has left costs no further attempt, and an upstream
//! that would go on by itself is told to stop.

use handoff_e2e::upstream::{Answer, Dialect, Protocol, Upstream};
use handoff_e2e::{Daemon, eventually};
use serde_json::json;

#[test]
fn an_answer_that_is_read_on_for_its_usage_is_not_asked_for_again() {
    let llm = Upstream::start(Protocol::H1);
    llm.script(Answer::sse().head().wait_for("gone").cut());
    let daemon = Daemon::start(&format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}on_disconnect = \"drain_usage\"\n",
        llm.backend_toml("llm", Dialect::OpenAi)
    ));
    let client = daemon.hand_over(r#"{"prompt":"x","request_id":"r"}"#);
    llm.wait_for_request(0);
    drop(client);
    llm.open("gone");
    let session = daemon.session("r");
    assert_eq!((&session["outcome"], &session["attempts"]), (&json!("client_gone"), &json!(1)), "{session}");
    assert_eq!(llm.request_count(), 1);
}

#[test]
fn an_answer_in_the_background_is_cancelled_when_its_stream_breaks() {
    let llm = Upstream::start(Protocol::H1);
    let created = json!({"type": "response.created", "response": {"id": "resp_1", "status": "queued"}});
    let delta = json!({"type": "response.output_text.delta", "output_index": 0, "delta": "w"});
    let broken = Answer::sse().event(&created).event(&delta).cut();
    llm.script_by_path([("/responses", broken), ("/resp_1/cancel", Answer::json(200, &json!({})))]);
    let daemon = Daemon::start(&format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}",
        llm.backend_toml("llm", Dialect::Responses)
    ));
    let payload = r#"{"prompt":"x","extra_body":{"background":true,"store":true}}"#;
    let response = daemon.hand_over(payload).response();
    assert_eq!(response.error_code().as_deref(), Some("stream_incomplete"), "{response:?}");
    let paths = || llm.requests().into_iter().map(|seen| seen.request.path).collect::<Vec<_>>();
    eventually("the upstream is told to stop", || {
        (paths() == ["/v1/responses", "/v1/responses/resp_1/cancel"]).then_some(())
    });
}
