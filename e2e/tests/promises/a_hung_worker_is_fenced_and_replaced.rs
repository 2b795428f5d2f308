//! A worker that is stopped by force is found, killed for sure, and only then are its clients given to others.

use std::time::{Duration, Instant};

use handoff_e2e::apache::Kind;
use handoff_e2e::process::{is_alive, signal};
use handoff_e2e::{Crowd, Daemon, Door, PATIENCE, eventually, throughout};
use nix::sys::signal::Signal;

#[test]
fn a_stream_that_has_not_begun_goes_to_another_worker() {
    let daemon = Daemon::start("");
    let payload = br#"{"prompt":"x","mock":{"first_token_delay_ms":1000}}"#;
    let kinds = [Kind::Tcp, Kind::Tcp, Kind::Unix, Kind::Unix];
    let mut clients = kinds.map(|kind| daemon.hand_over_by(Door::SeqPacket, kind, payload));
    let stopped = daemon.holders()[0].0;
    signal(stopped, Signal::SIGSTOP);
    for client in &mut clients {
        let response = client.read_response();
        assert!(response.is_complete() && response.heads() == 1, "{response:?}");
    }
    // Continued, too late: it is dead, and nobody hears from it.
    signal(stopped, Signal::SIGCONT);
    for client in clients {
        assert_eq!(client.response().body, "", "somebody was answered twice");
    }
    assert!(!is_alive(stopped));
    assert_eq!(restarts(&daemon, "hang"), 1.0);
    assert_eq!(daemon.metric("handoffd_redispatches_total"), 2.0);
}

#[test]
fn a_stream_that_has_begun_ends_with_one_error_event_and_nothing_follows() {
    let daemon = Daemon::start("");
    let payload = br#"{"prompt":"x","mock":{"length":100000,"token_delay_ms":5}}"#;
    for kind in [Kind::Tcp, Kind::Unix] {
        let mut client = daemon.hand_over_by(Door::SeqPacket, kind, payload);
        client.read_until("\n\n");
        // The one before has hung up, and its worker says so in a moment.
        let stopped = eventually("it alone is served", || match daemon.holders()[..] {
            [(worker, 1)] => Some(worker),
            _ => None,
        });
        signal(stopped, Signal::SIGSTOP);
        let rest = client.read_response();
        assert_eq!(rest.error_code().as_deref(), Some("worker_crashed"), "{kind:?}: {rest:?}");
        assert!(
            !is_alive(stopped),
            "{kind:?}: the client was told by another worker while its own was alive"
        );
        signal(stopped, Signal::SIGCONT);
        assert!(!rest.body.contains("[DONE]") && rest.body.ends_with("\n\n"), "{kind:?}: {rest:?}");
        assert_eq!(client.response().body, "", "{kind:?}: something came after the end");
    }
}

#[test]
fn a_handoff_that_is_not_taken_in_two_seconds_shows_the_hang() {
    let daemon = Daemon::start("");
    let stopped = daemon.workers("ready")[0];
    signal(stopped, Signal::SIGSTOP);
    let handed_over_at = Instant::now();
    // The least-loaded choice gives one to each.
    let payload = r#"{"prompt":"x","mock":{"first_token_delay_ms":100,"length":1}}"#;
    let clients = [daemon.hand_over(payload), daemon.hand_over(payload)];
    for client in clients {
        let response = client.response();
        assert!(response.is_complete() && response.heads() == 1, "{response:?}");
    }
    let took = handed_over_at.elapsed();
    assert!(took >= Duration::from_secs(2), "answered after {took:?}, by whom?");
    assert!(took < Duration::from_secs(5), "found by its missing beat only: {took:?}");
    assert!(!is_alive(stopped));
}

#[test]
fn a_short_pause_is_forgiven() {
    let daemon = Daemon::start("");
    let workers = daemon.workers("ready");
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":50,"token_delay_ms":10}}"#);
    client.read_until("\n\n");
    workers.iter().for_each(|pid| signal(*pid, Signal::SIGSTOP));
    throughout(Duration::from_secs(1), || {});
    workers.iter().for_each(|pid| signal(*pid, Signal::SIGCONT));
    let rest = client.response();
    assert!(rest.body.ends_with("[DONE]\n\n"), "{rest:?}");
    assert_eq!(daemon.workers("ready"), workers);
}

#[test]
fn when_the_supervisor_itself_was_away_no_worker_is_blamed() {
    let daemon = Daemon::start("");
    let workers = daemon.workers("ready");
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":2000,"token_delay_ms":5}}"#);
    client.read_until("\n\n");
    daemon.signal(Signal::SIGSTOP);
    throughout(Duration::from_secs(6), || {});
    daemon.signal(Signal::SIGCONT);
    let rest = client.response();
    assert!(rest.body.ends_with("[DONE]\n\n"), "{rest:?}");
    assert_eq!(daemon.workers("ready"), workers);
}

#[test]
fn a_full_channel_loses_no_handoff() {
    let daemon = Daemon::start("queue_timeout_secs = 15\n[workers]\ncount = 1\n");
    let stopped = daemon.workers("ready")[0];
    signal(stopped, Signal::SIGSTOP);
    let prompt = "x".repeat(60_000);
    let mut crowd = Crowd::default();
    for _ in 0..50 {
        crowd.join(daemon.hand_over(format!(r#"{{"prompt":"{prompt}","mock":{{"length":1}}}}"#)));
    }
    for (number, response) in crowd.responses(PATIENCE).iter().enumerate() {
        assert!(response.is_complete() && response.heads() == 1, "client {number}: {response:?}");
    }
    assert!(daemon.metric("handoffd_channel_full_total") > 0.0, "the channel was never full");
    assert!(!is_alive(stopped));
}

fn restarts(daemon: &Daemon, reason: &str) -> f64 {
    let of_slot =
        |slot| daemon.metric(&format!("handoffd_worker_restarts_total{{slot=\"{slot}\",reason=\"{reason}\""));
    of_slot(0) + of_slot(1)
}
