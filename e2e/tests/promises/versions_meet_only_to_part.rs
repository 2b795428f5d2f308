//! A supervisor that takes over workers of another version of the protocol, older or newer, counts what they hold and
//! lets them finish it. New clients go to workers of its own.

use std::fs;

use handoff_e2e::{Client, Daemon, Options, eventually};
use nix::sys::signal::Signal;

#[test]
fn an_adopted_worker_of_another_version_drains() {
    for version in [1, 3] {
        let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let binary = directory.path().join("worker");
        fs::hard_link(env!("CARGO_BIN_EXE_fake_worker"), &binary).expect("a link beside the build");
        fs::write(directory.path().join("behaviour"), format!("becomes version {version}")).expect("a file");
        let toml = format!("[workers]\ncount = 2\nbinary = \"{}\"\n", binary.display());
        let mut daemon = Daemon::with(&Options { toml, store_max: Some(100), ..Options::default() });
        let foreigners = daemon.workers("ready");
        let mut clients: Vec<Client> = (0..4).map(|_| daemon.hand_over(br#"{"prompt":"x"}"#)).collect();
        for client in &mut clients {
            client.read_until("begun\n\n");
        }
        daemon.change_config(&format!("binary = \"{}\"", binary.display()), "");
        daemon.succeed_after(Signal::SIGKILL);
        daemon.wait_until_ready();
        assert_eq!(daemon.metric("handoffd_adopted_leases_total"), 4.0, "{version}");
        for client in clients {
            let rest = client.response();
            assert!(format!("{rest:?}").contains("finished"), "{version}: {rest:?}");
        }
        eventually("two workers of our own", || {
            let ready = daemon.workers("ready");
            (ready.len() == 2 && !ready.iter().any(|pid| foreigners.contains(pid))).then_some(())
        });
        assert_eq!(daemon.status()["generation"], 2);
        assert!(daemon.hand_over(br#"{"prompt":"x"}"#).response().is_complete());
        assert_eq!(daemon.metric("handoffd_worker_restarts_total"), 0.0, "{version}: nobody was killed");
        eventually("they are gone", || (daemon.status()["leases"] == 0).then_some(()));
    }
}
