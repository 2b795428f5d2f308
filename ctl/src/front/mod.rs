//! `handoffctl front`: stands in for Apache where there is none, for a look with curl or a browser.
//! In: one HTTP/1 request per connection. Out: a page, an error, or the client's socket handed over.
//! Never: shuts down or keeps a socket that it handed over, reads a second request, is meant for the internet.

mod payload;
mod reply;
mod request;

use std::convert::Infallible;
use std::io::{self, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::Duration;

use nix::sys::socket::{setsockopt, sockopt};

use self::reply::Reply;
use self::request::{Method, Request};
use crate::handover::HandoffSocket;
use crate::outcome::{Exit, Failure};

/// Clients that are read at the same time; further ones wait in the backlog.
const READERS: usize = 64;
/// How long a reader waits after accept failed, mostly for want of fds.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
const PAGE: &str = include_str!("page.html");

const HELP_TAIL: &str = "\
Routes:
  /         a page that streams by EventSource and by fetch
  /stream   handed over, with prompt, format, backend, model, include (usage,reasoning,…),
            system, user_id and mock (JSON) from the query, form fields or a JSON body; lastEventId from the query

Exit codes:
  2  wrong usage
  3  cannot listen there

Examples:
  handoffctl front --listen 127.0.0.1:8080 &
  curl -N 'http://127.0.0.1:8080/stream?prompt=Why'
  curl -N http://127.0.0.1:8080/stream -d '{\"prompt\":\"Why?\",\"format\":\"openai\"}'";

/// Where clients come in, and where they go.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP_TAIL)]
pub(crate) struct Args {
    /// Where to listen for HTTP
    #[arg(short, long, value_name = "IP:PORT", default_value = "127.0.0.1:8080")]
    listen: SocketAddr,
    #[command(flatten)]
    socket: HandoffSocket,
}

/// Serves until a signal ends it.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let refused = |source| Failure::Listen { address: args.listen.to_string(), source };
    let listener = TcpListener::bind(args.listen).map_err(refused)?;
    let address = listener.local_addr().map_err(refused)?;
    let mut out = io::stdout();
    writeln!(out, "http://{address}/ hands over to {}", args.socket.path().display())
        .and_then(|()| out.flush())
        .map_err(Failure::Output)?;

    thread::scope(|readers| {
        for _ in 1..READERS {
            readers.spawn(|| accept_forever(&listener, &args.socket));
        }
        match accept_forever(&listener, &args.socket) {}
    })
}

fn accept_forever(listener: &TcpListener, socket: &HandoffSocket) -> Infallible {
    loop {
        match listener.accept() {
            // A client that is gone needs no answer, and nobody else to know.
            Ok((client, _)) => drop(serve(client, socket)),
            Err(_) => thread::park_timeout(ACCEPT_PAUSE),
        }
    }
}

/// One client: read the request, then answer it or hand it over.
fn serve(mut client: TcpStream, socket: &HandoffSocket) -> io::Result<()> {
    let request = match request::read(&mut client)? {
        Some(Ok(request)) => request,
        Some(Err(refusal)) => return refusal.send(client, Method::Get),
        None => return Ok(()),
    };
    let method = request.method;
    match route(&request) {
        Route::Answer(reply) => reply.send(client, method),
        Route::HandOver(payload) => match hand_over(&client, &payload, socket)? {
            None => Ok(()), // `client` closes here, without a shutdown: the connection is the daemon's
            Some(reply) => reply.send(client, method),
        },
    }
}

/// What becomes of a request.
#[derive(Debug, PartialEq, Eq)]
enum Route {
    Answer(Reply),
    HandOver(Vec<u8>),
}

fn route(request: &Request) -> Route {
    let reads = matches!(request.method, Method::Get | Method::Head);
    match request.path.as_str() {
        "/" if reads => Route::Answer(Reply::page(PAGE)),
        "/favicon.ico" if reads => Route::Answer(Reply::nothing()),
        "/stream" => match payload::payload(request) {
            Ok(payload) => Route::HandOver(payload),
            Err(reply) => Route::Answer(reply),
        },
        "/" | "/favicon.ico" => Route::Answer(Reply::method_not_allowed("GET, HEAD")),
        _ => Route::Answer(Reply::not_found()),
    }
}

/// Gives the client away in the state that Apache would; the reply is for a client that is still ours.
fn hand_over(client: &TcpStream, payload: &[u8], socket: &HandoffSocket) -> io::Result<Option<Reply>> {
    client.set_nodelay(true)?;
    setsockopt(client, sockopt::KeepAlive, &true)?;
    client.set_nonblocking(true)?;
    let Err(error) = socket.hand_over(payload, client) else { return Ok(None) };
    client.set_nonblocking(false)?;
    eprintln!("handoffctl: {error}");
    Ok(Some(if error.is_too_large() { Reply::too_large() } else { Reply::unavailable() }))
}

#[cfg(test)]
mod tests;
