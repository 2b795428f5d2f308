//! What nobody waits for any more is asked of nobody: a client that has left costs no further attempt, and an upstream
//! that would go on by itself is told to stop.

use std::time::Duration;

use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};
use handoff_e2e::{Client, Daemon, eventually, throughout};
use nix::sys::signal::Signal;
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

/// An API that has begun with an answer in the background, and then does this.
fn in_the_background(then: Step) -> (Upstream, Daemon, Client) {
    let llm = Upstream::start(Protocol::H1Tls);
    let created = json!({"type": "response.created", "response": {"id": "resp_1", "status": "queued"}});
    let delta = json!({"type": "response.output_text.delta", "output_index": 0, "delta": "w0"});
    let answer = Answer::sse().event(&created).event(&delta).step(then);
    llm.script_by_path([("/responses", answer), ("/resp_1/cancel", Answer::json(200, &json!({})))]);
    let daemon = Daemon::start(&format!(
        "shutdown_timeout_secs = 0.2\n[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}",
        llm.backend_toml("llm", Dialect::Responses)
    ));
    let payload = r#"{"prompt":"x","request_id":"r","extra_body":{"background":true,"store":true}}"#;
    let mut client = daemon.hand_over(payload);
    drop(client.read_until("w0"));
    (llm, daemon, client)
}

#[track_caller]
fn assert_is_cancelled(llm: &Upstream) {
    let paths = || llm.requests().into_iter().map(|seen| seen.request.path).collect::<Vec<_>>();
    eventually("the upstream is told to stop", || {
        (paths() == ["/v1/responses", "/v1/responses/resp_1/cancel"]).then_some(())
    });
}

#[test]
fn an_answer_in_the_background_is_cancelled_when_its_stream_breaks() {
    let (llm, _daemon, client) = in_the_background(Step::Cut);
    let response = client.response();
    assert!(response.body.contains("stream_incomplete"), "{response:?}");
    assert_is_cancelled(&llm);
}

#[test]
fn an_answer_in_the_background_is_cancelled_when_its_worker_ends() {
    let (llm, mut daemon, client) = in_the_background(Step::Hang);
    llm.pause_accepting();
    daemon.signal(Signal::SIGTERM);
    let response = client.response();
    assert!(response.body.contains("shutting_down"), "{response:?}");
    let session = daemon.session("r");
    assert_eq!(session["outcome"], "shutting_down", "{session}");
    throughout(Duration::from_millis(200), || {
        assert!(daemon.exit_status().is_none(), "the worker is gone before the upstream is told");
    });
    llm.listen();
    daemon.wait();
    assert_is_cancelled(&llm);
}
