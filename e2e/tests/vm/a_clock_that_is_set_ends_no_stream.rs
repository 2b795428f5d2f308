//! The wall clock is set an hour ahead, and two back, under live streams: no timeout fires, no stream ends, nobody is
//! replaced, and durations stay durations.

use std::time::Duration;

use handoff_e2e::Crowd;

use crate::guest::{Guest, all_complete, pids, run, succeed};

#[test]
fn neither_ahead_nor_back() {
    // All that has a limit has one of less than an hour.
    let toml =
        "age_max_secs = 1800\ndrain_timeout_secs = 60\n[client]\nstream_max_secs = 600\nheartbeat_secs = 5\n";
    let guest = Guest::start(toml, "");
    let (supervisor, mut workers) = (guest.main_pid(), pids("handoffd-worker"));
    workers.sort_unstable();
    let mut long = Crowd::default();
    for _ in 0..6 {
        long.join(guest.hand_over(r#"{"prompt":"x","mock":{"length":60,"token_delay_ms":250}}"#));
        // This one waits for its first token meanwhile.
        long.join(guest.hand_over(r#"{"prompt":"x","mock":{"length":3,"first_token_delay_ms":15000}}"#));
    }
    long.listen(Duration::from_secs(1));
    for step in ["+1 hour", "-2 hours", "+1 hour"] {
        let before = succeed("date +%T");
        eprintln!("{before} -> {}", succeed(&format!("date --set='{step}' +%T")));
        for _ in 0..5 {
            let short = guest.hand_over(r#"{"prompt":"x","mock":{"length":5,"token_delay_ms":10}}"#);
            assert!(short.response().is_complete());
            long.listen(Duration::from_millis(500));
        }
        assert_eq!(long.waiting(), 12, "nobody's stream has ended");
    }
    let responses = long.responses(Duration::from_secs(60));
    all_complete(&responses);
    let mut workers_now = pids("handoffd-worker");
    workers_now.sort_unstable();
    assert_eq!(
        (guest.main_pid(), workers_now, guest.property("NRestarts").as_str()),
        (supervisor, workers, "0")
    );
    sane(&guest);
}

/// Durations and ages are of the seconds that the test took.
fn sane(guest: &Guest) {
    let complete = guest.metric("handoffd_lease_endings_total{outcome=\"complete\"}");
    let all = guest.metric("handoffd_lease_endings_total");
    let streams = guest.metric("daemon_stream_duration_seconds_sum");
    let handoffs = guest.metric("daemon_handoff_duration_seconds_sum");
    let beat = guest.metric("handoffd_worker_beat_age_seconds");
    let uptime = guest.status()["uptime_secs"].as_f64().unwrap_or(f64::MAX);
    eprintln!(
        "{complete} of {all} complete; {streams:.1} s of streams, {handoffs:.3} s of handoffs, beats {beat:.1} s ago, up {uptime} s"
    );
    assert!((complete - 27.0).abs() < 0.5 && (all - complete).abs() < 0.5);
    assert!((90.0..600.0).contains(&streams), "12 streams of 15 s, and some short ones: {streams}");
    assert!((0.0..60.0).contains(&handoffs) && (0.0..20.0).contains(&beat) && uptime < 300.0);
    assert!(guest.restarts() < 0.5);
    let late =
        run("journalctl --unit=handoffd.service --no-pager --output=cat | grep -cE 'watchdog|hang|timeout'")
            .1;
    assert_eq!(late, run("journalctl --unit=handoffd.service --no-pager --output=cat --grep=nothing-of-this-kind | grep -c x").1);
}
