//! TLS: who is trusted, who we are, what is spoken.

use std::path::PathBuf;
use std::pin::Pin;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use handoff_config::backend::ClientCertificate;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{HandshakeKind, RootCertStore, ServerConfig};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;

use super::wire::*;
use super::*;

pub(super) type ServerStream = tokio_rustls::server::TlsStream<TcpStream>;

/// An authority of our own, with its files in a directory.
pub(super) struct Ca {
    directory: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

pub(super) fn ca() -> &'static Ca {
    static CA: OnceLock<Ca> = OnceLock::new();
    CA.get_or_init(Ca::new)
}

impl Ca {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), issuer.pem()).unwrap();
        Self { directory, issuer }
    }

    pub(super) fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    fn issue(&self, name: &str) -> ClientCertificate {
        let key = KeyPair::generate().unwrap();
        let params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        static ISSUED: AtomicUsize = AtomicUsize::new(0);
        let number = ISSUED.fetch_add(1, Ordering::Relaxed);
        let (certificate_file, key_file) = (
            self.directory.path().join(format!("{number}.pem")),
            self.directory.path().join(format!("{number}.key")),
        );
        std::fs::write(&certificate_file, certificate.pem()).unwrap();
        std::fs::write(&key_file, key.serialize_pem()).unwrap();
        ClientCertificate { certificate_file, key_file }
    }

    fn server(&self, name: &str, protocols: &[&str], clients: bool) -> TlsAcceptor {
        let ClientCertificate { certificate_file, key_file } = self.issue(name);
        let chain = vec![CertificateDer::from_pem_file(certificate_file).unwrap()];
        let key = PrivateKeyDer::from_pem_file(key_file).unwrap();
        let builder =
            ServerConfig::builder_with_provider(provider()).with_safe_default_protocol_versions().unwrap();
        let builder = if clients {
            let mut roots = RootCertStore::empty();
            roots.add(CertificateDer::from_pem_file(self.file()).unwrap()).unwrap();
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider());
            builder.with_client_cert_verifier(verifier.build().unwrap())
        } else {
            builder.with_no_client_auth()
        };
        let mut config = builder.with_single_cert(chain, key).unwrap();
        config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        TlsAcceptor::from(Arc::new(config))
    }
}

type Serving = Pin<Box<dyn Future<Output = ()>>>;

async fn server(
    acceptor: TlsAcceptor,
    serve: impl Fn(usize, ServerStream) -> Serving + 'static,
) -> (String, Count) {
    let serve = Rc::new(serve);
    let (base, accepted) = tcp_server(move |number, stream| {
        let (acceptor, serve) = (acceptor.clone(), Rc::clone(&serve));
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                serve(number, stream).await;
            }
        }
    })
    .await;
    let port = base.rsplit_once(':').unwrap().1;
    (format!("https://localhost:{port}"), accepted)
}

/// A server with TLS that speaks HTTP/2.
pub(super) async fn h2_server(serve: impl Fn(usize, ServerStream) -> Serving + 'static) -> (String, Count) {
    server(ca().server("localhost", &["h2", "http/1.1"], false), serve).await
}

fn trusting() -> Connection {
    Connection { ca_file: Some(ca().file()), ..connection() }
}

fn serve_either(_number: usize, stream: ServerStream) -> Serving {
    Box::pin(async move {
        if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
            Wire::accept_with(stream, Some(100)).await.unwrap().serve_ok().await;
        } else {
            serve_ok(stream).await;
        }
    })
}

#[test]
fn alpn_decides_what_is_spoken() {
    let cases: [(&[&str], bool, http::Version); 4] = [
        (&["h2", "http/1.1"], true, http::Version::HTTP_2),
        (&["h2", "http/1.1"], false, http::Version::HTTP_11),
        (&["http/1.1"], true, http::Version::HTTP_11),
        (&[], true, http::Version::HTTP_11),
    ];
    for (protocols, http2, version) in cases {
        run(async {
            let (base, accepted) = server(ca().server("localhost", protocols, false), serve_either).await;
            let pool = pool(&base, &Connection { http2, ..trusting() });
            let response = ask(&pool, "/").await.unwrap();
            assert_eq!(response.version(), version, "{protocols:?}");
            assert_eq!(text(response).await.unwrap(), "ok");
            assert_eq!(accepted.get(), 1);
        });
    }
}

#[test]
fn a_certificate_of_another_name_or_another_authority_is_not_trusted() {
    run(async {
        let (base, _) = server(ca().server("elsewhere.example", &["h2"], false), serve_either).await;
        let error = ask(&pool(&base, &trusting()), "/").await.unwrap_err();
        assert!(matches!(error, PoolError::Tls(_)), "{error:?}");
        let other = Ca::new();
        let (base, _) = server(other.server("localhost", &["h2"], false), serve_either).await;
        let error = ask(&pool(&base, &trusting()), "/").await.unwrap_err();
        assert!(matches!(error, PoolError::Tls(_)), "{error:?}");
        let pool = pool(&base, &Connection { insecure_ssl: true, ca_file: None, ..connection() });
        assert_eq!(answer(&pool, "/").await, "ok");
    });
}

