//! A worker that somebody else has started, or whose channel brings nonsense, says so and ends: 64 without a channel,
//! 70 for bytes that are no message, or a message out of turn.

use std::process::{Command, Stdio};

use handoff_e2e::daemon::binary;
use handoff_e2e::process::bare;
use handoff_e2e::{eventually, manager};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use std::os::fd::AsFd;

#[test]
fn without_a_channel_it_says_who_may_start_it() {
    let output = Command::new(binary("handoffd-worker")).stdin(Stdio::null()).output().expect("a worker");
    assert_eq!(output.status.code(), Some(64));
    assert!(String::from_utf8_lossy(&output.stderr).contains("handoffd starts its workers itself"));
}

#[test]
fn nonsense_on_its_channel_ends_it() {
    for packet in [
        &b"this is no message"[..],
        b"hand\x02\x00\x01\x00\xff\xff\x00\x00\x00",
        b"hand\x02\x00\x02\x00\x01\x00\x00\x00\x00",
        b"hand\x02\x00\x01\x00\x02\x00\x00\x00\x03\x05",
        b"hand\x02\x00\x01\x00\x03\x00\x00\x00\x04\x01\x05",
        b"hand\x02\x00\x01\x00\x0a\x00\x00\x00\x01\xfd\xff\xff\xff\xff\xff\xff\xff\xff",
    ] {
        let flags = SockFlag::SOCK_CLOEXEC;
        let (ours, theirs) =
            socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).expect("a channel");
        let mut worker = bare(&binary("handoffd-worker"))
            .env_clear()
            .stdin(Stdio::from(theirs))
            .stderr(Stdio::null())
            .spawn()
            .expect("a worker");
        manager::send(ours.as_fd(), packet, &[]);
        let status = eventually("it ends", || worker.try_wait().expect("a child"));
        assert_eq!(status.code(), Some(70), "{packet:?}");
    }
}
