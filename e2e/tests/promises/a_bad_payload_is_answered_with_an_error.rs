//! Whatever a site sends, the client gets a JSON error or its answer, no upstream is asked for nonsense, and no
//! worker dies of it.

use handoff_e2e::apache::Kind;
use handoff_e2e::{Client, Daemon, Door, Options, Response};
use serde_json::Value;

#[test]
fn nonsense_is_refused_with_a_reason() {
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    let cases: [(&str, &[u8], &str); 16] = [
        ("garbage", b"\xde\xad\xbe\xef and so on", "not valid UTF-8"),
        ("text", b"hello", "must be a JSON object"),
        ("invalid UTF-8 in a string", b"{\"prompt\":\"\xff\xfe\"}", "not valid UTF-8"),
        ("an empty message", b"", "no payload"),
        ("one NUL", b"\0", "no payload"),
        ("NULs and white space", b"\0 \r\n\t\0", "no payload"),
        ("an array", b"[1,2]", "must be a JSON object"),
        ("a string", b"\"prompt\"", "must be a JSON object"),
        ("JSON that was cut", b"{\"prompt\":\"hi", "not valid JSON (line 1"),
        ("something behind it", b"{\"prompt\":\"hi\"} x", "not valid JSON (line 1"),
        (
            "two objects, as repeated headers arrive",
            b"{\"prompt\":\"a\"}, {\"prompt\":\"b\"}",
            "not valid JSON",
        ),
        ("no prompt", b"{}", "prompt or messages"),
        ("an empty prompt", b"{\"prompt\":\"  \"}", "prompt or messages"),
        ("a prompt that is an object", b"{\"prompt\":{}}", "prompt: must be a string"),
        ("an unknown backend", b"{\"prompt\":\"hi\",\"backend\":\"secret\"}", "backend: no such backend"),
        ("half a character", b"{\"prompt\":\"\\ud800\"}", "prompt: must be valid Unicode text"),
    ];
    for (what, payload, reason) in cases {
        for door in [Door::SeqPacket, Door::Stream] {
            // On a stream an fd comes with at least one byte.
            if payload.is_empty() && door == Door::Stream {
                continue;
            }
            let response = daemon.hand_over_by(door, Kind::Tcp, payload).response();
            is_refused(&response, 400, "bad_handoff");
            let message = error(&response)["message"].as_str().expect("a message").to_owned();
            assert!(message.contains(reason), "{what}: {message}");
            assert!(!message.contains("secret"), "{what}: an error never repeats the payload: {message}");
        }
    }
    assert_eq!(daemon.metric("daemon_backend_requests_total"), 0.0, "no upstream is asked");
    assert_eq!(restarts(&daemon), 0.0);
}

#[test]
fn json_as_deep_as_it_fits_kills_nobody() {
    let daemon = Daemon::start("");
    let deep = |before: &str, open: &str, close: &str| {
        format!("{{{before}:{}1{}}}", open.repeat(100_000 / open.len()), close.repeat(100_000 / open.len()))
    };
    for payload in [
        deep("\"prompt\":\"hi\",\"ignored\"", "[", "]"),
        deep("\"prompt\":\"hi\",\"extra_body\":{\"a\"", "[", "]") + "}",
        deep(
            "\"prompt\":\"hi\",\"messages\":[{\"role\":\"user\",\"content\":[]}],\"ignored\"",
            "{\"a\":",
            "}",
        ),
        deep("\"messages\"", "[", "]"),
        deep("\"prompt\"", "[", "]"),
        deep("\"response_headers\"", "[", "]"),
        "[".repeat(100_000),
        "{\"a\":".repeat(20_000),
    ] {
        let response = daemon.hand_over(&payload).response();
        let is_answered = response.is_complete() || response.status == 400;
        assert!(is_answered, "{}…: {response:?}", &payload[..60]);
    }
    assert_eq!(restarts(&daemon), 0.0);
}

