//! Plays a daemon towards Apache: takes messages, and does with the client's socket what a test says. In: a directory.
//! Out: each message, whole, with its fds. Never: answers of its own accord.

use std::fs;
use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketFlags, accept_with, recvmsg};
use serde_json::Value;
use tempfile::TempDir;

use super::open_directory;
use crate::apache::Door;
use crate::eventually;

const MESSAGE_BYTES_MAX: usize = 1 << 20;
const FDS_MAX: usize = 8;

/// Somebody who listens where a daemon would, in a directory that Apache's user may enter.
#[derive(Debug)]
pub struct Taker {
    listener: OwnedFd,
    door: Door,
    path: PathBuf,
    _directory: TempDir,
}

/// What Apache has sent.
#[derive(Debug)]
pub struct Taken {
    /// All of the message.
    pub message: Vec<u8>,
    /// In order: the client's socket first.
    pub fds: Vec<OwnedFd>,
}

impl Taker {
    /// Listens, with room for so many who are not accepted yet.
    ///
    /// # Panics
    /// When there is no directory.
    #[must_use]
    pub fn listen(door: Door, backlog: i32) -> Self {
        let directory = tempfile::Builder::new().prefix("handoffd-taker-").tempdir().expect("a directory");
        open_directory(directory.path());
        let path = directory.path().join("daemon.sock");
        let kind = match door {
            Door::SeqPacket => SockType::SeqPacket,
            Door::Stream => SockType::Stream,
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let listener = socket(AddressFamily::Unix, kind, flags, None).expect("a socket");
        bind(listener.as_raw_fd(), &UnixAddr::new(&path).expect("a path")).expect("a free path");
        // It plays a daemon whom everybody may ask.
        fs::set_permissions(&path, fs::Permissions::from_mode(0o666)).expect("a mode");
        listen(&listener, Backlog::new(backlog).expect("a backlog")).expect("a socket that listens");
        Self { listener, door, path, _directory: directory }
    }

    /// Where it listens.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next message; waits for it.
    ///
    /// # Panics
    /// When none comes in time.
    #[must_use]
    #[track_caller]
    pub fn take(&self) -> Taken {
        eventually("Apache hands over", || self.try_take())
    }

    /// The next message, if somebody has connected.
    ///
    /// # Panics
    /// When somebody connects and sends nothing.
    #[must_use]
    pub fn try_take(&self) -> Option<Taken> {
        let connection = accept_with(&self.listener, SocketFlags::CLOEXEC).ok()?;
        let mut taken = Taken { message: Vec::new(), fds: Vec::new() };
        while taken.receive(connection.as_fd()) > 0 && self.door == Door::Stream {}
        Some(taken)
    }
}

impl Taken {
    fn receive(&mut self, connection: BorrowedFd<'_>) -> usize {
        let mut buffer = vec![0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let flags = RecvFlags::CMSG_CLOEXEC;
        let received = recvmsg(connection, &mut [IoSliceMut::new(&mut buffer)], &mut control, flags);
        let bytes = received.expect("a message").bytes;
        for entry in control.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = entry {
                self.fds.extend(fds);
            }
        }
        self.message.extend_from_slice(&buffer[..bytes]);
        bytes
    }

    /// The envelope, where there is one, and the payload that is behind it in the message.
    ///
    /// # Panics
    /// When the envelope is no line of JSON.
    #[must_use]
    pub fn parts(&self) -> (Option<Value>, &[u8]) {
        let Some(rest) = self.message.strip_prefix(b"\x01") else {
            return (None, &self.message);
        };
        let end = rest.iter().position(|byte| *byte == b'\n').expect("the end of an envelope");
        (Some(serde_json::from_slice(&rest[..end]).expect("an envelope")), &rest[end + 1..])
    }
}
