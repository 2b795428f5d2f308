//! The body of a response. In: hyper's. Out: bytes, then the end or an error. Never: reads ahead; takes a stream that
//! was given up for one that has ended.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use hyper::body::{Body as _, Bytes, Incoming};

use super::connection::Place;
use super::error::BodyError;

/// The body of a response. Dropped before its end: the stream is reset (HTTP/2: RST_STREAM with CANCEL), or the
/// connection closed (HTTP/1.1).
#[derive(Debug)]
pub struct Body {
    // Before the place: the stream is reset when the place is given to somebody else.
    incoming: Incoming,
    /// None: the end has come.
    place: Option<Place>,
    has_known_end: bool,
}

impl Body {
    /// `has_known_end`: the server says in its own way where the end is.
    pub(super) fn new(incoming: Incoming, place: Place, has_known_end: bool) -> Self {
        let mut body = Self { incoming, place: Some(place), has_known_end };
        if body.incoming.is_end_stream() {
            body.end();
        }
        body
    }

    /// The next piece; none: the clean end (END_STREAM, the last chunk, or all of Content-Length).
    ///
    /// # Errors
    /// The connection or the stream broke. A body that ends with its connection (HTTP/1.0) ends cleanly.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        while let Some(place) = &self.place {
            match ready!(Pin::new(&mut self.incoming).poll_frame(cx)) {
                // Trailers are nothing to us.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Poll::Ready(Some(Ok(bytes))),
                    Ok(_) | Err(_) => {}
                },
                Some(Err(error)) => {
                    self.place = None;
                    return Poll::Ready(Some(Err(BodyError::Broken(error))));
                }
                // hyper ends a body also when the server gives its stream up without an error.
                None if place.is_http2() && !self.incoming.is_end_stream() => {
                    self.place = None;
                    return Poll::Ready(Some(Err(BodyError::GivenUp)));
                }
                None => self.end(),
            }
        }
        Poll::Ready(None)
    }

    /// A clean end is the server's own word: END_STREAM, the last chunk, or all of Content-Length. Else it is that of
    /// the connection (RFC 9112, section 6.3), which ends no otherwise when the server dies.
    #[must_use]
    pub fn has_known_end(&self) -> bool {
        self.has_known_end
    }

    fn end(&mut self) {
        if let Some(place) = self.place.take() {
            place.end();
        }
    }
}
