//! A scripted LLM server. In: what it shall answer, and how that shall go wrong. Out: real bytes on a real socket, over
//! HTTP/1.1, HTTP/2, TLS or a Unix socket, and everything that it has seen.
//!
//! It has a thread of its own in the test's process, and an address of its own. Dropped, it is gone with all its
//! connections. Never: talks to anybody but who connects; needs a file beyond its own directory.

pub mod answer;
pub mod book;
mod http1;
mod http2;
mod mock_api;
pub mod proxy;
mod serve;
mod site;
pub mod talk;
pub mod tls;
mod wire;

#[cfg(test)]
mod tests;

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tempfile::TempDir;
use tokio::sync::{oneshot, watch};

pub use answer::{Answer, Framing, LastStream, Step, code};
pub use book::{Connection, End, Request, Seen, Spoken};
pub use proxy::Proxy;
pub use talk::{Dialect, Parts, Talk, words};
pub use tls::Certificate;

use crate::{eventually, own_address};
use serve::{Listener, Listening, Place};
use site::Site;

/// What the server speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Protocol {
    /// HTTP/1.1 alone.
    H1,
    /// HTTP/2 without TLS, by prior knowledge alone.
    H2c,
    /// HTTP/2 without TLS for who begins with its preface, and HTTP/1.1.
    H1AndH2c,
    /// TLS; ALPN knows HTTP/1.1 alone.
    H1Tls,
    /// TLS; ALPN chooses HTTP/2 before HTTP/1.1.
    H2Tls,
    /// TLS without ALPN, and HTTP/1.1.
    TlsWithoutAlpn,
    /// HTTP/1.1 on a Unix socket.
    Unix,
}

impl Protocol {
    /// All of them.
    pub const ALL: [Self; 7] =
        [Self::H1, Self::H2c, Self::H1AndH2c, Self::H1Tls, Self::H2Tls, Self::TlsWithoutAlpn, Self::Unix];

    fn alpn(self) -> Option<&'static [&'static str]> {
        match self {
            Self::H1Tls => Some(&["http/1.1"]),
            Self::H2Tls => Some(&["h2", "http/1.1"]),
            Self::TlsWithoutAlpn => Some(&[]),
            Self::H1 | Self::H2c | Self::H1AndH2c | Self::Unix => None,
        }
    }
}

/// What happens to a connection once it is accepted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Opening {
    /// It is served.
    #[default]
    Serve,
    /// Nobody speaks, not even TLS.
    Silent,
    /// Nobody speaks after TLS.
    SilentAfterTls,
    /// It is closed.
    Close,
    /// It is reset.
    Reset,
    /// These bytes come, after TLS where there is TLS, and then the end.
    Raw(&'static [u8]),
}

/// How a server is started.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// What it speaks.
    pub protocol: Protocol,
    /// What it does with connections, unless a test has said otherwise of the next ones.
    pub opening: Opening,
    /// What it shows.
    pub certificate: Certificate,
    /// It wants one of the client too.
    pub wants_client_certificate: bool,
    /// TLS sessions may be resumed.
    pub resumes_tls: bool,
    /// HTTP/2: streams of one connection, refused beyond that; none: no limit is announced.
    pub max_concurrent_streams: Option<u32>,
    /// HTTP/2: the server's SETTINGS, and all that follows, are held back for so long.
    pub settings_delay: Duration,
    /// HTTP/2: after three PINGs that came sooner than this after the one before, GOAWAY (ENHANCE_YOUR_CALM) and the end.
    pub ping_interval_min: Duration,
    /// HTTP/2: PINGs are answered.
    pub answers_pings: bool,
    /// Connections that may wait to be accepted (listen(2)).
    pub backlog: u32,
}

impl Options {
    /// Everything as it should be.
    #[must_use]
    pub fn new(protocol: Protocol) -> Self {
        Self {
            protocol,
            opening: Opening::Serve,
            certificate: Certificate::Good,
            wants_client_certificate: false,
            resumes_tls: true,
            max_concurrent_streams: None,
            settings_delay: Duration::ZERO,
            ping_interval_min: Duration::ZERO,
            answers_pings: true,
            backlog: 1024,
        }
    }
}

/// A running server.
#[derive(Debug)]
pub struct Upstream {
    site: Arc<Site>,
    place: Place,
    listening: watch::Sender<Listening>,
    listened: watch::Receiver<Listening>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
    directory: TempDir,
}

