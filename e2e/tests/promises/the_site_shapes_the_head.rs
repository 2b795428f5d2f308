//! What the payload says about the response's head: headers, the request's id, HEAD, and a stream that the
//! client has already seen to its end.

use handoff_e2e::apache::Kind;
use handoff_e2e::{Daemon, Door, Response};
use serde_json::{Value, json};

#[test]
fn its_headers_are_added_in_order_and_an_array_is_repeated() {
    let headers = json!({
        "Set-Cookie": ["a=1; Path=/", "b=2"],
        "Access-Control-Allow-Origin": "https://example.org",
        "X-Number": 7,
        "X-Flag": true,
        "X-None": null,
        "X-Ünicode-Value".replace('Ü', "U"): "Grüße",
    });
    let daemon = Daemon::start("");
    for mock in [json!({ "length": 1 }), json!({ "fail_at": 1 })] {
        let payload = json!({ "prompt": "hi", "request_id": "r", "response_headers": headers, "mock": mock });
        let response = daemon.hand_over(payload.to_string()).response();
        let has = |line: &str| response.head.lines().any(|own| own == line);
        for line in ["Access-Control-Allow-Origin: https://example.org", "X-Number: 7", "X-Flag: true"] {
            assert!(has(line), "{line}: {response:?}");
        }
        let cookies = "\r\nSet-Cookie: a=1; Path=/\r\nSet-Cookie: b=2";
        assert!(response.head.contains(cookies), "{response:?}");
        assert!(!response.head.contains("X-None"), "{response:?}");
        assert!(has("X-Unicode-Value: Grüße"), "{response:?}");
    }
}

#[test]
fn headers_that_would_break_the_response_are_refused() {
    let daemon = Daemon::start("");
    for headers in [
        json!({ "Content-Type": "text/html" }),
        json!({ "content-length": 3 }),
        json!({ "Transfer-Encoding": "chunked" }),
        json!({ "CONTENT-ENCODING": "gzip" }),
        json!({ "Connection": "keep-alive" }),
        json!({ "Cache-Control": "public" }),
        json!({ "X-Accel-Buffering": "yes" }),
        json!({ "X-Request-Id": "mine" }),
        json!({ "X-A": "1\r\nSet-Cookie: stolen=1" }),
        json!({ "X-A": ["fine", "1\nX-B: 2"] }),
        json!({ "X-A": "nul\u{0}" }),
        json!({ "X-A\r\nX-B": "1" }),
        json!({ "X A": "1" }),
        json!({ "X-A:": "1" }),
        json!({ "": "1" }),
        json!({ "X-A": { "nested": 1 } }),
        json!("X-A: 1"),
        json!({ "X-A": "x".repeat(20_000) }),
    ] {
        let response = ask(&daemon, json!({ "response_headers": headers }));
        assert_eq!(
            (response.status, response.error_code().as_deref()),
            (400, Some("bad_handoff")),
            "{headers}"
        );
        assert!(!response.head.contains("stolen") && !response.head.contains("X-B"), "{response:?}");
    }
    assert_eq!(daemon.metric("daemon_backend_requests_total"), 0.0);
}

#[test]
fn its_request_id_is_kept_and_a_missing_one_derives_from_the_lease() {
    let daemon = Daemon::start("");
    let response = ask(&daemon, json!({ "request_id": "from-php-42", "mock": { "length": 1 } }));
    assert_eq!(response.header("X-Request-Id"), Some("from-php-42"));
    assert!(response.body.starts_with("id: from-php-42:1\n"), "{response:?}");

    let response = ask(&daemon, json!({ "mock": { "length": 1 } }));
    let derived = response.header("X-Request-Id").expect("an id").to_owned();
    assert!(response.body.starts_with(&format!("id: {derived}:1\n")), "{response:?}");
    assert_eq!(daemon.session(&derived)["lease"], derived.as_str());
    let other = ask(&daemon, json!({}));
    assert_ne!(other.header("X-Request-Id"), Some(derived.as_str()), "ids are unique");

    for bad in ["two words", "line\nbreak", "ümlaut", &"x".repeat(129)] {
        assert_eq!(ask(&daemon, json!({ "request_id": bad })).status, 400, "{bad}");
    }
}

#[test]
fn head_is_answered_with_the_head_alone_and_no_upstream_is_asked() {
    let daemon = Daemon::start("");
    let mock = json!({ "first_token_delay_ms": 3_600_000 });
    for kind in [Kind::Tcp, Kind::Unix] {
        let payload =
            json!({ "prompt": "hi", "method": "HEAD", "request_id": "r", "mock": mock }).to_string();
        let response = daemon.hand_over_by(Door::SeqPacket, kind, payload.as_bytes()).response();
        assert_eq!(
            (response.status, response.body.as_str(), response.broken),
            (200, "", None),
            "{response:?}"
        );
        assert_eq!(response.header("Content-Type"), Some("text/event-stream"));
        assert_eq!(response.header("X-Request-Id"), Some("r"));
    }
    let response = ask(&daemon, json!({ "method": "POST", "mock": { "length": 1 } }));
    assert!(response.is_complete(), "{response:?}");
    assert_eq!(daemon.session("r")["outcome"], "answered");
    handoff_e2e::eventually("one upstream was asked", || {
        (daemon.metric("daemon_backend_requests_total") == 1.0).then_some(())
    });
}

#[test]
fn a_client_that_has_seen_the_end_is_told_that_there_is_no_more() {
    let daemon = Daemon::start("");
    let cors = json!({ "Access-Control-Allow-Origin": "*" });
    let response = ask(&daemon, json!({ "request_id": "r", "mock": { "length": 1 } }));
    let last_id = response.body.lines().rfind(|line| line.starts_with("id: ")).expect("an id");
    let last_id = last_id.strip_prefix("id: ").expect("an id");
    assert_eq!(last_id, "r:end");
    let response =
        ask(&daemon, json!({ "last_event_id": last_id, "request_id": "r", "response_headers": cors }));
    assert_eq!(
        response.head,
        "HTTP/1.1 204 No Content\r\nCache-Control: no-cache\r\nConnection: close\r\nX-Request-Id: r\r\n\
         Access-Control-Allow-Origin: *"
    );
    assert_eq!((response.body.as_str(), response.broken), ("", None));
    // Without a question too: there is nothing to answer.
    assert_eq!(daemon.hand_over(r#"{"last_event_id":"x:end"}"#).response().status, 204);
    let response = ask(&daemon, json!({ "last_event_id": "r:1", "mock": { "length": 1 } }));
    assert!(response.is_complete(), "an interrupted stream begins anew: {response:?}");
}

fn ask(daemon: &Daemon, about: Value) -> Response {
    let mut payload = json!({ "prompt": "hi" });
    let about = about.as_object().expect("an object").clone();
    payload.as_object_mut().expect("an object").extend(about);
    daemon.hand_over(payload.to_string()).response()
}
