//! One ordered channel between the supervisor and a worker, typed at both ends: reading what you should write
//! does not compile. One message is one packet of a `SOCK_SEQPACKET` socket pair.
//!
//! Never: blocks, keeps a message back, forgets last words: after a worker's death its messages are read to
//! the end, also past ECONNRESET, which the kernel reports before them.

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, setsockopt, socketpair, sockopt};
use tokio::io::Interest;

use crate::codec::{self, DecodeError, EncodeError, Message};
use crate::fdpass::{self, Watched};
use crate::limits::PACKET_BYTES_MAX;
use crate::message::{ToSupervisor, ToWorker};

/// The supervisor's end. The runtime does not watch it: the supervisor decides itself when it listens to whom.
pub type SupervisorChannel = Channel<ToWorker, ToSupervisor, OwnedFd>;
/// A worker's end.
pub type WorkerChannel = Channel<ToSupervisor, ToWorker, Watched>;

/// One end: sends `S`, receives `R`, on a socket `K`.
#[derive(Debug)]
pub struct Channel<S, R, K> {
    socket: K,
    /// A duplicate, watched for room while there is none: at other times each message that the other side reads would
    /// wake us.
    full: Option<Watched>,
    packet: Vec<u8>,
    buffer: Box<[u8]>,
    directions: PhantomData<fn(S) -> R>,
}

/// The fds that came with a message.
#[derive(Debug, Default)]
pub struct Fds {
    /// In the order in which they were sent.
    pub received: Vec<OwnedFd>,
    /// Some were lost on the way, the last ones first: too many, or we are at our own fd limit.
    pub lost: bool,
}

/// A message that did not leave.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// The socket is full: the other side has not read for a while.
    #[error("channel is full")]
    Full,
    /// Processes of this user have more fds on their way, all together, than our limit of open files (unix(7),
    /// ETOOMANYREFS). They arrive some time; the socket does not tell when.
    #[error("more fds of this user are on their way than its limit of open files allows")]
    TooManyFdsUnderWay,
    /// The other side is gone.
    #[error("channel is closed")]
    Closed,
    /// The message does not fit a packet.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The kernel refused it for another reason.
    #[error("channel cannot be written")]
    Io(#[source] io::Error),
}

/// A message that did not arrive as one.
#[derive(Debug, thiserror::Error)]
pub enum ReceiveError {
    /// The other side is gone, and everything it said has been read.
    #[error("channel is closed")]
    Closed,
    /// The bytes are no message.
    #[error(transparent)]
    Decode(#[from] DecodeError),
    /// The socket cannot be read.
    #[error("channel cannot be read")]
    Io(#[source] io::Error),
}

/// A fresh pair of connected sockets, close-on-exec: the supervisor's end and the worker's.
///
/// # Errors
/// When we are out of fds.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags)?;
    for end in [&ours, &theirs] {
        // Room for a burst. The kernel caps it to net.core.wmem_max; credits bound what is in flight.
        setsockopt(end, sockopt::SndBuf, &(4 * PACKET_BYTES_MAX))?;
    }
    Ok((ours, theirs))
}

impl SupervisorChannel {
    /// Makes an end of a connected, non-blocking SEQPACKET socket.
    #[must_use]
    pub fn new(socket: OwnedFd) -> Self {
        Self::on(socket)
    }
}

impl WorkerChannel {
    /// Makes an end of a connected, non-blocking SEQPACKET socket.
    ///
    /// # Errors
    /// When the runtime cannot watch it.
    pub fn new(socket: OwnedFd) -> io::Result<Self> {
        Ok(Self::on(Watched::new(socket, Interest::READABLE)?))
    }
}

impl<S: Message, R: Message> Channel<S, R, Watched> {
    /// As [`Self::try_receive`], but wakes the task when a message comes.
    ///
    /// # Errors
    /// Each means that this channel is of no further use.
    pub fn poll_receive(&mut self, cx: &mut Context<'_>) -> Poll<Result<(R, Fds), ReceiveError>> {
        loop {
            ready!(self.socket.poll_read_ready(cx)).map_err(ReceiveError::Io)?.retain_ready();
            match self.try_receive() {
                Ok(Some(message)) => return Poll::Ready(Ok(message)),
                Err(error) => return Poll::Ready(Err(error)),
                Ok(None) => ready!(self.socket.poll_read_ready(cx)).map_err(ReceiveError::Io)?.clear_ready(),
            }
        }
    }
}

impl<S: Message, R: Message, K: AsFd> Channel<S, R, K> {
    fn on(socket: K) -> Self {
        Self {
            socket,
            full: None,
            packet: Vec::new(),
            buffer: vec![0; PACKET_BYTES_MAX].into_boxed_slice(),
            directions: PhantomData,
        }
    }

