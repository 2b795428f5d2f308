//! Why a handoff is refused, in words for the site's developer.

use std::borrow::Cow;

/// The site's mistake. Names keys and limits, never the payload's content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadHandoff {
    /// Nothing but NULs and white space.
    #[error("no payload")]
    NoPayload,
    /// Neither behind an envelope, nor in the fd that may come with it.
    #[error(
        "no payload behind the envelope, nor in a memfd that is sealed against writing, growing and shrinking"
    )]
    NoPayloadInEnvelope,
    /// Bytes that are no text.
    #[error("the payload is not valid UTF-8")]
    NotUtf8,
    /// Not JSON, or JSON cut off.
    #[error("the payload is not valid JSON (line {line}, column {column})")]
    Syntax {
        /// From 1.
        line: usize,
        /// From 1.
        column: usize,
    },
    /// JSON of another type.
    #[error("the payload must be a JSON object")]
    NotAnObject,
    /// An impossible type, or a value out of range.
    #[error("{key}: must be {allowed}")]
    Value {
        /// The key, with its way from the payload's root.
        key: String,
        /// What is allowed.
        allowed: Cow<'static, str>,
    },
    /// A question without words.
    #[error("prompt or messages: one of them must be given and not empty")]
    NoPrompt,
    /// The line before the payload.
    #[error("envelope: {0}")]
    Envelope(&'static str),
}

impl BadHandoff {
    pub(super) fn value(key: impl Into<String>, allowed: impl Into<Cow<'static, str>>) -> Self {
        Self::Value { key: key.into(), allowed: allowed.into() }
    }
}
