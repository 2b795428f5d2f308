//! Recorded answers as files: lines of JSON. The first one says whose answer it is, each further one holds a piece of
//! the body and when it came, the last one how the body ended.
//!
//! ```text
//! {"handoffd_recording":1,"backend":"main","dialect":"openai","model":"m","status":200,…}
//! {"t_ms":412,"text":"data: {…}\n\n"}
//! {"t_ms":430,"base64":"4oI="}
//! {"t_ms":431,"end":"clean"}
//! ```
//!
//! Never: holds a key, or a prompt that may not be in the log.

use std::borrow::Cow;
use std::num::NonZeroU32;

use handoff_config::backend::{Anthropic, Dialect, LangGraph};
use serde::{Deserialize, Serialize};

/// The version that is written, and the only one that is read.
pub(super) const VERSION: u32 = 1;
/// A recording is this large at most; longer answers are cut off in it.
pub(super) const RECORDING_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The first line.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Head {
    pub(super) handoffd_recording: u32,
    pub(super) backend: String,
    pub(super) dialect: String,
    pub(super) model: String,
    pub(super) status: u16,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) content_type: Option<String>,
    /// Milliseconds since 1970.
    #[serde(default)]
    pub(super) at_ms: u64,
    #[serde(default)]
    pub(super) request: Summary,
}

/// What was asked, without what was said.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Summary {
    pub(super) id: String,
    pub(super) messages: usize,
    /// Of the last user message, attached texts included.
    pub(super) prompt_bytes: usize,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) max_tokens: Option<u32>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) temperature: Option<f64>,
    /// Only where prompts may be in the log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) prompt: Option<String>,
}

/// Every further line: one of the three.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Line<'a> {
    /// Since the question was sent.
    pub(super) t_ms: u64,
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(super) text: Option<Cow<'a, str>>,
    /// A piece that is not UTF-8: a character may be cut in two.
    #[serde(default, borrow, skip_serializing_if = "Option::is_none")]
    pub(super) base64: Option<Cow<'a, str>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) end: Option<End>,
}

/// How a recorded body ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum End {
    /// As bodies end; whether the answer was whole is in its events.
    Clean,
    /// With the connection, or the stream was reset.
    Broken,
    /// Nobody wanted it any more.
    Abandoned,
    /// It went on, but not in this file: too large, or the disk too slow.
    Cut,
}

/// The word for a dialect in a recording.
pub(super) const fn name_of(dialect: &Dialect) -> &'static str {
    match dialect {
        Dialect::OpenAi => "openai",
        Dialect::Responses => "responses",
        Dialect::Anthropic(_) => "anthropic",
        Dialect::Ollama => "ollama",
        Dialect::LangGraph(_) => "langgraph",
    }
}

/// The dialect of this name, to read answers in: what it would ask with does not matter.
pub(super) fn dialect_of(name: &str) -> Option<Dialect> {
    match name {
        "openai" => Some(Dialect::OpenAi),
        "responses" => Some(Dialect::Responses),
        "anthropic" => Some(Dialect::Anthropic(Anthropic {
            version: String::new(),
            beta: None,
            max_tokens: NonZeroU32::MIN,
        })),
        "ollama" => Some(Dialect::Ollama),
        "langgraph" => {
            Some(Dialect::LangGraph(LangGraph { assistant_id: String::new(), stream_mode: Vec::new() }))
        }
        _ => None,
    }
}
