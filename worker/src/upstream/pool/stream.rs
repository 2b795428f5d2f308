//! A connected socket, whatever is below it, and what is seen going by. In: sockets, TLS. Out: bytes; facts about the
//! connection. Never: changes a byte.

use std::cell::{Cell, OnceCell, RefCell};
use std::fmt;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::client::legacy::connect::{Connected, Connection};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

use super::error::Shared;
use super::frames::{Frames, Said};

/// What a peer said before it closed is here by then.
const LAST_WORDS_TIMEOUT: Duration = Duration::from_millis(50);

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
    /// What broke it.
    pub(super) failure: OnceCell<Shared>,
}

/// A stream with a listener, who is told when it is dropped.
pub(super) struct Watched<L: Listen> {
    stream: Stream,
    seen: Rc<Seen>,
    frames: Option<RefCell<Frames>>,
    listener: L,
    /// Runs while a connection that takes nothing any more is heard out.
    last_words: Option<Pin<Box<Sleep>>>,
}

impl<L: Listen> Watched<L> {
    /// `frames`: whether this is HTTP/2.
    pub(super) fn new(stream: Stream, seen: Rc<Seen>, frames: bool, listener: L) -> Self {
        Self { stream, seen, frames: frames.then(RefCell::default), listener, last_words: None }
    }

    /// Who is not written to any more may have said why (a TLS alert, RFC 8446, section 6), and tokio may not know yet
    /// that there is something to read. A read of nothing finds it, and takes no byte of an answer.
    fn failed(&mut self, cx: &mut Context<'_>, error: io::Error) -> Poll<io::Error> {
        match Pin::new(&mut self.stream).poll_read(cx, &mut ReadBuf::new(&mut [])) {
            Poll::Ready(Err(said)) => return Poll::Ready(self.broke(said)),
            Poll::Ready(Ok(())) => {}
            Poll::Pending => {
                ready!(
                    self.last_words
                        .get_or_insert_with(|| Box::pin(sleep(LAST_WORDS_TIMEOUT)))
                        .as_mut()
                        .poll(cx)
                );
            }
        }
        Poll::Ready(self.broke(error))
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        match result {
            Poll::Ready(Err(error)) => self.failed(cx, error).map(Err),
            Poll::Ready(Ok(_)) | Poll::Pending => result,
        }
    }

    /// Keeps what broke the connection: hyper may only know that its task has gone.
    fn broke(&self, error: io::Error) -> io::Error {
        let kind = error.kind();
        io::Error::new(kind, self.seen.failure.get_or_init(|| Shared::new(error)).clone())
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
        let read = ready!(Pin::new(&mut self.stream).poll_read(cx, buf));
        if let Err(error) = read {
            return Poll::Ready(Err(self.broke(error)));
        }
        self.look(&buf.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

impl<L: Listen + Unpin> AsyncWrite for Watched<L> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(cx, buf);
        self.written(cx, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(cx);
        self.written(cx, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(cx, bufs);
        self.written(cx, result)
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

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;
    use tokio::time::Instant;

    use super::*;

    /// Does not take anything any more; what there is to read says why.
    struct Gone(Option<&'static str>);

    impl AsyncRead for Gone {
        fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
            self.0.map_or(Poll::Pending, |why| {
                Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, why)))
            })
        }
    }

    impl AsyncWrite for Gone {
        fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()))
        }

        fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
            Poll::Ready(Ok(()))
        }
    }

    struct Deaf;

    impl Listen for Deaf {
        fn said(&self, _: Said) {}
        fn closed(&self) {}
    }

    #[tokio::test(start_paused = true)]
    async fn who_takes_nothing_any_more_is_heard_out() {
        for (why, kept) in [(Some("fatal alert"), "fatal alert"), (None, "broken pipe")] {
            let seen = Rc::<Seen>::default();
            let mut stream = Watched::new(Stream::new(Gone(why)), Rc::clone(&seen), true, Deaf);
            let began = Instant::now();
            let error = stream.write(b"question").await.unwrap_err();
            assert_eq!(
                (error.to_string().as_str(), began.elapsed() >= LAST_WORDS_TIMEOUT),
                (kept, why.is_none())
            );
            assert_eq!(seen.failure.get().map(Shared::to_string).as_deref(), Some(kept));
        }
    }
}
