//! NOTIFY_SOCKET: READY once a worker takes handoffs, STATUS in words, STOPPING at the end. A manager that does
//! not listen stops nobody.

use std::os::unix::net::UnixDatagram;
use std::time::Duration;

use handoff_e2e::process::signal;
use handoff_e2e::{Daemon, Options, PATIENCE, eventually};
use nix::sys::signal::Signal;
use tempfile::TempDir;

fn manager() -> (TempDir, UnixDatagram, Vec<(String, String)>) {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("a socket");
    socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let env = vec![("NOTIFY_SOCKET".to_owned(), path.to_str().expect("UTF-8").to_owned())];
    (directory, socket, env)
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
fn ready_is_never_said_without_a_worker() {
    let (_directory, socket, env) = manager();
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
