//! From a question to the beginning of a stream: one HTTP request, and what its head says. In: a call. Out: a body
//! of the right kind, or a [`Trouble`].
//!
//! Never: follows a redirect, sends a key anywhere but to its backend, takes an answer that is no stream for one.

use std::future::poll_fn;
use std::rc::Rc;
use std::time::{Duration, SystemTime};

use handoff_shared::metric::FailureReason;
use http::header::{ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, USER_AGENT};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::time::timeout;

use super::backend::Remote;
use super::dialect::{self, Asking, Call, error};
use super::event_reader::Framing;
use super::pool::{Body, Patience, PoolError};
use super::trouble::{Again, Trouble};
use crate::failure::{self, Code};

/// Of an answer with an error, this much is read, and for this long.
const ERROR_BYTES_MAX: usize = 64 * 1024;
const ERROR_PATIENCE: Duration = Duration::from_secs(5);
/// For a call that has to come first, such as making a thread.
const BEFORE_PATIENCE: Duration = Duration::from_secs(10);

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");
const TRACESTATE: HeaderName = HeaderName::from_static("tracestate");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const ME: HeaderValue = HeaderValue::from_static(concat!("handoffd/", env!("CARGO_PKG_VERSION")));

/// What a request says besides its call.
#[derive(Clone, Debug)]
pub(super) struct Tag {
    /// As the site calls it.
    pub(super) request_id: Rc<str>,
    /// The lease's and the question's: who asks again, also in another worker, asks the same; nobody else does.
    pub(super) idempotency_key: String,
    pub(super) traceparent: Option<String>,
    pub(super) tracestate: Option<String>,
    /// The client's IP address.
    pub(super) client: Option<String>,
}

/// Asks, and waits for the stream to begin.
pub(super) async fn open(
    remote: Rc<Remote>,
    asking: Asking,
    tag: Rc<Tag>,
    patience: Patience,
) -> Result<Response<Body>, Trouble> {
    if let Some(before) = asking.before {
        prepare(&remote, before, &tag, patience).await?;
    }
    let response = send(&remote, asking.call, &tag, patience).await?;
    check(&remote, response).await
}

/// The upstream is to stop an answer that nobody wants any more.
pub(super) async fn cancel(remote: Rc<Remote>, call: Call, tag: Rc<Tag>, patience: Patience) {
    let asked = timeout(BEFORE_PATIENCE, send(&remote, call, &tag, patience)).await;
    match asked {
        Ok(Ok(response)) => tracing::debug!(status = response.status().as_u16(), "upstream told to stop"),
        Ok(Err(trouble)) => {
            let detail = &*remote.without_secrets(&trouble.detail);
            tracing::warn!(reason = trouble.reason.as_str(), detail, "upstream cannot be told to stop");
        }
        Err(_) => tracing::warn!("upstream cannot be told to stop: it does not answer"),
    }
}

/// The call that has to succeed first.
async fn prepare(remote: &Remote, call: Call, tag: &Tag, patience: Patience) -> Result<(), Trouble> {
    let patience = Patience { head: patience.head.min(BEFORE_PATIENCE), ..patience };
    let response = send(remote, call, tag, patience).await?;
    let status = response.status();
    if status.is_success() || status == StatusCode::CONFLICT {
        read(response.into_body()).await;
        return Ok(());
    }
    Err(failed(response).await)
}

async fn send(remote: &Remote, call: Call, tag: &Tag, patience: Patience) -> Result<Response<Body>, Trouble> {
    let request = request(remote, call, tag)?;
    remote.pool.send(request, patience).await.map_err(|error| trouble(&error))
}

fn request(remote: &Remote, call: Call, tag: &Tag) -> Result<Request<Full<Bytes>>, Trouble> {
    let uri = format!("{}{}", remote.api.base, call.path);
    let mut request = Request::builder()
        .method(call.method)
        .uri(uri)
        .body(Full::new(Bytes::from(call.body)))
        .map_err(|error| Trouble::rejected(format!("the request cannot be made: {error}")))?;
    let accept = match dialect::framing(&remote.api.dialect) {
        Framing::ServerSentEvents => "text/event-stream",
        Framing::Lines => "application/x-ndjson",
    };
    let headers = request.headers_mut();
    headers.insert(ACCEPT, HeaderValue::from_static(accept));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(USER_AGENT, ME);
    let tags = [
        (REQUEST_ID, Some(&*tag.request_id)),
        (IDEMPOTENCY_KEY, Some(&*tag.idempotency_key)),
        (TRACEPARENT, tag.traceparent.as_deref().filter(|_| remote.api.trace_context)),
        (TRACESTATE, tag.tracestate.as_deref().filter(|_| remote.api.trace_context)),
        (X_FORWARDED_FOR, tag.client.as_deref().filter(|_| remote.api.x_forwarded_for)),
    ];
    for (name, value) in tags {
        if let Some(value) = value.and_then(|value| HeaderValue::from_str(value).ok()) {
            headers.insert(name, value);
        }
    }
    put(headers, call.headers);
    put(headers, remote.headers.clone());
    Ok(request)
}

