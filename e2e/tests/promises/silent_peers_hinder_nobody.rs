//! A peer that connects and says nothing costs one fd for a bounded time, and nobody else anything.

use std::io::{Read, Write};
use std::net::Shutdown;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use handoff_e2e::apache::{self, Kind};
use handoff_e2e::{Daemon, Door, Options, Sent, eventually};

const PAYLOAD: &[u8] = br#"{"prompt":"hi","mock":{"token_delay_ms":0}}"#;

#[test]
fn a_thousand_of_them() {
    const SILENT: usize = 1000;
    let daemon = Daemon::with(&Options {
        toml: "handoff_timeout_secs = 5\n".to_owned(),
        stream_socket: true,
        ..Options::default()
    });
    let fds = daemon.fds();
    let peers: Vec<Sent> = (0..SILENT).map(|number| dial_a_door(&daemon, number)).collect();
    eventually("all are accepted", || {
        (daemon.metric("daemon_connections_total") >= SILENT as f64).then_some(())
    });
    let began_at = Instant::now();
    for _ in 0..20 {
        assert!(daemon.hand_over(PAYLOAD).response().is_complete());
    }
    let took = began_at.elapsed();
    assert!(took < Duration::from_secs(2), "20 handoffs among silent peers took {took:?}");
    assert!(rejected(&daemon, "timeout") < SILENT as f64, "none of them is silent any more");
    eventually("all have timed out", || (rejected(&daemon, "timeout") == SILENT as f64).then_some(()));
    eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
    for peer in peers {
        assert_eq!(UnixStream::from(peer).read(&mut [0; 1]).expect("EOF"), 0);
    }
    assert!(daemon.hand_over(PAYLOAD).response().is_complete());
}

#[test]
fn beyond_their_bound_the_oldest_are_let_go() {
    // With this few fds an eighth of them is what silent peers may have.
    const FD_LIMIT: u64 = 512;
    const BOUND: usize = 64;
    const SURPLUS: usize = 40;
    let daemon = Daemon::with(&Options { fd_limit: Some(FD_LIMIT), ..configuration(60) });
    // Through one door: it is those who came in first that are the oldest.
    let dial = |_| apache::dial(&daemon.socket(), Door::SeqPacket).expect("a connection");
    let mut peers: Vec<Sent> = (0..BOUND + SURPLUS).map(dial).collect();
    eventually("the oldest are let go", || (rejected(&daemon, "evicted") == SURPLUS as f64).then_some(()));
    let kept = peers.split_off(SURPLUS);
    for (number, peer) in peers.into_iter().enumerate() {
        assert_eq!(UnixStream::from(peer).read(&mut [0; 1]).expect("EOF"), 0, "peer {number}");
    }
    // Those that were kept have lost nothing.
    for (number, peer) in kept.into_iter().enumerate().take(8) {
        let (client, theirs) = apache::client_pair(Kind::Tcp);
        peer.send(PAYLOAD, &[theirs.as_fd()]).expect("a message");
        drop((peer, theirs));
        assert!(client.response().is_complete(), "peer {number}");
    }
}

#[test]
fn a_message_that_comes_late_is_still_a_handoff() {
    let daemon = Daemon::with(&configuration(60));
    for (door, path) in [(Door::SeqPacket, daemon.socket()), (Door::Stream, daemon.stream_socket())] {
        let seen = daemon.metric("daemon_connections_total");
        let connection = apache::dial(&path, door).expect("a connection");
        eventually("it is accepted", || (daemon.metric("daemon_connections_total") > seen).then_some(()));
        let (client, theirs) = apache::client_pair(Kind::Tcp);
        connection.send(PAYLOAD, &[theirs.as_fd()]).expect("a message");
        drop((connection, theirs));
        assert!(client.response().is_complete(), "{door:?}");
    }
}

#[test]
fn on_the_stream_door_a_payload_may_come_in_pieces_until_eof() {
    let daemon = Daemon::with(&configuration(60));
    let (mut client, theirs) = apache::client_pair(Kind::Tcp);
    let connection = apache::dial(&daemon.stream_socket(), Door::Stream).expect("a connection");
    let (first, rest) = PAYLOAD.split_at(10);
    connection.send(first, &[theirs.as_fd()]).expect("the fd comes with the first bytes");
    drop(theirs);
    let mut connection = UnixStream::from(connection);
    for piece in rest.chunks(7) {
        connection.write_all(piece).expect("a piece");
    }
    client.patience(Duration::from_millis(300));
    let early = client.read(&mut [0; 1]).map_err(|error| error.kind());
    assert_eq!(early, Err(std::io::ErrorKind::WouldBlock), "answered before the payload's end");
    client.patience(handoff_e2e::PATIENCE);
    connection.shutdown(Shutdown::Write).expect("EOF");
    assert!(client.response().is_complete());
}

#[test]
fn on_the_stream_door_a_client_is_answered_though_its_payload_never_ends() {
    let daemon = Daemon::with(&configuration(1));
    for (payload, status) in [(PAYLOAD, 200), (&PAYLOAD[..10], 400)] {
        let (client, theirs) = apache::client_pair(Kind::Tcp);
        let connection = apache::dial(&daemon.stream_socket(), Door::Stream).expect("a connection");
        connection.send(payload, &[theirs.as_fd()]).expect("a message");
        drop(theirs);
        let response = client.response();
        assert_eq!(response.status, status, "{response:?}");
        drop(connection);
    }
}

fn configuration(handoff_timeout_secs: u32) -> Options {
    let toml = format!("handoff_timeout_secs = {handoff_timeout_secs}\n");
    Options { toml, stream_socket: true, ..Options::default() }
}

/// One door after the other.
fn dial_a_door(daemon: &Daemon, number: usize) -> Sent {
    match number % 2 {
        0 => apache::dial(&daemon.socket(), Door::SeqPacket),
        _ => apache::dial(&daemon.stream_socket(), Door::Stream),
    }
    .expect("a connection")
}

fn rejected(daemon: &Daemon, reason: &str) -> f64 {
    daemon.metric(&format!("handoffd_rejections_total{{reason=\"{reason}\""))
}
