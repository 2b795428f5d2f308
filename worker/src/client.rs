//! A client's socket. In: bytes to write. Out: bytes written, and the news that the client is gone.
//!
//! Never: blocks, closes with unread bytes where it can help it (the kernel would reset the connection and the
//! client would lose the tail), waits without watching whether the client is still there.

use std::future::poll_fn;
use std::os::fd::{AsFd, AsRawFd};
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use handoff_config::HalfClose;
use handoff_shared::fdpass;
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use rustix::event::epoll::EventFlags;
use tokio::time::timeout;

use crate::cut::{Leash, Why};
use crate::moment::{Millis, Moment};
use crate::poller::Port;
use crate::timers::Tick;

/// Request bytes that are read away for one client: a pipelined request, the rest of a body.
const DISCARDED_BYTES_MAX: u32 = 1024 * 1024;

/// How often within `write_timeout` it is asked whether the client has taken anything.
const LOOKS_PER_WRITE_TIMEOUT: u32 = 4;

/// A client that was never waited for hangs up soon after its last byte: to look after it a few times costs less than
/// to have it watched. The pauses between the looks.
const LOOKS: [Duration; 3] = [Duration::from_millis(1), Duration::from_millis(5), Duration::from_millis(20)];

/// Bytes from the client, or their end.
const READABLE: EventFlags = EventFlags::IN.union(EventFlags::RDHUP).union(RESET);
/// Room for bytes to the client.
const WRITABLE: EventFlags = EventFlags::OUT.union(RESET);
/// There is no connection any more.
const RESET: EventFlags = EventFlags::HUP.union(EventFlags::ERR);

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    port: Rc<Port>,
    half_close: HalfClose,
    write_timeout: Millis,
    discarded_bytes: u32,
    /// It has sent its FIN, which does not count as leaving.
    has_half_closed: bool,
    writes: Writes,
}

/// How much of a stream is out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Writes {
    None,
    One,
    /// Small ones do not wait for each other (tcp(7), TCP_NODELAY). The first waits for none, and is often the last.
    Many,
}

/// Why bytes did not go out.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteError {
    /// Reset, hung up, or half-closed where that counts.
    #[error("client is gone")]
    Gone,
    /// No byte for `write_timeout`.
    #[error("client does not read")]
    TooSlow,
    /// The session had to end, and the time for last words was over, while the client was not reading.
    #[error("the time for last words is over")]
    Cut(Why),
}

impl Client {
    /// Takes a client over.
    pub(crate) fn new(port: Rc<Port>, half_close: HalfClose, write_timeout: Duration) -> Self {
        let (discarded_bytes, has_half_closed, writes) = (0, false, Writes::None);
        let write_timeout = write_timeout.into();
        Self { port, half_close, write_timeout, discarded_bytes, has_half_closed, writes }
    }

    /// How long it may take no byte.
    pub(crate) fn wait_for(&mut self, write_timeout: Duration) {
        self.write_timeout = write_timeout.into();
    }

    /// Writes all of it. Each byte of progress starts `write_timeout` again.
    pub(crate) async fn write(&mut self, bytes: &[u8], leash: Leash<'_>) -> Result<(), WriteError> {
        let written = self.write_now(bytes)?;
        if written < bytes.len() {
            Box::pin(self.write_slowly(&bytes[written..], leash)).await?;
        }
        Ok(())
    }

    /// As much as there is room for.
    pub(crate) fn write_now(&mut self, bytes: &[u8]) -> Result<usize, WriteError> {
        let mut written = 0;
        while written < bytes.len() {
            match self.try_write(&bytes[written..]) {
                Ok(more) => written += more,
                Err(Errno::EAGAIN) => break,
                Err(Errno::EINTR) => {}
                Err(_) => return Err(WriteError::Gone),
            }
        }
        Ok(written)
    }