/// Over what is there.
fn put(headers: &mut HeaderMap, more: HeaderMap) {
    let mut last = None;
    for (name, value) in more {
        match name {
            Some(name) => {
                headers.insert(name.clone(), value);
                last = Some(name);
            }
            // A further value of the same header.
            None => last.iter().for_each(|name| {
                headers.append(name.clone(), value.clone());
            }),
        }
    }
}

/// A stream, or what it is instead.
async fn check(remote: &Remote, response: Response<Body>) -> Result<Response<Body>, Trouble> {
    if response.status() != StatusCode::OK {
        return Err(failed(response).await);
    }
    let headers = response.headers();
    if let Some(encoding) = headers.get(CONTENT_ENCODING).filter(|encoding| *encoding != "identity") {
        let detail = format!("content-encoding {encoding:?}, although none was asked for");
        return Err(Trouble::not_a_stream(detail));
    }
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim().to_ascii_lowercase();
    let is_stream = match dialect::framing(&remote.api.dialect) {
        // Some leave it out.
        Framing::ServerSentEvents => matches!(kind.as_str(), "" | "text/event-stream" | "text/plain"),
        Framing::Lines => !kind.contains("html"),
    };
    if is_stream {
        return Ok(response);
    }
    Err(error::instead_of_a_stream(&kind, &read(response.into_body()).await))
}

/// An answer with another status.
async fn failed(response: Response<Body>) -> Trouble {
    let (head, body) = response.into_parts();
    let body = read(body).await;
    if head.status.is_success() {
        return Trouble::not_a_stream(format!("status {}", head.status.as_u16()));
    }
    error::of_status(head.status, &head.headers, &body, SystemTime::now())
}

/// What there is of a short body, in a short time.
async fn read(mut body: Body) -> Vec<u8> {
    let mut bytes = Vec::new();
    let reading = async {
        while let Some(Ok(piece)) = poll_fn(|cx| body.poll_bytes(cx)).await {
            bytes.extend_from_slice(&piece[..piece.len().min(ERROR_BYTES_MAX - bytes.len())]);
            if bytes.len() == ERROR_BYTES_MAX {
                break;
            }
        }
    };
    let _ = timeout(ERROR_PATIENCE, reading).await;
    bytes
}

/// No answer at all.
fn trouble(error: &PoolError) -> Trouble {
    let unavailable = "the upstream cannot be reached";
    let (reason, code, message, again) = match error {
        PoolError::Connect(_) => {
            (FailureReason::Connect, Code::UpstreamUnavailable, unavailable, Again::Anybody)
        }
        PoolError::ConnectTimeout(_) => {
            (FailureReason::ConnectTimeout, Code::UpstreamUnavailable, unavailable, Again::Elsewhere)
        }
        PoolError::Tls(_) => (FailureReason::Tls, Code::UpstreamUnavailable, unavailable, Again::Elsewhere),
        PoolError::TlsTimeout(_) => {
            (FailureReason::Tls, Code::UpstreamUnavailable, unavailable, Again::Elsewhere)
        }
        PoolError::QueueTimeout(_) => (
            FailureReason::Queue,
            Code::Overloaded,
            "too many answers at the same time, please retry",
            Again::Elsewhere,
        ),
        PoolError::Unseen(_) => {
            // The pool has sent it again more than once: whoever closes all connections needs a pause too.
            (FailureReason::Broken, Code::UpstreamUnavailable, unavailable, Again::Anybody)
        }
        PoolError::Broken(_) => (
            FailureReason::Broken,
            Code::UpstreamUnavailable,
            "the upstream closed the connection without an answer",
            Again::Anybody,
        ),
        PoolError::HeadTimeout(_) => (
            FailureReason::HeadTimeout,
            Code::UpstreamTimeout,
            "the upstream did not answer in time",
            Again::Elsewhere,
        ),
    };
    Trouble::new(reason, code, message, again, failure::chain(error))
}
