//! The kernel's backlog is the queue: whatever fits it is answered, however long the daemon was busy, and what
//! does not fit is told at once.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use handoff_e2e::apache::{self, Kind};
use handoff_e2e::{Crowd, Daemon, eventually};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// More than the daemon asks the kernel to queue.
const STORM: usize = 4200;

#[test]
fn everybody_in_a_full_backlog_gets_an_answer() {
    let daemon = Daemon::start("");
    let fds = daemon.fds();
    daemon.signal(Signal::SIGSTOP);
    let (crowd, refused) = storm(&daemon);
    daemon.signal(Signal::SIGCONT);
    let queued = crowd.waiting();
    // The backlog, and one that the kernel adds.
    assert!(queued > 1000 && refused > 0, "{queued} queued, {refused} refused");
    let responses = crowd.responses(Duration::from_secs(60));
    let complete = responses.iter().filter(|response| response.is_complete()).count();
    let overloaded = responses.iter().filter(|response| response.status == 503).count();
    assert_eq!(complete + overloaded, queued, "{:?}", responses.iter().find(|response| response.status == 0));
    assert!(responses.iter().all(|response| response.heads() == 1), "somebody was answered twice");
    assert_eq!(daemon.metric("daemon_handoffs_total"), queued as f64);
    eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
}

#[test]
fn a_daemon_that_keeps_up_answers_everybody_with_a_stream() {
    let daemon = Daemon::start("");
    let mut crowd = Crowd::default();
    for _ in 0..2000 {
        crowd.join(daemon.hand_over(br#"{"prompt":"hi","mock":{"length":3,"token_delay_ms":1}}"#));
    }
    let responses = crowd.responses(Duration::from_secs(60));
    for (number, response) in responses.iter().enumerate() {
        assert!(response.is_complete(), "client {number}: {response:?}");
    }
}

/// Connects without waiting, as Apache's module does, until some are refused.
fn storm(daemon: &Daemon) -> (Crowd, usize) {
    let mut crowd = Crowd::default();
    let mut refused = 0;
    let address = UnixAddr::new(&daemon.socket()).expect("an address");
    while crowd.waiting() + refused < STORM {
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let connection = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
        match connect(std::os::fd::AsRawFd::as_raw_fd(&connection), &address) {
            Ok(()) => {}
            Err(Errno::EAGAIN) => {
                refused += 1;
                continue;
            }
            Err(error) => panic!("{}", io::Error::from(error)),
        }
        let flags = OFlag::from_bits_retain(fcntl(&connection, FcntlArg::F_GETFL).expect("flags"));
        fcntl(&connection, FcntlArg::F_SETFL(flags - OFlag::O_NONBLOCK)).expect("flags");
        let (client, theirs) = apache::client_pair(Kind::Unix);
        let payload = br#"{"prompt":"hi","mock":{"length":1,"token_delay_ms":0}}"#;
        apache::Sent::from(connection).send(payload, &[theirs.as_fd()]).expect("a handoff");
        crowd.join(client);
    }
    (crowd, refused)
}
