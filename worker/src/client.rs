//! A client's socket. In: bytes to write. Out: bytes written, and the news that the client is gone.
//!
//! Never: blocks, closes with unread bytes where it can help it (the kernel would reset the connection and the
//! client would lose the tail), waits without watching whether the client is still there.

use std::future::poll_fn;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use handoff_config::HalfClose;
use handoff_shared::fdpass::{self, Watched};
use nix::errno::Errno;
use nix::sys::socket::{MsgFlags, Shutdown, recv, send, setsockopt, shutdown, sockopt};
use tokio::io::Interest;
use tokio::time::timeout;

use crate::cut::{Leash, Why};

/// Request bytes that are read away for one client: a pipelined request, the rest of a body.
const DISCARDED_BYTES_MAX: usize = 1024 * 1024;

/// How often within `write_timeout` it is asked whether the client has taken anything.
const LOOKS_PER_WRITE_TIMEOUT: u32 = 4;

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    socket: Rc<Watched>,
    half_close: HalfClose,
    pub(crate) write_timeout: Duration,
    discarded_bytes: usize,
    /// It has sent its FIN, which does not count as leaving.
    has_half_closed: bool,
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

/// A client's socket, made ready for writing without blocking.
///
/// # Errors
/// When the kernel does not know it as a connected socket.
pub(crate) fn watch(socket: OwnedFd) -> io::Result<Rc<Watched>> {
    fdpass::set_nonblocking(socket.as_fd())?;
    // A Unix socket has no such option.
    let _ = setsockopt(&socket, sockopt::TcpNoDelay, &true);
    Ok(Rc::new(Watched::new(socket, Interest::READABLE | Interest::WRITABLE)?))
}

impl Client {
    /// Takes a client over.
    pub(crate) fn new(socket: Rc<Watched>, half_close: HalfClose, write_timeout: Duration) -> Self {
        Self { socket, half_close, write_timeout, discarded_bytes: 0, has_half_closed: false }
    }

    /// Writes all of it. Each byte of progress starts `write_timeout` again.
    pub(crate) async fn write(&mut self, mut bytes: &[u8], leash: Leash<'_>) -> Result<(), WriteError> {
        while !bytes.is_empty() {
            match self.try_write(bytes) {
                Ok(written) => bytes = &bytes[written..],
                Err(Errno::EAGAIN) => self.wait_writable(leash).await?,
                Err(Errno::EINTR) => {}
                Err(_) => return Err(WriteError::Gone),
            }
        }
        Ok(())
    }

    /// Ready when the client is gone. What it sends meanwhile is read and thrown away.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut scratch = [0; 4096];
        while self.reads() {
            let Poll::Ready(ready) = self.socket.poll_read_ready(cx) else { return Poll::Pending };
            match recv(self.socket.as_raw_fd(), &mut scratch, MsgFlags::MSG_DONTWAIT) {
                Ok(0) if self.half_close == HalfClose::Gone => return Poll::Ready(()),
                Ok(0) => self.has_half_closed = true,
                Ok(bytes) => self.discarded_bytes += bytes,
                Err(Errno::EAGAIN) => match ready {
                    Ok(mut ready) => ready.clear_ready(),
                    Err(_) => return Poll::Ready(()),
                },
                Err(Errno::EINTR) => {}
                Err(_) => return Poll::Ready(()),
            }
        }
        self.poll_reset(cx)
    }

    /// Whether anything that the client sends is of interest.
    fn reads(&self) -> bool {
        !self.has_half_closed && self.discarded_bytes < DISCARDED_BYTES_MAX
    }

    /// Ready when the connection is reset. For a client from which nothing more is read, that is all that
    /// counts. Readiness to write is forgotten: who wants to write tries first.
    fn poll_reset(&self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match self.socket.poll_write_ready(cx) {
                Poll::Ready(Ok(ready)) if ready.ready().is_write_closed() => return Poll::Ready(()),
                Poll::Ready(Ok(mut ready)) => ready.clear_ready(),
                Poll::Ready(Err(_)) => return Poll::Ready(()),
                Poll::Pending => return Poll::Pending,
            }
        }
    }

    /// Ends the stream towards the client, then reads until it hangs up, or for at most `linger`.
    pub(crate) async fn finish(mut self, linger: Duration, leash: Leash<'_>) {
        // Not only close: the supervisor's dup keeps the connection open.
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Write);
        self.half_close = HalfClose::Gone;
        // What was thrown away before does not count here: the tail is worth as much again.
        self.discarded_bytes = 0;
        if self.reads() {
            tokio::select! {
                biased;
                _ = timeout(linger, poll_fn(|cx| self.poll_gone(cx))) => {}
                _ = leash.silence() => {}
            }
        }
    }

    /// Nothing more is to be said to somebody who does not listen. The supervisor's dup must not keep the
    /// connection open.
    pub(crate) fn abort(&self) {
        let _ = shutdown(self.socket.as_raw_fd(), Shutdown::Both);
    }

    fn try_write(&self, bytes: &[u8]) -> nix::Result<usize> {
        send(
            self.socket.get_ref().as_fd().as_raw_fd(),
            bytes,
            MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT,
        )
    }

    /// Waits for room in the socket's buffer. The kernel reports it only when a large part is free, which takes
    /// a slow reader long: as long as the buffer empties at all, the client is waited for.
    async fn wait_writable(&mut self, leash: Leash<'_>) -> Result<(), WriteError> {
        let patience = self.write_timeout / LOOKS_PER_WRITE_TIMEOUT;
        let mut unsent = fdpass::unsent_bytes(self.socket.get_ref().as_fd());
        let mut looks_left = LOOKS_PER_WRITE_TIMEOUT;
        while looks_left > 0 {
            // Room first: whoever looks for a reset forgets that there was any.
            let change = poll_fn(|cx| match self.poll_writable(cx) {
                Poll::Ready(()) => Poll::Ready(Ok(())),
                Poll::Pending => self.poll_gone(cx).map(|()| Err(WriteError::Gone)),
            });
            tokio::select! {
                biased;
                change = timeout(patience, change) => if let Ok(change) = change { return change },
                why = leash.silence() => return Err(WriteError::Cut(why)),
            }
            let before = std::mem::replace(&mut unsent, fdpass::unsent_bytes(self.socket.get_ref().as_fd()));
            looks_left = if unsent < before { LOOKS_PER_WRITE_TIMEOUT } else { looks_left - 1 };
        }
        Err(WriteError::TooSlow)
    }

    /// The readiness that led to EAGAIN is stale: forget it, and wait for the next.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self.socket.poll_write_ready(cx) {
            Poll::Ready(Ok(mut ready)) => {
                ready.clear_ready();
                Poll::Ready(())
            }
            Poll::Ready(Err(_)) => Poll::Ready(()),
            Poll::Pending => Poll::Pending,
        }
    }
}
