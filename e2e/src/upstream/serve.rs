//! Connections of the scripted server. In: a listening socket. Out: each connection, spoken to as the test wants.
//! Never: ends by itself before the server is stopped.

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use rustls::{HandshakeKind, ServerConfig};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpSocket, TcpStream, UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::book::Spoken;
use super::site::{FOR_EVER, Site};
use super::{Opening, Protocol, http1, http2};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Where it listens.
#[derive(Clone, Debug)]
pub(super) enum Place {
    /// A port, known once it has been bound.
    Tcp(SocketAddr),
    /// A socket file.
    Unix(PathBuf),
}

/// What the listening socket does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Listening {
    /// It takes connections.
    #[default]
    Yes,
    /// It leaves them in the kernel's backlog.
    Paused,
    /// It is closed.
    No,
}

/// A listening socket.
#[derive(Debug)]
pub(super) enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl Listener {
    pub(super) fn bind(place: &Place, backlog: u32) -> io::Result<Self> {
        match place {
            Place::Tcp(address) => {
                let socket = TcpSocket::new_v4()?;
                socket.set_reuseaddr(true)?;
                socket.bind(*address)?;
                Ok(Self::Tcp(socket.listen(backlog)?))
            }
            Place::Unix(path) => {
                let _ = std::fs::remove_file(path);
                let listener = UnixListener::bind(path)?;
                // For workers, which are another user.
                std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o666))?;
                Ok(Self::Unix(listener))
            }
        }
    }

    /// Where it listens, with its port.
    pub(super) fn place(&self, path: &Path) -> io::Result<Place> {
        match self {
            Self::Tcp(listener) => Ok(Place::Tcp(listener.local_addr()?)),
            Self::Unix(_) => Ok(Place::Unix(path.to_owned())),
        }
    }
}

/// Takes connections until it is dropped.
pub(super) async fn serve(
    site: Arc<Site>,
    listener: Listener,
    place: Place,
    (mut listening, obeyed): (watch::Receiver<Listening>, watch::Sender<Listening>),
    tls: Option<Arc<ServerConfig>>,
) {
    let mut connections = JoinSet::new();
    let mut listener = Some(listener);
    loop {
        let wanted = *listening.borrow_and_update();
        match (wanted, &listener) {
            (Listening::No, _) => {
                listener = None;
                if let Place::Unix(path) = &place {
                    let _ = std::fs::remove_file(path);
                }
            }
            (Listening::Yes | Listening::Paused, None) => {
                listener = Listener::bind(&place, site.options.backlog).ok();
            }
            (Listening::Yes | Listening::Paused, Some(_)) => {}
        }
        obeyed.send_replace(wanted);
        tokio::select! {
            changed = listening.changed() => if changed.is_err() { return },
            accepted = accept(listener.as_ref()), if wanted == Listening::Yes => {
                let number = site.book.accepted();
                connections.spawn(connection(accepted, Arc::clone(&site), number, tls.clone()));
            }
            Some(_) = connections.join_next() => {}
        }
    }
}

enum Accepted {
    Tcp(TcpStream),
    Unix(UnixStream),
}

async fn accept(listener: Option<&Listener>) -> Accepted {
    loop {
        match listener {
            Some(Listener::Tcp(listener)) => {
                if let Ok((stream, _)) = listener.accept().await {
                    let _ = stream.set_nodelay(true);
                    return Accepted::Tcp(stream);
                }
            }
            Some(Listener::Unix(listener)) => {
                if let Ok((stream, _)) = listener.accept().await {
                    return Accepted::Unix(stream);
                }
            }
            None => tokio::time::sleep(FOR_EVER).await,
        }
    }
}

async fn connection(accepted: Accepted, site: Arc<Site>, number: usize, tls: Option<Arc<ServerConfig>>) {
    let opening = site.opening();
    match accepted {
        Accepted::Tcp(stream) => match opening {
            Opening::Silent => silence(stream).await,
            Opening::Close => drop(stream),
            Opening::Reset => {
                let mut stream = stream;
                stream.reset_when_closed();
            }
            Opening::Serve | Opening::SilentAfterTls | Opening::Raw(_) => match tls {
                Some(tls) => encrypted(stream, tls, opening, &site, number).await,
                None => opened(stream, opening, &site, number, site.options.protocol.spoken()).await,
            },
        },
        Accepted::Unix(stream) => match opening {
            Opening::Silent => silence(stream).await,
            Opening::Close | Opening::Reset => drop(stream),
            Opening::Serve | Opening::SilentAfterTls | Opening::Raw(_) => {
                opened(stream, opening, &site, number, site.options.protocol.spoken()).await;
            }
        },
    }
    site.book.on(number, |connection| connection.closed = Some(Instant::now()));
}

