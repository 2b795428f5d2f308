//! SIGHUP with something that cannot work: it is said and counted, and the old generation serves on.

use handoff_e2e::{Daemon, eventually, process};
use nix::sys::signal::Signal;

fn reloads(daemon: &Daemon, result: &str) -> f64 {
    daemon.metric(&format!("handoffd_reloads_total{{result=\"{result}\""))
}

fn serves(daemon: &Daemon) {
    let response = daemon.hand_over(r#"{"prompt":"x","mock":{"length":2}}"#).response();
    assert!(response.is_complete(), "{response:?}");
}

#[test]
fn a_configuration_with_a_bad_value_is_refused() {
    let daemon = Daemon::start("max_connections = 100\n");
    let workers = daemon.workers("ready");
    for (number, bad) in
        ["max_connections = ", "max_connections = \"many\"", "max_conections = 3"].iter().enumerate()
    {
        let good = "max_connections = 100";
        daemon.change_config(good, bad);
        daemon.signal(Signal::SIGHUP);
        eventually("the refusal is counted", || {
            (reloads(&daemon, "refused") == number as f64 + 1.0).then_some(())
        });
        serves(&daemon);
        daemon.change_config(bad, good);
    }
    assert_eq!((daemon.workers("ready"), daemon.status()["generation"].as_u64()), (workers, Some(1)));
    let said = daemon.status()["last_reload"].as_str().map(str::to_owned).unwrap_or_default();
    assert!(said.starts_with("refused: ") && said.contains("max_conections"), "{said}");
    let line = daemon.logged("unknown key server.max_conections");
    assert!(line.contains("reload refused"), "{line}");
    // And when it is mended, it rolls.
    daemon.signal(Signal::SIGHUP);
    eventually("the roll has ended", || (reloads(&daemon, "done") == 1.0).then_some(()));
}

#[test]
fn a_worker_binary_that_is_missing_is_refused() {
    let daemon = Daemon::start("[workers]\ncount = 2\nbinary = \"\"\n");
    let workers = daemon.workers("ready");
    daemon.change_config("binary = \"\"", "binary = \"/nonexistent/worker\"");
    daemon.signal(Signal::SIGHUP);
    eventually("the refusal is counted", || (reloads(&daemon, "refused") == 1.0).then_some(()));
    eventually("it is in the log", || {
        daemon.log().contains("workers.binary: /nonexistent/worker").then_some(())
    });
    assert_eq!(daemon.workers("ready"), workers);
    serves(&daemon);
}

#[test]
fn a_worker_that_cannot_start_never_takes_the_old_one_away() {
    let daemon = Daemon::start("[workers]\ncount = 2\nbinary = \"\"\n");
    let workers = daemon.workers("ready");
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":100,"token_delay_ms":10}}"#);
    client.read_until("\n\n");
    // What workers are made of: their binary, and their configuration in memory.
    let kept = || {
        let files = process::open_files(daemon.pid());
        let made_of = |name: &&String| name.contains("memfd:") || name.contains("/bin/");
        files.iter().filter(|(name, _)| made_of(name)).map(|(_, count)| count).sum::<usize>()
    };
    let kept_before = kept();
    for number in 1..=3 {
        let (from, to) = if number == 1 { ("binary = \"\"", "binary = \"/bin/false\"") } else { ("", "") };
        daemon.change_config(from, to);
        daemon.signal(Signal::SIGHUP);
        eventually("the failure is counted", || {
            (reloads(&daemon, "cannot_start") == f64::from(number)).then_some(())
        });
        assert_eq!(daemon.workers("ready"), workers);
        serves(&daemon);
        eventually("nothing of it is kept open", || (kept() == kept_before).then_some(()));
    }
    assert!(client.response().body.ends_with("[DONE]\n\n"));
    daemon.change_config("binary = \"/bin/false\"", "");
    daemon.signal(Signal::SIGHUP);
    eventually("the roll has ended", || (reloads(&daemon, "done") == 1.0).then_some(()));
    serves(&daemon);
}

#[test]
fn a_worker_binary_replaced_on_disk_changes_nothing_until_the_next_reload() {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let binary = directory.path().join("worker");
    std::fs::hard_link(handoff_e2e::daemon::binary("handoffd-worker"), &binary)
        .expect("a link beside the build");
    let daemon = Daemon::start(&format!("[workers]\ncount = 2\nbinary = \"{}\"\n", binary.display()));
    std::fs::remove_file(&binary).expect("a link to remove");
    std::os::unix::fs::symlink("/bin/false", &binary).expect("another binary in its place");
    let killed = daemon.workers("ready");
    handoff_e2e::process::signal(killed[0], Signal::SIGKILL);
    eventually("a new worker of the old binary", || {
        let ready = daemon.workers("ready");
        (ready.len() == 2 && !ready.contains(&killed[0])).then_some(())
    });
    serves(&daemon);
}
