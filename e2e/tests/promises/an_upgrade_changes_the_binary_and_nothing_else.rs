//! SIGUSR2: the binary on disk takes the place of the running one, in the same process. Workers stay its children and
//! stream on; new ones are of the new binary; a binary that cannot take over changes nothing.

use std::fs;

use handoff_e2e::daemon::binary;
use handoff_e2e::process::{children, fds};
use handoff_e2e::{Crowd, Daemon, Options, PATIENCE, eventually};
use nix::sys::signal::Signal;

const LONG: &[u8] = br#"{"prompt":"x","mock":{"length":150,"token_delay_ms":10}}"#;

fn own(toml: &str) -> Daemon {
    Daemon::with(&Options { toml: toml.to_owned(), own_binaries: true, ..Options::default() })
}

/// Waits for the end of the next upgrade.
fn upgrade(daemon: &Daemon) -> String {
    let starts = || daemon.log().matches("handoffd starts").count();
    let (before, failed) = (starts(), daemon.log().matches("upgrade failed").count());
    daemon.signal(Signal::SIGUSR2);
    eventually("the upgrade has ended", || {
        let is_over = starts() > before || daemon.log().matches("upgrade failed").count() > failed;
        (is_over && daemon.is_ready()).then_some(())
    });
    let status = eventually("its status", || daemon.get("/status"));
    let status: serde_json::Value = serde_json::from_str(&status.1).expect("JSON");
    status["last_upgrade"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn the_process_its_workers_and_their_streams_stay() {
    let daemon = own("");
    let (pid, workers) = (daemon.pid(), daemon.workers("ready"));
    let baseline = fds(pid);
    for _ in 0..20 {
        let mut crowd = Crowd::default();
        for _ in 0..10 {
            let mut client = daemon.hand_over(LONG);
            client.read_until("\n\n");
            crowd.join(client);
        }
        assert_eq!(upgrade(&daemon), concat!("done, from ", env!("CARGO_PKG_VERSION")));
        assert_eq!(daemon.workers("ready"), workers);
        let mut own_children = children(pid);
        own_children.sort_unstable();
        assert_eq!(own_children, workers);
        drop(crowd);
    }
    let mut crowd = Crowd::default();
    for _ in 0..10 {
        crowd.join(daemon.hand_over(LONG));
    }
    upgrade(&daemon);
    assert!(crowd.responses(PATIENCE).iter().all(handoff_e2e::Response::is_complete));
    eventually("no lease is left", || (daemon.status()["leases"] == 0).then_some(()));
    eventually("no fd is left", || (fds(pid) <= baseline).then_some(()));
    assert_eq!(daemon.metric("handoffd_upgrades_total{result=\"done\"}"), 1.0, "a new image counts anew");
}

#[test]
fn handoffs_that_come_meanwhile_are_served() {
    let daemon = own("");
    let mut crowd = Crowd::default();
    for round in 0..10 {
        daemon.signal(Signal::SIGUSR2);
        for _ in 0..20 {
            crowd.join(daemon.hand_over(br#"{"prompt":"x","mock":{"length":20,"token_delay_ms":2}}"#));
            crowd.listen(std::time::Duration::from_millis(5));
        }
        eventually("that upgrade", || {
            (daemon.log().matches("handoffd starts").count() > round).then_some(())
        });
    }
    for response in crowd.responses(PATIENCE) {
        assert!(response.is_complete() && response.heads() == 1, "{response:?}");
    }
}

#[test]
fn a_new_worker_binary_comes_by_a_roll() {
    let daemon = own("");
    let workers = daemon.workers("ready");
    let mut client = daemon.hand_over(LONG);
    client.read_until("\n\n");
    daemon.replace_binary("handoffd-worker", &fs::read(binary("handoffd-worker")).expect("a binary"));
    daemon.replace_binary("handoffd", &fs::read(binary("handoffd")).expect("a binary"));
    upgrade(&daemon);
    eventually("two workers of the next generation", || {
        let ready = daemon.workers("ready");
        let is_new = ready.len() == 2 && !ready.iter().any(|pid| workers.contains(pid));
        (is_new && daemon.status()["generation"] == 2).then_some(())
    });
    assert!(client.response().body.contains("[DONE]"));
    assert!(daemon.hand_over(br#"{"prompt":"x"}"#).response().is_complete());
}

#[test]
fn a_binary_that_cannot_take_over_changes_nothing() {
    let daemon = own("");
    let workers = daemon.workers("ready");
    let own_binary = fs::read(binary("handoffd")).expect("a binary");
    let mut client = daemon.hand_over(LONG);
    client.read_until("\n\n");
    for (content, why) in [
        (&b"#!/bin/sh\necho something is missing >&2\nexit 3\n"[..], "something is missing"),
        (b"#!/bin/sh\nexit 0\n", "is no handoffd that can take over"),
        (b"\x7fELF nothing", "handoffd"),
        (&own_binary[..4096], "handoffd"),
    ] {
        daemon.replace_binary("handoffd", content);
        let said = upgrade(&daemon);
        assert!(said.starts_with("failed: ") && said.contains(why), "{said}");
        assert_eq!(daemon.workers("ready"), workers);
    }
    fs::remove_file(daemon.directory().join("handoffd")).expect("a file");
    let said = upgrade(&daemon);
    assert!(said.contains("handoffd") && said.contains("No such file"), "{said}");
    assert_eq!(daemon.metric("handoffd_upgrades_total{result=\"failed\"}"), 5.0);
    assert!(client.response().body.contains("[DONE]"));
    assert!(daemon.hand_over(br#"{"prompt":"x"}"#).response().is_complete());
    daemon.replace_binary("handoffd", &own_binary);
    assert!(upgrade(&daemon).starts_with("done"));
}

#[test]
fn an_invalid_configuration_stops_it() {
    let daemon = own("");
    daemon.change_config("count = 2", "count = 2\nunknown = 1");
    let said = upgrade(&daemon);
    assert!(said.starts_with("failed: ") && said.contains("workers.unknown"), "{said}");
    assert_eq!(daemon.workers("ready").len(), 2);
}

#[test]
fn no_signal_is_lost_in_it() {
    for _ in 0..10 {
        let daemon = own("");
        daemon.signal(Signal::SIGUSR2);
        daemon.signal(Signal::SIGHUP);
        eventually("it is upgraded, and rolled", || {
            let rolled = daemon.get("/status")?.1.contains("\"generation\": 2,\n  \"roll\": null");
            let upgraded = daemon.log().matches("handoffd starts").count() == 2;
            (rolled && upgraded).then_some(())
        });
    }
    for _ in 0..10 {
        let mut daemon = own("");
        daemon.signal(Signal::SIGUSR2);
        eventually("it has begun", || daemon.log().contains("upgrade").then_some(()));
        daemon.signal(Signal::SIGTERM);
        assert_eq!(daemon.wait().code(), Some(0));
    }
}
