//! What workers say of leases is not heard word by word, but nobody notices: a burst is not held up, a place that has
//! become free is known, an end is counted; and streams that are only held wake the supervisor by nothing.

use std::time::{Duration, Instant};

use handoff_e2e::process::{open_files, status};
use handoff_e2e::{Crowd, Daemon, PATIENCE, eventually, throughout};
use nix::sys::signal::Signal;

/// Two workers may have been sent 64 handoffs that they have not taken.
const BURST: usize = 600;

#[test]
fn a_burst_beyond_all_credits_is_not_held_up() {
    let daemon = Daemon::start("");
    daemon.signal(Signal::SIGSTOP);
    let mut crowd = Crowd::default();
    for _ in 0..BURST {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","mock":{"length":2,"token_delay_ms":0}}"#));
    }
    daemon.signal(Signal::SIGCONT);
    let began_at = Instant::now();
    let responses = crowd.responses(PATIENCE);
    let took = began_at.elapsed();
    for (number, response) in responses.iter().enumerate() {
        assert!(response.is_complete() && response.heads() == 1, "client {number}: {response:?}");
    }
    // Were each round of credits waited for until its words are heard by time alone, or a deadline asks, it would not be.
    assert!(took < Duration::from_secs(2), "{took:?}");
}

#[test]
fn a_place_that_has_become_free_is_known_without_a_question() {
    let daemon = Daemon::start("max_connections = 1\n");
    let payload = r#"{"prompt":"x","mock":{"length":1}}"#;
    for _ in 0..20 {
        // The worker says so when the client has hung up: a little later than this knows it.
        eventually("the next one is served", || {
            daemon.hand_over(payload).response().is_complete().then_some(())
        });
    }
}

#[test]
fn a_socket_that_has_been_served_is_closed_while_nothing_else_happens() {
    let daemon = Daemon::start("");
    let sockets = || open_files(daemon.pid()).get("socket:").copied().unwrap_or(0);
    let client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":1,"token_delay_ms":1000}}"#);
    eventually("it is kept", || daemon.holders().first().map(|_| ()));
    // The question's own connection is gone in a moment.
    let mut kept = usize::MAX;
    throughout(Duration::from_millis(200), || kept = kept.min(sockets()));
    assert!(client.response().is_complete());
    eventually("it is closed", || (sockets() < kept).then_some(()));
}

#[test]
fn what_has_ended_is_counted_when_somebody_asks() {
    let daemon = Daemon::start("");
    for number in 1..=50 {
        let response = daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response();
        assert!(response.is_complete(), "client {number}: {response:?}");
        // The worker says so when the client has hung up.
        let asked_at = Instant::now();
        let ended = || daemon.metric(r#"handoffd_lease_endings_total{outcome="complete""#);
        eventually("it is counted", || (ended() == f64::from(number)).then_some(()));
        assert!(asked_at.elapsed() < Duration::from_secs(1), "client {number}: {:?}", asked_at.elapsed());
        assert_eq!(daemon.metric("daemon_active_streams"), 0.0);
    }
    assert_eq!(daemon.metric("daemon_peak_streams"), 1.0);
}

#[test]
fn streams_that_are_only_held_wake_nobody() {
    let daemon = Daemon::start("");
    let payload = r#"{"prompt":"x","mock":{"length":2,"token_delay_ms":20000}}"#;
    let mut clients: Vec<_> = (0..50).map(|_| daemon.hand_over(payload)).collect();
    clients.iter_mut().for_each(|client| drop(client.read_until("\n\n")));
    let woken = || -> u64 {
        let times = status(daemon.pid(), "voluntary_ctxt_switches");
        times.trim().parse().unwrap_or_else(|_| panic!("no number: {times}"))
    };
    throughout(Duration::from_millis(100), || {});
    let before = woken();
    throughout(Duration::from_secs(2), || {});
    let times = woken() - before;
    // Two workers' beats, twice a second, and a pulse of its own.
    assert!(times < 60, "woken {times} times in two seconds");
}
