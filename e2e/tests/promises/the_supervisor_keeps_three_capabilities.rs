//! A supervisor that is started as root keeps what its workers cost: CAP_SETUID, CAP_SETGID, CAP_KILL, also as
//! another user. With those it starts workers as a third user, ends one that hangs, rolls, and is upgraded.

use std::os::unix::fs::PermissionsExt;

use handoff_e2e::process::{signal, status};
use handoff_e2e::{Daemon, eventually};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

/// Bits 5, 6 and 7 (capabilities(7)).
const THREE: &str = "00000000000000e0";

#[test]
fn as_root_and_as_another_user() {
    if !geteuid().is_root() {
        // Then it has none to give up, which every other test shows.
        return;
    }
    for (of_server, uid, ambient) in [
        ("", "0 0 0 0", "0000000000000000"),
        ("user = 61236\ngroup = 61236\n", "61236 61236 61236 61236", THREE),
    ] {
        let daemon =
            Daemon::start(&format!("{of_server}[workers]\ncount = 2\nuser = 61237\ngroup = 61237\n"));
        let pid = daemon.pid();
        assert_eq!(status(pid, "Uid"), uid);
        for set in ["CapPrm", "CapEff", "CapInh", "CapBnd"] {
            assert_eq!(status(pid, set), THREE, "{set} of the supervisor, {of_server}");
        }
        assert_eq!(status(pid, "CapAmb"), ambient);
        for thread in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let text = std::fs::read_to_string(thread.unwrap().path().join("status")).unwrap();
            assert!(text.contains(&format!("CapEff:\t{THREE}\n")), "{text}");
        }
        let [hung, other] = daemon.workers("ready")[..] else { panic!("{:?}", daemon.workers("ready")) };
        assert_eq!(status(hung, "Uid"), "61237 61237 61237 61237");
        signal(hung, Signal::SIGSTOP);
        eventually("the hung worker is killed and replaced", || {
            let ready = daemon.workers("ready");
            (ready.len() == 2 && !ready.contains(&hung)).then_some(())
        });
        // The new user must be able to read the configuration again.
        std::fs::set_permissions(daemon.directory(), PermissionsExt::from_mode(0o711)).unwrap();
        daemon.signal(Signal::SIGHUP);
        eventually("a roll", || daemon.status()["last_reload"].as_str()?.contains("done").then_some(()));
        assert!(!daemon.workers("ready").contains(&other));
        // The same process with a new image: it keeps them, and no more.
        daemon.signal(Signal::SIGUSR2);
        eventually("an upgrade", || {
            // For a moment nobody answers.
            let (_, metrics) = daemon.get("/metrics")?;
            metrics.contains("handoffd_upgrades_total{result=\"done\"} 1\n").then_some(())
        });
        for set in ["CapPrm", "CapEff", "CapInh", "CapBnd"] {
            assert_eq!(status(pid, set), THREE, "{set} after an upgrade, {of_server}");
        }
        assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":3}}"#).response().is_complete());
    }
}
