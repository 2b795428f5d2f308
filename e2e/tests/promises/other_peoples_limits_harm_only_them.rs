//! Limits outside of the supervisor: a sender that may have few fds in flight, a worker at its own fd limit, a log on
//! a full disk. Each costs whom it belongs to, and nobody else.

use std::fs;
use std::path::PathBuf;
use std::process::Command;

use handoff_e2e::process::fds;
use handoff_e2e::{Crowd, Daemon, Options, PATIENCE, eventually};
use nix::sys::signal::Signal;

/// As nobody, with room for 64 fds: connects and hands over until the kernel says ETOOMANYREFS (unix(7)).
const SENDER: &str = r#"
import array, errno, socket, sys
sent, kept = 0, []
while True:
    peer = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    ours, theirs = socket.socketpair()
    kept.append(ours)
    try:
        peer.connect(sys.argv[1])
        socket.send_fds(peer, [b'{"prompt":"x"}'], [theirs.fileno()])
    except OSError as error:
        print(sent, errno.errorcode[error.errno])
        break
    peer.close(); theirs.close()
    sent += 1
    if len(kept) > 20: kept.pop(0).close()
"#;

#[test]
fn a_sender_with_too_many_fds_in_flight_is_stopped_by_the_kernel_alone() {
    if !nix::unistd::geteuid().is_root() {
        return println!("not run: it takes root to become another user");
    }
    let daemon = Daemon::start("socket_mode = \"0o666\"\n");
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(daemon.directory(), open).expect("a mode");
    // Nobody receives: every fd that was sent is in flight.
    daemon.signal(Signal::SIGSTOP);
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups", "prlimit", "--nofile=64:64"])
        .args(["python3", "-c", SENDER])
        .arg(daemon.socket())
        .output()
        .expect("setpriv(1), prlimit(1) and python3");
    daemon.signal(Signal::SIGCONT);
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(said.trim().ends_with("ETOOMANYREFS"), "{said} {}", String::from_utf8_lossy(&output.stderr));
    let sent: f64 = said.split(' ').next().and_then(|sent| sent.parse().ok()).expect("a number");
    eventually("what was sent is received", || {
        (daemon.metric("daemon_handoffs_total") >= sent).then_some(())
    });
    assert!(daemon.hand_over(r#"{"prompt":"x"}"#).response().is_complete());
}

#[test]
fn a_worker_at_its_fd_limit_is_replaced_and_nobody_is_lost() {
    let daemon = Daemon::start("");
    let victim = daemon.workers("ready")[0];
    let limit = format!("--nofile={0}:{0}", fds(victim) + 4);
    let status = Command::new("prlimit").arg(format!("--pid={victim}")).arg(limit).status();
    assert!(status.is_ok_and(|status| status.success()), "prlimit(1) does not work");
    let mut crowd = Crowd::default();
    for _ in 0..40 {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","mock":{"first_token_delay_ms":300,"length":5}}"#));
    }
    for response in crowd.responses(PATIENCE) {
        let is_told = response.status == 502 || response.body.contains("worker_crashed");
        assert!((response.is_complete() || is_told) && response.heads() == 1, "{response:?}");
    }
    eventually("two workers are ready", || (daemon.workers("ready").len() == 2).then_some(()));
    assert!(!daemon.workers("ready").contains(&victim));
}

#[test]
fn a_log_on_a_full_disk_stops_no_stream() {
    let mut daemon =
        Daemon::with(&Options { log_to: Some(PathBuf::from("/dev/full")), ..Options::default() });
    let mut crowd = Crowd::default();
    for _ in 0..200 {
        crowd.join(daemon.hand_over(r#"{"prompt":"x"}"#));
    }
    assert!(crowd.responses(PATIENCE).iter().all(handoff_e2e::Response::is_complete));
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0));
}
