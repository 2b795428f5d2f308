//! Plays Apache: one connection, one message with a client's socket, close.

use std::fs::File;
use std::io::{self, IoSlice, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::atomic::{AtomicU8, Ordering};

use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, setsockopt,
    socket, sockopt,
};

use serde_json::Value;

use crate::client::Client;

/// How a handoff travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// The current module: one message.
    SeqPacket,
    /// Older modules: bytes until EOF.
    Stream,
}

/// What the client's socket is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A loopback TCP connection.
    Tcp,
    /// A Unix socket pair.
    Unix,
}

/// A connection to the handoff socket, before anything is sent.
#[derive(Debug)]
pub struct Sent(OwnedFd);

/// Connects, as Apache does before it sends.
///
/// # Errors
/// As of connect(2).
pub fn dial(path: &Path, door: Door) -> io::Result<Sent> {
    let kind = match door {
        Door::SeqPacket => SockType::SeqPacket,
        Door::Stream => SockType::Stream,
    };
    let connection = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    connect(connection.as_raw_fd(), &UnixAddr::new(path)?)?;
    Ok(Sent(connection))
}

impl Sent {
    /// One sendmsg with these fds.
    ///
    /// # Errors
    /// As of sendmsg(2).
    pub fn send(&self, payload: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
        let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
        let rights = [ControlMessage::ScmRights(&raw)];
        let control = if raw.is_empty() { &[][..] } else { &rights[..] };
        // Room for the largest message, where the kernel allows it.
        if setsockopt(&self.0, sockopt::SndBufForce, &(4 << 20)).is_err() {
            let _ = setsockopt(&self.0, sockopt::SndBuf, &(4 << 20));
        }
        let flags = MsgFlags::MSG_NOSIGNAL;
        let sent = sendmsg::<()>(self.0.as_raw_fd(), &[IoSlice::new(payload)], control, flags, None)?;
        match sent == payload.len() {
            true => Ok(()),
            // A stream socket takes what fits; the rest follows without fds.
            false => UnixStream::from(self.0.try_clone()?).write_all(&payload[sent..]),
        }
    }
}

impl From<OwnedFd> for Sent {
    fn from(connection: OwnedFd) -> Self {
        Self(connection)
    }
}

impl From<Sent> for UnixStream {
    fn from(sent: Sent) -> Self {
        Self::from(sent.0)
    }
}

static NEXT: AtomicU8 = AtomicU8::new(0);

/// Both ends of a fresh client connection: ours, and the one that Apache hands over.
///
/// # Panics
/// When the machine has no sockets.
#[must_use]
pub fn client_pair(kind: Kind) -> (Client, OwnedFd) {
    match kind {
        Kind::Unix => {
            let (ours, theirs) = UnixStream::pair().expect("a socket pair");
            theirs.set_nonblocking(true).expect("non-blocking");
            (Client::unix(ours), theirs.into())
        }
        Kind::Tcp => {
            // Every 127.x.y.z is this machine: thousands of closed connections do not use up one address's ports.
            let address = Ipv4Addr::new(127, 0, 1, NEXT.fetch_add(1, Ordering::Relaxed));
            let listener = TcpListener::bind((address, 0)).expect("a port");
            let ours = TcpStream::connect(listener.local_addr().expect("an address")).expect("a connection");
            let (theirs, _) = listener.accept().expect("a connection");
            theirs.set_nonblocking(true).expect("non-blocking");
            theirs.set_nodelay(true).expect("no delay");
            (Client::tcp(ours), theirs.into())
        }
    }
}

/// A message with what Apache knows of the request before its payload.
#[must_use]
pub fn enveloped(envelope: &Value, payload: impl AsRef<[u8]>) -> Vec<u8> {
    [b"\x01", envelope.to_string().as_bytes(), b"\n", payload.as_ref()].concat()
}

/// A memfd with these bytes; `is_sealed`: nobody can change it any more.
///
/// # Panics
/// When the machine has no memory.
#[must_use]
pub fn memfd(bytes: &[u8], is_sealed: bool) -> OwnedFd {
    let memfd = memfd_create(c"payload", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING);
    let mut file = File::from(memfd.expect("a memfd"));
    file.write_all(bytes).expect("memory");
    if is_sealed {
        let seals = SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SHRINK;
        fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).expect("seals");
    }
    file.into()
}

/// Hands over a loopback TCP connection, with this message and a second fd behind it.
///
/// # Panics
/// When the daemon does not take it.
#[must_use]
pub fn hand_over_with(path: &Path, message: &[u8], second: BorrowedFd<'_>) -> Client {
    let (ours, theirs) = client_pair(Kind::Tcp);
    let connection = dial(path, Door::SeqPacket).expect("a connection");
    connection.send(message, &[theirs.as_fd(), second]).expect("a message");
    ours
}

/// Hands over a loopback TCP connection, and the payload in a sealed memfd, as Apache does with large ones.
///
/// # Panics
/// When the daemon does not take it.
#[must_use]
pub fn hand_over_large(path: &Path, payload: &[u8]) -> Client {
    hand_over_with(path, b"\x01{\"v\":1}\n", memfd(payload, true).as_fd())
}

/// The whole handoff, exactly as Apache does it: afterwards only the daemon has the client's socket.
///
/// # Errors
/// As of connect(2) and sendmsg(2).
pub fn hand_over(path: &Path, door: Door, payload: &[u8], client: OwnedFd) -> io::Result<()> {
    let connection = dial(path, door)?;
    connection.send(payload, &[client.as_fd()])?;
    drop(client);
    match door {
        Door::SeqPacket => Ok(()),
        Door::Stream => UnixStream::from(connection.0).shutdown(Shutdown::Write),
    }
}
