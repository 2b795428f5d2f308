//! Workers that cannot live are started ever more slowly. The supervisor stays, says that it is not ready, and
//! answers everybody.

use std::time::{Duration, Instant};

use handoff_e2e::process::is_alive;
use handoff_e2e::{Daemon, Options, eventually, throughout};
use nix::sys::signal::Signal;

fn crash_looping() -> Daemon {
    let toml = "queue_timeout_secs = 0.3\n[workers]\ncount = 2\nbinary = \"/bin/false\"\n".to_owned();
    let daemon = Daemon::with(&Options { toml, no_wait: true, ..Options::default() });
    eventually("the admin endpoint answers", || daemon.get("/health"));
    daemon
}

#[test]
fn starts_come_ever_more_slowly_and_the_supervisor_stays() {
    let daemon = crash_looping();
    let before = cpu(&daemon);
    throughout(Duration::from_secs(4), || {
        assert_eq!(daemon.get("/readyz"), Some((503, "degraded\n".to_owned())));
        assert_eq!(daemon.get("/health"), Some((200, "OK\n".to_owned())));
        handoff_e2e::throughout(Duration::from_millis(100), || {});
    });
    let restarts = daemon.metric("handoffd_worker_restarts_total");
    // Per slot after 0.1, 0.3, 0.7, 1.5, 3.1 s, each wait 20 % shorter at the least.
    assert!((4.0..=12.0).contains(&restarts), "{restarts} restarts of two workers in four seconds");
    let spent = cpu(&daemon) - before;
    assert!(spent < 200, "{spent} ticks in four seconds: it spins");
    assert!(is_alive(daemon.pid()));
}

#[test]
fn every_handoff_is_answered_503_with_retry_after() {
    let daemon = crash_looping();
    let handed_over_at = Instant::now();
    let clients: Vec<_> = (0..20).map(|_| daemon.hand_over(r#"{"prompt":"x"}"#)).collect();
    for (number, client) in clients.into_iter().enumerate() {
        let response = client.response();
        assert_eq!((response.status, response.heads()), (503, 1), "client {number}: {response:?}");
        assert!(response.header("Retry-After").is_some(), "client {number}: {response:?}");
        assert_eq!(response.error_code().as_deref(), Some("overloaded"), "client {number}");
    }
    let took = handed_over_at.elapsed();
    assert!(took < Duration::from_secs(10), "answered after {took:?}");
    assert_eq!(daemon.metric(r#"handoffd_lease_endings_total{outcome="refused_no_worker""#), 20.0);
    assert_eq!(daemon.metric("daemon_connections_rejected_total"), 20.0);
}

#[test]
fn a_reload_with_a_binary_that_works_ends_it_at_once() {
    let daemon = crash_looping();
    eventually("a few workers have died", || {
        (daemon.metric("handoffd_worker_restarts_total") >= 6.0).then_some(())
    });
    daemon.change_config("binary = \"/bin/false\"", "");
    daemon.signal(Signal::SIGHUP);
    eventually("two ready workers", || (daemon.workers("ready").len() == 2).then_some(()));
    let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
    assert!(response.is_complete(), "{response:?}");
}

#[test]
fn a_worker_binary_that_cannot_be_used_ends_the_start_with_its_name() {
    for binary in ["/nonexistent/worker", "/etc/passwd", "/tmp"] {
        let toml = format!("[workers]\nbinary = \"{binary}\"\n");
        let mut daemon = Daemon::with(&Options { toml, no_wait: true, ..Options::default() });
        let status = daemon.wait();
        assert_eq!(status.code(), Some(78), "{binary}: {}", daemon.log());
        assert!(daemon.log().contains(&format!("workers.binary: {binary}: ")), "{binary}: {}", daemon.log());
    }
}

fn cpu(daemon: &Daemon) -> u64 {
    handoff_e2e::process::cpu_ticks(daemon.pid())
}
