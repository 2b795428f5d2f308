//! Where Apache passes an answer on (`relay`), it gives up a peer that is silent for too long: so the head and heartbeats
//! come in time, whatever is configured for clients whose sockets were handed over. The answer ends with the connection,
//! and when Apache closes it, the client has left.

use std::time::{Duration, Instant};

use handoff_e2e::apache::{Kind, enveloped};
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};
use handoff_e2e::{Client, Daemon, Door, eventually};
use serde_json::{Value, json};

/// What Apache by itself waits for a peer: its directive `Timeout`, as hardened sites have it.
const APACHES_PATIENCE: Duration = Duration::from_secs(20);

fn relayed(daemon: &Daemon, payload: &Value) -> Client {
    let message = enveloped(&json!({"v": 1, "relay": true, "client": "192.0.2.7"}), payload.to_string());
    daemon.hand_over_by(Door::SeqPacket, Kind::Unix, &message)
}

#[test]
fn however_long_others_are_left_without_a_word() {
    let daemon = Daemon::start("[client]\nheartbeat_secs = 86400\ncommit_after_secs = 86400\n");
    let silent_at_first =
        json!({"prompt": "hi", "request_id": "head", "mock": {"first_token_delay_ms": 60_000}});
    let silent_later = json!({
        "prompt": "hi", "request_id": "beat", "heartbeat": 80_000, "mock": {"token_delay_ms": 60_000, "length": 2},
    });
    let (mut at_first, mut later) = (relayed(&daemon, &silent_at_first), relayed(&daemon, &silent_later));
    let mut handed_over = daemon.hand_over(silent_at_first.to_string());
    let began_at = Instant::now();
    for client in [&mut at_first, &mut later, &mut handed_over] {
        client.patience(APACHES_PATIENCE);
    }
    later.read_until("{\"content\":\"Hello\"}\n\n");
    let head = at_first.read_until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    later.read_until(": keep-alive\n\n");
    assert!(began_at.elapsed() < APACHES_PATIENCE, "after {:?}", began_at.elapsed());
    handed_over.patience(Duration::from_millis(300));
    assert!(handed_over.read_response().head.is_empty(), "others have what is configured");
}

#[test]
fn and_the_end_of_the_connection_is_that_of_the_answer() {
    let daemon = Daemon::start("");
    let response =
        relayed(&daemon, &json!({"prompt": "hi", "request_id": "r", "mock": {"length": 3}})).response();
    assert!(response.is_complete(), "{response:?}");
    assert_eq!(response.header("connection"), Some("close"));
    assert_eq!((response.header("content-length"), response.header("transfer-encoding")), (None, None));
    let session = daemon.session("r");
    assert_eq!((&session["relay"], &session["client"]), (&true.into(), &"192.0.2.7".into()), "{session}");
    let refused = relayed(&daemon, &json!({"prompt": ""})).response();
    assert_eq!((refused.status, refused.error_code().as_deref()), (400, Some("bad_handoff")), "{refused:?}");
    let head = enveloped(&json!({"v": 1, "relay": true, "method": "HEAD"}), r#"{"request_id":"h"}"#);
    let head = daemon.hand_over_by(Door::SeqPacket, Kind::Unix, &head).response();
    assert_eq!((head.status, head.body.as_str()), (200, ""), "{head:?}");
    for (outcome, count) in [("complete", 1.0), ("refused", 1.0), ("answered", 1.0)] {
        let name = format!("handoffd_lease_endings_total{{outcome=\"{outcome}\"");
        eventually("each is counted once", || (daemon.metric(&name) == count).then_some(()));
    }
}

#[test]
fn and_a_connection_that_apache_closes_is_a_client_that_has_left() {
    for half_close in ["gone", "serve"] {
        let llm = Upstream::start(Protocol::H1);
        llm.script(Answer::openai().with_after(2, [Step::Hang]));
        let daemon = Daemon::start(&format!(
            "[client]\nhalf_close = \"{half_close}\"\n{}",
            llm.backend_toml("llm", Dialect::OpenAi)
        ));
        let mut client = relayed(&daemon, &json!({"prompt": "hi", "request_id": "r", "backend": "llm"}));
        client.read_until("w1 \"}\n\n");
        let left_at = Instant::now();
        drop(client);
        let (cancelled_at, _) = llm.wait_for_cancel(0);
        let took = cancelled_at.saturating_duration_since(left_at);
        assert!(took < Duration::from_secs(1), "{half_close}: {took:?}");
        assert_eq!(daemon.session("r")["outcome"], "client_gone", "{half_close}");
    }
}
