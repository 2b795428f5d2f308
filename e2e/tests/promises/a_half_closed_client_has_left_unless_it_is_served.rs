//! A client that closes its sending side has left; with `client.half_close = "serve"` it still gets its answer.

use handoff_e2e::apache::Kind;
use handoff_e2e::{Daemon, Door, eventually};

// No heartbeat, whose write would fail, comes to the aid of who does not watch.
const SERVE: &str = "[client]\nhalf_close = \"serve\"\nheartbeat_secs = 3600\n";
const SLOW: &[u8] =
    br#"{"prompt":"hi","request_id":"r","mock":{"first_token_delay_ms":400,"token_delay_ms":20}}"#;
const SILENT: &[u8] = br#"{"prompt":"hi","request_id":"r","mock":{"token_delay_ms":3600000}}"#;

#[test]
fn it_gets_nothing_more_by_default() {
    let daemon = Daemon::start("");
    for kind in [Kind::Tcp, Kind::Unix] {
        let client = daemon.hand_over_by(Door::SeqPacket, kind, SLOW);
        client.half_close();
        let response = client.response();
        assert_eq!((response.status, response.body.as_str()), (0, ""), "{kind:?}");
    }
    eventually("both have left", || {
        (daemon.metric("handoffd_lease_endings_total{outcome=\"client_gone\"") == 2.0).then_some(())
    });
}

#[test]
fn it_gets_its_whole_answer_where_it_is_served() {
    let daemon = Daemon::start(SERVE);
    for kind in [Kind::Tcp, Kind::Unix] {
        let client = daemon.hand_over_by(Door::SeqPacket, kind, SLOW);
        client.half_close();
        let response = client.response();
        assert!(response.is_complete(), "{kind:?}: {response:?}");
    }
}

#[test]
fn it_gets_a_large_answer_too_where_it_is_served() {
    let daemon = Daemon::start(SERVE);
    for kind in [Kind::Tcp, Kind::Unix] {
        let large = br#"{"prompt":"hi","mock":{"length":100000,"token_delay_ms":0}}"#;
        let mut client = daemon.hand_over_by(Door::SeqPacket, kind, large);
        client.half_close();
        client.read_until("data: {\"content\":\"Hello\"}\n\n");
        let response = client.response();
        assert!(response.broken.is_none(), "{kind:?}: {:?}", response.broken);
        assert!(response.body.ends_with("event: done\ndata: [DONE]\n\n"), "{kind:?}");
        assert_eq!(response.body.matches("\"content\"").count(), 99_999, "{kind:?}");
    }
}

#[test]
fn its_end_is_noticed_in_silence_even_where_it_is_served() {
    let daemon = Daemon::start(SERVE);
    for (number, kind) in [(1.0, Kind::Tcp), (2.0, Kind::Unix)] {
        let mut client = daemon.hand_over_by(Door::SeqPacket, kind, SILENT);
        client.read_until("data: {\"content\":\"Hello\"}\n\n");
        client.half_close();
        client.reset();
        eventually(&format!("its session ends ({kind:?})"), || {
            (daemon.metric("handoffd_lease_endings_total{outcome=\"client_gone\"") == number).then_some(())
        });
    }
}
