//! The scripted LLM server, asked by hyper's clients.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod started;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::client::conn::{http1, http2};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::time::{ClockId, clock_gettime};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use started::{PATIENCE, Started};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::TlsConnector;

type Body = Full<Bytes>;

fn upstream(arguments: &[&str]) -> (Started, String, Option<String>) {
    let mut upstream = Started::new(env!("CARGO_BIN_EXE_upstream"), arguments);
    let line = upstream.line();
    let said = line.strip_prefix("upstream listens on ").unwrap();
    let (url, ca_file) = match said.split_once(" with ") {
        Some((url, ca_file)) => (url, Some(ca_file.to_owned())),
        None => (said, None),
    };
    (upstream, url.to_owned(), ca_file)
}

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async { tokio::time::timeout(PATIENCE, test).await.unwrap() })
}

fn address(url: &str) -> &str {
    url.split_once("://").unwrap().1
}

fn question(body: &'static [u8]) -> Request<Body> {
    let request = Request::post("http://llm.test/v1/chat/completions").header("host", "llm.test");
    request.body(Full::new(Bytes::from_static(body))).unwrap()
}

async fn connect2(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> http2::SendRequest<Body> {
    connect2_with(io, http2::Builder::new(TokioExecutor::new())).await
}

async fn connect2_with(
    io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    builder: http2::Builder<TokioExecutor>,
) -> http2::SendRequest<Body> {
    let (sender, connection) = builder.handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn connect1(io: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> http1::SendRequest<Body> {
    let (sender, connection) = http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(connection);
    sender
}

async fn encrypted(url: &str, ca_file: &str, alpn: &[u8]) -> tokio_rustls::client::TlsStream<TcpStream> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).unwrap()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions();
    let mut config = builder.unwrap().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"other".to_vec(), alpn.to_vec()];
    let stream = TcpStream::connect(address(url)).await.unwrap();
    let name = ServerName::try_from("127.0.0.1").unwrap();
    let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(alpn));
    stream
}