async fn encrypted(
    stream: TcpStream,
    tls: Arc<ServerConfig>,
    opening: Opening,
    site: &Arc<Site>,
    number: usize,
) {
    let stream = match TlsAcceptor::from(tls).accept(stream).await {
        Ok(stream) => stream,
        Err(error) => {
            site.book.on(number, |connection| connection.tls_error = Some(error.to_string()));
            return;
        }
    };
    let (_, session) = stream.get_ref();
    let spoken = if session.alpn_protocol() == Some(b"h2") { Spoken::H2 } else { Spoken::H1 };
    site.book.on(number, |connection| {
        connection.spoken = Some(spoken);
        connection.server_name = session.server_name().map(str::to_owned);
        connection.is_resumed = session.handshake_kind() == Some(HandshakeKind::Resumed);
    });
    opened(stream, opening, site, number, Some(spoken)).await;
}

async fn opened<S: Socket>(
    mut stream: S,
    opening: Opening,
    site: &Arc<Site>,
    number: usize,
    spoken: Option<Spoken>,
) {
    match opening {
        Opening::Raw(bytes) => {
            let _ = stream.write_all(bytes).await;
            let _ = stream.shutdown().await;
        }
        Opening::Silent | Opening::SilentAfterTls => silence(stream).await,
        Opening::Serve | Opening::Close | Opening::Reset => {
            let mut begin = Vec::new();
            let spoken = match spoken {
                Some(spoken) => spoken,
                None => guess(&mut stream, &mut begin).await,
            };
            match spoken {
                Spoken::H1 => http1::serve(stream, begin, site, number).await,
                Spoken::H2 => Box::pin(http2::serve(stream, begin, site, number)).await,
            }
        }
    }
}

/// Reads as much as it takes to know HTTP/2 by its preface.
async fn guess<S: Socket>(stream: &mut S, begin: &mut Vec<u8>) -> Spoken {
    while begin.len() < PREFACE.len() && PREFACE.starts_with(begin) {
        if !stream.read_buf(begin).await.is_ok_and(|read| read > 0) {
            break;
        }
    }
    if begin.starts_with(PREFACE) { Spoken::H2 } else { Spoken::H1 }
}

/// Until the client has enough of it.
async fn silence<S: Socket>(mut stream: S) {
    let mut bytes = [0; 1024];
    while stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {}
}

impl Protocol {
    /// None: the first bytes tell.
    fn spoken(self) -> Option<Spoken> {
        match self {
            Self::H1 | Self::H1Tls | Self::TlsWithoutAlpn | Self::Unix => Some(Spoken::H1),
            Self::H2c | Self::H2Tls => Some(Spoken::H2),
            Self::H1AndH2c => None,
        }
    }
}

/// A connection, whatever carries it.
pub(super) trait Socket: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Closing it will reset it, as far as it knows resets.
    fn reset_when_closed(&mut self);
}

impl Socket for TcpStream {
    fn reset_when_closed(&mut self) {
        let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
        let _ = nix::sys::socket::setsockopt(self, nix::sys::socket::sockopt::Linger, &linger);
    }
}

impl Socket for UnixStream {
    fn reset_when_closed(&mut self) {}
}

impl Socket for TlsStream<TcpStream> {
    fn reset_when_closed(&mut self) {
        self.get_mut().0.reset_when_closed();
    }
}

/// A connection of which some bytes have been read already.
pub(super) struct Prefixed<S> {
    begin: Vec<u8>,
    rest: S,
}

impl<S: Socket> Prefixed<S> {
    pub(super) fn new(rest: S, begin: Vec<u8>) -> Self {
        Self { begin, rest }
    }
}

impl<S: Socket> Socket for Prefixed<S> {
    fn reset_when_closed(&mut self) {
        self.rest.reset_when_closed();
    }
}

impl<S: Socket> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.begin.is_empty() {
            return Pin::new(&mut self.rest).poll_read(cx, buf);
        }
        let taken = buf.remaining().min(self.begin.len());
        buf.put_slice(&self.begin[..taken]);
        self.begin.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.rest).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.rest).poll_shutdown(cx)
    }
}