#[test]
fn a_client_certificate_is_shown_to_who_asks_for_it() {
    run(async {
        let (base, _) = server(ca().server("localhost", &["h2"], true), serve_either).await;
        let client_certificate = Some(ca().issue("client.example"));
        let shown = pool(&base, &Connection { client_certificate, ..trusting() });
        assert_eq!(answer(&shown, "/").await, "ok");
        assert!(ask(&pool(&base, &trusting()), "/").await.is_err());
    });
}

#[test]
fn a_session_is_resumed_by_the_next_connection() {
    run(async {
        let resumed = Count::default();
        let counted = resumed.clone();
        let (base, _) = server(ca().server("localhost", &["http/1.1"], false), move |_, mut stream| {
            if stream.get_ref().1.handshake_kind() == Some(HandshakeKind::Resumed) {
                counted.add();
            }
            Box::pin(async move {
                request(&mut stream).await;
                let answer = "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 2\r\n\r\nok";
                say(&mut stream, answer).await;
                let _ = stream.shutdown().await;
            })
        })
        .await;
        let pool = pool(&base, &trusting());
        for _ in 0..3 {
            assert_eq!(answer(&pool, "/").await, "ok");
        }
        assert_eq!(resumed.get(), 2);
    });
}

#[test]
fn a_server_that_accepts_and_says_nothing_fails_the_handshake_in_its_time() {
    run(async {
        let (base, _) = tcp_server(|_, mut stream| async move { ended(&mut stream).await }).await;
        let base = base.replace("http://127.0.0.1", "https://localhost");
        let patience = Patience { tls: Duration::from_millis(100), ..PATIENCE };
        let error = pool(&base, &trusting()).send(post("/"), patience).await.unwrap_err();
        assert!(matches!(error, PoolError::TlsTimeout(_)), "{error:?}");
    });
}

#[test]
fn a_request_with_little_patience_does_not_take_the_connection_from_others() {
    run(async {
        let acceptor = ca().server("localhost", &["h2"], false);
        let (base, accepted) = tcp_server(move |_, stream| {
            let acceptor = acceptor.clone();
            async move {
                sleep(Duration::from_millis(300)).await;
                if let Ok(stream) = acceptor.accept(stream).await {
                    Wire::accept_with(stream, Some(100)).await.unwrap().serve_ok().await;
                }
            }
        })
        .await;
        let pool = pool(&base.replace("http://127.0.0.1", "https://localhost"), &trusting());
        let patient = asking(&pool, "/");
        let short = Duration::from_millis(20);
        let hasty = Patience { connect: PATIENCE.connect, tls: short, queue: short, head: short };
        let asked = Rc::clone(&pool);
        // Both ask before anything is dialled, the hasty one last.
        let hasty = spawn_local(async move { asked.send(post("/"), hasty).await });
        let error = hasty.await.unwrap().unwrap_err();
        assert!(matches!(error, PoolError::HeadTimeout(_)), "{error:?}");
        assert_eq!(text(patient.await.unwrap().unwrap()).await.unwrap(), "ok");
        assert_eq!(accepted.get(), 1);
    });
}

#[test]
fn a_long_question_goes_out_and_its_place_is_free_again() {
    run(async {
        let (base, accepted) = h2_server(|_, stream| Box::pin(serve_long(stream))).await;
        let pool = pool(&base, &trusting());
        for _ in 0..3 {
            let question = Full::new(Bytes::from(vec![b'q'; 3_000_000]));
            let response = pool.send(post("/").map(|_| question), PATIENCE).await.unwrap();
            assert_eq!(text(response).await.unwrap(), "3000000");
        }
        assert_eq!(accepted.get(), 1);
    });
}

/// Says how long the question was.
async fn serve_long(stream: ServerStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        spawn_local(async move {
            let (mut body, mut bytes) = (request.into_body(), 0);
            while let Some(piece) = body.data().await {
                let piece = piece.unwrap().len();
                bytes += piece;
                body.flow_control().release_capacity(piece).unwrap();
            }
            let mut sender = respond.send_response(Response::new(()), false).unwrap();
            sender.send_data(Bytes::from(bytes.to_string()), true).unwrap();
        });
    }
}

#[test]
fn an_answer_without_length_that_is_cut_without_close_notify_is_an_error() {
    for clean in [true, false] {
        run(async {
            let (base, _) = server(ca().server("localhost", &[], false), move |_, mut stream| {
                Box::pin(async move {
                    request(&mut stream).await;
                    say(&mut stream, "HTTP/1.1 200 OK\r\n\r\nhalf").await;
                    if clean {
                        stream.shutdown().await.unwrap();
                    }
                })
            })
            .await;
            let read = text(ask(&pool(&base, &trusting()), "/").await.unwrap()).await;
            assert_eq!(read.is_ok(), clean, "{read:?}");
        });
    }
}

#[test]
fn files_that_are_not_what_they_should_be_are_named() {
    let directory = tempfile::tempdir().unwrap();
    let base = "https://localhost".parse().unwrap();
    let empty = directory.path().join("empty.pem");
    std::fs::write(&empty, "no certificate").unwrap();
    for file in [empty, directory.path().join("missing.pem")] {
        let error = client_config(
            &base,
            &Connection { ca_file: Some(file.clone()), ..connection() },
            Trust::Configured,
        );
        let error = error.unwrap_err().to_string();
        assert!(error.starts_with("ca_file: ") && error.contains(file.to_str().unwrap()), "{error}");
    }
}