#[test]
fn of_a_key_given_twice_the_last_counts() {
    let daemon = Daemon::start("");
    let response = daemon.hand_over(r#"{"prompt":"first","prompt":"last"}"#).response();
    assert!(response.is_complete() && response.text().contains("You asked: last"), "{response:?}");
}

#[test]
fn values_are_read_as_sites_write_them() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 0\n");
    for payload in [
        "\0\n {\"prompt\":\"hi\"}\r\n\0",
        r#"{"prompt":"hi","user_id":7,"max_tokens":"100","temperature":"0.5","model":null,"include":"usage"}"#,
        r#"{"prompt":"hi","user_id":"seven","response_headers":[],"extra_body":[],"mock":[]}"#,
        r#"{"messages":[{"role":"user","content":[{"type":"text","text":"hi"}]},{"role":"assistant","content":null}]}"#,
        r#"{"prompt":"ignored","system":"be kind","messages":[{"role":"user","content":"hi"}],"unknown":{"a":[1]}}"#,
        r#"{"prompt":"hi","format":"content","backend":"mock","request_id":"","last_event_id":"r:3"}"#,
    ] {
        let response = daemon.hand_over(payload).response();
        assert!(response.is_complete(), "{payload}: {response:?}");
        assert!(response.text().contains("You asked: hi"), "{payload}: {response:?}");
    }
}

#[test]
fn a_message_larger_than_the_buffer_is_answered_413() {
    let small = "handoff_buffer_size = 4096\n".to_owned();
    let daemon = Daemon::with(&Options { toml: small, stream_socket: true, ..Options::default() });
    for door in [Door::SeqPacket, Door::Stream] {
        for kind in [Kind::Tcp, Kind::Unix] {
            let response = daemon.hand_over_by(door, kind, &question(20_000)).response();
            is_refused(&response, 413, "payload_too_large");
            let response = daemon.hand_over_by(door, kind, &question(4096)).response();
            assert!(response.is_complete(), "exactly the limit, {door:?} {kind:?}: {response:?}");
        }
    }
}

#[test]
fn a_mebibyte_is_too_large_unless_it_is_allowed() {
    let mebibyte = question(1 << 20);
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    let response = daemon.hand_over_by(Door::Stream, Kind::Tcp, &mebibyte).response();
    is_refused(&response, 413, "payload_too_large");
    let allowing = "handoff_buffer_size = 1048576\n".to_owned();
    let daemon = Daemon::with(&Options { toml: allowing, stream_socket: true, ..Options::default() });
    is_echoed(daemon.hand_over_by(Door::Stream, Kind::Tcp, &mebibyte), &mebibyte);
    is_refused(
        &daemon.hand_over_by(Door::Stream, Kind::Tcp, &question((1 << 20) + 1)).response(),
        413,
        "payload_too_large",
    );
}

#[test]
fn a_payload_too_large_for_a_packet_reaches_the_worker_whole() {
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    let fds = daemon.fds();
    for bytes in [65_535, 65_536, 65_537, 200_000] {
        for door in [Door::SeqPacket, Door::Stream] {
            let payload = question(bytes);
            is_echoed(daemon.hand_over_by(door, Kind::Tcp, &payload), &payload);
        }
    }
    handoff_e2e::eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
}

/// A payload of exactly so many bytes.
fn question(bytes: usize) -> Vec<u8> {
    let (before, after) = (r#"{"mock":{"token_delay_ms":0},"prompt":""#, r#""}"#);
    let words = "word ".repeat(bytes / 5 + 1);
    [before, &words[..bytes - before.len() - after.len()], after].concat().into_bytes()
}

/// The mock repeats its prompt.
fn is_echoed(client: Client, payload: &[u8]) {
    let payload: Value = serde_json::from_slice(payload).expect("JSON");
    let response = client.response();
    assert!(response.is_complete(), "{} {:?}, {} bytes", response.head, response.broken, response.body.len());
    assert!(
        response.text().contains(payload["prompt"].as_str().expect("a prompt")),
        "the prompt came back changed"
    );
}

fn is_refused(response: &Response, status: u16, code: &str) {
    assert_eq!(response.status, status, "{response:?}");
    assert_eq!(response.header("Content-Type"), Some("application/json"), "{response:?}");
    assert!(response.header("X-Request-Id").is_some_and(|id| !id.is_empty()), "{response:?}");
    assert_eq!(
        response.header("Content-Length"),
        Some(response.body.len().to_string().as_str()),
        "{response:?}"
    );
    let error = error(response);
    assert_eq!(
        (&error["code"], &error["type"]),
        (&code.into(), &"invalid_request_error".into()),
        "{response:?}"
    );
}

fn error(response: &Response) -> Value {
    let body: Value = serde_json::from_str(&response.body).expect("a JSON body");
    body["error"].clone()
}

fn restarts(daemon: &Daemon) -> f64 {
    daemon.metric("handoffd_worker_restarts_total")
}