    /// Sends one message with duplicates of these fds, or nothing.
    ///
    /// # Errors
    /// After [`SendError::Full`] and [`SendError::TooManyFdsUnderWay`] trying again makes sense; after no other.
    pub fn try_send(&mut self, message: &S, fds: &[BorrowedFd<'_>]) -> Result<(), SendError> {
        codec::encode(message, &mut self.packet)?;
        match fdpass::send(self.socket.as_fd(), &self.packet, fds) {
            Ok(_) => {
                self.full = None;
                Ok(())
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Err(SendError::Full),
            Err(error) if error.raw_os_error() == Some(Errno::ETOOMANYREFS as i32) => {
                Err(SendError::TooManyFdsUnderWay)
            }
            Err(error) if is_closed(&error) => Err(SendError::Closed),
            Err(error) => Err(SendError::Io(error)),
        }
    }

    /// Receives one message and its fds; `None` when there is none now.
    ///
    /// # Errors
    /// Each means that this channel is of no further use.
    pub fn try_receive(&mut self) -> Result<Option<(R, Fds)>, ReceiveError> {
        match self.receive_packet() {
            Ok((bytes, fds)) => self.open_packet(bytes, fds).map(Some),
            Err(ReceiveError::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// How many bytes the other side has not read yet, the kernel's own included.
    #[must_use]
    pub fn unread_bytes(&self) -> u64 {
        fdpass::unsent_bytes(self.socket.as_fd()).unwrap_or(0)
    }

    /// After [`SendError::Full`]: resolves when the socket takes messages again. Where that cannot be watched (we are out
    /// of fds), it does not: whoever has something to say tries again some time.
    pub fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.full.is_none() {
            let duplicate = self.socket.as_fd().try_clone_to_owned();
            self.full = duplicate.and_then(|socket| Watched::new(socket, Interest::WRITABLE)).ok();
        }
        let Some(full) = &self.full else { return Poll::Pending };
        match ready!(full.poll_write_ready(cx)) {
            Ok(mut ready) => {
                ready.clear_ready();
                Poll::Ready(())
            }
            Err(_) => Poll::Pending,
        }
    }

    fn receive_packet(&mut self) -> Result<(usize, Fds), ReceiveError> {
        loop {
            match fdpass::receive(self.socket.as_fd(), &mut self.buffer) {
                // The other side died with unread messages of ours; its own last words come after this.
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ReceiveError::Io(error)),
                Ok(received) if received.bytes == 0 => return Err(ReceiveError::Closed),
                Ok(received) => {
                    return Ok((received.bytes, Fds { received: received.fds, lost: received.fds_lost }));
                }
            }
        }
    }

    fn open_packet(&self, bytes: usize, fds: Fds) -> Result<(R, Fds), ReceiveError> {
        Ok((codec::decode(&self.buffer[..bytes])?, fds))
    }
}

impl<S, R, K: AsFd> AsFd for Channel<S, R, K> {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

/// Waits for the first message on a socket that no runtime watches yet.
///
/// # Errors
/// As of [`Channel::try_receive`]; `TimedOut` when none comes in time. Fds that come along are closed.
pub fn first_message<R: Message>(socket: BorrowedFd<'_>, patience: Duration) -> Result<R, ReceiveError> {
    let deadline = Instant::now() + patience;
    let mut buffer = vec![0; PACKET_BYTES_MAX];
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(ReceiveError::Io(io::ErrorKind::TimedOut.into()));
        }
        let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
        match poll(&mut [PollFd::new(socket, PollFlags::POLLIN)], timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(errno) => return Err(ReceiveError::Io(errno.into())),
        }
        match fdpass::receive(socket, &mut buffer) {
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(ReceiveError::Io(error)),
            Ok(received) if received.bytes == 0 => return Err(ReceiveError::Closed),
            Ok(received) => return Ok(codec::decode(&buffer[..received.bytes])?),
        }
    }
}

fn is_closed(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::BrokenPipe | io::ErrorKind::ConnectionReset)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::LeaseId;

    fn ends() -> (SupervisorChannel, WorkerChannel) {
        let (ours, theirs) = pair().unwrap();
        (SupervisorChannel::new(ours), WorkerChannel::new(theirs).unwrap())
    }

    #[tokio::test]
    async fn messages_arrive_whole_and_in_order() {
        let (mut supervisor, mut worker) = ends();
        supervisor.try_send(&ToWorker::Drain { remaining_ms: 1 }, &[]).unwrap();
        supervisor.try_send(&ToWorker::Resync { ticket: 1, fd_budget: 2 }, &[]).unwrap();
        assert_eq!(worker.try_receive().unwrap().unwrap().0, ToWorker::Drain { remaining_ms: 1 });
        assert_eq!(worker.try_receive().unwrap().unwrap().0, ToWorker::Resync { ticket: 1, fd_budget: 2 });
        assert!(worker.try_receive().unwrap().is_none());
    }

    #[test]
    fn the_first_message_is_waited_for_without_a_runtime_but_not_for_ever() {
        let (ours, theirs) = pair().unwrap();
        let patience = Duration::from_millis(20);
        let late = first_message::<ToWorker>(theirs.as_fd(), patience);
        assert!(matches!(late, Err(ReceiveError::Io(error)) if error.kind() == io::ErrorKind::TimedOut));
        let mut packet = Vec::new();
        codec::encode(&ToWorker::Drain { remaining_ms: 1 }, &mut packet).unwrap();
        fdpass::send(ours.as_fd(), &packet, &[]).unwrap();
        let first: ToWorker = first_message(theirs.as_fd(), patience).unwrap();
        assert_eq!(first, ToWorker::Drain { remaining_ms: 1 });
        drop(ours);
        assert!(matches!(first_message::<ToWorker>(theirs.as_fd(), patience), Err(ReceiveError::Closed)));
    }

    #[tokio::test]
    async fn last_words_are_read_past_a_reset() {
        let (mut supervisor, mut worker) = ends();
        let taken = ToSupervisor::Taken { leases: vec![LeaseId::first(3)] };
        worker.try_send(&taken, &[]).unwrap();
        supervisor.try_send(&ToWorker::Drain { remaining_ms: 1 }, &[]).unwrap();
        drop(worker); // with an unread message: the kernel resets
        assert_eq!(supervisor.try_receive().unwrap().unwrap().0, taken);
        assert!(matches!(supervisor.try_receive(), Err(ReceiveError::Closed)));
    }

    #[tokio::test]
    async fn a_full_channel_gives_the_message_back() {
        let (mut supervisor, mut worker) = ends();
        let mut sent = 0u64;
        while supervisor.try_send(&ToWorker::Drain { remaining_ms: sent }, &[]).is_ok() {
            sent += 1;
        }
        assert!(matches!(
            supervisor.try_send(&ToWorker::Drain { remaining_ms: sent }, &[]),
            Err(SendError::Full)
        ));
        for expected in 0..sent {
            assert_eq!(worker.try_receive().unwrap().unwrap().0, ToWorker::Drain { remaining_ms: expected });
        }
    }

    #[tokio::test]
    async fn who_waits_for_room_is_woken_when_there_is_some_and_not_before() {
        let (mut supervisor, mut worker) = ends();
        let message = ToWorker::Drain { remaining_ms: 1 };
        while supervisor.try_send(&message, &[]).is_ok() {}
        let mut room = std::pin::pin!(std::future::poll_fn(|cx| supervisor.poll_writable(cx)));
        let early = tokio::time::timeout(Duration::from_millis(20), room.as_mut()).await;
        assert!(early.is_err(), "there is no room yet");
        while worker.try_receive().unwrap().is_some() {}
        tokio::time::timeout(Duration::from_secs(5), room).await.expect("there is room");
        supervisor.try_send(&message, &[]).unwrap();
        assert!(supervisor.full.is_none(), "room is watched for only while there is none");
    }

    #[tokio::test]
    async fn a_waiting_reader_is_woken_by_each_message() {
        let (mut supervisor, mut worker) = ends();
        let reader = async {
            for expected in 0..100 {
                let (message, _) = std::future::poll_fn(|cx| worker.poll_receive(cx)).await.unwrap();
                assert_eq!(message, ToWorker::Drain { remaining_ms: expected });
            }
        };
        let writer = async {
            for remaining_ms in 0..100 {
                supervisor.try_send(&ToWorker::Drain { remaining_ms }, &[]).unwrap();
                tokio::task::yield_now().await;
            }
        };
        tokio::join!(reader, writer);
    }
}
