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
    #[expect(
        clippy::wildcard_enum_match_arm,
        reason = "of the many errors these are the ones that have a cure"
    )]
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

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{IoSliceMut, Read};
    use std::os::fd::AsFd;
    use std::os::unix::net::UnixListener;
    use std::time::Instant;

    use nix::sys::socket::{Backlog, ControlMessageOwned, bind, listen, recvmsg};
    use nix::unistd::close;
    use tempfile::TempDir;

    const PATIENCE: Patience =
        Patience { connect: Duration::from_millis(100), send: Duration::from_millis(200), retries: 2 };
    const LONG: Duration = Duration::from_secs(5);

    fn room() -> (TempDir, PathBuf) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("a.sock");
        (directory, path)
    }

    fn listener(path: &Path, backlog: i32) -> UnixListener {
        let listener =
            socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
        bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
        listen(&listener, Backlog::new(backlog).unwrap()).unwrap();
        listener.into()
    }

    fn give(paths: &[PathBuf], message: &[u8], patience: Patience) -> Result<PathBuf, Unsent> {
        let (client, _peer) = UnixStream::pair().unwrap();
        hand_over(paths, message, &[client.as_fd()], patience)
    }

    /// Of ten times: a machine that is busy has some slow ones.
    fn fastest(run: impl Fn()) -> Duration {
        let time = |_| {
            let begun = Instant::now();
            run();
            begun.elapsed()
        };
        (0..10).map(time).min().unwrap()
    }

    /// Message and number of fds.
    fn take(listener: &UnixListener) -> (Vec<u8>, usize) {
        let (peer, _) = listener.accept().unwrap();
        let (mut buffer, mut control) = (vec![0; 256 * 1024], nix::cmsg_space!([RawFd; 4]));
        let mut slices = [IoSliceMut::new(&mut buffer)];
        let received =
            recvmsg::<()>(peer.as_raw_fd(), &mut slices, Some(&mut control), MsgFlags::empty()).unwrap();
        let mut fds = 0;
        for message in received.cmsgs().unwrap() {
            if let ControlMessageOwned::ScmRights(rights) = message {
                fds += rights.len();
                rights.into_iter().for_each(|fd| close(fd).unwrap());
            }
        }
        let bytes = received.bytes;
        (buffer[..bytes].to_vec(), fds)
    }

    #[test]
    fn one_message_carries_the_payload_and_the_socket() {
        let (_directory, path) = room();
        let daemon = listener(&path, 8);
        for (message, arrives) in
            [(&b"{}"[..], &b"{}"[..]), (b"", b"\0"), (&[b'x'; 150_000], &[b'x'; 150_000])]
        {
            assert_eq!(give(std::slice::from_ref(&path), message, PATIENCE), Ok(path.clone()));
            assert!(take(&daemon) == (arrives.to_vec(), 1));
        }
    }

    #[test]
    fn the_first_daemon_that_is_there_gets_it() {
        let (directory, path) = room();
        let (none, dead) = (directory.path().join("none.sock"), directory.path().join("dead.sock"));
        drop(listener(&dead, 8));
        let daemon = listener(&path, 8);
        let list = [none, dead, path.clone()];
        let took = fastest(|| {
            assert_eq!(give(&list, b"{}", PATIENCE).as_ref(), Ok(&path));
            take(&daemon);
        });
        assert!(took < FIRST_PAUSE, "nothing is waited for while another daemon is there: {took:?}");
    }

    #[test]
    fn a_daemon_that_is_about_to_listen_is_waited_for() {
        let (_directory, path) = room();
        let late = path.clone();
        let patience = Patience { retries: 8, ..PATIENCE };
        let sender = thread::spawn(move || give(&[late], b"{}", patience));
        // Bound after its first attempt at the earliest, and long before its last one.
        rest(FIRST_PAUSE);
        let _daemon = listener(&path, 8);
        assert_eq!(sender.join().unwrap(), Ok(path));
    }

    #[test]
    fn a_daemon_that_is_away_is_said_to_be_after_all_retries() {
        let (_directory, path) = room();
        let begun = Instant::now();
        let unsent = give(std::slice::from_ref(&path), b"{}", PATIENCE).unwrap_err();
        assert_eq!(unsent, Unsent { path, errno: Errno::ENOENT });
        assert!(unsent.is_unavailable() && unsent.why().contains("is the daemon running"));
        assert!(begun.elapsed() >= 3 * FIRST_PAUSE, "two pauses, 10 and 20 milliseconds");
        let once = Patience { retries: 0, ..PATIENCE };
        let took = fastest(|| assert!(give(&[PathBuf::from("/nowhere/a.sock")], b"{}", once).is_err()));
        assert!(took < FIRST_PAUSE, "{took:?}");
    }

    #[test]
    fn a_burst_waits_its_turn_where_the_backlog_is_full() {
        let (_directory, path) = room();
        let daemon = listener(&path, 2);
        let patience = Patience { connect: LONG, ..PATIENCE };
        let senders: Vec<_> = (0..20)
            .map(|_| {
                let path = path.clone();
                thread::spawn(move || give(&[path], b"{}", patience))
            })
            .collect();
        for _ in 0..20 {
            assert_eq!(take(&daemon).1, 1);
        }
        assert!(senders.into_iter().all(|sender| sender.join().unwrap().is_ok()));
    }

    #[test]
    fn a_daemon_that_takes_nothing_is_waited_for_no_longer_than_configured() {
        let (_directory, path) = room();
        let _daemon = listener(&path, 0);
        let begun = Instant::now();
        let unsent = (0..4).find_map(|_| give(std::slice::from_ref(&path), b"{}", PATIENCE).err()).unwrap();
        assert_eq!(unsent.errno, Errno::EAGAIN);
        assert!(unsent.is_unavailable() && unsent.why().contains("backlog"));
        let elapsed = begun.elapsed();
        assert!(elapsed >= PATIENCE.connect && elapsed < LONG, "{elapsed:?}");
    }

    #[test]
    fn a_daemon_with_a_stream_socket_gets_all_of_it() {
        let (_directory, path) = room();
        let daemon = UnixListener::bind(&path).unwrap();
        let sender = thread::spawn({
            let path = path.clone();
            move || give(&[path], &vec![b'x'; 500_000], PATIENCE)
        });
        let mut message = Vec::new();
        daemon.accept().unwrap().0.read_to_end(&mut message).unwrap();
        assert_eq!((sender.join().unwrap(), message.len()), (Ok(path), 500_000));
    }

    #[test]
    fn a_daemon_that_reads_nothing_holds_its_sender_no_longer_than_configured() {
        let (_directory, path) = room();
        let _daemon = UnixListener::bind(&path).unwrap();
        let begun = Instant::now();
        // More than any socket's buffer; with the first bytes the client is the daemon's.
        assert_eq!(give(std::slice::from_ref(&path), &vec![b'x'; 64 << 20], PATIENCE), Ok(path));
        let elapsed = begun.elapsed();
        assert!(elapsed >= PATIENCE.send && elapsed < LONG, "{elapsed:?}");
    }

    #[test]
    fn what_fits_no_message_is_the_senders_fault() {
        let (_directory, path) = room();
        let _daemon = listener(&path, 8);
        let unsent = give(&[path], &vec![b'x'; 8 << 20], PATIENCE).unwrap_err();
        assert_eq!(unsent.errno, Errno::EMSGSIZE);
        assert!(!unsent.is_unavailable() && unsent.why().contains("SocketHandoffEnvelope On"));
    }
}
