//! A worker that is taken over says what it holds, and may lie. One that claims a lease which its new supervisor has
//! still to make is killed; the supervisor lives, and serves.

use std::fs;

use handoff_e2e::{Daemon, Options, eventually};
use nix::sys::signal::Signal;

#[test]
fn a_lease_that_is_still_to_come_belongs_to_nobody() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let binary = directory.path().join("worker");
    fs::hard_link(env!("CARGO_BIN_EXE_fake_worker"), &binary).expect("a link beside the build");
    fs::write(directory.path().join("behaviour"), "claims a lease to come").expect("a behaviour");
    let toml = format!("[workers]\ncount = 2\nbinary = \"{}\"\n", binary.display());
    let mut daemon =
        Daemon::with(&Options { toml, store_max: Some(100), no_wait: true, ..Options::default() });
    eventually("both are there", || {
        daemon.get("/health")?;
        (daemon.workers("ready").len() == 2).then_some(())
    });
    daemon.change_config(&format!("binary = \"{}\"", binary.display()), "");
    daemon.succeed_after(Signal::SIGKILL);
    let successor = daemon.pid();
    let client = daemon.hand_over(br#"{"prompt":"x"}"#);
    assert!(client.response().is_complete());
    assert_eq!(daemon.exit_status(), None, "the supervisor lives");
    assert_eq!(daemon.status()["pid"], successor);
    let line = daemon.logged("worker is killed");
    assert!(line.contains(r#""cause":"Protocol""#), "{line}");
    eventually("no invented lease is left", || (daemon.status()["leases"] == 0).then_some(()));
}
