//! Long streams and many reloads: at most two generations drain at a time, whoever drains has a deadline, and further
//! reloads wait for it.

use std::collections::BTreeSet;
use std::time::Duration;

use handoff_e2e::process::children;
use handoff_e2e::{Client, Daemon, eventually, throughout};
use nix::sys::signal::Signal;

const ENDLESS: &[u8] = br#"{"prompt":"x","mock":{"length":100000,"token_delay_ms":50}}"#;

#[test]
fn at_most_two_drain_and_the_next_reload_waits_for_their_deadline() {
    let daemon = Daemon::start("[workers]\ncount = 2\ndrain_timeout_secs = 6\n");
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..5 {
        for _ in 0..4 {
            let mut client = daemon.hand_over(ENDLESS);
            client.read_until("\n\n");
            clients.push(client);
        }
        daemon.signal(Signal::SIGHUP);
        throughout(Duration::from_millis(1100), || {
            let status = daemon.status();
            let workers = status["workers"].as_array().expect("workers");
            let draining = workers.iter().filter(|worker| worker["state"] == "draining");
            let generations: BTreeSet<u64> =
                draining.map(|worker| worker["generation"].as_u64().expect("a number")).collect();
            assert!(generations.len() <= 2, "{status}");
            assert!(children(daemon.pid()).len() <= 7, "{status}");
        });
    }
    assert!(daemon.status()["reload_pending"] == true, "{}", daemon.status());
    eventually("the deadline makes room for it", || {
        let status = daemon.status();
        (status["reload_pending"] == false && status["roll"].is_null()).then_some(())
    });
    let told = clients.into_iter().take(4).map(Client::response);
    assert!(told.into_iter().all(|rest| format!("{rest:?}").contains("shutting_down")));
}
