//! One connection: the tasks that keep it going, and the places on it. In: a connected stream; requests, one for each
//! place. Out: responses; word to the pool when the connection does not take any more, or is closed.
//!
//! Never: takes a request without a place; keeps an HTTP/1.1 connection whose answer was not read to its end.

use std::cell::{Cell, OnceCell, RefCell};
use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::rc::{Rc, Weak};
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Request, Response, Uri, Version, header};
use http_body_util::Full;
use hyper::body::Bytes;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Notify;
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::body::Body;
use super::error::{self, DialError, Shared, is_refused, is_unseen};
use super::frames::Said;
use super::places::{ConnectionId, Protocol};
use super::stream::{Listen, Seen, Stream, Watched};
use super::{Http2Settings, Pool};

/// An HTTP/1.1 connection whose answer has ended is ready for the next request by then, or is closed.
const READY_TIMEOUT: Duration = Duration::from_millis(250);
/// An HTTP/2 connection that nobody needs says so to the server, and is closed by then.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);
/// A server that closes an idle connection while a request is on its way does so in this time. One that takes longer
/// may have begun with it.
const STALE_TIMEOUT: Duration = Duration::from_secs(1);
/// Of streams that we reset so many are remembered: what the server still sends on them is no error.
const RESETS_REMEMBERED: usize = 1024;
/// Frames on streams that even so are forgotten; more end the connection.
const RESETS_FORGOTTEN_MAX: usize = 100_000;
/// The head of an answer.
const HEAD_BYTES_MAX: u32 = 64 * 1024;
/// The largest window (RFC 9113, section 6.9.1).
const WINDOW_BYTES_MAX: u32 = (1 << 31) - 1;

/// A connection, as the pool holds it.
#[derive(Clone, Debug)]
pub(super) enum Handle {
    Http1(Rc<Http1>),
    Http2(Http2),
}

#[derive(Debug)]
pub(super) struct Http1 {
    sender: RefCell<http1::SendRequest<Full<Bytes>>>,
    seen: Rc<Seen>,
    /// It has had a request.
    used: Cell<bool>,
    /// An answer has been read to its end.
    ended: Notify,
    driver: OnceCell<AbortHandle>,
}

#[derive(Clone, Debug)]
pub(super) struct Http2 {
    sender: http2::SendRequest<Full<Bytes>>,
    seen: Rc<Seen>,
    socket: Rc<OnceCell<AbortHandle>>,
}

/// A connection that is open and that the pool does not know yet.
pub(super) struct Fresh {
    handle: Handle,
    ear: Rc<Ear>,
    driver: Driver,
}

enum Driver {
    Http1(Box<Http1Connection>),
    Http2(Box<Http2Connection>),
}

type Http1Connection = http1::Connection<TokioIo<Watched<Rc<Ear>>>, Full<Bytes>>;
type Http2Connection = http2::Connection<TokioIo<Watched<Rc<Ear>>>, Full<Bytes>, Local>;

/// Listens for the pool.
pub(super) struct Ear {
    pool: Weak<Pool>,
    id: OnceCell<ConnectionId>,
}

/// The place of one request. Dropped, it is given back.
#[derive(Debug)]
pub(super) struct Place {
    pool: Weak<Pool>,
    id: ConnectionId,
    handle: Handle,
    state: PlaceState,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum PlaceState {
    /// No request has been sent.
    Unused,
    /// A request has been sent; its answer has not ended.
    Asked,
    /// The answer has been read to its end.
    Ended,
}

/// Why a place brought no response.
#[derive(Debug)]
pub(super) enum Missed {
    /// The server has not begun.
    Unseen(Box<dyn Error + Send + Sync>),
    /// It may have.
    Broken(Box<dyn Error + Send + Sync>),
}

/// How requests are addressed.
pub(super) struct Address<'a> {
    /// Scheme, host and port.
    pub(super) origin: &'a Uri,
    /// A proxy forwards them; who we are to it.
    pub(super) forwarded: Option<Option<&'a HeaderValue>>,
}

/// Speaks on a stream.
///
/// # Errors
/// The stream is closed already.
pub(super) async fn open(
    stream: Stream,
    protocol: Protocol,
    settings: Http2Settings,
    pool: Weak<Pool>,
) -> Result<Fresh, DialError> {
    let seen = Rc::<Seen>::default();
    let ear = Rc::new(Ear { pool, id: OnceCell::new() });
    let frames = protocol == Protocol::Http2;
    let stream = TokioIo::new(Watched::new(stream, Rc::clone(&seen), frames, Rc::clone(&ear)));
    let closed = |error| DialError::Connect(Shared::new(error));
    match protocol {
        Protocol::Http1 => {
            let (sender, connection) = http1::Builder::new().handshake(stream).await.map_err(closed)?;
            let sender = RefCell::new(sender);
            let (used, ended, driver) = (Cell::new(false), Notify::new(), OnceCell::new());
            let handle = Handle::Http1(Rc::new(Http1 { sender, seen, used, ended, driver }));
            Ok(Fresh { handle, ear, driver: Driver::Http1(Box::new(connection)) })
        }
        Protocol::Http2 => {
            let socket = Rc::<OnceCell<AbortHandle>>::default();
            let builder = http2_builder(settings, Local { first: Rc::clone(&socket) });
            let (sender, connection) = builder.handshake(stream).await.map_err(closed)?;
            let handle = Handle::Http2(Http2 { sender, seen, socket });
            Ok(Fresh { handle, ear, driver: Driver::Http2(Box::new(connection)) })
        }
    }
}

