//! `on_disconnect`: when its client has left, an answer is given up, read on for its usage, or read to its end, as the
//! configuration says; a request may have less than that, never more. Upstreams that go on by themselves are told to stop.

use handoff_e2e::upstream::{Answer, Dialect, End, Protocol, Step, Upstream};
use handoff_e2e::{Daemon, eventually};
use nix::unistd::geteuid;
use serde_json::{Value, json};

fn confined(llm: &Upstream, dialect: Dialect, on_disconnect: &str) -> Daemon {
    let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    let backend = llm.backend_toml("llm", dialect);
    Daemon::start(&format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\n{run_as}[backend]\nprovider = \"llm\"\n{backend}\
         on_disconnect = \"{on_disconnect}\"\n"
    ))
}

/// A client leaves after the first of ten words; the others come later. How the answer ended, and what the log says.
fn leave_after_a_word(configured: &str, asked: Option<&str>, protocol: Protocol) -> (End, Value, Daemon) {
    let llm = Upstream::start(protocol);
    llm.script(Answer::openai().with_after(1, [Step::WaitFor("later".to_owned())]));
    let daemon = confined(&llm, Dialect::OpenAi, configured);
    let payload = json!({"prompt": "x", "request_id": "r", "on_disconnect": asked});
    let mut client = daemon.hand_over(payload.to_string());
    client.read_until("w0 \"}\n\n");
    client.leave();
    if asked.unwrap_or(configured) == "cancel" || configured == "cancel" {
        llm.wait_for_cancel(0);
    }
    // Whoever has served these has been told before that the first one has left: there is one worker.
    for _ in 0..2 {
        let head = daemon.hand_over(r#"{"method":"HEAD"}"#).response();
        assert_eq!(head.status, 200, "{head:?}");
    }
    llm.open("later");
    let (_, end) = llm.wait_for_end(0);
    let session = daemon.session("r");
    assert_eq!(session["outcome"], "client_gone", "{session}");
    (end, session, daemon)
}

#[test]
fn read_on_it_brings_its_usage() {
    for (configured, asked) in [
        ("drain_usage", None),
        ("drain_usage", Some("continue")),
        ("continue", None),
        ("continue", Some("drain_usage")),
    ] {
        for protocol in [Protocol::H1, Protocol::H2Tls] {
            let (end, session, daemon) = leave_after_a_word(configured, asked, protocol);
            assert_eq!(end, End::Complete, "{configured} {asked:?} {protocol:?}");
            assert_eq!(session["completion_tokens"], 10, "{session}");
            eventually("the usage is counted", || {
                let tokens =
                    daemon.metric("handoffd_backend_tokens_total{backend=\"llm\",kind=\"completion\"");
                (tokens == 10.0).then_some(())
            });
            assert_eq!(daemon.metric("handoffd_backend_cancelled_total{backend=\"llm\""), 0.0);
        }
    }
}

#[test]
fn a_request_may_have_less_never_more() {
    for (configured, asked) in [
        ("cancel", None),
        ("cancel", Some("continue")),
        ("cancel", Some("drain_usage")),
        ("drain_usage", Some("cancel")),
        ("continue", Some("cancel")),
    ] {
        let (end, session, daemon) = leave_after_a_word(configured, asked, Protocol::H1);
        assert_eq!(end, End::Closed, "{configured} {asked:?}");
        assert_eq!(session["completion_tokens_estimated"], 1, "{session}");
        eventually("it is counted", || {
            (daemon.metric("handoffd_backend_cancelled_total{backend=\"llm\"") == 1.0).then_some(())
        });
    }
}

#[test]
fn an_answer_in_the_background_is_told_to_stop() {
    for (on_disconnect, background, stops) in
        [("cancel", true, true), ("cancel", false, false), ("continue", true, false)]
    {
        let llm = Upstream::start(Protocol::H1);
        llm.script_by_path([
            ("/responses", Answer::responses().with_after(1, [Step::WaitFor("later".to_owned())])),
            ("/responses/resp_1/cancel", Answer::json(200, &json!({"id": "resp_1", "status": "cancelled"}))),
        ]);
        let daemon = confined(&llm, Dialect::Responses, on_disconnect);
        let extra = json!({"background": background, "store": true});
        let payload = json!({"prompt": "x", "request_id": "r", "extra_body": extra});
        let mut client = daemon.hand_over(payload.to_string());
        client.read_until("w0 \"}\n\n");
        drop(client);
        if stops {
            let request = llm.wait_for_request(1).request;
            assert_eq!(
                (request.method.as_str(), request.path.as_str()),
                ("POST", "/v1/responses/resp_1/cancel")
            );
            assert!(request.header("authorization").is_some(), "{request:?}");
        }
        if on_disconnect == "continue" {
            llm.open("later");
            assert_eq!(llm.wait_for_end(0).1, End::Complete);
        } else {
            llm.wait_for_cancel(0);
        }
        let _ = daemon.session("r");
        assert_eq!(llm.request_count(), if stops { 2 } else { 1 }, "{on_disconnect} {background}");
    }
}

#[test]
fn a_run_is_told_beforehand() {
    for (configured, asked, told) in [
        ("cancel", None, "cancel"),
        ("cancel", Some("continue"), "cancel"),
        ("continue", None, "continue"),
        ("continue", Some("cancel"), "cancel"),
    ] {
        let llm = Upstream::start(Protocol::H2c);
        llm.script(Answer::langgraph().broken_after(1, [Step::Hang]));
        let daemon = confined(&llm, Dialect::LangGraph, configured);
        let payload = json!({"prompt": "x", "request_id": "r", "on_disconnect": asked, "format": "raw"});
        let client = daemon.hand_over(payload.to_string());
        let request = llm.wait_for_request(0).request;
        assert_eq!(request.json()["on_disconnect"], told, "{configured} {asked:?}");
        drop(client);
        if told == "cancel" {
            llm.wait_for_cancel(0);
            assert_eq!(daemon.session("r")["outcome"], "client_gone");
        }
    }
}
