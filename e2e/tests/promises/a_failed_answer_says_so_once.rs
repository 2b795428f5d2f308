//! An answer that fails says so exactly once: with a status while nothing has gone out, with one last event
//! afterwards; and it never looks complete.

use handoff_e2e::{Daemon, Response, eventually};
use serde_json::{Value, json};

const FORMATS: [&str; 4] = ["content", "text", "openai", "events"];

#[test]
fn with_a_status_before_the_first_word() {
    let daemon = Daemon::start("");
    for format in FORMATS {
        let response = ask(&daemon, &json!({ "format": format, "mock": { "fail_at": 1 } }));
        is_status(&response, 502, "upstream_error", "server_error");
        assert_eq!(daemon.session("r")["outcome"], "upstream_failed");
    }
    eventually("all are counted", || (daemon.metric("daemon_backend_errors_total") == 4.0).then_some(()));
}

#[test]
fn with_one_event_after_it() {
    let daemon = Daemon::start("");
    for format in FORMATS {
        for delay in [0, 20] {
            let mock = json!({ "fail_at": 3, "token_delay_ms": delay });
            let response = ask(&daemon, &json!({ "format": format, "mock": mock }));
            is_event(&response, format, "upstream_error");
            assert!(response.body.contains("Hello") && response.body.contains(" from"), "{response:?}");
        }
    }
}

#[test]
fn with_504_when_the_first_word_does_not_come_in_time() {
    let daemon = Daemon::start("[backend]\ntimeout_secs = 0.3\n");
    let response = ask(&daemon, &json!({ "mock": { "first_token_delay_ms": 3_600_000 } }));
    is_status(&response, 504, "first_token_timeout", "timeout_error");
    assert_eq!(daemon.session("r")["outcome"], "upstream_timeout");
}

#[test]
fn with_an_event_when_the_first_word_is_late_and_the_head_is_out() {
    let daemon = Daemon::start("[backend]\ntimeout_secs = 0.6\n[client]\ncommit_after_secs = 0.2\n");
    let response = ask(&daemon, &json!({ "mock": { "first_token_delay_ms": 3_600_000 } }));
    is_event(&response, "content", "first_token_timeout");
}

#[test]
fn with_an_event_when_the_upstream_falls_silent() {
    let daemon = Daemon::start("[backend]\ntimeout_secs = 0.3\n");
    for format in FORMATS {
        let response = ask(&daemon, &json!({ "format": format, "mock": { "token_delay_ms": 3_600_000 } }));
        is_event(&response, format, "stream_idle_timeout");
        assert!(response.body.contains("Hello"), "{response:?}");
    }
}

#[test]
fn with_an_event_when_the_stream_takes_too_long_altogether() {
    let daemon = Daemon::start("[client]\nstream_max_secs = 0.5\n");
    // However busy it is, and however idle.
    for (format, delay) in FORMATS.into_iter().zip([0, 10, 0, 10]) {
        let mock = json!({ "length": 10_000_000, "token_delay_ms": delay });
        let response = ask(&daemon, &json!({ "format": format, "mock": mock }));
        is_event(&response, format, "stream_too_long");
        assert_eq!(daemon.session("r")["outcome"], "stream_too_long");
    }
    let response = ask(&daemon, &json!({ "mock": { "first_token_delay_ms": 3_600_000 } }));
    is_status(&response, 504, "stream_too_long", "timeout_error");
}

fn ask(daemon: &Daemon, about: &Value) -> Response {
    let mut payload = json!({ "prompt": "hi", "request_id": "r" });
    payload.as_object_mut().expect("an object").extend(about.as_object().expect("an object").clone());
    daemon.hand_over(payload.to_string()).response()
}

fn is_status(response: &Response, status: u16, code: &str, kind: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("Content-Type"), Some("application/json"), "{response:?}");
    assert_eq!(response.header("X-Request-Id"), Some("r"), "{response:?}");
    assert_eq!(response.heads(), 1, "{response:?}");
    let body: Value = serde_json::from_str(&response.body).expect("nothing but a JSON body");
    is_error(&body, code, kind, response);
}

fn is_event(response: &Response, format: &str, code: &str) {
    assert_eq!((response.status, response.broken, response.heads()), (200, None, 1), "{response:?}");
    assert_eq!(response.body.matches("\"error\"").count(), 1, "{response:?}");
    assert!(!response.body.contains("[DONE]") && !response.body.contains("event: done"), "{response:?}");
    assert!(!response.body.contains(":end\n"), "a client that reconnects may ask again: {response:?}");
    let events: Vec<&str> = response.body.trim_end().split("\n\n").collect();
    let last = events.last().expect("an event");
    let data = match format {
        "events" => last.strip_prefix("event: error\ndata: "),
        _ => last.strip_prefix("data: "),
    };
    let error: Value = serde_json::from_str(data.expect("the error comes last")).expect("JSON");
    let kind = if code == "upstream_error" { "server_error" } else { "timeout_error" };
    is_error(&error, code, kind, response);
}

fn is_error(json: &Value, code: &str, kind: &str, response: &Response) {
    let error = json["error"].as_object().expect("an object, never a string");
    assert_eq!((&error["code"], &error["type"]), (&code.into(), &kind.into()), "{response:?}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{response:?}");
    assert_eq!(error.len(), 3, "{response:?}");
}
