//! At a drain's end each stream that is left is told so: also one whose worker was draining before, and one
//! whose client's buffer is full at that moment.

use std::io::Read;
use std::time::{Duration, Instant};

use handoff_e2e::{Daemon, eventually};
use nix::sys::signal::Signal;

const ENDLESS: &str = r#"{"prompt":"x","mock":{"length":1000000,"token_delay_ms":20}}"#;

#[test]
fn the_shorter_drain_counts_where_a_roll_came_before_the_stop() {
    let mut daemon = Daemon::start("shutdown_timeout_secs = 1\n");
    let mut client = daemon.hand_over(ENDLESS);
    client.read_until("\n\n");
    daemon.signal(Signal::SIGHUP);
    eventually("the stream's worker drains", || {
        let status = daemon.status();
        let workers = status["workers"].as_array()?;
        workers.iter().find(|worker| worker["state"] == "draining" && worker["leases"] == 1).map(|_| ())
    });
    let stopped_at = Instant::now();
    daemon.signal(Signal::SIGTERM);
    let response = client.response();
    assert_eq!(response.error_code().as_deref(), Some("shutting_down"), "{response:?}");
    assert!(daemon.wait().success());
    assert!(stopped_at.elapsed() < Duration::from_secs(4), "after {:?}", stopped_at.elapsed());
    assert!(!daemon.log().contains("DrainTimeout"), "the worker had to be killed: {}", daemon.log());
}

#[test]
fn a_client_that_catches_up_reads_every_event_whole() {
    let daemon = Daemon::start("shutdown_timeout_secs = 0.5\n");
    // As fast as it goes: the buffers are full at once.
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":10000000,"token_delay_ms":0}}"#);
    client.read_until("\n\n");
    daemon.signal(Signal::SIGTERM);
    eventually("the deadline has come", || {
        daemon.log().contains("the drain's deadline has come").then_some(())
    });
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).expect("a clean end");
    let tail = String::from_utf8_lossy(&rest[rest.len().saturating_sub(400)..]).into_owned();
    let mut events = tail.trim_end().rsplit("\n\n");
    let last = events.next().unwrap_or_default();
    assert!(last.starts_with("data: {\"error\"") && last.contains("shutting_down"), "{tail}");
    let before = events.next().unwrap_or_default();
    assert!(before.ends_with("\"}"), "the event before is whole: {tail}");
}
