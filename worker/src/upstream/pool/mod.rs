//! Connections to one origin, shared by all answers of a worker. In: requests. Out: responses, whose bodies are the
//! caller's to read.
//!
//! Never: reads ahead of the caller, sends a request that may have been seen a second time, follows a redirect,
//! lets one body that is not read stop the others.

use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use handoff_config::backend::{Connection, Timeouts};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;

/// Connections to one origin.
#[derive(Debug)]
pub struct Pool {}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Since the start.
    pub opened: u64,
    /// Now.
    pub open: u64,
    /// Requests that wait for a place, now.
    pub queued: u64,
}

/// How long the parts of a request may take; see [`Timeouts`].
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Name resolution and TCP.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// Waiting for a place on a connection.
    pub queue: Duration,
    /// All of it, until the head of the answer.
    pub head: Duration,
}

/// The body of a response. Dropped before its end: the stream is reset (HTTP/2: RST_STREAM with CANCEL), or the
/// connection closed (HTTP/1.1).
#[derive(Debug)]
pub struct Body {}

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Not in time.
    #[error("connecting took longer than {0:?}")]
    ConnectTimeout(Duration),
    /// The handshake failed.
    #[error("TLS failed")]
    Tls(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Not in time.
    #[error("the TLS handshake took longer than {0:?}")]
    TlsTimeout(Duration),
    /// All connections are full.
    #[error("no place on a connection for {0:?}")]
    QueueTimeout(Duration),
    /// The connection ended, and the server cannot have begun with this request (RFC 9113, 8.7: REFUSED_STREAM, or
    /// a GOAWAY below it; RFC 9112, 9.3.1: an idle connection that was closed).
    #[error("the request was not taken")]
    Unseen(#[source] hyper::Error),
    /// The connection ended, and the server may have begun.
    #[error("the connection broke before the answer")]
    Broken(#[source] hyper::Error),
    /// Not in time.
    #[error("no answer for {0:?}")]
    HeadTimeout(Duration),
}

impl Pool {
    /// Connections to the origin of `base`, none yet. `tls`: who is trusted, and who we are.
    #[must_use]
    pub fn new(base: &http::Uri, connection: &Connection, tls: Arc<rustls::ClientConfig>) -> Rc<Self> {
        let _ = (base, connection, tls);
        Rc::new(Self {})
    }

    /// Asks. `request` has a whole URI. Dropping the future cancels the request wherever it is.
    ///
    /// # Errors
    /// As in [`PoolError`].
    pub async fn send(
        self: &Rc<Self>,
        request: Request<Full<Bytes>>,
        patience: Patience,
    ) -> Result<Response<Body>, PoolError> {
        let _ = request;
        Err(PoolError::QueueTimeout(patience.queue))
    }

    /// For metrics.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        Gauges::default()
    }
}

impl Body {
    /// The next piece; none: the clean end (END_STREAM, the last chunk, or all of Content-Length).
    ///
    /// # Errors
    /// The connection or the stream broke. A body that ends with its connection (HTTP/1.0) ends cleanly.
    pub fn poll_bytes(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, hyper::Error>>> {
        Poll::Ready(None)
    }
}

impl From<&Timeouts> for Patience {
    fn from(timeouts: &Timeouts) -> Self {
        let Timeouts { connect, tls, queue, head, .. } = *timeouts;
        Self { connect, tls, queue, head }
    }
}
