//! The languages of LLM APIs. In: a request, and the events of the answer. Out: HTTP calls, and events in no dialect.
//! Never: touches a socket, a file or a clock.

mod anthropic;
pub mod error;
mod langgraph;
mod ollama;
mod openai;
mod responses;

use handoff_config::backend::{Api, Dialect};
use http::{HeaderMap, HeaderName, Method};

use super::event_reader::{Framing, RawEvent};
use super::trouble::Trouble;
use crate::event::Event;
use crate::failure::Failure;
use crate::request::ChatRequest;

/// What has to be known to ask.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What the site wants.
    pub request: &'a ChatRequest,
    /// The model to use: of the request, else of the backend, else the default one.
    pub model: &'a str,
}

/// One HTTP request. The key is added by whoever sends it, and so are `Host`, `Accept`, `User-Agent` and the
/// configured headers.
#[derive(Clone, Debug)]
pub struct Call {
    /// GET or POST.
    pub method: Method,
    /// What follows the base address, with its slash.
    pub path: String,
    /// The dialect's own.
    pub headers: HeaderMap,
    /// JSON; empty: there is none.
    pub body: Vec<u8>,
}

/// How an answer is asked for.
#[derive(Clone, Debug)]
pub struct Asking {
    /// A call that has to succeed first (2xx or 409), within ten seconds.
    pub before: Option<Call>,
    /// The call that is answered by the stream.
    pub call: Call,
}

/// What one event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of it where the upstream's own bytes are passed on.
    pub pass: Pass,
    /// The answer has begun with this event at the latest: see [`Event::is_meaningful`].
    pub is_meaningful: bool,
    /// Nothing follows that matters.
    pub is_last: bool,
}

/// What becomes of an event's own bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pass {
    /// They are passed on.
    On,
    /// They are the usage alone, which only we may have asked for.
    Usage,
    /// They only say that the stream ends (`[DONE]`).
    Terminator,
}

/// Reads the events of one answer.
#[derive(Debug)]
pub enum Decoder {
    /// Chat Completions.
    OpenAi(openai::Decoder),
    /// Responses.
    Responses(responses::Decoder),
    /// Messages.
    Anthropic(anthropic::Decoder),
    /// Ollama's own.
    Ollama(ollama::Decoder),
    /// Runs.
    LangGraph(langgraph::Decoder),
}

/// The calls for one answer.
///
/// # Errors
/// When the request has what this dialect cannot say.
pub fn ask(api: &Api, question: Question<'_>) -> Result<Asking, Failure> {
    match &api.dialect {
        Dialect::OpenAi => openai::ask(question),
        Dialect::Responses => responses::ask(question),
        Dialect::Anthropic(anthropic) => anthropic::ask(anthropic, question),
        Dialect::Ollama => ollama::ask(question),
        Dialect::LangGraph(langgraph) => langgraph::ask(langgraph, question),
    }
}

/// The header that carries the key, and what stands before it there.
#[must_use]
pub fn key_header(dialect: &Dialect) -> (HeaderName, &'static str) {
    match dialect {
        Dialect::OpenAi | Dialect::Responses | Dialect::Ollama => (http::header::AUTHORIZATION, "Bearer "),
        Dialect::Anthropic(_) | Dialect::LangGraph(_) => (HeaderName::from_static("x-api-key"), ""),
    }
}

/// How a dialect's events follow each other.
#[must_use]
pub fn framing(dialect: &Dialect) -> Framing {
    match dialect {
        Dialect::Ollama => Framing::Lines,
        Dialect::OpenAi | Dialect::Responses | Dialect::Anthropic(_) | Dialect::LangGraph(_) => {
            Framing::ServerSentEvents
        }
    }
}

/// What an answer with an error status says of the error: a machine's word where it has one (`context_length_exceeded`,
/// `insufficient_quota`; lower case, digits and `_` only), and its sentence for the log.
#[must_use]
pub fn error_body(body: &[u8]) -> (Option<String>, String) {
    let _ = body;
    (None, String::new())
}

impl Decoder {
    /// At an answer's beginning.
    #[must_use]
    pub fn new(dialect: &Dialect) -> Self {
        match dialect {
            Dialect::OpenAi => Self::OpenAi(openai::Decoder::default()),
            Dialect::Responses => Self::Responses(responses::Decoder::default()),
            Dialect::Anthropic(_) => Self::Anthropic(anthropic::Decoder::default()),
            Dialect::Ollama => Self::Ollama(ollama::Decoder::default()),
            Dialect::LangGraph(_) => Self::LangGraph(langgraph::Decoder::default()),
        }
    }

    /// One event; what it says is appended to `events`.
    ///
    /// # Errors
    /// When it is an error, or cannot be read.
    pub fn decode(&mut self, event: &RawEvent<'_>, events: &mut Vec<Event>) -> Result<Verdict, Trouble> {
        match self {
            Self::OpenAi(decoder) => decoder.decode(event, events),
            Self::Responses(decoder) => decoder.decode(event, events),
            Self::Anthropic(decoder) => decoder.decode(event, events),
            Self::Ollama(decoder) => decoder.decode(event, events),
            Self::LangGraph(decoder) => decoder.decode(event, events),
        }
    }

    /// Everything that makes an answer complete has come; more may follow (the usage, `[DONE]`), and need not.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        match self {
            Self::OpenAi(decoder) => decoder.is_answered(),
            Self::Responses(decoder) => decoder.is_answered(),
            Self::Anthropic(decoder) => decoder.is_answered(),
            Self::Ollama(decoder) => decoder.is_answered(),
            Self::LangGraph(decoder) => decoder.is_answered(),
        }
    }

    /// A clean end of the body makes this answer complete, although nothing in it said so.
    #[must_use]
    pub fn ends_with_body(&self) -> bool {
        matches!(self, Self::LangGraph(_))
    }

    /// The call that ends the answer at the upstream, where closing the connection does not.
    #[must_use]
    pub fn cancel(&self) -> Option<Call> {
        match self {
            Self::Responses(decoder) => decoder.cancel(),
            Self::OpenAi(_) | Self::Anthropic(_) | Self::Ollama(_) | Self::LangGraph(_) => None,
        }
    }
}
