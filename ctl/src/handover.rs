//! Hands a client's socket over, exactly as Apache's mod_socket_handoff does.
//! In: a payload and the client's socket. Out: one message with one fd on the daemon's socket.
//! Never: reads anything back, touches the client's socket, tries twice.

use std::env;
use std::fmt;
use std::io::{IoSlice, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

/// Where packages put the daemon's socket.
pub(crate) const DEFAULT_PATH: &str = "/run/handoffd/handoffd.sock";
/// How long connecting and sending may take each, while the daemon's backlog or our socket buffer is full.
const SEND_TIMEOUT_MS: i64 = 1000;

/// Which socket handoffs go to, as the command line says it.
#[derive(Debug, clap::Args)]
pub(crate) struct HandoffSocket {
    /// The daemon's socket [env: DAEMON_SOCKET_PATH] [default: /run/handoffd/handoffd.sock]
    #[arg(short, long, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    socket: Option<PathBuf>,
    /// The socket is of the older SOCK_STREAM kind, not SOCK_SEQPACKET
    #[arg(long)]
    stream_socket: bool,
}

impl HandoffSocket {
    /// The one at this path.
    pub(crate) fn at(path: &Path, kind: Kind) -> Self {
        Self { socket: Some(path.to_owned()), stream_socket: kind == Kind::Stream }
    }

    /// A connection that brings nothing: whether somebody listens.
    pub(crate) fn knock(&self) -> Result<OwnedFd, Errno> {
        self.connect(&self.path())
    }

    /// Sends `payload` and `client` in one message. The kernel duplicates the fd: the caller drops its own.
    pub(crate) fn hand_over(&self, payload: &[u8], client: impl AsFd) -> Result<(), HandoverError> {
        let path = self.path();
        self.send(&path, payload, client).map_err(|errno| HandoverError { path, kind: self.kind(), errno })
    }

    /// The command line's path, else the environment's, else the default.
    pub(crate) fn path(&self) -> PathBuf {
        let environment = || env::var_os("DAEMON_SOCKET_PATH").map(PathBuf::from);
        self.socket.clone().or_else(environment).unwrap_or_else(|| DEFAULT_PATH.into())
    }

    fn kind(&self) -> Kind {
        if self.stream_socket { Kind::Stream } else { Kind::SeqPacket }
    }

    fn send(&self, path: &Path, payload: &[u8], client: impl AsFd) -> Result<(), Errno> {
        let peer = self.connect(path)?;
        // A message needs a byte to carry an fd; the module sends a NUL where it has no payload.
        let payload = if payload.is_empty() { b"\0" } else { payload };
        let fds = [client.as_fd().as_raw_fd()];
        let sent = sendmsg::<()>(
            peer.as_raw_fd(),
            &[IoSlice::new(payload)],
            &[ControlMessage::ScmRights(&fds)],
            MsgFlags::MSG_NOSIGNAL,
            None,
        )?;
        // A seqpacket took it whole. From a stream's first bytes on the client is the daemon's, which also
        // answers for a payload that is cut here: an error now must not make us answer as well.
        let _ = UnixStream::from(peer).write_all(&payload[sent..]);
        Ok(())
    }

    fn connect(&self, path: &Path) -> Result<OwnedFd, Errno> {
        let kind = match self.kind() {
            Kind::SeqPacket => SockType::SeqPacket,
            Kind::Stream => SockType::Stream,
        };
        let peer = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
        setsockopt(&peer, sockopt::SendTimeout, &TimeVal::milliseconds(SEND_TIMEOUT_MS))?;
        connect(peer.as_raw_fd(), &UnixAddr::new(path)?)?;
        Ok(peer)
    }
}

/// The two kinds of handoff socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// `SOCK_SEQPACKET`.
    SeqPacket,
    /// `SOCK_STREAM`, of older modules.
    Stream,
}

/// Why a handoff did not leave.
#[derive(Debug)]
pub(crate) struct HandoverError {
    path: PathBuf,
    kind: Kind,
    errno: Errno,
}

impl HandoverError {
    /// What connecting to a socket of this kind says.
    pub(crate) fn new(path: &Path, kind: Kind, errno: Errno) -> Self {
        Self { path: path.to_owned(), kind, errno }
    }

