//! The way to an origin: names, TCP or a Unix socket, a proxy, TLS. In: how an API is reached. Out: a connected stream,
//! and what is spoken on it.
//!
//! Never: goes around a proxy; reads a file; speaks HTTP/2 to a server that has not said that it does.

use std::cell::Cell;
use std::error::Error;
use std::future::{Ready, ready};
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use handoff_config::backend::Connection;
use http::uri::{PathAndQuery, Scheme};
use http::{HeaderValue, Uri};
use hyper_rustls::{DefaultServerNameResolver, HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::legacy::connect::{Connection as _, HttpConnector};
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tower_service::Service;

use super::Patience;
use super::error::{DialError, Shared};
use super::places::Protocol;
use super::probe::speaks_http2;
use super::stream::Stream;

/// TCP asks whether the server is still there after so long without a byte, and then as often again.
const TCP_KEEP_ALIVE: Duration = Duration::from_secs(60);
/// What was found out about a server without TLS holds for so long.
const PROBE_HOLDS: Duration = Duration::from_secs(600);
/// Of two timers that are set together the one set to this much more is the later one.
const TIMER_SLACK: Duration = Duration::from_millis(20);
/// A Unix socket whose backlog is full says so at once (connect(2), EAGAIN): it is tried again.
const BACKLOG_PAUSE: Duration = Duration::from_millis(5);

/// Opens connections to one origin.
pub(super) struct Dialler {
    /// Scheme, host and port.
    origin: Uri,
    route: Route,
    http2: bool,
    tls: Arc<rustls::ClientConfig>,
    /// For a proxy that itself wants TLS: what follows there is HTTP/1.1.
    proxy_tls: Arc<rustls::ClientConfig>,
    tcp: HttpConnector,
    probed: Cell<Option<(Protocol, Instant)>>,
}

enum Route {
    Tcp,
    Unix(PathBuf),
    /// With CONNECT.
    Tunnel(Intercept),
    /// The proxy is asked with the whole address.
    Forward(Intercept),
    /// There is a proxy, but its address cannot be read.
    Nowhere,
}

impl Dialler {
    pub(super) fn new(base: &Uri, connection: &Connection, tls: Arc<rustls::ClientConfig>) -> Self {
        let https = base.scheme() == Some(&Scheme::HTTPS);
        let route = match (&connection.socket, &connection.proxy) {
            (Some(path), _) => Route::Unix(path.clone()),
            (None, None) => Route::Tcp,
            (None, Some(proxy)) => {
                let proxies = Matcher::builder().all(proxy.address.expose().to_owned()).build();
                match proxies.intercept(base) {
                    Some(proxy) if https => Route::Tunnel(proxy),
                    Some(proxy) => Route::Forward(proxy),
                    None => Route::Nowhere,
                }
            }
        };
        let mut proxy_tls = rustls::ClientConfig::clone(&tls);
        proxy_tls.alpn_protocols = vec![b"http/1.1".to_vec()];
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        tcp.set_keepalive(Some(TCP_KEEP_ALIVE));
        tcp.set_keepalive_interval(Some(TCP_KEEP_ALIVE));
        let mut parts = base.clone().into_parts();
        parts.path_and_query = Some(PathAndQuery::from_static("/"));
        let origin = Uri::from_parts(parts).unwrap_or_else(|_| base.clone());
        let http2 = connection.http2;
        Self { origin, route, http2, tls, proxy_tls: Arc::new(proxy_tls), tcp, probed: Cell::new(None) }
    }

    /// Scheme, host and port.
    pub(super) fn origin(&self) -> &Uri {
        &self.origin
    }

    /// For requests that a proxy forwards: whether it is so, and who we are to it.
    pub(super) fn forwarded(&self) -> Option<Option<&HeaderValue>> {
        match &self.route {
            Route::Forward(proxy) => Some(proxy.basic_auth()),
            Route::Tcp | Route::Unix(_) | Route::Tunnel(_) | Route::Nowhere => None,
        }
    }

    /// What was believed of a server without TLS did not hold.
    pub(super) fn forget(&self) {
        self.probed.set(None);
    }

    /// A connection, and what is spoken on it.
    pub(super) async fn dial(&self, patience: Patience) -> Result<(Stream, Protocol), DialError> {
        let stream = self.connect(patience).await?;
        if self.origin.scheme() == Some(&Scheme::HTTPS) && !matches!(self.route, Route::Unix(_)) {
            return handshake(stream, &self.tls, self.origin.clone(), patience.tls).await;
        }
        let may_speak_http2 = self.http2 && matches!(self.route, Route::Tcp);
        if !may_speak_http2 {
            return Ok((stream, Protocol::Http1));
        }
        let now = Instant::now();
        match self.probed.get() {
            Some((protocol, until)) if now < until => return Ok((stream, protocol)),
            // Those who dial meanwhile go by what was known.
            Some((protocol, _)) => self.probed.set(Some((protocol, now + PROBE_HOLDS))),
            None => {}
        }
        let protocol = if speaks_http2(stream).await { Protocol::Http2 } else { Protocol::Http1 };
        self.probed.set(Some((protocol, Instant::now() + PROBE_HOLDS)));
        Ok((self.connect(patience).await?, protocol))
    }

    /// A stream to the origin, TLS not yet begun.
    async fn connect(&self, patience: Patience) -> Result<Stream, DialError> {
        match &self.route {
            Route::Tcp => self.tcp(&self.origin, patience).await,
            Route::Unix(path) => in_time(patience.connect, unix(path)).await.map(Stream::new),
            Route::Forward(proxy) => self.to_proxy(proxy, patience).await,
            Route::Tunnel(proxy) => {
                let stream = self.to_proxy(proxy, patience).await?;
                let mut tunnel = Tunnel::new(proxy.uri().clone(), There(Some(stream)));
                if let Some(who) = proxy.basic_auth() {
                    tunnel = tunnel.with_auth(who.clone());
                }
                let stream = in_time(patience.connect, tunnel.call(self.origin.clone())).await?;
                Ok(Stream::new(TokioIo::new(stream)))
            }
            Route::Nowhere => {
                Err(DialError::Connect(Shared::new("the proxy's address is no http:// or https:// address")))
            }
        }
    }

    async fn to_proxy(&self, proxy: &Intercept, patience: Patience) -> Result<Stream, DialError> {
        let stream = self.tcp(proxy.uri(), patience).await?;
        if proxy.uri().scheme() != Some(&Scheme::HTTPS) {
            return Ok(stream);
        }
        Ok(handshake(stream, &self.proxy_tls, proxy.uri().clone(), patience.tls).await?.0)
    }

    async fn tcp(&self, to: &Uri, patience: Patience) -> Result<Stream, DialError> {
        let mut tcp = self.tcp.clone();
        // Divided among the addresses of a name, so that one that is dead leaves time for the next; a little more
        // than allowed, so that it is always the same timeout that is reported.
        tcp.set_connect_timeout(Some(patience.connect.saturating_add(TIMER_SLACK)));
        let stream = in_time(patience.connect, tcp.call(to.clone())).await?;
        Ok(Stream::new(stream.into_inner()))
    }
}

async fn in_time<T, E: Into<Box<dyn Error + Send + Sync>>>(
    patience: Duration,
    connecting: impl Future<Output = Result<T, E>>,
) -> Result<T, DialError> {
    match timeout(patience, connecting).await {
        Ok(Ok(connected)) => Ok(connected),
        Ok(Err(error)) => Err(DialError::Connect(Shared::new(error))),
        Err(_) => Err(DialError::ConnectTimeout(patience)),
    }
}

async fn unix(path: &PathBuf) -> io::Result<UnixStream> {
    loop {
        match UnixStream::connect(path).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => sleep(BACKLOG_PAUSE).await,
            other => return other,
        }
    }
}

