//! On a kernel without Landlock, `sandbox = "require"` keeps workers from starting and says why; "best-effort" goes
//! on and shows what is missing. A user that cannot be had is an error whatever the mode.

use handoff_e2e::{Daemon, Options, eventually};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

fn on_an_old_kernel(mode: &str) -> Options {
    let toml = format!("[workers]\ncount = 2\nsandbox = \"{mode}\"\n");
    Options { toml, without_landlock: true, ..Options::default() }
}

#[test]
fn required_it_keeps_workers_from_starting() {
    let daemon = Daemon::with(&Options { no_wait: true, ..on_an_old_kernel("require") });
    let wanted = "workers.sandbox = \"require\", but landlock cannot be had: the kernel has none";
    eventually("a worker says why", || daemon.log().contains(wanted).then_some(()));
    eventually("its exit code", || daemon.log().contains("78)").then_some(()));
    assert!(!daemon.is_ready());
}

#[test]
fn best_effort_goes_on_and_shows_what_is_missing() {
    let daemon = Daemon::with(&on_an_old_kernel("best-effort"));
    assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":3}}"#).response().is_complete());
    eventually("the metric", || {
        let (_, metrics) = daemon.get("/metrics")?;
        metrics
            .contains("handoffd_worker_sandbox{slot=\"1\",generation=\"1\",state=\"partial\"} 1")
            .then_some(())
    });
    let sandbox = daemon.status()["workers"][0]["sandbox"].clone();
    assert_eq!((&sandbox["landlock_abi"], &sandbox["seccomp"]), (&0.into(), &true.into()), "{sandbox}");
    let _line = daemon.logged("\"missing\":\"landlock: the kernel has none\"");
}

#[test]
fn a_reload_that_requires_it_takes_no_worker_away() {
    let daemon = Daemon::with(&on_an_old_kernel("best-effort"));
    let workers = daemon.workers("ready");
    daemon.change_config("best-effort", "require");
    daemon.signal(Signal::SIGHUP);
    eventually("the roll ends", || {
        daemon.status()["last_reload"].as_str()?.contains("cannot_start").then_some(())
    });
    assert_eq!(daemon.workers("ready"), workers);
}

#[test]
fn off_is_off_but_privileges_are_gone() {
    let daemon = Daemon::start("[workers]\ncount = 1\nsandbox = \"off\"\n");
    let [pid] = daemon.workers("ready")[..] else { panic!("{:?}", daemon.workers("ready")) };
    assert_eq!(handoff_e2e::process::status(pid, "Seccomp"), "0");
    assert_eq!(handoff_e2e::process::status(pid, "CapEff"), "0000000000000000");
    assert_eq!(handoff_e2e::process::status(pid, "NoNewPrivs"), "1");
    eventually("the state", || (daemon.status()["workers"][0]["sandbox"]["level"] == "off").then_some(()));
}

#[test]
fn without_privileges_another_user_is_refused_before_anything_starts() {
    for key in ["[server]\nuser", "[workers]\nuser"] {
        let toml = format!("{key} = 0\ngroup = 0\n").replace("[server]\n", "");
        let as_user = geteuid().is_root().then_some([65_534; 3]);
        for args in [vec!["--check".to_owned()], Vec::new()] {
            let options = Options { toml: toml.clone(), args, as_user, no_wait: true, ..Options::default() };
            let mut daemon = Daemon::with(&options);
            assert_eq!(daemon.wait().code(), Some(78), "{}", daemon.log());
            let key = key.replace("[", "").replace("]\n", ".");
            let wanted = format!("{key}: to become user 0 (group 0) handoffd, which runs as user ");
            assert!(daemon.log().contains(&wanted), "{}", daemon.log());
            assert!(daemon.log().contains("CAP_SETUID, CAP_SETGID and CAP_KILL"), "{}", daemon.log());
        }
    }
}

#[test]
fn without_privileges_and_without_another_user_everything_works() {
    let as_user = geteuid().is_root().then_some([65_534; 3]);
    let daemon = Daemon::with(&Options { as_user, ..Options::default() });
    assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":3}}"#).response().is_complete());
    eventually("the state", || (daemon.status()["workers"][1]["sandbox"]["level"] == "full").then_some(()));
}
