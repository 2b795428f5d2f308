//! At `max_connections` a further client is told so at once; the others never notice.

use std::sync::Mutex;
use std::thread;
use std::time::{Duration, Instant};

use handoff_e2e::process::signal;
use handoff_e2e::{Crowd, Daemon, PATIENCE, Response, eventually};
use nix::sys::signal::Signal;

#[test]
fn of_six_clients_two_are_served_and_four_are_refused() {
    let daemon = Daemon::start("max_connections = 2\n");
    let payload = r#"{"prompt":"x","mock":{"length":100,"token_delay_ms":20}}"#;
    let mut served = [daemon.hand_over(payload), daemon.hand_over(payload)];
    served.iter_mut().for_each(|client| drop(client.read_until("\n\n")));
    for _ in 0..4 {
        let handed_over_at = Instant::now();
        let response = daemon.hand_over(payload).response();
        assert_refused(&response);
        let took = handed_over_at.elapsed();
        assert!(took < Duration::from_millis(700), "refused only after {took:?}");
    }
    assert_eq!(
        daemon.holders().iter().map(|(_, leases)| leases).sum::<u64>(),
        2,
        "the two were not served meanwhile"
    );
    for client in served {
        let rest = client.response();
        assert!(rest.body.ends_with("[DONE]\n\n"), "{rest:?}");
    }
    assert_eq!(daemon.metric(r#"handoffd_lease_endings_total{outcome="refused_full""#), 4.0);
    assert_eq!(daemon.metric("daemon_connections_rejected_total"), 4.0);
}

#[test]
fn the_limit_is_exact_when_many_come_at_the_same_time() {
    let daemon = Daemon::start("max_connections = 10\n");
    let payload = r#"{"prompt":"x","mock":{"first_token_delay_ms":3000}}"#;
    for round in 1..=2 {
        let crowd = Mutex::new(Crowd::default());
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    for _ in 0..5 {
                        let client = daemon.hand_over(payload);
                        crowd.lock().unwrap().join(client);
                    }
                });
            }
        });
        let responses = crowd.into_inner().unwrap().responses(PATIENCE);
        let (served, refused): (Vec<_>, Vec<_>) =
            responses.iter().partition(|response| response.status == 200);
        assert!(served.iter().all(|response| response.is_complete()), "round {round}: {served:?}");
        refused.iter().for_each(|response| assert_refused(response));
        assert_eq!((served.len(), refused.len()), (10, 40), "round {round}");
        eventually("all places are free again", || {
            (daemon.metric("daemon_active_connections") == 0.0).then_some(())
        });
    }
    assert_eq!(daemon.metric("daemon_peak_streams"), 10.0);
}

#[test]
fn a_place_that_becomes_free_is_given_to_the_next() {
    let daemon = Daemon::start("max_connections = 1\n");
    for number in 0..20 {
        let response = daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response();
        assert!(response.is_complete(), "client {number}: {response:?}");
        eventually("the place is free", || (daemon.metric("daemon_active_connections") == 0.0).then_some(()));
    }
}

#[test]
fn without_a_free_worker_handoffs_wait_and_are_then_refused() {
    let daemon = Daemon::start("queue_timeout_secs = 0.5\n[workers]\ncount = 1\n");
    signal(daemon.workers("ready")[0], Signal::SIGSTOP);
    let mut crowd = Crowd::default();
    for _ in 0..50 {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#));
    }
    // 32 are in the stopped worker's hands until it is found out; the others wait for half a second.
    let responses = crowd.responses(PATIENCE);
    let (served, refused): (Vec<_>, Vec<_>) = responses.iter().partition(|response| response.status == 200);
    assert!(served.iter().all(|response| response.is_complete() && response.heads() == 1), "{served:?}");
    refused.iter().for_each(|response| assert_refused(response));
    assert_eq!((served.len(), refused.len()), (32, 18));
    assert_eq!(daemon.metric(r#"handoffd_lease_endings_total{outcome="refused_no_worker""#), 18.0);
}

#[test]
fn a_refused_client_that_sent_more_than_it_should_gets_its_whole_answer() {
    use std::io::Write;
    let daemon = Daemon::start("max_connections = 1\n");
    let _served = daemon.hand_over(r#"{"prompt":"x","mock":{"length":100000,"token_delay_ms":20}}"#);
    eventually("it is served", || (daemon.holders().len() == 1).then_some(()));
    let (mut ours, theirs) = handoff_e2e::apache::client_pair(handoff_e2e::apache::Kind::Tcp);
    ours.write_all(&[b'x'; 4096]).unwrap();
    handoff_e2e::apache::hand_over(&daemon.socket(), handoff_e2e::Door::SeqPacket, b"{}", theirs).unwrap();
    assert_refused(&ours.response());
}

fn assert_refused(response: &Response) {
    assert_eq!((response.status, response.heads()), (503, 1), "{response:?}");
    assert!(response.header("Retry-After").is_some_and(|secs| secs.parse::<u32>().is_ok()), "{response:?}");
    assert_eq!(response.error_code().as_deref(), Some("overloaded"), "{response:?}");
    assert_eq!(response.broken, None, "{response:?}");
}
