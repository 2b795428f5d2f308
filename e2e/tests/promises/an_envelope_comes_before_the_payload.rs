//! A message that begins with the byte 0x01 tells what Apache knows of the request, and may bring its payload in
//! a sealed memfd. Any other second fd is closed unread.

use std::fs::File;
use std::io::Write;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use handoff_e2e::apache::{self, Kind};
use handoff_e2e::{Daemon, Door, Options, Response, eventually};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};

const ENVELOPE: &[u8] =
    b"\x01{\"v\":1,\"method\":\"GET\",\"uri\":\"/stream\",\"proto\":\"HTTP/1.1\",\"client\":\"192.0.2.7\"}\n";
const PAYLOAD: &[u8] = br#"{"prompt":"from the payload","request_id":"r","mock":{"token_delay_ms":0}}"#;

#[test]
fn and_the_payload_counts_as_ever() {
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    for door in [Door::SeqPacket, Door::Stream] {
        let response = daemon.hand_over_by(door, Kind::Tcp, &[ENVELOPE, PAYLOAD].concat()).response();
        assert!(
            response.is_complete() && response.text().contains("from the payload"),
            "{door:?}: {response:?}"
        );
    }
}

#[test]
fn and_its_method_wins() {
    let daemon = Daemon::start("");
    let head = br#"{"v":1,"method":"HEAD"}"#;
    let message = [b"\x01", head.as_slice(), b"\n", br#"{"prompt":"hi","method":"GET"}"#].concat();
    let response = daemon.hand_over(message).response();
    assert_eq!((response.status, response.body.as_str()), (200, ""), "{response:?}");
    // A refusal of HEAD has no body either.
    let response = daemon.hand_over([b"\x01", head.as_slice(), b"\n", b"nonsense"].concat()).response();
    assert_eq!((response.status, response.body.as_str()), (400, ""), "{response:?}");
    // And HEAD without a payload is refused as everything is.
    let response = daemon.hand_over([b"\x01", head.as_slice(), b"\n"].concat()).response();
    assert_eq!((response.status, response.body.as_str()), (400, ""), "{response:?}");
    let get = br#"{"v":1,"method":"GET"}"#;
    let message = [b"\x01", get.as_slice(), b"\n", br#"{"prompt":"hi","method":"HEAD"}"#].concat();
    assert!(daemon.hand_over(message).response().is_complete());
}

#[test]
fn and_its_headers_tell_where_an_interrupted_client_was() {
    let daemon = Daemon::start("");
    let envelope = br#"{"v":1,"headers":[["Last-Event-ID","r:end"]]}"#;
    let response = daemon.hand_over([b"\x01", envelope.as_slice(), b"\n", PAYLOAD].concat()).response();
    assert_eq!(response.status, 204, "{response:?}");
}

#[test]
fn and_a_bad_one_is_refused() {
    let daemon = Daemon::start("");
    for envelope in
        [b"\x01\n".as_slice(), b"\x01not JSON\n", b"\x01{\"v\":2}\n", b"\x01{}\n", b"\x01", b"\x01[]\n"]
    {
        let response = daemon.hand_over([envelope, PAYLOAD].concat()).response();
        assert_eq!(
            (response.status, response.error_code().as_deref()),
            (400, Some("bad_handoff")),
            "{response:?}"
        );
    }
}

#[test]
fn and_a_sealed_memfd_brings_the_payload() {
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    let fds = daemon.fds();
    let question = "a question that fits no message ".repeat(20_000);
    let large = serde_json::json!({ "prompt": question, "mock": { "token_delay_ms": 0 } }).to_string();
    for door in [Door::SeqPacket, Door::Stream] {
        let response = hand_over_with(&daemon, door, ENVELOPE, memfd(large.as_bytes(), sealed()).as_fd());
        assert!(response.is_complete(), "{door:?}: {}", response.head);
        assert!(response.text().contains(&question), "{door:?}: the question came back changed");
    }
    eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
}

#[test]
fn and_any_other_second_fd_is_closed_unread() {
    let daemon = Daemon::start("");
    let fds = daemon.fds();
    let open = memfd(br#"{"prompt":"unsealed"}"#, SealFlag::empty());
    let half_open = memfd(br#"{"prompt":"writable"}"#, SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK);
    let file = File::open(daemon.config()).expect("a file");
    let (socket, _other) = std::os::unix::net::UnixStream::pair().expect("a pair");
    let second: [BorrowedFd<'_>; 4] = [open.as_fd(), half_open.as_fd(), file.as_fd(), socket.as_fd()];
    for fd in second {
        let response = hand_over_with(&daemon, Door::SeqPacket, &[ENVELOPE, PAYLOAD].concat(), fd);
        assert!(response.is_complete() && response.text().contains("from the payload"), "{response:?}");
        let response = hand_over_with(&daemon, Door::SeqPacket, ENVELOPE, fd);
        assert_eq!(response.status, 400, "there is no payload: {response:?}");
    }
    // Without an envelope even a sealed one is surplus.
    let sealed = memfd(br#"{"prompt":"sealed"}"#, sealed());
    let response = hand_over_with(&daemon, Door::SeqPacket, PAYLOAD, sealed.as_fd());
    assert!(response.text().contains("from the payload"), "{response:?}");
    eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
}

fn hand_over_with(daemon: &Daemon, door: Door, message: &[u8], second: BorrowedFd<'_>) -> Response {
    let path = match door {
        Door::SeqPacket => daemon.socket(),
        Door::Stream => daemon.stream_socket(),
    };
    let (client, theirs) = apache::client_pair(Kind::Tcp);
    let connection = apache::dial(&path, door).expect("a connection");
    connection.send(message, &[theirs.as_fd(), second]).expect("a message");
    drop((connection, theirs));
    client.response()
}

fn sealed() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK
}

fn memfd(bytes: &[u8], seals: SealFlag) -> OwnedFd {
    let memfd =
        memfd_create(c"payload", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING).expect("a memfd");
    let mut file = File::from(memfd);
    file.write_all(bytes).expect("memory");
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("seals");
    file.into()
}
