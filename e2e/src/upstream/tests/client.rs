//! hyper's and h2's clients, for the server's own tests.

use std::sync::Arc;
use std::time::Duration;

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

use crate::PATIENCE;
use crate::upstream::Upstream;

/// HTTP/2: what the client lets a stream send ahead.
pub(super) const WINDOW_BYTES: u32 = 65_536;

pub(super) fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.expect("in time") })
}

/// What came of a request.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) status: u16,
    pub(super) headers: http::HeaderMap,
    /// The body, frame by frame, as far as it came.
    pub(super) frames: Vec<Bytes>,
    /// Why it did not end well.
    pub(super) error: Option<hyper::Error>,
}

impl Got {
    pub(super) fn text(&self) -> String {
        String::from_utf8(self.frames.concat()).unwrap()
    }

    /// The HTTP/2 reason that ended it.
    pub(super) fn reason(&self) -> Option<u32> {
        self.error.as_ref().and_then(reason)
    }
}

/// The HTTP/2 reason in an error of hyper's.
pub(super) fn reason(error: &hyper::Error) -> Option<u32> {
    let h2 = std::error::Error::source(error)?.downcast_ref::<h2::Error>()?;
    h2.reason().map(u32::from)
}

pub(super) fn question() -> http::Request<Full<Bytes>> {
    let request = http::Request::post("/v1/chat/completions").header("host", "llm.test");
    request
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(b"{\"model\":\"m\"}")))
        .unwrap()
}

/// One of hyper's clients, over whatever the server speaks.
pub(super) enum Asker {
    H1(conn::http1::SendRequest<Full<Bytes>>),
    H2(conn::http2::SendRequest<Full<Bytes>>),
}

impl Asker {
    /// By TCP, and TLS if `trust` says whom.
    pub(super) async fn connect(llm: &Upstream, tls: Option<ClientConfig>, h2: bool) -> Self {
        let address = llm.address();
        if address.starts_with('/') {
            return Self::over(UnixStream::connect(address).await.unwrap(), h2).await;
        }
        let stream = TcpStream::connect(&address).await.unwrap();
        let Some(tls) = tls else { return Self::over(stream, h2).await };
        let stream = encrypt(tls, stream, &address).await.unwrap();
        let agreed = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        assert_eq!(agreed, h2, "what ALPN has agreed on");
        Self::over(stream, h2).await
    }

    pub(super) async fn over(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, h2: bool) -> Self {
        let io = TokioIo::new(stream);
        if h2 {
            let mut builder = conn::http2::Builder::new(TokioExecutor::new());
            let (sender, connection) =
                builder.initial_stream_window_size(WINDOW_BYTES).handshake(io).await.unwrap();
            tokio::spawn(connection);
            Self::H2(sender)
        } else {
            let (sender, connection) = conn::http1::handshake(io).await.unwrap();
            tokio::spawn(connection);
            Self::H1(sender)
        }
    }

    pub(super) async fn begin(&mut self) -> hyper::Result<http::Response<Incoming>> {
        match self {
            Self::H1(sender) => {
                sender.ready().await?;
                sender.send_request(question()).await
            }
            Self::H2(sender) => {
                sender.ready().await?;
                sender.send_request(question()).await
            }
        }
    }

    pub(super) async fn ask(&mut self) -> Got {
        match self.begin().await {
            Ok(response) => read(response).await,
            Err(error) => {
                Got { status: 0, headers: http::HeaderMap::new(), frames: Vec::new(), error: Some(error) }
            }
        }
    }
}

pub(super) async fn read(response: http::Response<Incoming>) -> Got {
    let (head, mut body) = response.into_parts();
    let mut got =
        Got { status: head.status.as_u16(), headers: head.headers, frames: Vec::new(), error: None };
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => got.frames.extend(frame.into_data().ok()),
            Err(error) => {
                got.error = Some(error);
                break;
            }
        }
    }
    got
}

pub(super) async fn encrypt(
    tls: ClientConfig,
    stream: TcpStream,
    address: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let host = address.rsplit_once(':').unwrap().0.to_owned();
    TlsConnector::from(Arc::new(tls)).connect(ServerName::try_from(host).unwrap(), stream).await
}

/// Trusts this server's authority alone.
pub(super) fn trust(llm: &Upstream, shows_itself: bool, alpn: &[&str]) -> ClientConfig {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(llm.ca_file()).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = if shows_itself {
        let (certificate, key) = llm.client_certificate();
        let chain = vec![CertificateDer::from_pem_file(certificate).unwrap()];
        builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_file(key).unwrap()).unwrap()
    } else {
        builder.with_no_client_auth()
    };
    config.alpn_protocols = alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    config
}

/// Not an answer within so long.
pub(super) async fn nothing_within<T: std::fmt::Debug>(milliseconds: u64, wait: impl Future<Output = T>) {
    let nothing = tokio::time::timeout(Duration::from_millis(milliseconds), wait).await;
    assert!(nothing.is_err(), "{nothing:?}");
}

/// Waits while the clients of this thread go on.
pub(super) async fn until(what: &str, mut fact: impl FnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while !fact() {
        assert!(tokio::time::Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