fn http2_builder(settings: Http2Settings, executor: Local) -> http2::Builder<Local> {
    let mut builder = http2::Builder::new(executor);
    builder
        .timer(TokioTimer::new())
        .adaptive_window(false)
        .initial_stream_window_size(settings.stream_window_bytes.min(WINDOW_BYTES_MAX))
        .initial_connection_window_size(settings.connection_window_bytes.min(WINDOW_BYTES_MAX))
        // As the places have it: before the server's settings one stream is what every server takes.
        .initial_max_send_streams(1)
        .max_header_list_size(HEAD_BYTES_MAX)
        .max_concurrent_reset_streams(RESETS_REMEMBERED)
        .max_local_error_reset_streams(RESETS_FORGOTTEN_MAX)
        .keep_alive_interval((!settings.ping_interval.is_zero()).then_some(settings.ping_interval))
        .keep_alive_timeout(settings.ping_timeout)
        .keep_alive_while_idle(false);
    builder
}

impl Fresh {
    pub(super) fn protocol(&self) -> Protocol {
        match self.handle {
            Handle::Http1(_) => Protocol::Http1,
            Handle::Http2(_) => Protocol::Http2,
        }
    }

    /// Keeps the connection going under this id.
    pub(super) fn start(self, id: ConnectionId) -> Handle {
        let _ = self.ear.id.set(id);
        let pool = Weak::clone(&self.ear.pool);
        match (self.driver, &self.handle) {
            (Driver::Http1(connection), Handle::Http1(http1)) => {
                let driver = spawn_local(drive_http1(*connection, Rc::clone(http1), pool, id));
                let _ = http1.driver.set(driver.abort_handle());
            }
            (Driver::Http2(connection), _) => {
                spawn_local(async move {
                    // The end of this task is not that of the connection: streams that run go on.
                    let _ = connection.await;
                    if let Some(pool) = pool.upgrade() {
                        pool.decide(|places, now| places.retire(now, id));
                    }
                });
            }
            (Driver::Http1(_), Handle::Http2(_)) => {}
        }
        self.handle
    }
}

async fn drive_http1(connection: Http1Connection, http1: Rc<Http1>, pool: Weak<Pool>, id: ConnectionId) {
    let mut connection = pin!(connection);
    loop {
        tokio::select! {
            _ = &mut connection => return,
            () = http1.ended.notified() => {}
        }
        let ready = timeout(READY_TIMEOUT, poll_fn(|cx| http1.sender.borrow_mut().poll_ready(cx)));
        tokio::select! {
            _ = &mut connection => return,
            ready = ready => if !matches!(ready, Ok(Ok(()))) { return },
        }
        let Some(pool) = pool.upgrade() else { return };
        pool.decide(|places, now| places.release(now, id));
    }
}

impl Handle {
    /// Closes a connection that has no requests.
    pub(super) fn close(self) {
        match self {
            Self::Http1(http1) => http1.cut(),
            // GOAWAY, then the end.
            Self::Http2(Http2 { sender, socket, .. }) => {
                drop(sender);
                spawn_local(async move {
                    sleep(CLOSE_TIMEOUT).await;
                    if let Some(socket) = socket.get() {
                        socket.abort();
                    }
                });
            }
        }
    }
}

impl Http1 {
    fn cut(&self) {
        if let Some(driver) = self.driver.get() {
            driver.abort();
        }
    }
}

impl Place {
    pub(super) fn new(pool: Weak<Pool>, id: ConnectionId, handle: Handle) -> Self {
        Self { pool, id, handle, state: PlaceState::Unused }
    }

    pub(super) fn is_http2(&self) -> bool {
        matches!(self.handle, Handle::Http2(_))
    }

    /// The answer has been read to its end.
    pub(super) fn end(mut self) {
        self.state = PlaceState::Ended;
    }

