//! A handoff whose fd cannot be a client is turned away and counted, one with surplus fds is served: no fd
//! leaks, nobody is disturbed.

use std::fs::File;
use std::net::{TcpListener, UdpSocket};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixDatagram, UnixListener};

use handoff_e2e::apache::{self, Kind};
use handoff_e2e::{Daemon, Door, Options, eventually};
use nix::fcntl::{OFlag, open};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket, socketpair};
use nix::sys::stat::Mode;

const PAYLOAD: &[u8] = br#"{"prompt":"hi","request_id":"r","mock":{"token_delay_ms":0}}"#;

#[test]
fn what_cannot_be_a_client_is_turned_away() {
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    let fds = daemon.fds();
    let (pipe, _writer) = nix::unistd::pipe().expect("a pipe");
    let file = File::open(daemon.config()).expect("a file");
    let path = open(&daemon.config(), OFlag::O_PATH, Mode::empty()).expect("a path");
    let udp = UdpSocket::bind("127.0.0.1:0").expect("UDP");
    let tcp_listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
    let unix_listener = UnixListener::bind(daemon.directory().join("listener")).expect("a listener");
    let (datagram, _other) = UnixDatagram::pair().expect("datagrams");
    let kind = SockType::SeqPacket;
    let (packets, _peer) =
        socketpair(AddressFamily::Unix, kind, None, SockFlag::SOCK_CLOEXEC).expect("packets");
    let bad: [(&str, BorrowedFd<'_>); 8] = [
        ("a pipe", pipe.as_fd()),
        ("a file", file.as_fd()),
        ("an O_PATH fd", path.as_fd()),
        ("UDP", udp.as_fd()),
        ("a listening TCP socket", tcp_listener.as_fd()),
        ("a listening Unix socket", unix_listener.as_fd()),
        ("a Unix datagram socket", datagram.as_fd()),
        ("a Unix seqpacket socket", packets.as_fd()),
    ];
    let mut turned_away = 0.0;
    for (what, fd) in bad {
        for (door, path) in [(Door::SeqPacket, daemon.socket()), (Door::Stream, daemon.stream_socket())] {
            let connection = apache::dial(&path, door).expect("a connection");
            connection.send(PAYLOAD, &[fd]).expect("a message");
            drop(connection);
            turned_away += 1.0;
            eventually(&format!("{what} is turned away, {door:?}"), || {
                (rejected(&daemon, "bad_fd") == turned_away).then_some(())
            });
        }
    }
    assert_eq!(daemon.metric("daemon_handoffs_total"), 0.0);
    assert!(daemon.hand_over(PAYLOAD).response().is_complete());
    eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
}

#[test]
fn a_socket_that_was_never_connected_ends_its_session() {
    let daemon = Daemon::start("");
    let fds = daemon.fds();
    for family in [AddressFamily::Inet, AddressFamily::Inet6, AddressFamily::Unix] {
        let Ok(client) = socket(family, SockType::Stream, SockFlag::SOCK_CLOEXEC, None) else { continue };
        apache::hand_over(&daemon.socket(), Door::SeqPacket, PAYLOAD, client).expect("a handoff");
    }
    eventually("they are gone", || {
        let ended = daemon.metric("handoffd_lease_endings_total{outcome=\"client_gone\"");
        (ended == daemon.metric("daemon_handoffs_total") && ended > 0.0).then_some(())
    });
    eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
}

#[test]
fn the_first_of_several_fds_is_the_client_and_all_others_are_closed() {
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    let fds = daemon.fds();
    for surplus in [1, 2, 100, 252] {
        for (door, path) in [(Door::SeqPacket, daemon.socket()), (Door::Stream, daemon.stream_socket())] {
            let (client, theirs) = apache::client_pair(Kind::Tcp);
            let (reader, writer) = nix::unistd::pipe().expect("a pipe");
            let mut handed = vec![theirs.as_fd()];
            handed.resize(1 + surplus, writer.as_fd());
            let connection = apache::dial(&path, door).expect("a connection");
            connection.send(PAYLOAD, &handed).expect("a message");
            drop((connection, theirs, writer));
            let response = client.response();
            assert!(response.is_complete(), "{surplus} surplus fds, {door:?}: {response:?}");
            // The daemon holds no writer any more: the pipe is at its end.
            eventually(&format!("{surplus} surplus fds are closed, {door:?}"), || {
                is_at_its_end(&reader).then_some(())
            });
        }
    }
    eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
}

#[test]
fn a_message_without_an_fd_is_counted_and_an_aborted_handoff_is_nothing() {
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    for (number, path, door) in
        [(1.0, daemon.socket(), Door::SeqPacket), (2.0, daemon.stream_socket(), Door::Stream)]
    {
        let connection = apache::dial(&path, door).expect("a connection");
        connection.send(PAYLOAD, &[]).expect("a message");
        drop(connection);
        eventually("the message is counted", || (rejected(&daemon, "no_fd") == number).then_some(()));
        drop(apache::dial(&path, door).expect("a connection"));
        eventually("the end is counted", || (rejected(&daemon, "aborted") == number).then_some(()));
    }
    assert_eq!(daemon.metric("daemon_handoffs_total"), 0.0);
    assert_eq!(daemon.metric("daemon_handoff_errors_total{reason=\"client_disconnected\""), 2.0);
    assert!(daemon.hand_over(PAYLOAD).response().is_complete());
}

fn is_at_its_end(reader: &impl AsFd) -> bool {
    let mut fds = [nix::poll::PollFd::new(reader.as_fd(), nix::poll::PollFlags::POLLIN)];
    nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).expect("poll");
    fds[0].revents().is_some_and(|events| events.contains(nix::poll::PollFlags::POLLHUP))
}

fn rejected(daemon: &Daemon, reason: &str) -> f64 {
    daemon.metric(&format!("handoffd_rejections_total{{reason=\"{reason}\""))
}
