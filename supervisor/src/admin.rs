//! The admin endpoint: `/metrics`, `/health`, `/healthz`, `/readyz`, `/status` over HTTP.
//!
//! In: GET requests on `metrics.listen_addr`. Out: text and JSON, made by the event loop between two turns.
//! Never: changes anything, holds more than a bounded number of connections, lets a slow reader stall the loop.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::timeout;

/// Connections at the same time; more wait in the kernel.
const CONNECTIONS_MAX: usize = 32;
/// A request's head must be here by then.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// A whole connection must be over by then.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(30);

/// What somebody wants to know.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Topic {
    /// Prometheus text.
    Metrics,
    /// The process is alive.
    Health,
    /// The fleet takes handoffs.
    Ready,
    /// The fleet as JSON.
    Status,
}

/// A question to the event loop.
#[derive(Debug)]
pub(crate) struct Question {
    pub(crate) topic: Topic,
    pub(crate) reply: oneshot::Sender<Answer>,
}

/// What the event loop says.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) ok: bool,
    pub(crate) content_type: &'static str,
    pub(crate) body: String,
}

/// Serves the endpoint on this address; questions come out of the receiver.
///
/// # Errors
/// When the address cannot be bound.
pub(crate) async fn serve(address: SocketAddr) -> io::Result<mpsc::Receiver<Question>> {
    let listener = TcpListener::bind(address).await?;
    let (questions, asked) = mpsc::channel(CONNECTIONS_MAX);
    tokio::spawn(accept(listener, questions));
    Ok(asked)
}

async fn accept(listener: TcpListener, questions: mpsc::Sender<Question>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "admin endpoint cannot accept");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let questions = questions.clone();
        tokio::spawn(async move {
            let _ = timeout(CONNECTION_TIMEOUT, connection(stream, questions)).await;
            drop(place);
        });
    }
}

async fn connection(stream: TcpStream, questions: mpsc::Sender<Question>) {
    let service = service_fn(move |request| respond(request, questions.clone()));
    let served = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service)
        .await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
    }
}

async fn respond(
    request: Request<Incoming>,
    questions: mpsc::Sender<Question>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        return Ok(plain(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD are allowed here\n"));
    }
    let topic = match request.uri().path() {
        "/metrics" => Topic::Metrics,
        "/health" | "/healthz" => Topic::Health,
        "/readyz" => Topic::Ready,
        "/status" => Topic::Status,
        _ => {
            return Ok(plain(
                StatusCode::NOT_FOUND,
                "there is /metrics, /health, /healthz, /readyz and /status\n",
            ));
        }
    };
    let (reply, answer) = oneshot::channel();
    if questions.send(Question { topic, reply }).await.is_err() {
        return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n"));
    }
    let Ok(answer) = answer.await else { return Ok(plain(StatusCode::SERVICE_UNAVAILABLE, "stopping\n")) };
    let status = if answer.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    Ok(response(status, answer.content_type, answer.body))
}

fn plain(status: StatusCode, text: &'static str) -> Response<Full<Bytes>> {
    response(status, "text/plain; charset=utf-8", text.to_owned())
}

fn response(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
