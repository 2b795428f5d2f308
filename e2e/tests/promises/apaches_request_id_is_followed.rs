//! What Apache calls a request, in its own log, it is called everywhere: to the client, in the ids of events, in the
//! log, at the upstream. A payload that calls it otherwise is believed; an id that cannot be one is nobody's mistake.

use handoff_e2e::apache::enveloped;
use handoff_e2e::upstream::{Dialect, Protocol, Upstream};
use handoff_e2e::{Daemon, Response};
use serde_json::{Value, json};

use crate::a_question_brings_its_files::Site;
use crate::an_answer_comes_from_a_real_api::confined;

fn ask(daemon: &Daemon, envelope: &Value, payload: &str) -> Response {
    daemon.hand_over(enveloped(envelope, payload)).response()
}

#[test]
fn from_the_client_to_the_upstream() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = confined(&llm.backend_toml("llm", Dialect::OpenAi));
    for (id, payload) in [
        ("apache-1", r#"{"prompt":"hi","backend":"llm"}"#),
        ("site-1", r#"{"prompt":"hi","backend":"llm","request_id":"site-1"}"#),
    ] {
        let number = llm.request_count();
        let response = ask(&daemon, &json!({"v": 1, "request_id": "apache-1"}), payload);
        assert!(response.is_complete(), "{response:?}");
        assert_eq!(response.header("x-request-id"), Some(id));
        assert!(response.body.starts_with(&format!("id: {id}:1\n")), "{response:?}");
        assert!(response.body.contains(&format!("id: {id}:end\n")), "{response:?}");
        assert_eq!(llm.wait_for_request(number).request.header("x-request-id"), Some(id));
        assert_eq!(daemon.session(id)["outcome"], "complete");
    }
}

#[test]
fn also_where_the_payload_is_refused() {
    let daemon = Daemon::start("");
    // As much as a browser's headers may be.
    let headers = json!([["origin", "o".repeat(40_000)]]);
    let large = format!(r#"{{"prompt":"{}"}}"#, "x".repeat(300_000));
    for (id, payload, status) in [
        ("a-1", "nonsense", 400),
        ("a-2", "", 400),
        ("a-3", r#"{"request_id":"site"}"#, 400),
        ("a-4", &large, 413),
    ] {
        let envelope = json!({"v": 1, "request_id": id, "client": "192.0.2.7", "headers": headers});
        let response = ask(&daemon, &envelope, payload);
        assert_eq!((response.status, response.header("x-request-id")), (status, Some(id)), "{response:?}");
        let session = daemon.session(id);
        assert_eq!((&session["outcome"], &session["client"]), (&"refused".into(), &"192.0.2.7".into()));
    }
}

#[test]
fn a_payload_that_calls_it_otherwise_is_believed_also_where_its_files_are_missing() {
    let site = Site::with("");
    let missing = site.path("missing.pdf");
    let payload =
        |id: &str| json!({"prompt": "hi", "request_id": id, "attachments": {"a": missing}}).to_string();
    let envelope = json!({"v": 1, "request_id": "apache-1"});
    for (id, message) in
        [("site-1", enveloped(&envelope, payload("site-1"))), ("site-2", payload("site-2").into_bytes())]
    {
        let response = site.daemon.hand_over(message).response();
        assert_eq!((response.status, response.header("x-request-id")), (400, Some(id)), "{response:?}");
        assert_eq!(site.daemon.session(id)["outcome"], "refused");
    }
}

#[test]
fn unless_it_is_none() {
    let daemon = Daemon::start("");
    for bad in
        [json!("a b"), json!("a\r\nSet-Cookie: b"), json!("é"), json!(""), json!(7), json!("x".repeat(129))]
    {
        let response =
            ask(&daemon, &json!({"v": 1, "request_id": bad}), r#"{"prompt":"hi","mock":{"length":1}}"#);
        assert!(response.is_complete(), "{bad}: {response:?}");
        let id = response.header("x-request-id").unwrap_or_default();
        assert!(
            id.len() == 16 && id.bytes().all(|byte| byte.is_ascii_hexdigit()),
            "{bad}: the lease's, not {id}"
        );
    }
}
