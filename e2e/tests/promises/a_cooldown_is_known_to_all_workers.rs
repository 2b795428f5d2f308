//! What one worker says of an upstream that wants to be left alone, all others hear once, and so does each that begins
//! later, before its first handoff. Operators see it.

use std::fs;
use std::path::Path;

use handoff_e2e::process::signal;
use handoff_e2e::{Daemon, Options, eventually};
use nix::sys::signal::Signal;

/// What each worker has heard, by process id: backend, account and model come back as they were said.
fn heard(directory: &Path, pid: u32) -> Vec<Vec<u8>> {
    let bytes = fs::read(directory.join(format!("heard-{pid}"))).unwrap_or_default();
    bytes.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(<[u8]>::to_vec).collect()
}

fn is_the_one(heard: &[Vec<u8>]) -> bool {
    matches!(heard, [one] if one.starts_with(b"\x04mock\x09\x01\x05gpt-x"))
}

fn cooldowns(daemon: &Daemon) -> Vec<(String, String, u64)> {
    let status = daemon.status();
    let cooldowns = status["cooldowns"].as_array().expect("a list").iter().map(|cooldown| {
        let text = |key: &str| cooldown[key].as_str().unwrap_or_default().to_owned();
        (text("backend"), text("model"), cooldown["remaining_ms"].as_u64().expect("a number"))
    });
    cooldowns.collect()
}

#[test]
fn the_others_hear_it_and_so_does_who_begins_later() {
    for store_max in [None, Some(100)] {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let binary = directory.path().join("worker");
        fs::hard_link(env!("CARGO_BIN_EXE_fake_worker"), &binary).expect("a link beside the build");
        fs::write(directory.path().join("behaviour"), "tells of cooldowns").expect("a behaviour");
        let toml = format!("[workers]\ncount = 3\nbinary = \"{}\"\n", binary.display());
        let daemon = Daemon::with(&Options { toml, store_max, ..Options::default() });
        let workers =
            eventually("three are ready", || Some(daemon.workers("ready")).filter(|ready| ready.len() == 3));
        assert_eq!(cooldowns(&daemon), [], "nobody has met one yet");

        drop(daemon.hand_over(r#"{"prompt":"x"}"#));
        let ears = |pids: &[u32]| {
            pids.iter().filter(|pid| is_the_one(&heard(directory.path(), **pid))).copied().collect::<Vec<_>>()
        };
        let told = eventually("two hear of it", || Some(ears(&workers)).filter(|told| told.len() == 2));
        let speaker = workers.iter().copied().find(|pid| !told.contains(pid)).expect("the third has said it");
        assert!(heard(directory.path(), speaker).is_empty(), "it knows");
        match &cooldowns(&daemon)[..] {
            [(backend, model, 1..=30_000)] if backend == "mock" && model == "gpt-x" => {}
            other => panic!("/status shows {other:?}"),
        }
        assert_eq!(daemon.metric("handoffd_backend_cooling{backend=\"mock\""), 1.0);

        signal(speaker, Signal::SIGKILL);
        let heir = eventually("somebody takes its place", || {
            let ready = daemon.workers("ready");
            ready.iter().copied().find(|pid| !workers.contains(pid)).filter(|_| ready.len() == 3)
        });
        eventually("it hears of it too", || is_the_one(&heard(directory.path(), heir)).then_some(()));
        // Whoever serves these says the same again.
        let clients: Vec<_> = (0..6).map(|_| daemon.hand_over(r#"{"prompt":"x"}"#)).collect();
        eventually("they are served", || {
            (daemon.metric("handoffd_lease_endings_total{outcome=\"complete\"") == 7.0).then_some(())
        });
        drop(clients);
        assert_eq!(ears(&workers), told, "nobody is told what it knows");
        assert!(is_the_one(&heard(directory.path(), heir)));
        assert_eq!(daemon.metric("handoffd_worker_restarts_total{reason=\"protocol\""), 0.0);
    }
}
