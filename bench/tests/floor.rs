//! The floor answers as a daemon does, one event by one write.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod started;

use std::io::Read;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use handoff_shared::fdpass;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect, socket};
use started::{PATIENCE, Started};

fn floor(directory: &Path, arguments: &[&str]) -> (Started, SocketAddrUnix) {
    let path = directory.join("handoff.sock");
    let shown = path.to_str().unwrap();
    let mut floor = Started::new(env!("CARGO_BIN_EXE_floor"), &[&["--socket", shown], arguments].concat());
    assert_eq!(floor.line(), format!("floor listens on {shown}"));
    (floor, SocketAddrUnix::new(&path).unwrap())
}

fn connected(address: &SocketAddrUnix, kind: SocketType) -> OwnedFd {
    let connection = socket(AddressFamily::UNIX, kind, None).unwrap();
    connect(&connection, address).unwrap();
    connection
}

/// Sends one end of a pair; gives the other.
fn hand_over(connection: &OwnedFd) -> UnixStream {
    let (ours, theirs) = UnixStream::pair().unwrap();
    ours.set_read_timeout(Some(PATIENCE)).unwrap();
    fdpass::send(connection.as_fd(), b"{\"prompt\":\"hi\"}", &[theirs.as_fd()]).unwrap();
    ours
}

fn answer(mut client: UnixStream) -> (String, usize) {
    let mut answer = String::new();
    client.read_to_string(&mut answer).unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    (body.to_owned(), body.matches("data: {").count())
}

#[test]
fn a_handoff_is_answered_to_its_end_on_either_kind_of_socket() {
    for (kind, name) in [(SocketType::SEQPACKET, "seqpacket"), (SocketType::STREAM, "stream")] {
        let directory = tempfile::tempdir().unwrap();
        let (_floor, address) = floor(directory.path(), &["--type", name, "--events", "19"]);
        let client = hand_over(&connected(&address, kind));
        let (body, events) = answer(client);
        assert_eq!(events, 19, "{body}");
        assert!(body.ends_with("\n\ndata: [DONE]\n\n"), "{body}");
    }
}

#[test]
fn a_message_that_comes_after_its_connection_is_waited_for() {
    let directory = tempfile::tempdir().unwrap();
    let (_floor, address) = floor(directory.path(), &["--events", "2"]);
    let early: Vec<OwnedFd> = (0..100).map(|_| connected(&address, SocketType::SEQPACKET)).collect();
    // It has seen all of them when it has answered one that came later.
    assert_eq!(answer(hand_over(&connected(&address, SocketType::SEQPACKET))).1, 2);
    let clients: Vec<UnixStream> = early.iter().map(hand_over).collect();
    for client in clients {
        assert_eq!(answer(client).1, 2);
    }
}

#[test]
fn an_event_is_a_write_of_its_own() {
    let directory = tempfile::tempdir().unwrap();
    let (_floor, address) = floor(directory.path(), &["--events", "5"]);
    let (ours, theirs) = rustix::net::socketpair(
        AddressFamily::UNIX,
        SocketType::SEQPACKET,
        rustix::net::SocketFlags::empty(),
        None,
    )
    .unwrap();
    let connection = connected(&address, SocketType::SEQPACKET);
    fdpass::send(connection.as_fd(), b"{}", &[theirs.as_fd()]).unwrap();
    drop(theirs);
    // A socket that keeps the bounds of what is written.
    let mut writes = 0;
    while rustix::io::read(&ours, &mut [0; 1024]).unwrap() > 0 {
        writes += 1;
    }
    assert_eq!(writes, 1 + 5 + 1);
}

#[test]
fn with_an_interval_the_first_event_comes_at_once_and_the_others_apart() {
    let directory = tempfile::tempdir().unwrap();
    let (_floor, address) = floor(directory.path(), &["--events", "4", "--interval-ms", "100"]);
    let began = Instant::now();
    let clients: Vec<UnixStream> =
        (0..50).map(|_| hand_over(&connected(&address, SocketType::SEQPACKET))).collect();
    for mut client in clients {
        let (mut seen, mut buffer) = (Vec::new(), [0; 4096]);
        while !seen.windows(6).any(|bytes| bytes == b"data: ") {
            let read = client.read(&mut buffer).unwrap();
            assert!(read > 0);
            seen.extend_from_slice(&buffer[..read]);
        }
        let mut rest = String::new();
        client.read_to_string(&mut rest).unwrap();
        let all = String::from_utf8(seen).unwrap() + &rest;
        assert_eq!(all.matches("data: {").count(), 4, "{all}");
        assert!(all.ends_with("data: [DONE]\n\n"), "{all}");
    }
    // Three intervals, which all streams share.
    let took = began.elapsed();
    assert!(took >= Duration::from_millis(300) && took < Duration::from_secs(3), "{took:?}");
}
