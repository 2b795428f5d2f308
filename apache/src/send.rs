//! Hands a socket over. In: a message, its fds, the daemons' sockets in order. Out: which of them has it.
//! Never: waits longer than configured, sends a second message, writes to the socket that it hands over.
//!
//! connect(2) on a Unix socket whose backlog is full waits as long as SO_SNDTIMEO says, in the order of arrival: a
//! burst waits its turn, where a non-blocking connect would fail at once.

use std::io::{IoSlice, Write};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, setsockopt,
    socket, sockopt,
};
use nix::sys::time::TimeVal;

/// Between the first two rounds; each further pause is twice as long.
const FIRST_PAUSE: Duration = Duration::from_millis(10);

/// How long to try.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    pub(crate) connect: Duration,
    pub(crate) send: Duration,
    /// Further rounds over sockets that are not there, or where nobody listens.
    pub(crate) retries: u32,
}

/// Why nobody has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Unsent {
    /// The last socket that was tried.
    pub(crate) path: PathBuf,
    pub(crate) errno: Errno,
}

impl Unsent {
    /// The daemon is away or overloaded: a later attempt may succeed.
    pub(crate) fn is_unavailable(&self) -> bool {
        !matches!(self.errno, Errno::EMSGSIZE | Errno::ENAMETOOLONG | Errno::EBADF | Errno::EINVAL)
    }

    /// What an administrator should look at.
    #[expect(clippy::wildcard_enum_match_arm, reason = "of the many errors these are the ones that have a cure")]
    pub(crate) fn why(&self) -> &'static str {
        match self.errno {
            Errno::ENOENT => "there is no such socket; is the daemon running?",
            Errno::ECONNREFUSED => "nobody listens there; is the daemon running?",
            Errno::EACCES | Errno::EPERM => {
                "Apache's user may not connect: look at the permissions of the socket and its directories"
            }
            Errno::EAGAIN => "the daemon is overloaded or stuck: its backlog stays full",
            Errno::ENOTSOCK => "it is not a socket",
            Errno::EPROTOTYPE => "it is neither a SOCK_SEQPACKET nor a SOCK_STREAM socket",
            Errno::EMSGSIZE => {
                "the payload does not fit into one message; SocketHandoffEnvelope On passes large ones by a file"
            }
            Errno::ENAMETOOLONG => "the path is too long for a Unix socket (107 bytes)",
            Errno::ETOOMANYREFS => "too many sockets are on their way to the daemon (Apache's LimitNOFILE)",
            other => other.desc(),
        }
    }
}

/// Sends the message to the first daemon that takes it.
///
/// # Errors
/// When none does.
pub(crate) fn hand_over(
    paths: &[PathBuf],
    message: &[u8],
    fds: &[BorrowedFd<'_>],
    patience: Patience,
) -> Result<PathBuf, Unsent> {
    let mut pause = FIRST_PAUSE;
    let mut round = 0;
    loop {
        let mut last = Unsent { path: PathBuf::new(), errno: Errno::ENOENT };
        let mut may_come_back = false;
        for path in paths {
            match try_one(path, message, fds, patience) {
                Ok(()) => return Ok(path.clone()),
                Err(errno) => {
                    may_come_back |= matches!(errno, Errno::ENOENT | Errno::ECONNREFUSED);
                    last = Unsent { path: path.clone(), errno };
                }
            }
        }
        if !may_come_back || round == patience.retries {
            return Err(last);
        }
        round += 1;
        rest(pause);
        pause *= 2;
    }
}

fn try_one(path: &Path, message: &[u8], fds: &[BorrowedFd<'_>], patience: Patience) -> nix::Result<()> {
    let daemon = match dial(path, SockType::SeqPacket, patience.connect) {
        // A daemon of the time before SOCK_SEQPACKET.
        Err(Errno::EPROTOTYPE) => dial(path, SockType::Stream, patience.connect),
        result => result,
    }?;
    setsockopt(&daemon, sockopt::SendTimeout, &time_value(patience.send))?;
    if message.len() > 64 * 1024 {
        // As much as the kernel allows; what does not fit then is EMSGSIZE.
        let _ = setsockopt(&daemon, sockopt::SndBuf, &(2 * message.len()));
    }
    let raw: Vec<RawFd> = fds.iter().map(AsRawFd::as_raw_fd).collect();
    // A message needs a byte to carry an fd.
    let message = if message.is_empty() { b"\0" } else { message };
    let sent = loop {
        let rights = [ControlMessage::ScmRights(&raw)];
        match sendmsg::<()>(
            daemon.as_raw_fd(),
            &[IoSlice::new(message)],
            &rights,
            MsgFlags::MSG_NOSIGNAL,
            None,
        ) {
            Err(Errno::EINTR) => {}
            result => break result?,
        }
    };
    // A seqpacket takes all or nothing. With a stream's first bytes the client is the daemon's, who answers for a
    // payload that is cut here: to answer as well would be to answer twice.
    let _ = UnixStream::from(daemon).write_all(&message[sent..]);
    Ok(())
}

fn dial(path: &Path, kind: SockType, timeout: Duration) -> nix::Result<OwnedFd> {
    let daemon = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&daemon, sockopt::SendTimeout, &time_value(timeout))?;
    let address = UnixAddr::new(path)?;
    loop {
        match connect(daemon.as_raw_fd(), &address) {
            Err(Errno::EINTR) => {}
            result => return result.map(|()| daemon),
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "there is nothing to wait for but time: the daemon may come back"
)]
fn rest(pause: Duration) {
    thread::sleep(pause);
}

fn time_value(duration: Duration) -> TimeVal {
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    TimeVal::new(seconds, i64::from(duration.subsec_micros()))
}
