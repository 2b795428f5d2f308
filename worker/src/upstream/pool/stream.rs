//! A connected socket, whatever is below it, and what is seen going by. In: sockets, TLS. Out: bytes; facts about the
//! connection. Never: changes a byte.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::frames::{Frames, Said};

/// Bytes to and from a server or a proxy.
pub(super) struct Stream(Box<dyn Io>);

trait Io: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Stream {
    pub(super) fn new(io: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self(Box::new(io))
    }
}

impl fmt::Debug for Stream {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stream")
    }
}

impl Connection for Stream {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

/// Who listens to a connection.
pub(super) trait Listen {
    /// The server said something about it.
    fn said(&self, said: Said);
    /// The socket is closed.
    fn closed(&self);
}

/// What went by on a connection.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Bytes from the server.
    pub(super) read_bytes: Cell<u64>,
}

/// A stream with a listener, who is told when it is dropped.
pub(super) struct Watched<L: Listen> {
    stream: Stream,
    seen: Rc<Seen>,
    frames: Option<RefCell<Frames>>,
    listener: L,
}

impl<L: Listen> Watched<L> {
    /// `frames`: whether this is HTTP/2.
    pub(super) fn new(stream: Stream, seen: Rc<Seen>, frames: bool, listener: L) -> Self {
        Self { stream, seen, frames: frames.then(RefCell::default), listener }
    }

    fn look(&self, bytes: &[u8]) {
        let read_bytes = self.seen.read_bytes.get();
        self.seen.read_bytes.set(read_bytes + bytes.len() as u64);
        if let Some(frames) = &self.frames {
            frames.borrow_mut().read(bytes, |said| self.listener.said(said));
        }
    }
}

impl<L: Listen> Drop for Watched<L> {
    fn drop(&mut self) {
        self.listener.closed();
    }
}

impl<L: Listen + Unpin> AsyncRead for Watched<L> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        ready!(Pin::new(&mut self.stream).poll_read(cx, buf))?;
        self.look(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<L: Listen + Unpin> AsyncWrite for Watched<L> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Stream {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut *self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut *self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}
