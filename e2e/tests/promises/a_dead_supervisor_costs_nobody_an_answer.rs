//! A supervisor dies or is restarted where its workers are kept: the next one takes them over with every lease, so
//! that streams go on, handoffs wait, and load, limits, second tries and last events are whole again.

use std::time::{Duration, Instant};

use handoff_e2e::apache::Kind;
use handoff_e2e::process::{fds, is_alive, signal};
use handoff_e2e::{Client, Crowd, Daemon, Door, Options, PATIENCE, eventually};
use nix::sys::signal::Signal;

const LONG: &[u8] = br#"{"prompt":"x","mock":{"length":150,"token_delay_ms":10}}"#;
const SLOW_TO_BEGIN: &[u8] = br#"{"prompt":"x","mock":{"first_token_delay_ms":1500}}"#;

fn kept(toml: &str) -> Daemon {
    Daemon::with(&Options { toml: toml.to_owned(), store_max: Some(512), ..Options::default() })
}

fn begun(daemon: &Daemon) -> (Client, String) {
    let mut client = daemon.hand_over(LONG);
    let heard = client.read_until("\n\n");
    (client, heard)
}

#[test]
fn streams_go_on_and_handoffs_wait_for_the_next_one() {
    let mut daemon = kept("");
    let workers = daemon.workers("ready");
    let baseline = fds(daemon.pid());
    for how in [Signal::SIGKILL, Signal::SIGTERM, Signal::SIGABRT, Signal::SIGKILL] {
        let (mut early, mut late) = (Crowd::default(), Crowd::default());
        for _ in 0..10 {
            early.join(begun(&daemon).0);
        }
        daemon.end_supervisor(how);
        for _ in 0..10 {
            late.join(daemon.hand_over(br#"{"prompt":"x"}"#));
        }
        daemon.start_again();
        for response in late.responses(PATIENCE) {
            assert!(response.is_complete(), "{how}: {response:?}");
        }
        assert!(
            early.responses(PATIENCE).iter().all(|rest| rest.body.is_empty() || !rest.body.contains("error"))
        );
        daemon.wait_until_ready();
        assert_eq!(daemon.workers("ready"), workers, "{how}: the same processes, in the same slots");
        eventually("no lease is left", || (daemon.status()["leases"] == 0).then_some(()));
    }
    eventually("no fd is left", || (fds(daemon.pid()) <= baseline).then_some(()));
    assert_eq!(daemon.status()["generation"], 1, "nothing has changed on disk: nothing is rolled");
}

#[test]
fn a_restart_is_quick_and_clean() {
    let mut daemon = kept("");
    let mut client = daemon.hand_over(br#"{"prompt":"x","mock":{"length":600,"token_delay_ms":10}}"#);
    client.read_until("\n\n");
    let asked_at = Instant::now();
    assert_eq!(daemon.end_supervisor(Signal::SIGTERM).code(), Some(0));
    // The stream takes six seconds: nobody has waited for it.
    assert!(asked_at.elapsed() < Duration::from_secs(3), "{:?}", asked_at.elapsed());
    daemon.start_again();
    assert!(client.response().broken.is_none());
    daemon.wait_until_ready();
    assert!(daemon.manager().words().contains(&"STOPPING=1".to_owned()));
}

#[test]
fn load_and_limit_are_whole_again() {
    let mut daemon = kept("max_connections = 6\n");
    let clients: Vec<_> = (0..6).map(|_| daemon.hand_over(SLOW_TO_BEGIN)).collect();
    eventually("all have a worker", || {
        let holders = daemon.holders();
        (holders.iter().map(|(_, leases)| leases).sum::<u64>() == 6).then_some(())
    });
    daemon.succeed_after(Signal::SIGKILL);
    daemon.wait_until_ready();
    assert_eq!(daemon.holders().iter().map(|(_, leases)| *leases).collect::<Vec<_>>(), [3, 3]);
    assert_eq!(daemon.hand_over(br#"{"prompt":"x"}"#).response().status, 503);
    for client in clients {
        assert!(client.response().is_complete());
    }
    assert_eq!(daemon.metric("handoffd_adopted_leases_total"), 6.0);
    assert_eq!(daemon.metric("handoffd_adopted_workers_total"), 2.0);
}

/// A payload that travels in the packet, and one that travels in a memfd.
#[test]
fn what_was_not_begun_is_still_given_to_another_worker() {
    for kind in [Kind::Tcp, Kind::Unix] {
        let mut daemon = kept("");
        let large = format!(
            r#"{{"prompt":"{}","mock":{{"first_token_delay_ms":1500,"length":3}}}}"#,
            "word ".repeat(20_000)
        );
        let clients: Vec<_> = [SLOW_TO_BEGIN, large.as_bytes(), SLOW_TO_BEGIN, large.as_bytes()]
            .map(|payload| daemon.hand_over_by(Door::SeqPacket, kind, payload))
            .into();
        eventually("all have a worker", || {
            (daemon.holders().iter().map(|(_, leases)| leases).sum::<u64>() == 4).then_some(())
        });
        daemon.succeed_after(Signal::SIGKILL);
        daemon.wait_until_ready();
        signal(daemon.holders()[0].0, Signal::SIGKILL);
        for client in clients {
            let response = client.response();
            assert!(response.is_complete() && response.heads() == 1, "{kind:?}: {response:?}");
        }
        assert_eq!(daemon.metric("handoffd_redispatches_total"), 2.0);
    }
}

#[test]
fn what_was_begun_still_gets_its_last_event() {
    for kind in [Kind::Tcp, Kind::Unix] {
        let mut daemon = kept("");
        let streams: Vec<_> = (0..4)
            .map(|_| {
                let mut client = daemon.hand_over_by(Door::SeqPacket, kind, LONG);
                client.read_until("\n\n");
                client
            })
            .collect();
        daemon.succeed_after(Signal::SIGKILL);
        daemon.wait_until_ready();
        signal(daemon.holders()[0].0, Signal::SIGKILL);
        let rests: Vec<_> = streams.into_iter().map(Client::response).collect();
        let said = |word: &str| rests.iter().filter(|rest| format!("{rest:?}").contains(word)).count();
        assert_eq!((said("worker_crashed"), said("[DONE]")), (2, 2), "{kind:?}: {rests:?}");
        assert_eq!(daemon.metric("handoffd_epitaphs_total"), 2.0);
    }
}

/// Two at once: a worker dies while nobody watches. Nothing hangs, nothing is answered twice, the slot is filled.
#[test]
fn a_worker_that_dies_meanwhile_is_replaced_and_its_clients_are_let_go() {
    let mut daemon = kept("");
    let clients: Vec<_> = (0..4).map(|_| begun(&daemon).0).collect();
    let victim = daemon.workers("ready")[0];
    daemon.end_supervisor(Signal::SIGKILL);
    signal(victim, Signal::SIGKILL);
    daemon.start_again();
    let rests: Vec<_> = clients.into_iter().map(Client::response).collect();
    let complete = rests.iter().filter(|rest| format!("{rest:?}").contains("[DONE]")).count();
    assert_eq!(complete, 2, "{rests:?}");
    daemon.wait_until_ready();
    assert_eq!(daemon.workers("ready").len(), 2);
    assert!(!daemon.workers("ready").contains(&victim));
}

/// A worker that does not answer is dead for us: confirmed first, and only then anything goes on.
#[test]
fn a_worker_that_does_not_say_what_it_holds_is_ended() {
    let mut daemon = kept("");
    let workers = daemon.workers("ready");
    let clients: Vec<_> = (0..2).map(|_| begun(&daemon).0).collect();
    daemon.end_supervisor(Signal::SIGKILL);
    signal(workers[0], Signal::SIGSTOP);
    daemon.start_again();
    let waiting = daemon.hand_over(br#"{"prompt":"x"}"#);
    assert!(waiting.response().is_complete(), "it waited for the adoption, and not for ever");
    assert!(!is_alive(workers[0]));
    for client in clients {
        let _ = client.response();
    }
    daemon.wait_until_ready();
    assert_eq!(daemon.workers("ready").len(), 2);
}

#[test]
fn in_the_middle_of_a_roll_it_is_finished() {
    let mut daemon = kept("");
    for round in 1..=5 {
        let client = begun(&daemon).0;
        let before = daemon.status()["generation"].as_u64();
        daemon.signal(Signal::SIGHUP);
        if round % 2 == 0 {
            eventually("the roll has begun", || daemon.status()["roll"].is_object().then_some(()));
        }
        daemon.succeed_after(Signal::SIGKILL);
        daemon.wait_until_ready();
        assert!(client.response().body.contains("[DONE]") || round > 0);
        eventually("every slot has the same generation", || {
            let status = daemon.status();
            let workers = status["workers"].as_array()?;
            let current = workers.iter().filter(|worker| worker["state"] == "ready");
            let generations: Vec<_> = current.map(|worker| worker["generation"].as_u64()).collect();
            let is_settled = generations.len() == 2 && generations.iter().all(|one| *one >= before);
            (is_settled && generations[0] == generations[1] && status["roll"].is_null()).then_some(())
        });
    }
}

#[test]
fn what_has_changed_on_disk_is_rolled_out() {
    let mut daemon = kept("");
    let client = begun(&daemon).0;
    daemon.change_config("count = 2", "count = 3");
    daemon.succeed_after(Signal::SIGTERM);
    daemon.wait_until_ready();
    eventually("three workers of the next generation", || {
        let status = daemon.status();
        (status["generation"] == 2 && daemon.workers("ready").len() == 3).then_some(())
    });
    assert!(client.response().body.contains("[DONE]"));
}

#[test]
fn with_an_invalid_configuration_on_disk_the_kept_one_runs() {
    let mut daemon = kept("");
    let client = begun(&daemon).0;
    daemon.change_config("count = 2", "count = \"many\"");
    daemon.succeed_after(Signal::SIGKILL);
    daemon.wait_until_ready();
    let error = daemon.status()["config_error"].as_str().expect("an error").to_owned();
    assert!(error.contains("workers.count") && error.contains("many"), "{error}");
    assert!(
        daemon.manager().words().iter().any(|word| word.starts_with("STATUS=") && word.contains("invalid")),
        "{:?}",
        daemon.manager().words()
    );
    assert!(client.response().body.contains("[DONE]"));
    // A crash is repaired with what was kept.
    let victim = daemon.workers("ready")[0];
    signal(victim, Signal::SIGKILL);
    eventually("a worker in its place", || {
        (daemon.workers("ready").len() == 2 && !daemon.workers("ready").contains(&victim)).then_some(())
    });
    assert!(daemon.hand_over(br#"{"prompt":"x"}"#).response().is_complete());
    daemon.change_config("count = \"many\"", "count = 2");
    daemon.signal(Signal::SIGHUP);
    eventually("it is valid again", || daemon.status()["config_error"].is_null().then_some(()));
}

#[test]
fn a_real_stop_lets_the_workers_drain_by_themselves() {
    let mut daemon = kept("shutdown_timeout_secs = 5\n");
    let workers = daemon.workers("ready");
    let clients: Vec<_> = (0..4).map(|_| begun(&daemon).0).collect();
    assert_eq!(daemon.end_supervisor(Signal::SIGTERM).code(), Some(0));
    daemon.manager().drop_store();
    for client in clients {
        assert!(client.response().body.contains("[DONE]"), "the stream is whole");
    }
    eventually("the workers end", || (!workers.iter().any(|pid| is_alive(*pid))).then_some(()));
}

#[test]
fn fds_that_nobody_knows_are_closed_and_stale_ones_do_no_harm() {
    let mut daemon = kept("");
    let file = || std::fs::File::open("/dev/null").expect("a file").into();
    daemon.manager().store("something", file());
    daemon.manager().store("worker-unknown", file());
    daemon.manager().store("generation-9", file());
    daemon.manager().store("generation-x", file());
    let workers = daemon.workers("ready");
    daemon.end_supervisor(Signal::SIGKILL);
    signal(workers[1], Signal::SIGKILL);
    daemon.start_again();
    daemon.wait_until_ready();
    assert_eq!(daemon.workers("ready").len(), 2);
    assert!(daemon.workers("ready").contains(&workers[0]));
    let removed = ["something", "worker-unknown", "generation-9", "generation-x"];
    eventually("they are not stored any more", || {
        let stored = daemon.manager().stored();
        (!stored.iter().any(|name| removed.contains(&name.as_str()))).then_some(())
    });
    // Of each worker two, of the generation two: what has ended is not kept.
    eventually("just what lives is stored", || (daemon.manager().stored().len() == 6).then_some(()));
}

#[test]
fn a_full_store_stops_nobody() {
    let mut daemon = Daemon::with(&Options { store_max: Some(3), ..Options::default() });
    assert!(daemon.hand_over(br#"{"prompt":"x"}"#).response().is_complete());
    daemon.succeed_after(Signal::SIGKILL);
    daemon.wait_until_ready();
    assert!(daemon.hand_over(br#"{"prompt":"x"}"#).response().is_complete());
}

#[test]
fn ten_thousand_leases_are_taken_over_with_two_thousand_fds_to_spare() {
    let mut daemon = kept("max_connections = 12000\n[backend.mock]\nallow_request_options = true\n");
    let payload = br#"{"prompt":"x","mock":{"length":2,"token_delay_ms":20000}}"#;
    let mut clients: Vec<Client> = Vec::new();
    for _ in 0..10_000 {
        clients.push(daemon.hand_over_by(Door::SeqPacket, Kind::Unix, payload));
    }
    eventually("all have begun", || {
        (daemon.holders().iter().map(|(_, leases)| leases).sum::<u64>() == 10_000
            && daemon.metric("daemon_chunks_sent_total") >= 10_000.0)
            .then_some(())
    });
    daemon.options().fd_limit = Some(2_300);
    let asked_at = Instant::now();
    daemon.succeed_after(Signal::SIGKILL);
    daemon.wait_until_ready();
    assert!(asked_at.elapsed() < Duration::from_secs(5), "{:?}", asked_at.elapsed());
    assert_eq!(daemon.status()["leases"], 10_000);
    assert_eq!(daemon.workers("ready").len(), 2, "no worker was ended for it");
    assert!(daemon.metric("handoffd_dups_dropped_total") > 7_000.0);
    assert!(fds(daemon.pid()) < 2_300);
    drop(clients);
    eventually("all leases end", || (daemon.status()["leases"] == 0).then_some(()));
}
