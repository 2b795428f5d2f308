//! Where answers come from: the valid values of `[backend]` and of each `[backends.NAME]`.

use std::fmt;
use std::num::{NonZeroU16, NonZeroU32};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// OpenAI's own address.
pub(crate) const OPENAI_BASE: &str = "https://api.openai.com/v1";

/// All backends, and who answers whom.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backends {
    /// The one that answers when a request chooses nobody; one of `all`.
    pub default: String,
    /// The model when neither the request nor its backend names one.
    pub default_model: String,
    /// Which backend a model belongs to: the first pattern that fits decides.
    pub models: Vec<ModelRoute>,
    /// Payload files and attachments are beneath this directory; none: there are none.
    pub files_directory: Option<PathBuf>,
    /// Each has its own name; never empty.
    pub all: Vec<Backend>,
}

/// Models whose name fits a pattern belong to a backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ModelRoute {
    /// A model's name; a `*` stands for any characters, also none.
    pub pattern: String,
    /// One of [`Backends::all`].
    pub backend: String,
}

/// One place that answers come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// For requests, logs and metrics.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// The model when the request names none.
    pub model: Option<String>,
    /// How long its parts may take.
    pub timeouts: Timeouts,
    /// How it is tried again.
    pub retry: Retry,
    /// Who is asked when it fails, in this order; names of [`Backends::all`].
    pub fallbacks: Vec<String>,
    /// What becomes of an answer when its client leaves.
    pub on_disconnect: OnDisconnect,
    /// The largest single event of an answer, in bytes.
    pub event_bytes_max: NonZeroU32,
    /// Answers are recorded here, one file each.
    pub record: Option<PathBuf>,
}

/// What a backend is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum Kind {
    /// The embedded canned answer.
    Mock(Mock),
    /// A recorded answer.
    Replay(Replay),
    /// An API over HTTP.
    Api(Box<Api>),
}

/// `[backend.mock]`: what a developer needs from an answer that costs nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mock {
    /// Between two words.
    pub token_delay: Duration,
    /// Before the first word.
    pub first_token_delay: Duration,
    /// Words of the answer; none: the canned answer with the prompt echoed.
    pub length: Option<NonZeroU32>,
    /// Fail instead of sending this event, counted from 1.
    pub fail_at: Option<NonZeroU32>,
    /// So many events come together, also where they have no delay between them; none: all that are due.
    pub burst: Option<NonZeroU32>,
    /// The payload's `mock` object may set all of the above.
    pub allow_request_options: bool,
}

/// A recorded answer, played again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Replay {
    /// The recording.
    pub file: PathBuf,
    /// How many times faster than it was; 0: without any delay.
    pub speed: f64,
}

/// An API over HTTP.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Api {
    /// Its language.
    pub dialect: Dialect,
    /// Base address: `http://` or `https://`, without a slash at the end.
    pub base: String,
    /// Sent to that address's origin, and nowhere else.
    pub key: Option<Secret>,
    /// Sent with each request, besides those of the dialect; names are lower case tokens.
    pub headers: Vec<(String, Secret)>,
    /// Each request says for whom it is made: the client's address, as `X-Forwarded-For`.
    pub x_forwarded_for: bool,
    /// Each request carries the W3C trace context that came with the question.
    pub trace_context: bool,
    /// How it is reached.
    pub connection: Connection,
}

/// The language of an API.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Dialect {
    /// Chat Completions, of OpenAI and all that imitate it.
    OpenAi,
    /// OpenAI's Responses.
    Responses,
    /// Anthropic's Messages.
    Anthropic(Anthropic),
    /// Ollama's own.
    Ollama,
    /// The LangGraph platform's runs.
    LangGraph(LangGraph),
}

/// What Anthropic's API wants beside the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Anthropic {
    /// The header `anthropic-version`.
    pub version: String,
    /// The header `anthropic-beta`.
    pub beta: Option<String>,
    /// `max_tokens` when the request has none: this API must have it.
    pub max_tokens: NonZeroU32,
}

/// What LangGraph's API wants beside the request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LangGraph {
    /// When the request names none.
    pub assistant_id: String,
    /// When the request names none; never empty.
    pub stream_mode: Vec<String>,
}

/// How an API is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Connection {
    /// HTTP/1.1 over this Unix socket instead of TCP.
    pub socket: Option<PathBuf>,
    /// HTTP/2 where the server speaks it.
    pub http2: bool,
    /// HTTP/2 window of one stream, in bytes.
    pub stream_window_bytes: u32,
    /// HTTP/2 window of a connection, in bytes; none: that of all its streams together.
    pub connection_window_bytes: Option<u32>,
    /// Between two HTTP/2 PINGs while there are streams.
    pub keep_alive_interval: Duration,
    /// Until an unanswered PING ends the connection.
    pub keep_alive_timeout: Duration,
    /// Streams on one HTTP/2 connection at most, if the server allows as many.
    pub streams_max: NonZeroU32,
    /// HTTP/2 connections of one worker at most; over HTTP/1.1 `streams_max` times as many.
    pub connections_max: NonZeroU16,
    /// Idle HTTP/1.1 connections kept by one worker.
    pub idle_max: u32,
    /// An older connection takes no more streams; ± 20 %.
    pub age_max: Duration,
    /// Certificates to trust instead of the system's, in PEM.
    pub ca_file: Option<PathBuf>,
    /// Our certificate and its key, in PEM.
    pub client_certificate: Option<ClientCertificate>,
    /// Accept any certificate.
    pub insecure_ssl: bool,
    /// Who is asked to connect for us.
    pub proxy: Option<Proxy>,
}