/// TLS over a stream. ALPN says what is spoken.
async fn handshake(
    stream: Stream,
    tls: &Arc<rustls::ClientConfig>,
    to: Uri,
    patience: Duration,
) -> Result<(Stream, Protocol), DialError> {
    let names = Arc::new(DefaultServerNameResolver::default());
    let mut connector = HttpsConnector::new(There(Some(stream)), Arc::clone(tls), true, names);
    match timeout(patience, connector.call(to)).await {
        Ok(Ok(stream)) => {
            let protocol = protocol(&stream);
            Ok((Stream::new(TokioIo::new(stream)), protocol))
        }
        Ok(Err(error)) => Err(DialError::Tls(Shared::new(error))),
        Err(_) => Err(DialError::TlsTimeout(patience)),
    }
}

fn protocol(stream: &MaybeHttpsStream<TokioIo<Stream>>) -> Protocol {
    if stream.connected().is_negotiated_h2() { Protocol::Http2 } else { Protocol::Http1 }
}

/// Connecting to where we are already: what hyper-util and hyper-rustls build on.
struct There(Option<Stream>);

impl Service<Uri> for There {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Ready<io::Result<TokioIo<Stream>>>;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _to: Uri) -> Self::Future {
        ready(self.0.take().map(TokioIo::new).ok_or_else(|| io::ErrorKind::NotConnected.into()))
    }
}
