//! SIGHUP: the fleet moves to a new generation, worker by worker, and no client notices.

use std::time::{Duration, Instant};

use handoff_e2e::process::{children, is_alive};
use handoff_e2e::{Crowd, Daemon, PATIENCE, eventually};
use nix::sys::signal::Signal;

fn reloads(daemon: &Daemon, result: &str) -> f64 {
    daemon.metric(&format!("handoffd_reloads_total{{result=\"{result}\""))
}

fn rolled(daemon: &Daemon, times: f64) {
    eventually("the roll has ended", || (reloads(daemon, "done") >= times).then_some(()));
}

/// Words of an answer.
fn words(body: &str) -> usize {
    body.matches(r#"data: {"content":"#).count()
}

#[test]
fn ten_reloads_under_load() {
    let daemon = Daemon::start("");
    let before = daemon.workers("ready");
    let mut crowd = Crowd::default();
    let began_at = Instant::now();
    for number in 0..400_u32 {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","mock":{"length":40,"token_delay_ms":20}}"#));
        if number % 40 == 20 {
            daemon.signal(Signal::SIGHUP);
        }
        crowd.listen(
            (began_at + Duration::from_millis(10) * number).saturating_duration_since(Instant::now()),
        );
    }
    for (number, response) in crowd.responses(PATIENCE).iter().enumerate() {
        assert!(response.is_complete() && response.heads() == 1, "client {number}: {response:?}");
        assert_eq!(words(&response.body), 40, "client {number}: {response:?}");
    }
    eventually("the last roll has ended", || daemon.status()["roll"].is_null().then_some(()));
    assert!(reloads(&daemon, "done") >= 2.0);
    assert_eq!(daemon.metric(r#"handoffd_lease_endings_total{outcome="complete""#), 400.0);
    eventually("the old workers are gone", || before.iter().all(|pid| !is_alive(*pid)).then_some(()));
}

#[test]
fn a_thousand_in_a_second_are_a_few_rolls() {
    let daemon = Daemon::start("");
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":200,"token_delay_ms":20}}"#);
    client.read_until("\n\n");
    let (began_at, mut most) = (Instant::now(), 0);
    for burst in 0..100 {
        (0..10).for_each(|_| daemon.signal(Signal::SIGHUP));
        most = most.max(children(daemon.pid()).len());
        if burst % 20 == 10 {
            let response = daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response();
            assert!(response.is_complete(), "in burst {burst}: {response:?}");
        }
        handoff_e2e::throughout(Duration::from_millis(2), || {});
    }
    let storm = began_at.elapsed();
    assert!(client.response().body.ends_with("[DONE]\n\n"));
    eventually("the last roll has ended", || {
        let status = daemon.status();
        (status["roll"].is_null() && status["reload_pending"] == false).then_some(())
    });
    let rolls = reloads(&daemon, "done") + reloads(&daemon, "superseded");
    // Two slots, two draining generations, one that comes: never more processes than that.
    assert!(most <= 8, "{most} workers at once");
    assert!((1.0..=200.0).contains(&rolls), "{rolls} rolls for 1,000 signals in {storm:?}");
    assert_eq!(daemon.workers("ready").len(), 2);
}

#[test]
fn new_streams_follow_the_new_configuration_and_old_ones_the_old() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 10\nlength = 150\n");
    let mut old = daemon.hand_over(r#"{"prompt":"x"}"#);
    let heard = old.read_until("\n\n");
    daemon.change_config("length = 150", "length = 3");
    daemon.signal(Signal::SIGHUP);
    rolled(&daemon, 1.0);
    assert_eq!(daemon.status()["generation"], 2);
    let new = daemon.hand_over(r#"{"prompt":"x"}"#).response();
    assert_eq!((new.is_complete(), words(&new.body)), (true, 3), "{new:?}");
    let rest = old.response();
    assert!(rest.body.ends_with("[DONE]\n\n"), "{rest:?}");
    assert_eq!(words(&heard) + words(&rest.body), 150);
}

#[test]
fn the_number_of_workers_follows() {
    let daemon = Daemon::start("[workers]\ncount = 2\n");
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":300,"token_delay_ms":10}}"#);
    client.read_until("\n\n");
    for (rolls, from, to) in [(1.0, 2, 3), (2.0, 3, 1)] {
        daemon.change_config(&format!("count = {from}"), &format!("count = {to}"));
        daemon.signal(Signal::SIGHUP);
        rolled(&daemon, rolls);
        assert_eq!(daemon.workers("ready").len(), to, "{}", daemon.status());
        assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response().is_complete());
    }
    assert!(client.response().body.ends_with("[DONE]\n\n"));
    eventually("one process is left", || (children(daemon.pid()).len() == 1).then_some(()));
}

#[test]
fn the_limit_of_clients_follows() {
    let daemon = Daemon::start("max_connections = 1\n");
    let mut first = daemon.hand_over(r#"{"prompt":"x","mock":{"length":400,"token_delay_ms":10}}"#);
    first.read_until("\n\n");
    assert_eq!(daemon.hand_over("{}").response().status, 503);
    daemon.change_config("max_connections = 1", "max_connections = 2");
    daemon.signal(Signal::SIGHUP);
    rolled(&daemon, 1.0);
    assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response().is_complete());
    assert!(first.response().body.ends_with("[DONE]\n\n"));
}

#[test]
fn a_replaced_worker_ends_its_streams_at_its_limit() {
    let daemon = Daemon::start("[workers]\ncount = 2\ndrain_timeout_secs = 0.5\n");
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":1000000,"token_delay_ms":10}}"#);
    client.read_until("\n\n");
    let old = daemon.workers("ready");
    daemon.signal(Signal::SIGHUP);
    let rest = client.response();
    assert_eq!(rest.error_code().as_deref(), Some("shutting_down"), "{rest:?}");
    assert!(!rest.body.contains("[DONE]"), "{rest:?}");
    eventually("the old workers are gone", || old.iter().all(|pid| !is_alive(*pid)).then_some(()));
    assert_eq!(daemon.workers("ready").len(), 2);
}
