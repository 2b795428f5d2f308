//! The languages of LLM APIs. In: a request, and the events of the answer. Out: HTTP calls, and events in no dialect.
//! Never: touches a socket, a file or a clock.

mod anthropic;
mod body;
mod conversation;
pub mod error;
mod langgraph;
mod ollama;
mod openai;
mod responses;
#[cfg(test)]
mod tests;

use handoff_config::backend::{Api, Dialect, OnDisconnect};
use http::{HeaderMap, HeaderName, Method};
use serde::Deserialize;
use serde_json::value::RawValue;

use self::body::Members;
use super::event_reader::{Framing, RawEvent};
use super::trouble::Trouble;
use crate::event::{Event, Usage};
use crate::failure::Failure;
use crate::request::ChatRequest;

/// What has to be known to ask.
#[derive(Clone, Copy, Debug)]
pub struct Question<'a> {
    /// What the site wants.
    pub request: &'a ChatRequest,
    /// The model to use: of the request, else of the backend, else the default one.
    pub model: &'a str,
    /// What becomes of the answer when the client leaves.
    pub on_disconnect: OnDisconnect,
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

/// What of a question matters to who reads the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wishes {
    /// The site itself has said whether it wants the usage: an event of it alone is the site's.
    pub usage: bool,
    /// The answer goes on without us (Responses' `background`).
    pub background: bool,
    /// Answers to the same question that the site wants (Chat Completions' `n`); 0: it has not said, so one.
    pub choices: u32,
}

/// What one event is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of it where the upstream's own bytes are passed on.
    pub pass: Pass,
    /// The answer has begun with this event at the latest: see [`Event::is_meaningful`].
    pub is_meaningful: bool,
    /// Nothing follows that matters. What came before need not be a whole answer: see [`Decoder::is_answered`].
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
        Dialect::Anthropic(anthropic) => anthropic::ask(anthropic, &api.base, question),
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

/// An event's JSON. What is wrong with it is said without a word of it: it is somebody's answer.
fn parse<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, Trouble> {
    serde_json::from_str(json).map_err(|error| {
        let what = match error.classify() {
            serde_json::error::Category::Data => "of another shape",
            serde_json::error::Category::Eof => "cut off",
            serde_json::error::Category::Syntax | serde_json::error::Category::Io => "no JSON",
        };
        Trouble::malformed(format!("an event is {what} at line {} column {}", error.line(), error.column()))
    })
}

/// Tokens spent, in the words of Chat Completions or in those of Responses. None where it is no object.
fn read_usage(usage: &RawValue) -> Option<Usage> {
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Tokens {
        prompt_tokens: Option<u64>,
        input_tokens: Option<u64>,
        completion_tokens: Option<u64>,
        output_tokens: Option<u64>,
        total_tokens: Option<u64>,
        prompt_tokens_details: Option<Details>,
        input_tokens_details: Option<Details>,
        completion_tokens_details: Option<Details>,
        output_tokens_details: Option<Details>,
    }
    #[derive(Default, Deserialize)]
    #[serde(default)]
    struct Details {
        cached_tokens: Option<u64>,
        reasoning_tokens: Option<u64>,
    }
    let tokens: Tokens = serde_json::from_str(usage.get()).ok()?;
    let prompt_tokens = tokens.prompt_tokens.or(tokens.input_tokens).unwrap_or_default();
    let completion_tokens = tokens.completion_tokens.or(tokens.output_tokens).unwrap_or_default();
    let of_prompt = tokens.prompt_tokens_details.or(tokens.input_tokens_details);
    let of_completion = tokens.completion_tokens_details.or(tokens.output_tokens_details);
    Some(Usage {
        prompt_tokens,
        completion_tokens,
        total_tokens: tokens.total_tokens.unwrap_or(prompt_tokens.saturating_add(completion_tokens)),
        cached_tokens: of_prompt.and_then(|details| details.cached_tokens),
        reasoning_tokens: of_completion.and_then(|details| details.reasoning_tokens),
    })
}

impl Wishes {
    /// Those of a request.
    #[must_use]
    pub fn of(request: &ChatRequest) -> Self {
        let extra = request.extra_body.as_deref().map(Members::of).unwrap_or_default();
        let options = extra.get("stream_options").map(Members::of).unwrap_or_default();
        let background = extra.get("background");
        let choices = extra.get("n").and_then(|n| n.get().parse().ok());
        Self {
            choices: choices.unwrap_or_default(),
            usage: options.get("include_usage").is_some(),
            background: background.is_some_and(|background| background.get() == "true"),
        }
    }
}

impl Decoder {
    /// At an answer's beginning.
    #[must_use]
    pub fn new(dialect: &Dialect, wishes: Wishes) -> Self {
        match dialect {
            Dialect::OpenAi => Self::OpenAi(openai::Decoder::new(wishes)),
            Dialect::Responses => Self::Responses(responses::Decoder::new(wishes)),
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
            Self::OpenAi(_) | Self::Responses(_) | Self::Anthropic(_) | Self::Ollama(_)
                if event.data.trim().is_empty() =>
            {
                Ok(Verdict { pass: Pass::On, is_meaningful: false, is_last: false })
            }
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
        matches!(self, Self::LangGraph(decoder) if decoder.has_begun())
    }

    /// There may be a call that ends the answer: see [`cancel`](Self::cancel).
    #[must_use]
    pub fn may_be_cancelled(&self) -> bool {
        matches!(self, Self::Responses(_))
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
