//! NOTIFY_SOCKET: READY once a worker takes handoffs, RELOADING and READY around a reload, STATUS in words, WATCHDOG
//! while the loop turns and a worker is ready, STOPPING and more time at the end. A manager that does not listen
//! stops nobody.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use handoff_e2e::process::signal;
use handoff_e2e::{Daemon, Options, PATIENCE, eventually};
use nix::sys::signal::Signal;
use nix::time::{ClockId, clock_gettime};
use tempfile::TempDir;

fn manager() -> (TempDir, UnixDatagram, Vec<(String, String)>) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let env = vec![("NOTIFY_SOCKET".to_owned(), path.to_str().expect("UTF-8").to_owned())];
    (directory, socket, env)
}

/// CLOCK_MONOTONIC, which MONOTONIC_USEC tells.
fn monotonic_usec() -> i64 {
    let now = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("a clock");
    now.tv_sec() * 1_000_000 + now.tv_nsec() / 1000
}

/// All that is said up to this.
fn heard_until(socket: &UnixDatagram, wanted: &str) -> Vec<String> {
    let mut heard = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length =
            socket.recv(&mut buffer).unwrap_or_else(|error| panic!("{error} before {wanted:?}: {heard:?}"));
        heard.push(String::from_utf8_lossy(&buffer[..length]).trim_end().to_owned());
        if heard.last().is_some_and(|last| last.starts_with(wanted)) {
            return heard;
        }
    }
}