impl Upstream {
    /// Answers every request with ten words of Chat Completions, until it is told otherwise.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start(protocol: Protocol) -> Self {
        Self::with(Options::new(protocol))
    }

    /// As [`Upstream::start`], and otherwise too.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn with(options: Options) -> Self {
        let directory = tempfile::Builder::new().prefix("handoffd-llm-").tempdir().expect("a directory");
        let open = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(directory.path(), open).expect("a mode");
        let address = IpAddr::V4(own_address());
        let tls = options.protocol.alpn().map(|alpn| {
            let (certificate, client) = (options.certificate, options.wants_client_certificate);
            let mut config = tls::configure(directory.path(), address, certificate, client, alpn);
            if !options.resumes_tls {
                config.send_tls13_tickets = 0;
                config.session_storage = Arc::new(rustls::server::NoServerSessionStorage {});
            }
            Arc::new(config)
        });
        let path = directory.path().join("llm.sock");
        let wanted = match options.protocol {
            Protocol::Unix => Place::Unix(path.clone()),
            Protocol::H1
            | Protocol::H2c
            | Protocol::H1AndH2c
            | Protocol::H1Tls
            | Protocol::H2Tls
            | Protocol::TlsWithoutAlpn => Place::Tcp(SocketAddr::new(address, 0)),
        };
        let site = Arc::new(Site::new(options));
        let (listening, orders) = watch::channel(Listening::Yes);
        let (obeyed, listened) = watch::channel(Listening::Yes);
        let (stop, stopped) = oneshot::channel();
        let (tell, told) = mpsc::sync_channel(1);
        let shared = Arc::clone(&site);
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = Listener::bind(&wanted, shared.options.backlog).expect("a listening socket");
                let place = listener.place(&path).expect("an address");
                tell.send(place.clone()).expect("somebody who waits for it");
                tokio::select! {
                    () = serve::serve(shared, listener, place, (orders, obeyed), tls) => {}
                    _ = stopped => {}
                }
            });
        });
        let place = told.recv().expect("a server that listens");
        Self { site, place, listening, listened, stop: Some(stop), thread: Some(thread), directory }
    }

    /// Every request from now on gets this answer.
    pub fn script(&self, answer: impl Into<Answer>) {
        let answer = answer.into();
        self.answer_with(move |_| answer.clone());
    }

    /// The next requests get these answers, one each; the last one serves all that follow.
    ///
    /// # Panics
    /// When there are none.
    pub fn script_each(&self, answers: impl IntoIterator<Item = Answer>) {
        let mut answers: Vec<Answer> = answers.into_iter().collect();
        answers.reverse();
        assert!(!answers.is_empty(), "at least one answer");
        self.answer_with(move |_| {
            let last = answers.last().cloned().unwrap_or_else(|| Answer::new(500));
            if answers.len() > 1 {
                answers.pop();
            }
            last
        });
    }

    /// Requests get the answer of the first of these texts that their path ends with, and 404 if there is none.
    pub fn script_by_path<const N: usize>(&self, answers: [(&str, Answer); N]) {
        let answers = answers.map(|(end, answer)| (end.to_owned(), answer));
        self.answer_with(move |request| {
            let found = answers.iter().find(|(end, _)| request.path.ends_with(end.as_str()));
            found.map_or_else(|| Answer::new(404).whole(Vec::new()), |(_, answer)| answer.clone())
        });
    }

    /// Every request from now on gets the answer that this finds.
    pub fn answer_with(&self, script: impl FnMut(&Request) -> Answer + Send + 'static) {
        self.site.set_script(Box::new(script));
    }

    /// The next connections are opened so, one each.
    pub fn next_connections(&self, openings: impl IntoIterator<Item = Opening>) {
        self.site.open_next(openings);
    }

    /// Whoever waits at this gate, or comes to it, goes on.
    pub fn open(&self, gate: &str) {
        self.site.open_gate(gate);
    }

    /// Nobody listens any more; what is connected stays so.
    pub fn refuse(&self) {
        self.order(Listening::No);
    }

    /// Connections wait in the kernel's backlog, until [`Upstream::listen`].
    pub fn pause_accepting(&self) {
        self.order(Listening::Paused);
    }

    /// It listens again, at the same place.
    pub fn listen(&self) {
        self.order(Listening::Yes);
    }

    /// All requests so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Seen> {
        self.site.book.requests()
    }

    /// How many requests there were so far.
    #[must_use]
    pub fn request_count(&self) -> usize {
        self.site.book.request_count()
    }

    /// The request of this number, from 0, once it has come.
    ///
    /// # Panics
    /// When it does not come in time.
    #[track_caller]
    pub fn wait_for_request(&self, number: usize) -> Seen {
        eventually(&format!("request {number} comes"), || self.site.book.request(number))
    }

    /// When and how the answer to this request ended, once it has.
    ///
    /// # Panics
    /// When it does not end in time.
    #[track_caller]
    pub fn wait_for_end(&self, number: usize) -> (Instant, End) {
        eventually(&format!("the answer to request {number} ends"), || self.site.book.request(number)?.end)
    }

    /// When and how the client has given up this request, once it has.
    ///
    /// # Panics
    /// When it does not in time, or the answer ends otherwise.
    #[track_caller]
    pub fn wait_for_cancel(&self, number: usize) -> (Instant, End) {
        let (at, end) = self.wait_for_end(number);
        assert!(matches!(end, End::Reset(_) | End::Closed), "request {number} ended by {end:?}");
        (at, end)
    }

    /// All connections so far.
    #[must_use]
    pub fn connections(&self) -> Vec<Connection> {
        self.site.book.connections()
    }

    /// How many connections there are now.
    #[must_use]
    pub fn open_connections(&self) -> usize {
        self.connections().iter().filter(|connection| connection.closed.is_none()).count()
    }

    /// `ADDRESS:PORT`; a socket's path.
    #[must_use]
    pub fn address(&self) -> String {
        match &self.place {
            Place::Tcp(address) => address.to_string(),
            Place::Unix(path) => path.display().to_string(),
        }
    }

    /// `http://…` or `https://…`, without a path; of a Unix socket `http://localhost`.
    #[must_use]
    pub fn origin(&self) -> String {
        let scheme = if self.site.options.protocol.alpn().is_some() { "https" } else { "http" };
        match &self.place {
            Place::Tcp(address) => format!("{scheme}://{address}"),
            Place::Unix(_) => "http://localhost".to_owned(),
        }
    }

    /// The authority that a client has to trust.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// A certificate that the server accepts of a client, and its key.
    #[must_use]
    pub fn client_certificate(&self) -> (PathBuf, PathBuf) {
        (self.directory.path().join("client.pem"), self.directory.path().join("client.key"))
    }

    /// `[backends.NAME]` for this server, without an end: further keys may follow.
    #[must_use]
    pub fn backend_toml(&self, name: &str, dialect: Dialect) -> String {
        let mut text = format!("[backends.{name}]\nkind = \"{}\"\n", dialect.kind());
        let _ = writeln!(text, "api_base = \"{}{}\"", self.origin(), dialect.base_path());
        let _ = writeln!(text, "api_key = \"{API_KEY}\"");
        match &self.place {
            Place::Tcp(_) if self.site.options.protocol.alpn().is_some() => {
                let _ = writeln!(text, "ca_file = \"{}\"", self.ca_file().display());
            }
            Place::Tcp(_) => {}
            Place::Unix(path) => {
                let _ = writeln!(text, "socket = \"{}\"", path.display());
            }
        }
        if dialect == Dialect::LangGraph {
            text += "assistant_id = \"agent\"\n";
        }
        text
    }

    /// This server as the default backend, in the words of the daemon that sites use today, without an end: keys of
    /// `[backend.openai]` may follow.
    #[must_use]
    pub fn openai_toml(&self) -> String {
        let section = self.backend_toml("-", Dialect::OpenAi).replace("socket = ", "api_socket = ");
        let keys = section.lines().skip(2).collect::<Vec<_>>().join("\n");
        format!("[backend]\nprovider = \"openai\"\n\n[backend.openai]\n{keys}\n")
    }

    fn order(&self, listening: Listening) {
        self.listening.send_replace(listening);
        eventually("the listening socket obeys", || (*self.listened.borrow() == listening).then_some(()));
    }
}

/// What [`Upstream::backend_toml`] configures; the server takes any.
pub const API_KEY: &str = "sk-scripted-0123456789";

impl Drop for Upstream {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
