//! `handoffctl reload --wait` ends when the roll has ended, with a code and a reason: what ExecReload needs.

use std::fs;
use std::time::{Duration, Instant};

use handoff_e2e::operator::{ctl, ctl_beside};
use handoff_e2e::{Daemon, Options, eventually};
use nix::sys::signal::Signal;
use tempfile::TempDir;

const WORKERS: &str = "[workers]\ncount = 2\nbinary = \"\"\n";

/// The next generation's workers are of this kind.
fn change_worker(daemon: &Daemon, behaviour: &str) -> TempDir {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let binary = directory.path().join("worker");
    fs::hard_link(env!("CARGO_BIN_EXE_fake_worker"), &binary).expect("a link beside the build");
    fs::write(directory.path().join("behaviour"), behaviour).expect("a behaviour");
    daemon.change_config("binary = \"\"", &format!("binary = \"{}\"", binary.display()));
    directory
}

#[test]
fn until_every_slot_has_the_new_generation() {
    let daemon = Daemon::start("");
    let old = daemon.workers("ready");
    let said = ctl(&daemon, &["reload", "--wait"]);
    assert_eq!((said.code, said.out.as_str()), (0, "generation 2 is in every slot\n"), "{said:?}");
    let new = daemon.workers("ready");
    assert!(new.len() == 2 && !new.iter().any(|pid| old.contains(pid)), "{old:?} {new:?}");
    assert_eq!((&daemon.status()["generation"], daemon.status()["roll"].is_null()), (&2.into(), true));
    // Two at once are one roll or two; both are told.
    let others = [ctl_beside(&daemon, &["reload", "--wait"]), ctl_beside(&daemon, &["reload", "--wait"])];
    for other in others {
        let said = other.join().expect("handoffctl");
        assert!(said.code == 0 || said.err.contains("a newer generation"), "{said:?}");
    }
    // Without --wait it is only begun.
    let said = ctl(&daemon, &["reload"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
}

#[test]
fn or_refused_with_the_reason() {
    let daemon = Daemon::start("max_connections = 100\n");
    daemon.change_config("max_connections = 100", "max_connections = \"many\"");
    let said = ctl(&daemon, &["reload", "--wait"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("server.max_connections = \"many\": must be a whole number"), "{said:?}");
    assert_eq!(daemon.status()["generation"], 1);
}

#[test]
fn or_the_new_generation_cannot_start() {
    let daemon = Daemon::start(WORKERS);
    let old = daemon.workers("ready");
    daemon.change_config("binary = \"\"", "binary = \"/bin/false\"");
    let said = ctl(&daemon, &["reload", "--wait"]);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.err.contains("no worker of generation 2 could start; the old one stays"), "{said:?}");
    assert_eq!(daemon.workers("ready"), old);
}

#[test]
fn or_a_newer_generation_has_taken_its_place() {
    let daemon = Daemon::start(WORKERS);
    let directory = change_worker(&daemon, "one is ready");
    let first = ctl_beside(&daemon, &["reload", "--wait"]);
    eventually("one worker proves generation 2", || (daemon.status()["generation"] == 2).then_some(()));
    let binary = format!("binary = \"{}\"", directory.path().join("worker").display());
    daemon.change_config(&binary, "binary = \"\"");
    let second = ctl(&daemon, &["reload", "--wait"]);
    assert_eq!((second.code, second.out.as_str()), (0, "generation 3 is in every slot\n"), "{second:?}");
    let first = first.join().expect("handoffctl");
    assert_eq!(first.code, 1, "{first:?}");
    assert!(first.err.contains("a newer generation took the place of generation 2"), "{first:?}");
}

#[test]
fn or_it_takes_too_long() {
    let daemon = Daemon::start(WORKERS);
    let _directory = change_worker(&daemon, "never ready");
    let began_at = Instant::now();
    let said = ctl(&daemon, &["reload", "--wait", "--timeout", "1"]);
    let took = began_at.elapsed();
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("not ended after 1 s; it goes on"), "{said:?}");
    assert!(took >= Duration::from_secs(1), "{took:?}");
    assert_eq!(daemon.status()["roll"]["to"], 2, "it goes on");
}

#[test]
fn or_the_daemon_stops() {
    let toml = format!("shutdown_timeout_secs = 1\n{WORKERS}");
    let mut daemon = Daemon::with(&Options { toml, ..Options::default() });
    let _directory = change_worker(&daemon, "never ready");
    let waiting = ctl_beside(&daemon, &["reload", "--wait"]);
    eventually("the roll has begun", || (daemon.status()["roll"]["to"] == 2).then_some(()));
    // Behind it one that has not even begun.
    let behind = ctl_beside(&daemon, &["reload", "--wait"]);
    eventually("the other waits", || (daemon.status()["reload_pending"] == true).then_some(()));
    daemon.signal(Signal::SIGTERM);
    for said in [waiting, behind].map(|said| said.join().expect("handoffctl")) {
        assert!(said.code == 1 && said.err.contains("stopping"), "{said:?}");
    }
    assert_eq!(daemon.wait().code(), Some(0));
    assert!(!daemon.control_socket().exists(), "the socket's file is removed at the end");
}