    /// The socket is of the other kind.
    pub(crate) fn is_wrong_kind(&self) -> bool {
        self.errno == Errno::EPROTOTYPE
    }

    /// The payload does not fit into one message: the sender's fault, not the daemon's.
    pub(crate) fn is_too_large(&self) -> bool {
        self.errno == Errno::EMSGSIZE
    }
}

impl std::error::Error for HandoverError {}

impl fmt::Display for HandoverError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = match (self.errno, self.kind) {
            (Errno::ENOENT, _) => "there is no such socket; is handoffd running? (-s names another)",
            (Errno::ECONNREFUSED, _) => "nobody listens there; handoffd is not running",
            (Errno::EACCES | Errno::EPERM, _) => "permission denied; join the socket's group, or ask as root",
            (Errno::EPROTOTYPE, Kind::SeqPacket) => {
                "it is a SOCK_STREAM socket; add --stream-socket (bench: --type stream)"
            }
            (Errno::EPROTOTYPE, Kind::Stream) => {
                "it is a SOCK_SEQPACKET socket; leave out --stream-socket (bench: --type seqpacket)"
            }
            (Errno::EAGAIN, _) => "its backlog is full; handoffd is overloaded or stuck",
            (Errno::EMSGSIZE, _) => "the payload is too large for one message (net.core.wmem_default)",
            (Errno::ENAMETOOLONG, _) => "the path is too long for a Unix socket (107 bytes)",
            (other, _) => other.desc(),
        };
        write!(f, "cannot hand over to {}: {why}", self.path.display())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixListener;

    use handoff_shared::fdpass;
    use nix::sys::socket::{Backlog, bind, listen};
    use tempfile::TempDir;

    fn seqpacket_listener(path: &Path) -> OwnedFd {
        let listener =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&listener, Backlog::new(1).unwrap()).unwrap();
        listener
    }

    fn room() -> (TempDir, PathBuf, TcpStream) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("door.sock");
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        (directory, path, TcpStream::connect(listener.local_addr().unwrap()).unwrap())
    }

    fn to(path: &Path, stream_socket: bool) -> HandoffSocket {
        HandoffSocket { socket: Some(path.to_owned()), stream_socket }
    }

    #[test]
    fn one_message_carries_the_payload_and_one_fd() {
        let (_directory, path, client) = room();
        let listener = seqpacket_listener(&path);
        for (payload, arrives) in [(&b"{}"[..], &b"{}"[..]), (b"", b"\0")] {
            to(&path, false).hand_over(payload, &client).unwrap();
            let peer = fdpass::accept(listener.as_fd()).unwrap();
            let mut buffer = [0; 64];
            let received = fdpass::receive(peer.as_fd(), &mut buffer).unwrap();
            assert_eq!((&buffer[..received.bytes], received.fds.len()), (arrives, 1));
        }
    }

    #[test]
    fn every_refusal_says_what_to_do() {
        let (_directory, path, client) = room();
        let refusal =
            |stream_socket| to(&path, stream_socket).hand_over(b"{}", &client).unwrap_err().to_string();
        assert!(refusal(false).contains("no such socket"));
        let listener = seqpacket_listener(&path);
        assert!(refusal(true).contains("leave out --stream-socket"));
        drop(listener);
        assert!(refusal(false).contains("nobody listens"));
        fs::remove_file(&path).unwrap();
        let _listener = UnixListener::bind(&path).unwrap();
        assert!(refusal(false).contains("add --stream-socket"));
    }

    #[test]
    fn a_full_backlog_is_said_after_a_moment() {
        let (_directory, path, client) = room();
        let _listener = seqpacket_listener(&path);
        let mut handoffs = (0..8).map(|_| to(&path, false).hand_over(b"{}", &client));
        let refusal = handoffs.find_map(Result::err).unwrap();
        assert!(refusal.to_string().contains("backlog is full"));
    }

    #[test]
    fn a_payload_that_fits_no_message_is_too_large() {
        let (_directory, path, client) = room();
        let _listener = seqpacket_listener(&path);
        assert!(to(&path, false).hand_over(&vec![b'x'; 4 << 20], &client).unwrap_err().is_too_large());
    }
}
