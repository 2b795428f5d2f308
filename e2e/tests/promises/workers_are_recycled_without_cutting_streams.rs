//! A worker that is old, has served many, or is large is replaced; its streams finish.

use handoff_e2e::process::is_alive;
use handoff_e2e::{Crowd, Daemon, PATIENCE, eventually};

/// Hands over for as long as it takes until both first workers are gone; everybody is served whole.
fn assert_recycled(limit: &str) {
    let daemon = Daemon::start(&format!("[workers]\ncount = 2\n{limit}\n"));
    let first = daemon.workers("ready");
    let mut crowd = Crowd::default();
    eventually(&format!("{limit}: both first workers are gone"), || {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","mock":{"length":50,"token_delay_ms":10}}"#));
        crowd.listen(std::time::Duration::from_millis(50));
        first.iter().all(|pid| !is_alive(*pid)).then_some(())
    });
    for (number, response) in crowd.responses(PATIENCE).iter().enumerate() {
        assert!(response.is_complete() && response.heads() == 1, "{limit}: client {number}: {response:?}");
    }
    let (_, metrics) = daemon.get("/metrics").expect("/metrics");
    let restarts = metrics.lines().filter(|line| line.starts_with("handoffd_worker_restarts_total{"));
    let restarts = restarts.filter(|line| !line.ends_with(" 0"));
    let (recycled, others): (Vec<_>, Vec<_>) =
        restarts.partition(|line| line.contains(r#"reason="recycle""#));
    assert!(recycled.len() == 2 && others.is_empty(), "{limit}: {recycled:?} {others:?}");
    assert_eq!(daemon.metric("handoffd_epitaphs_total") + daemon.metric("handoffd_redispatches_total"), 0.0);
}

#[test]
fn by_age() {
    assert_recycled("age_max_secs = 1");
}

#[test]
fn by_number_of_streams() {
    assert_recycled("streams_max = 10");
}

#[test]
fn by_memory() {
    // Every process is larger than this: the successor too. It must not become a loop that starves.
    assert_recycled("rss_max_mb = 1");
}

#[test]
fn never_by_default() {
    let daemon = Daemon::start("");
    let first = daemon.workers("ready");
    let mut crowd = Crowd::default();
    for _ in 0..200 {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#));
    }
    assert!(crowd.responses(PATIENCE).iter().all(handoff_e2e::Response::is_complete));
    assert_eq!(daemon.workers("ready"), first);
}