/// Who we are, for servers that ask.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClientCertificate {
    /// The certificate's chain.
    pub certificate_file: PathBuf,
    /// Its private key.
    pub key_file: PathBuf,
}

/// An egress proxy, which tunnels (RFC 9110, CONNECT) to https and forwards http.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proxy {
    /// `http://` or `https://`; a user and a password in it are part of the secret.
    pub address: Secret,
}

/// How long the parts of an answer may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeouts {
    /// Name resolution and TCP.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// Waiting for a place on a connection.
    pub queue: Duration,
    /// From the question to the head of the answer, all of the above included.
    pub head: Duration,
    /// From the question to the first meaningful event.
    pub first_content: Duration,
    /// No byte at all.
    pub idle: Duration,
    /// No meaningful event, after the first.
    pub idle_content: Duration,
    /// The whole answer; none: no limit.
    pub total: Option<Duration>,
    /// The client accepts no byte.
    pub client_write: Duration,
}

/// How a backend is tried again.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Retry {
    /// Further attempts at one answer, before the fallbacks.
    pub max: u8,
    /// Further attempts per question, over all answers.
    pub budget: f64,
    /// How long it is left alone after a failure that asks for it and does not say how long.
    pub cooldown: Duration,
    /// Failures in a row after which it is left alone; 0: never.
    pub breaker: u32,
}

/// What becomes of the upstream's answer when the client leaves, the cheapest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum OnDisconnect {
    /// It is cancelled.
    Cancel,
    /// It is read on for a while, for the usage.
    DrainUsage,
    /// It is read to its end.
    Continue,
}

/// What nobody may read: it has no way to be shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Secret(String);

impl Secret {
    /// Takes it over.
    #[must_use]
    pub fn new(secret: String) -> Self {
        Self(secret)
    }

    /// For the one place that sends it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("<secret>")
    }
}

impl Backends {
    /// The backend of this name.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Backend> {
        self.all.iter().find(|backend| backend.name == name)
    }

    /// This backend is there by itself: nobody has set it up, and nobody is sent to it. It can do nothing: OpenAI
    /// answers nobody without a key.
    #[must_use]
    pub fn is_unused(&self, backend: &Backend) -> bool {
        let Kind::Api(api) = &backend.kind else { return false };
        let is_plain = backend.name == "openai" && api.base == OPENAI_BASE;
        let is_plain =
            is_plain && api.key.is_none() && api.headers.is_empty() && api.connection.socket.is_none();
        let named = [&self.default].into_iter().chain(self.models.iter().map(|route| &route.backend));
        let named = named.chain(self.all.iter().flat_map(|backend| &backend.fallbacks));
        is_plain && !named.into_iter().any(|name| *name == backend.name)
    }

    /// The name of the backend that a model belongs to.
    #[must_use]
    pub fn of_model(&self, model: &str) -> &str {
        let route = self.models.iter().find(|route| fits(&route.pattern, model));
        route.map_or(&self.default, |route| &route.backend)
    }
}

/// Whether a name fits a pattern, whose `*` stands for any characters, also none.
fn fits(pattern: &str, name: &str) -> bool {
    let Some((before, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(mut name) = name.strip_prefix(before) else { return false };
    let mut pieces: Vec<&str> = rest.split('*').collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        let Some((_, after)) = name.split_once(piece) else { return false };
        name = after;
    }
    name.ends_with(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backend_that_nobody_has_set_up_is_unused() {
        let unused = |backends: &Backends| backends.find("openai").is_some_and(|it| backends.is_unused(it));
        let mut backends = crate::Config::default().backends;
        assert!(unused(&backends));
        let route = ModelRoute { pattern: "gpt-*".to_owned(), backend: "openai".to_owned() };
        assert!(!unused(&Backends { models: vec![route], ..backends.clone() }));
        assert!(!unused(&Backends { default: "openai".to_owned(), ..backends.clone() }));
        for backend in &mut backends.all {
            if let Kind::Api(api) = &mut backend.kind {
                api.key = Some(Secret::new("sk-1".to_owned()));
            }
        }
        assert!(!unused(&backends));
    }

    #[test]
    fn a_star_stands_for_anything() {
        for (pattern, name) in
            [("gpt-4o", "gpt-4o"), ("*", ""), ("gpt-*", "gpt-"), ("*/llama*b", "a/llama-70b")]
        {
            assert!(fits(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [("gpt-4o", "gpt-4o-mini"), ("gpt-*", "o3"), ("a*a", "a"), ("*ab*ab", "ab")] {
            assert!(!fits(pattern, name), "{pattern} {name}");
        }
    }
}