    /// The rest, as the client makes room for it.
    pub(crate) async fn write_slowly(
        &mut self,
        mut bytes: &[u8],
        leash: Leash<'_>,
    ) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            self.wait_writable(leash).await?;
            bytes = &bytes[self.write_now(bytes)?..];
        }
        Ok(())
    }

    /// Ready when the client is gone. What it sends meanwhile is read and thrown away.
    pub(crate) fn poll_gone(&mut self) -> Poll<()> {
        while self.reads() {
            if self.port.poll_ready(READABLE).is_pending() {
                return Poll::Pending;
            }
            // Forgotten first: what comes while we read rings again.
            self.port.forget(READABLE.difference(RESET));
            if self.read_away().is_ready() || self.port.poll_ready(RESET).is_ready() {
                return Poll::Ready(());
            }
        }
        // From whom nothing more is read, only a reset counts.
        self.port.poll_ready(RESET)
    }

    /// Reads what is there. Ready: the client is gone.
    fn read_away(&mut self) -> Poll<()> {
        let mut scratch = [0; 4096];
        while self.reads() {
            match recv(self.port.as_fd().as_raw_fd(), &mut scratch, MsgFlags::MSG_DONTWAIT) {
                Ok(0) if self.half_close == HalfClose::Gone => return Poll::Ready(()),
                Ok(0) => self.has_half_closed = true,
                Ok(bytes) => self.discarded_bytes += u32::try_from(bytes).unwrap_or(DISCARDED_BYTES_MAX),
                Err(Errno::EAGAIN) => return Poll::Pending,
                Err(Errno::EINTR) => {}
                Err(_) => return Poll::Ready(()),
            }
        }
        Poll::Pending
    }

    /// Whether anything that the client sends is of interest.
    fn reads(&self) -> bool {
        !self.has_half_closed && self.discarded_bytes < DISCARDED_BYTES_MAX
    }

    /// Ends the stream towards the client, then reads until it hangs up, or for at most `linger`.
    pub(crate) async fn finish(&mut self, linger: Duration, leash: Leash<'_>) {
        // Not only close: the supervisor's dup keeps the connection open.
        let _ = shutdown(self.port.as_fd().as_raw_fd(), Shutdown::Write);
        self.half_close = HalfClose::Gone;
        // What was thrown away before does not count here: the tail is worth as much again.
        self.discarded_bytes = 0;
        if self.reads() {
            let deadline = Instant::now() + linger;
            tokio::select! {
                biased;
                () = self.hung_up(deadline) => {}
                _ = leash.silence() => {}
            }
        }
    }

    /// Resolves when the client has hung up, or the deadline has come.
    async fn hung_up(&mut self, deadline: Instant) {
        for pause in LOOKS {
            if self.port.is_watched() {
                break;
            }
            let look = Tick::after(Moment::now() + pause).time().instant().min(deadline);
            tokio::time::sleep_until(look.into()).await;
            if self.read_away().is_ready() || look == deadline || !self.reads() {
                return;
            }
        }
        let _ = tokio::time::timeout_at(deadline.into(), poll_fn(|_| self.poll_gone())).await;
    }

    /// Nothing more is to be said to somebody who does not listen. The supervisor's dup must not keep the
    /// connection open.
    pub(crate) fn abort(&self) {
        let _ = shutdown(self.port.as_fd().as_raw_fd(), Shutdown::Both);
    }

    fn try_write(&mut self, bytes: &[u8]) -> nix::Result<usize> {
        self.writes = match self.writes {
            Writes::None => Writes::One,
            Writes::One => {
                // A Unix socket has no such option.
                let _ = setsockopt(&self.port.as_fd(), sockopt::TcpNoDelay, &true);
                Writes::Many
            }
            Writes::Many => Writes::Many,
        };
        send(self.port.as_fd().as_raw_fd(), bytes, MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT)
    }

    /// Waits for room in the socket's buffer. The kernel reports it only when a large part is free, which takes
    /// a slow reader long: as long as the buffer empties at all, the client is waited for.
    async fn wait_writable(&mut self, leash: Leash<'_>) -> Result<(), WriteError> {
        let patience = self.write_timeout.duration() / LOOKS_PER_WRITE_TIMEOUT;
        let mut unsent = fdpass::unsent_bytes(self.port.as_fd());
        let mut looks_left = LOOKS_PER_WRITE_TIMEOUT;
        while looks_left > 0 {
            // Room first: whoever looks for a reset forgets that there was any.
            let change = poll_fn(|_| match self.poll_writable() {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => self.poll_gone().map(|()| Err(WriteError::Gone)),
            });
            tokio::select! {
                biased;
                change = timeout(patience, change) => if let Ok(change) = change { return change },
                why = leash.silence() => return Err(WriteError::Cut(why)),
            }
            let before = std::mem::replace(&mut unsent, fdpass::unsent_bytes(self.port.as_fd()));
            looks_left = if unsent < before { LOOKS_PER_WRITE_TIMEOUT } else { looks_left - 1 };
        }
        Err(WriteError::TooSlow)
    }

    /// The readiness that led to EAGAIN is stale: forget it, and wait for the next.
    fn poll_writable(&self) -> Poll<()> {
        let ready = self.port.poll_ready(WRITABLE);
        self.port.forget(EventFlags::OUT);
        ready
    }
}
