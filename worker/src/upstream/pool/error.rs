//! Why there is no response, or not all of it. In: what the libraries say. Out: whose fault it is, and whether the
//! server can have seen the request. Never: a request, a key.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

/// Why there is no response.
#[derive(Debug, thiserror::Error)]
pub enum PoolError {
    /// No connection.
    #[error("cannot connect")]
    Connect(#[source] Box<dyn Error + Send + Sync>),
    /// Not in time.
    #[error("connecting took longer than {0:?}")]
    ConnectTimeout(Duration),
    /// The handshake failed.
    #[error("TLS failed")]
    Tls(#[source] Box<dyn Error + Send + Sync>),
    /// Not in time.
    #[error("the TLS handshake took longer than {0:?}")]
    TlsTimeout(Duration),
    /// All connections are full.
    #[error("no place on a connection for {0:?}")]
    QueueTimeout(Duration),
    /// The connection ended, and the server cannot have begun with this request (RFC 9113, 8.7: REFUSED_STREAM, or
    /// a GOAWAY below it; RFC 9112, 9.3.1: an idle connection that was closed).
    #[error("the request was not taken")]
    Unseen(#[source] Box<dyn Error + Send + Sync>),
    /// The connection ended, and the server may have begun.
    #[error("the connection broke before the answer")]
    Broken(#[source] Box<dyn Error + Send + Sync>),
    /// Not in time.
    #[error("no answer for {0:?}")]
    HeadTimeout(Duration),
}

/// A body that did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum BodyError {
    /// The connection or the stream broke.
    #[error("the connection broke within the answer")]
    Broken(#[source] hyper::Error),
    /// The server gave the stream up with the words that nothing is wrong (RFC 9113, 8.1: RST_STREAM with NO_ERROR),
    /// but without END_STREAM.
    #[error("the server gave up the stream before its end")]
    GivenUp,
}

/// A connection could not be opened; told to all who waited for it.
#[derive(Clone, Debug)]
pub(super) enum DialError {
    Connect(Shared),
    ConnectTimeout(Duration),
    Tls(Shared),
    TlsTimeout(Duration),
}

impl From<DialError> for PoolError {
    fn from(error: DialError) -> Self {
        match error {
            DialError::Connect(source) => Self::Connect(Box::new(source)),
            DialError::ConnectTimeout(timeout) => Self::ConnectTimeout(timeout),
            DialError::Tls(source) => Self::Tls(Box::new(source)),
            DialError::TlsTimeout(timeout) => Self::TlsTimeout(timeout),
        }
    }
}

/// One error, told to many. Its source is the error's own source: nothing is said twice.
#[derive(Clone, Debug)]
pub(super) struct Shared(Arc<dyn Error + Send + Sync>);

impl Shared {
    pub(super) fn new(error: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self(error.into().into())
    }
}

impl fmt::Display for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for Shared {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// What to say of a request that failed on a connection that this broke: the server's own word on the stream, else what
/// broke the connection; hyper's tasks that are gone say nothing to anybody.
pub(super) fn cause(error: hyper::Error, broken: Option<&Shared>) -> Box<dyn Error + Send + Sync> {
    match broken {
        Some(broken) if !h2_error(&error).is_some_and(h2::Error::is_remote) => Box::new(broken.clone()),
        Some(_) | None => Box::new(error),
    }
}

/// Whether the server says that it has not begun with this stream: RFC 9113, section 8.7.
pub(super) fn is_unseen(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| error.is_remote() && (error.is_go_away() || is_refused_reason(error)))
}

/// Whether the server refused this stream, and not the whole connection.
pub(super) fn is_refused(error: &hyper::Error) -> bool {
    h2_error(error).is_some_and(|error| error.is_remote() && error.is_reset() && is_refused_reason(error))
}

fn is_refused_reason(error: &h2::Error) -> bool {
    error.reason() == Some(h2::Reason::REFUSED_STREAM)
}

fn h2_error(error: &hyper::Error) -> Option<&h2::Error> {
    let mut source = error.source();
    while let Some(error) = source {
        if let Some(error) = error.downcast_ref() {
            return Some(error);
        }
        source = error.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use http::Request;
    use http_body_util::Full;
    use hyper::body::Bytes;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;

    use super::*;

    #[tokio::test]
    async fn what_broke_a_connection_is_said_where_hyper_only_knows_that_its_task_has_gone() {
        let gone = async || {
            let (ours, _theirs) = tokio::io::duplex(64);
            let (mut sender, connection) = http1::handshake(TokioIo::new(ours)).await.unwrap();
            drop(connection);
            sender.send_request(Request::new(Full::<Bytes>::default())).await.unwrap_err()
        };
        let broken = Shared::new("received fatal alert: CertificateRequired");
        assert_eq!(cause(gone().await, Some(&broken)).to_string(), broken.to_string());
        let (own, hypers) = (cause(gone().await, None), gone().await);
        assert_eq!(own.to_string(), hypers.to_string());
    }
}