#[test]
fn ready_status_and_stopping() {
    let (_directory, socket, env) = manager();
    let mut daemon = Daemon::with(&Options { env, ..Options::default() });
    let heard = heard_until(&socket, "READY=1");
    let status: Vec<_> = heard.iter().filter(|line| line.starts_with("STATUS=")).collect();
    assert!(!status.iter().any(|line| line.contains("stopping")), "{heard:?}");
    heard_until(&socket, "STATUS=ready: 2 of 2 workers ready, generation 1");
    signal(daemon.workers("ready")[0], Signal::SIGKILL);
    heard_until(&socket, "STATUS=ready: 1 of 2");
    heard_until(&socket, "STATUS=ready: 2 of 2");
    daemon.signal(Signal::SIGHUP);
    heard_until(&socket, "STATUS=ready: 2 of 2 workers ready, generation 2");
    daemon.signal(Signal::SIGTERM);
    heard_until(&socket, "STOPPING=1");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn what_is_said_last_is_heard_though_nothing_is_left_to_do() {
    let (directory, socket, env) = manager();
    let mut daemon = Daemon::with(&Options { env, ..Options::default() });
    heard_until(&socket, "STATUS=ready: 2 of 2 workers ready, generation 1");
    // It cannot be said before somebody listens again.
    let others = UnixDatagram::unbound().expect("a socket");
    others.connect(directory.path().join("notify")).expect("a manager");
    others.set_nonblocking(true).expect("non-blocking");
    while others.send(b"STATUS=of another").is_ok() {}
    daemon.signal(Signal::SIGTERM);
    let _line = daemon.logged(r#""message":"stopped""#);
    heard_until(&socket, "STOPPING=1");
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_reload_begins_with_reloading_and_ends_with_ready() {
    let (_directory, socket, env) = manager();
    let toml = "max_connections = 100\n".to_owned();
    let daemon = Daemon::with(&Options { toml, env, ..Options::default() });
    heard_until(&socket, "STATUS=ready: 2 of 2 workers ready, generation 1");
    // Its worker drains for long; the new generation serves all the same.
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":100000,"token_delay_ms":10}}"#);
    client.read_until("\n\n");
    let before = monotonic_usec();
    daemon.signal(Signal::SIGHUP);
    let reloading = heard_until(&socket, "RELOADING=1").pop().expect("a message");
    let since = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").and_then(|usec| usec.parse().ok());
    assert!(
        since.is_some_and(|since| (before..=monotonic_usec()).contains(&since)),
        "{before} {reloading:?}"
    );
    let heard = heard_until(&socket, "READY=1");
    assert!(!heard.iter().any(|line| line.contains("RELOADING")), "{heard:?}");
    heard_until(&socket, "STATUS=ready: 2 of 2 workers ready, generation 2");
    eventually("its worker alone drains", || (daemon.workers("draining").len() == 1).then_some(()));
    // What is refused ends too, and is said.
    daemon.change_config("max_connections = 100", "max_connections = 0");
    daemon.signal(Signal::SIGHUP);
    heard_until(&socket, "RELOADING=1");
    heard_until(&socket, "READY=1");
    let status = heard_until(&socket, "STATUS=ready: 2 of 2").pop().expect("a message");
    assert!(status.contains("generation 2; last reload: refused: "), "{status}");
}

#[test]
fn a_drain_asks_for_more_time_again_and_again() {
    let (_directory, socket, env) = manager();
    let mut daemon = Daemon::with(&Options { env, ..Options::default() });
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":100000,"token_delay_ms":10}}"#);
    client.read_until("\n\n");
    daemon.signal(Signal::SIGTERM);
    let heard = heard_until(&socket, "EXTEND_TIMEOUT_USEC=15000000");
    assert!(heard.iter().any(|line| line == "STOPPING=1"), "{heard:?}");
    let heard = heard_until(&socket, "EXTEND_TIMEOUT_USEC=15000000");
    assert!(!heard.iter().any(|line| line.starts_with("READY")), "{heard:?}");
    drop(client);
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn the_watchdog_hears_of_a_loop_that_turns_and_of_no_other() {
    let (_directory, socket, mut env) = manager();
    env.push(("WATCHDOG_USEC".to_owned(), "200000".to_owned()));
    let daemon = Daemon::with(&Options { env, ..Options::default() });
    for _ in 0..10 {
        heard_until(&socket, "WATCHDOG=1");
    }
    daemon.signal(Signal::SIGSTOP);
    socket.set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
    let mut buffer = [0; 4096];
    eventually("a stopped loop falls silent", || socket.recv(&mut buffer).is_err().then_some(()));
    daemon.signal(Signal::SIGCONT);
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    heard_until(&socket, "WATCHDOG=1");
}

#[test]
fn the_watchdog_of_another_process_is_left_alone() {
    let (_directory, socket, mut env) = manager();
    env.push(("WATCHDOG_USEC".to_owned(), "100000".to_owned()));
    env.push(("WATCHDOG_PID".to_owned(), "1".to_owned()));
    let _daemon = Daemon::with(&Options { env, ..Options::default() });
    heard_until(&socket, "STATUS=ready: 2 of 2");
    socket.set_read_timeout(Some(Duration::from_millis(500))).expect("a timeout");
    assert!(socket.recv(&mut [0; 4096]).is_err());
}

#[test]
fn ready_is_never_said_without_a_worker() {
    let (_directory, socket, mut env) = manager();
    env.push(("WATCHDOG_USEC".to_owned(), "100000".to_owned()));
    let toml = "[workers]\ncount = 2\nbinary = \"/bin/false\"\n".to_owned();
    let daemon = Daemon::with(&Options { toml, env, no_wait: true, ..Options::default() });
    eventually("workers die", || {
        (daemon.get("/health").is_some() && daemon.metric("handoffd_worker_restarts_total") >= 4.0)
            .then_some(())
    });
    socket.set_read_timeout(Some(Duration::from_millis(200))).expect("a timeout");
    let mut buffer = [0; 4096];
    while let Ok(length) = socket.recv(&mut buffer) {
        let text = String::from_utf8_lossy(&buffer[..length]);
        assert!(text.starts_with("STATUS=degraded"), "{text}");
    }
}

#[test]
fn a_manager_that_does_not_listen_stops_nobody() {
    let (_directory, _socket, env) = manager();
    let mut daemon = Daemon::with(&Options { env, ..Options::default() });
    // Each roll says several things; the socket holds ten or so (net.unix.max_dgram_qlen).
    for rolls in 1..=15 {
        daemon.signal(Signal::SIGHUP);
        eventually("the roll has ended", || {
            (daemon.metric(r#"handoffd_reloads_total{result="done""#) >= f64::from(rolls)).then_some(())
        });
        let response = daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response();
        assert!(response.is_complete(), "after {rolls} rolls: {response:?}");
    }
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}
