//! The pool against servers that run beside it on the same thread.

mod cancel;
mod http1;
mod http2;
mod limits;
mod places;
mod proxy;
mod tls;
mod wire;

use std::cell::Cell;
use std::future::poll_fn;
use std::num::{NonZeroU16, NonZeroU32};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use handoff_config::backend::Connection;
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::{JoinHandle, LocalSet, spawn_local};
use tokio::time::{Instant, sleep, timeout};

use super::{Body, BodyError, Patience, Pool, PoolError};
use crate::upstream::tls::{Trust, client_config};

/// Everything happens within this time, or the test fails.
const LONG: Duration = Duration::from_secs(20);
/// A cancelled request is seen by the server within this time.
const SOON: Duration = Duration::from_millis(100);

const PATIENCE: Patience = Patience {
    connect: Duration::from_secs(5),
    tls: Duration::from_secs(5),
    queue: Duration::from_secs(5),
    head: Duration::from_secs(10),
};

fn run<T>(test: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let test = async { timeout(LONG, test).await.expect("the test takes too long") };
    LocalSet::new().block_on(&runtime, test)
}

fn connection() -> Connection {
    Connection {
        socket: None,
        http2: true,
        stream_window_bytes: 65_535,
        connection_window_bytes: None,
        keep_alive_interval: Duration::from_secs(20),
        keep_alive_timeout: Duration::from_secs(10),
        streams_max: NonZeroU32::new(100).unwrap(),
        connections_max: NonZeroU16::new(64).unwrap(),
        idle_max: 8,
        age_max: Duration::from_secs(300),
        ca_file: None,
        client_certificate: None,
        insecure_ssl: false,
        proxy: None,
    }
}

fn connections_max(connections: u16) -> Connection {
    Connection { connections_max: NonZeroU16::new(connections).unwrap(), ..connection() }
}

fn pool(base: &str, connection: &Connection) -> Rc<Pool> {
    let base = base.parse().unwrap();
    let tls = client_config(&base, connection, Trust::Configured).unwrap();
    Pool::new(&base, connection, tls)
}

fn post(path: &str) -> Request<Full<Bytes>> {
    let uri = format!("http://elsewhere.example{path}");
    Request::post(uri).body(Full::new(Bytes::from_static(b"question"))).unwrap()
}

async fn ask(pool: &Rc<Pool>, path: &str) -> Result<Response<Body>, PoolError> {
    pool.send(post(path), PATIENCE).await
}

fn asking(pool: &Rc<Pool>, path: &'static str) -> JoinHandle<Result<Response<Body>, PoolError>> {
    let pool = Rc::clone(pool);
    spawn_local(async move { ask(&pool, path).await })
}

async fn next(body: &mut Body) -> Option<Result<Bytes, BodyError>> {
    poll_fn(|cx| body.poll_bytes(cx)).await
}

async fn text(response: Response<Body>) -> Result<String, BodyError> {
    let (mut body, mut all) = (response.into_body(), vec![]);
    while let Some(bytes) = next(&mut body).await {
        all.extend_from_slice(&bytes?);
    }
    Ok(String::from_utf8(all).unwrap())
}

async fn answer(pool: &Rc<Pool>, path: &str) -> String {
    text(ask(pool, path).await.unwrap()).await.unwrap()
}

/// Waits for a fact.
async fn eventually(what: &str, within: Duration, fact: impl Fn() -> bool) {
    let since = Instant::now();
    while !fact() {
        assert!(since.elapsed() < within, "not within {within:?}: {what}");
        sleep(Duration::from_millis(1)).await;
    }
}

/// What a server counts.
#[derive(Clone, Debug, Default)]
struct Count(Rc<Cell<usize>>);

impl Count {
    fn add(&self) -> usize {
        self.0.set(self.0.get() + 1);
        self.0.get()
    }

    fn get(&self) -> usize {
        self.0.get()
    }
}

/// A server on a port of its own; `serve` is told the number of the connection, from 1.
async fn tcp_server<F, S>(serve: S) -> (String, Count)
where
    S: Fn(usize, tokio::net::TcpStream) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let accepted = Count::default();
    let count = accepted.clone();
    spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            stream.set_nodelay(true).unwrap();
            spawn_local(serve(count.add(), stream));
        }
    });
    (base, accepted)
}

/// One HTTP/1.1 request: its head and its body, or nothing at the connection's end.
async fn request(stream: &mut (impl AsyncRead + Unpin)) -> Option<String> {
    let mut bytes = vec![];
    loop {
        let text = String::from_utf8_lossy(&bytes);
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let head = head.to_ascii_lowercase();
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next());
            if body.len() >= length.map_or(0, |length| length.trim().parse().unwrap()) {
                return Some(text.into_owned());
            }
        }
        if stream.read_buf(&mut bytes).await.ok()? == 0 {
            return None;
        }
    }
}

/// Whether the other side has closed the connection, or broken it.
async fn ended(stream: &mut (impl AsyncRead + Unpin)) {
    let mut rest = [0; 1024];
    while !matches!(stream.read(&mut rest).await, Ok(0) | Err(_)) {}
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), text: &str) {
    stream.write_all(text.as_bytes()).await.unwrap();
    stream.flush().await.unwrap();
}

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
const CHUNKED: &str = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";

/// Answers everything with `ok`; not to HTTP/2's preface.
async fn serve_ok(mut stream: impl AsyncRead + AsyncWrite + Unpin) {
    while let Some(request) = request(&mut stream).await {
        if request.starts_with("PRI ") {
            return;
        }
        say(&mut stream, OK).await;
    }
}

/// A connection without HTTP/2, to a plain server.
fn http1_only() -> Connection {
    Connection { http2: false, ..connection() }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
