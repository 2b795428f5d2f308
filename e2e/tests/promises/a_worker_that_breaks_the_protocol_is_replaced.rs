//! Whatever a worker says out of turn: it is killed and replaced, ever more slowly, and never argued with. The
//! supervisor survives, and answers its clients itself.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use handoff_e2e::{Daemon, Options, eventually, throughout};
use tempfile::TempDir;

/// A daemon whose workers are all of this kind. The directory holds their executable.
fn daemon_of_liars(behaviour: &str) -> (Daemon, TempDir) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let binary: PathBuf = directory.path().join("worker");
    // A link, not a copy: a file that is being written may not be executed.
    fs::hard_link(env!("CARGO_BIN_EXE_fake_worker"), &binary).expect("a link beside the build");
    fs::write(directory.path().join("behaviour"), behaviour).expect("a behaviour");
    let toml = format!("queue_timeout_secs = 0.3\n[workers]\ncount = 2\nbinary = \"{}\"\n", binary.display());
    let daemon = Daemon::with(&Options { toml, no_wait: true, ..Options::default() });
    eventually("the admin endpoint answers", || daemon.get("/health"));
    (daemon, directory)
}

fn restarts(daemon: &Daemon, reason: &str) -> f64 {
    let of_slot =
        |slot| daemon.metric(&format!("handoffd_worker_restarts_total{{slot=\"{slot}\",reason=\"{reason}\""));
    of_slot(0) + of_slot(1)
}

#[test]
fn garbage_and_words_out_of_turn() {
    for behaviour in [
        "garbage",
        "cut off",
        "wrong direction",
        "unknown variant",
        "endless list",
        "another version",
        "ready twice",
        "taken before ready",
        "taken unknown",
        "committed unknown",
        "released unknown",
        "held unasked",
        "cooldown before ready",
        "cooldown of nobody",
        "cooldown of an endless model",
        "an fd unasked",
    ] {
        let (daemon, _directory) = daemon_of_liars(behaviour);
        eventually(&format!("a worker is replaced for {behaviour:?}"), || {
            (restarts(&daemon, "protocol") >= 4.0).then_some(())
        });
        assert_eq!(
            restarts(&daemon, "protocol"),
            daemon.metric("handoffd_worker_restarts_total"),
            "{behaviour}"
        );
        assert_eq!(daemon.get("/health"), Some((200, "OK\n".to_owned())), "{behaviour}");
    }
}

#[test]
fn it_is_replaced_ever_more_slowly() {
    let (daemon, _directory) = daemon_of_liars("garbage");
    throughout(Duration::from_secs(3), || {
        assert_eq!(daemon.get("/health"), Some((200, "OK\n".to_owned())));
        throughout(Duration::from_millis(100), || {});
    });
    let restarts = restarts(&daemon, "protocol");
    assert!((2.0..=12.0).contains(&restarts), "{restarts} restarts of two workers in three seconds");
}

#[test]
fn a_client_that_only_liars_got_is_answered_502_or_503() {
    let (daemon, _directory) = daemon_of_liars("garbage for a handoff");
    eventually("two ready workers", || (daemon.workers("ready").len() == 2).then_some(()));
    let clients: Vec<_> = (0..10).map(|_| daemon.hand_over(r#"{"prompt":"x"}"#)).collect();
    let mut statuses = Vec::new();
    for client in clients {
        let response = client.response();
        assert!(matches!(response.status, 502 | 503) && response.heads() == 1, "{response:?}");
        statuses.push(response.status);
    }
    assert!(statuses.contains(&502), "{statuses:?}");
    eventually("both were replaced", || (restarts(&daemon, "protocol") >= 2.0).then_some(()));
}

#[test]
fn one_that_leaves_its_channel_is_killed() {
    let (daemon, _directory) = daemon_of_liars("leaves the channel");
    eventually("workers are replaced", || {
        (daemon.metric("handoffd_worker_restarts_total") >= 4.0).then_some(())
    });
    assert!(handoff_e2e::process::children(daemon.pid()).len() <= 2, "the deaf ones are still there");
}

#[test]
fn one_without_a_beat_is_hung() {
    let (daemon, _directory) = daemon_of_liars("no beat");
    eventually("it is found", || (restarts(&daemon, "hang") >= 2.0).then_some(()));
}

#[test]
fn one_that_turns_in_an_endless_loop_is_hung_and_killed() {
    let (daemon, _directory) = daemon_of_liars("spins");
    let spinning = eventually("both spin", || Some(daemon.workers("ready")).filter(|ready| ready.len() == 2));
    eventually("they are found", || (restarts(&daemon, "hang") >= 2.0).then_some(()));
    assert!(spinning.into_iter().all(|pid| !handoff_e2e::process::is_alive(pid)));
}

#[test]
fn one_that_is_never_ready_is_given_up() {
    let (daemon, _directory) = daemon_of_liars("never ready");
    eventually("it is found", || (restarts(&daemon, "start_timeout") >= 2.0).then_some(()));
    assert_eq!(daemon.get("/readyz"), Some((503, "degraded\n".to_owned())));
}