async fn text(response: Response<Incoming>) -> String {
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// The tokens of a whole answer.
fn tokens(answer: &str) -> Vec<String> {
    let mut events: Vec<&str> = answer.split_terminator("\n\n").collect();
    assert_eq!(events.pop(), Some("data: [DONE]"), "{answer}");
    let chunks = events.iter().map(|event| event.strip_prefix("data: ").unwrap());
    let chunks: Vec<serde_json::Value> = chunks.map(|json| serde_json::from_str(json).unwrap()).collect();
    let (first, rest) = chunks.split_first().unwrap();
    let (last, content) = rest.split_last().unwrap();
    assert_eq!(first["object"], "chat.completion.chunk");
    assert_eq!(first["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(last["choices"][0]["finish_reason"], "stop");
    content.iter().map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().unwrap().to_owned()).collect()
}

#[test]
fn a_whole_answer_comes_over_each_protocol() {
    let expected = vec![" a\"b\n"; 7];
    let options = ["--events", "7", "--token", " a\"b\n"];
    for tls in [false, true] {
        let tls_option: &[&str] = if tls { &["--tls"] } else { &[] };
        let (_upstream, url, ca_file) = upstream(&[&options, tls_option].concat());
        run(async {
            let mut sender = match &ca_file {
                Some(file) => connect2(encrypted(&url, file, b"h2").await).await,
                None => connect2(TcpStream::connect(address(&url)).await.unwrap()).await,
            };
            for _ in 0..3 {
                let response = sender.send_request(question(b"{}")).await.unwrap();
                assert_eq!(tokens(&text(response).await), expected);
            }
        });
        let (_upstream, url, ca_file) = upstream(&[&options as &[&str], &["--h1"], tls_option].concat());
        run(async {
            let mut sender = match &ca_file {
                Some(file) => connect1(encrypted(&url, file, b"http/1.1").await).await,
                None => connect1(TcpStream::connect(address(&url)).await.unwrap()).await,
            };
            for _ in 0..3 {
                sender.ready().await.unwrap();
                let response = sender.send_request(question(b"{}")).await.unwrap();
                assert_eq!(tokens(&text(response).await), expected);
            }
        });
    }
}

#[test]
fn it_listens_on_a_unix_socket_too() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("llm.sock");
    let (_upstream, url, _) = upstream(&["--listen", path.to_str().unwrap(), "--events", "2"]);
    assert_eq!(url, format!("unix:{}", path.display()));
    run(async {
        let mut sender = connect2(UnixStream::connect(&path).await.unwrap()).await;
        let response = sender.send_request(question(b"{}")).await.unwrap();
        assert_eq!(tokens(&text(response).await), [" token"; 2]);
    });
}

#[test]
fn a_thousand_streams_at_once_are_all_answered() {
    for tls in [false, true] {
        let tls_option: &[&str] = if tls { &["--tls"] } else { &[] };
        let options: &[&str] = &["--events", "5", "--interval-ms", "50"];
        let (_upstream, url, ca_file) = upstream(&[options, tls_option].concat());
        run(async {
            let mut builder = http2::Builder::new(TokioExecutor::new());
            builder.initial_max_send_streams(1000);
            let sender = match &ca_file {
                Some(file) => connect2_with(encrypted(&url, file, b"h2").await, builder).await,
                None => connect2_with(TcpStream::connect(address(&url)).await.unwrap(), builder).await,
            };
            let mut streams = tokio::task::JoinSet::new();
            for _ in 0..1000 {
                let mut sender = sender.clone();
                streams.spawn(async move {
                    let response = sender.send_request(question(b"{}")).await.unwrap();
                    tokens(&text(response).await).len()
                });
            }
            assert!(streams.join_all().await.iter().all(|tokens| *tokens == 5));
        });
    }
}

#[test]
fn long_answers_go_through_small_windows_whole() {
    let (_upstream, url, _) = upstream(&["--events", "200"]);
    run(async {
        let mut builder = http2::Builder::new(TokioExecutor::new());
        builder.adaptive_window(false).initial_stream_window_size(100).initial_connection_window_size(70_000);
        let sender = connect2_with(TcpStream::connect(address(&url)).await.unwrap(), builder).await;
        let mut streams = tokio::task::JoinSet::new();
        for _ in 0..20 {
            let mut sender = sender.clone();
            streams.spawn(async move {
                let response = sender.send_request(question(b"{}")).await.unwrap();
                tokens(&text(response).await).len()
            });
        }
        assert!(streams.join_all().await.iter().all(|tokens| *tokens == 200));
    });
}

#[test]
fn an_answer_larger_than_all_buffers_goes_through_whole() {
    for options in [&["--tls"] as &[&str], &["--h1", "--tls"], &[], &["--h1"]] {
        let (_upstream, url, ca_file) = upstream(&[&["--events", "40000"], options].concat());
        let h1 = options.contains(&"--h1");
        run(async {
            let alpn: &[u8] = if h1 { b"http/1.1" } else { b"h2" };
            let response = match &ca_file {
                Some(file) if h1 => {
                    connect1(encrypted(&url, file, alpn).await).await.send_request(question(b"{}")).await
                }
                Some(file) => {
                    connect2(encrypted(&url, file, alpn).await).await.send_request(question(b"{}")).await
                }
                None => {
                    let stream = TcpStream::connect(address(&url)).await.unwrap();
                    if h1 {
                        connect1(stream).await.send_request(question(b"{}")).await
                    } else {
                        connect2(stream).await.send_request(question(b"{}")).await
                    }
                }
            };
            let answer = text(response.unwrap()).await;
            assert_eq!(answer.matches("\" token\"").count(), 40_000);
            assert!(answer.ends_with("data: [DONE]\n\n"));
        });
    }
}

#[test]
fn a_large_question_is_read_to_its_end_before_it_is_answered() {
    static BODY: [u8; 5 << 20] = [b' '; 5 << 20];
    let (_upstream, url, _) = upstream(&["--events", "2"]);
    run(async {
        let mut sender = connect2(TcpStream::connect(address(&url)).await.unwrap()).await;
        let response = sender.send_request(question(&BODY)).await.unwrap();
        assert_eq!(tokens(&text(response).await).len(), 2);
    });
    let (_upstream, url, _) = upstream(&["--events", "2", "--h1"]);
    run(async {
        let mut sender = connect1(TcpStream::connect(address(&url)).await.unwrap()).await;
        let response = sender.send_request(question(&BODY)).await.unwrap();
        assert_eq!(tokens(&text(response).await).len(), 2);
    });
}

#[test]
fn tokens_come_at_their_times_and_the_head_before_them() {
    for protocol in [&[] as &[&str], &["--h1"]] {
        let options = ["--events", "4", "--first-ms", "200", "--interval-ms", "100"];
        let (_upstream, url, _) = upstream(&[&options, protocol].concat());
        run(async {
            let stream = TcpStream::connect(address(&url)).await.unwrap();
            let began = Instant::now();
            let mut response = if protocol.is_empty() {
                connect2(stream).await.send_request(question(b"{}")).await.unwrap()
            } else {
                connect1(stream).await.send_request(question(b"{}")).await.unwrap()
            };
            assert!(began.elapsed() < Duration::from_millis(200));
            let mut seen = 0;
            while let Some(frame) = response.body_mut().frame().await {
                let bytes = frame.unwrap().into_data().unwrap();
                let text = String::from_utf8(bytes.to_vec()).unwrap();
                for _ in text.matches("\" token\"") {
                    assert!(began.elapsed() >= Duration::from_millis(200 + 100 * seen), "token {seen}");
                    seen += 1;
                }
            }
            assert_eq!(seen, 4);
            assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
        });
    }
}

#[test]
fn a_stamp_is_the_moment_of_its_token() {
    let now = || {
        let now = clock_gettime(ClockId::CLOCK_MONOTONIC).unwrap();
        i128::from(now.tv_sec()) * 1_000_000_000 + i128::from(now.tv_nsec())
    };
    let (_upstream, url, _) = upstream(&["--events", "3", "--interval-ms", "50", "--stamp"]);
    run(async {
        let mut sender = connect2(TcpStream::connect(address(&url)).await.unwrap()).await;
        let began = now();
        let response = sender.send_request(question(b"{}")).await.unwrap();
        let tokens = tokens(&text(response).await);
        let stamps: Vec<i128> =
            tokens.iter().map(|token| token.strip_prefix(" @").unwrap().parse().unwrap()).collect();
        assert!(stamps[2] < now(), "{stamps:?}");
        // Each is late by as much as the machine makes it, but never early.
        for (due, stamp) in (began..).step_by(50_000_000).zip(&stamps) {
            assert!(due < *stamp, "{stamps:?} from {began} on");
        }
    });
}

#[test]
fn it_ends_with_its_standard_input_and_leaves_no_file() {
    let (mut upstream, _, ca_file) = upstream(&["--tls"]);
    let ca_file = ca_file.unwrap();
    assert!(Path::new(&ca_file).exists());
    drop(upstream.stdin.take());
    assert_eq!(upstream.line(), "");
    assert!(upstream.wait().success());
    assert!(!Path::new(&ca_file).exists());
}