    /// Asks, and waits for the head of the answer.
    pub(super) async fn ask(
        mut self,
        mut request: Request<Full<Bytes>>,
        address: Address<'_>,
    ) -> Result<Response<Body>, Missed> {
        self.state = PlaceState::Asked;
        let response = match &self.handle {
            Handle::Http1(http1) => {
                for_http1(&mut request, &address);
                let (reused, read_bytes) = (http1.used.replace(true), http1.seen.read_bytes.get());
                let asked = Instant::now();
                let response = http1.sender.borrow_mut().try_send_request(request);
                response.await.map_err(|error| {
                    let not_sent = error.message().is_some();
                    let silent = http1.seen.read_bytes.get() == read_bytes;
                    let stale = reused && silent && asked.elapsed() < STALE_TIMEOUT;
                    self.missed(error.into_error(), not_sent, stale)
                })
            }
            Handle::Http2(http2) => {
                for_http2(&mut request, &address);
                let response = http2.sender.clone().try_send_request(request);
                response.await.map_err(|error| {
                    let not_sent = error.message().is_some();
                    let error = error.into_error();
                    // A user's error is one of hyper's task that ended before the stream was opened.
                    let unseen = is_unseen(&error) || error.is_user();
                    self.missed(error, not_sent, unseen)
                })
            }
        };
        let response = response?;
        let is_said = [header::CONTENT_LENGTH, header::TRANSFER_ENCODING]
            .iter()
            .any(|header| response.headers().contains_key(header));
        let has_known_end = self.is_http2() || is_said;
        Ok(response.map(|incoming| Body::new(incoming, self, has_known_end)))
    }

    /// Tells the pool what a failure means for the connection.
    fn missed(&self, error: hyper::Error, not_sent: bool, unseen: bool) -> Missed {
        if let Some(pool) = self.pool.upgrade() {
            pool.decide(|places, now| match self.handle {
                Handle::Http1(_) if not_sent || unseen => places.stale(now, self.id),
                Handle::Http2(_) if is_refused(&error) => places.refused(now, self.id),
                Handle::Http2(_) if not_sent || unseen => places.retire(now, self.id),
                Handle::Http1(_) | Handle::Http2(_) => {}
            });
        }
        let seen = match &self.handle {
            Handle::Http1(http1) => &http1.seen,
            Handle::Http2(http2) => &http2.seen,
        };
        let cause = error::cause(error, seen.failure.get());
        if not_sent || unseen { Missed::Unseen(cause) } else { Missed::Broken(cause) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let pool = self.pool.upgrade();
        match &self.handle {
            // Its driver gives the place back when the connection is ready.
            Handle::Http1(http1) if self.state == PlaceState::Ended => {
                http1.ended.notify_one();
                if let Some(pool) = &pool {
                    pool.decide(|places, _| places.ending(self.id));
                }
                return;
            }
            // Nothing else stops the server's answer.
            Handle::Http1(http1) if self.state == PlaceState::Asked => {
                http1.cut();
                if let Some(pool) = &pool {
                    pool.decide(|places, now| places.retire(now, self.id));
                }
            }
            Handle::Http1(_) | Handle::Http2(_) => {}
        }
        if let Some(pool) = pool {
            pool.decide(|places, now| places.release(now, self.id));
        }
    }
}

/// RFC 9112, section 3.2: the path, or the whole address for a proxy; and `Host`.
fn for_http1(request: &mut Request<Full<Bytes>>, address: &Address<'_>) {
    *request.version_mut() = Version::HTTP_11;
    if let Some(authority) = address.origin.authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().entry(header::HOST).or_insert(host);
    }
    match address.forwarded {
        Some(who) => {
            if let Some(who) = who {
                request.headers_mut().insert(header::PROXY_AUTHORIZATION, who.clone());
            }
            *request.uri_mut() = whole(address.origin, request.uri());
        }
        None => {
            let path = request.uri().path_and_query().cloned();
            *request.uri_mut() = path.unwrap_or_else(|| PathAndQuery::from_static("/")).into();
        }
    }
}

/// RFC 9113, section 8.3.1: the address makes the pseudo headers.
fn for_http2(request: &mut Request<Full<Bytes>>, address: &Address<'_>) {
    *request.version_mut() = Version::HTTP_2;
    HeaderMap::remove(request.headers_mut(), header::HOST);
    *request.uri_mut() = whole(address.origin, request.uri());
}

/// A connection is to one origin, and so is each request on it.
fn whole(origin: &Uri, uri: &Uri) -> Uri {
    let mut parts = origin.clone().into_parts();
    parts.path_and_query = uri.path_and_query().cloned().or(parts.path_and_query);
    Uri::from_parts(parts).unwrap_or_else(|_| uri.clone())
}

impl Listen for Rc<Ear> {
    fn said(&self, said: Said) {
        if let (Some(pool), Some(id)) = (self.pool.upgrade(), self.id.get()) {
            pool.heard(*id, said);
        }
    }

    fn closed(&self) {
        if let (Some(pool), Some(id)) = (self.pool.upgrade(), self.id.get()) {
            pool.closed(*id);
        }
    }
}

/// hyper's tasks run on our thread; the first one holds the socket.
#[derive(Clone)]
struct Local {
    first: Rc<OnceCell<AbortHandle>>,
}

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Local {
    fn execute(&self, task: F) {
        // hyper's tasks are as large as the largest of their kinds, and h2 remembers whom to wake, and so where a task
        // was, for as long as the stream is there.
        let task = spawn_local(Box::pin(task));
        self.first.get_or_init(|| task.abort_handle());
    }
}
