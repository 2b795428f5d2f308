//! A worker above `workers.rss_hard_max_mb` is killed at its next beat: its own streams end with an error event,
//! everybody else's go on.

use handoff_e2e::apache::hand_over_large;
use handoff_e2e::{Client, Daemon, eventually};

const STREAM: &str = r#"{"prompt":"x","mock":{"length":300,"token_delay_ms":10}}"#;
const LIMIT_MB: usize = 64;

#[test]
fn and_takes_only_its_own_streams_along() {
    let daemon =
        Daemon::start(&format!("[workers]\ncount = 2\nrss_max_mb = 0\nrss_hard_max_mb = {LIMIT_MB}\n"));
    let mut streams: Vec<Client> = (0..4).map(|_| daemon.hand_over(STREAM)).collect();
    streams.iter_mut().for_each(|stream| drop(stream.read_until("\n\n")));
    // Held in memory whole, and silent for long enough.
    let prompt = "x ".repeat(15 << 20);
    let large = format!(r#"{{"prompt":"{prompt}","mock":{{"first_token_delay_ms":5000}}}}"#);
    let mut client = hand_over_large(&daemon.socket(), large.as_bytes());
    eventually("a worker is replaced for its memory", || {
        let of_slot = |slot| {
            daemon.metric(&format!("handoffd_worker_restarts_total{{slot=\"{slot}\",reason=\"memory\""))
        };
        (of_slot(0) + of_slot(1) == 1.0).then_some(())
    });
    let rests = streams.into_iter().map(Client::response);
    let (whole, cut): (Vec<_>, Vec<_>) = rests.partition(|rest| rest.body.ends_with("[DONE]\n\n"));
    assert_eq!((whole.len(), cut.len()), (2, 2), "{cut:?}");
    assert!(cut.iter().all(|rest| rest.body.contains("worker_crashed")), "{cut:?}");
    // The one that was too large kills the sacrificial worker too.
    assert_eq!(client.read_response().status, 502);
    assert!(daemon.hand_over(r#"{"prompt":"x"}"#).response().is_complete());
}

#[test]
fn and_a_limit_that_no_worker_reaches_harms_nobody() {
    let daemon = Daemon::start(&format!("[workers]\ncount = 2\nrss_hard_max_mb = {LIMIT_MB}\n"));
    let workers = daemon.workers("ready");
    let clients: Vec<Client> = (0..50).map(|_| daemon.hand_over(STREAM)).collect();
    assert!(clients.into_iter().all(|client| client.response().is_complete()));
    assert_eq!(daemon.workers("ready"), workers);
}
