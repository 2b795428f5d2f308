//! What an upstream says, in no dialect.

use serde::Serialize;
use serde_json::value::RawValue;

/// One piece of an answer.
#[derive(Clone, Debug)]
pub enum Event {
    /// A piece of the answer's text.
    Content(String),
    /// A piece of the model's thinking.
    Reasoning(String),
    /// One element of a chat completion's `tool_calls`, or a piece of one.
    ToolCall(Box<RawValue>),
    /// A piece of the model's refusal, which stands in the answer's place.
    Refusal(String),
    /// Tokens spent.
    Usage(Usage),
    /// An event in the upstream's own bytes, where the client wants those.
    Native {
        /// A whole server-sent event.
        bytes: Vec<u8>,
        /// The answer has begun with it.
        is_meaningful: bool,
        /// Bytes of text in it, for an estimate of what it costs.
        text_bytes: usize,
    },
    /// The answer has ended.
    Finish {
        /// `stop`, `length`, `tool_calls`, `content_filter`, or the upstream's own word.
        reason: String,
    },
}

/// Tokens spent on one answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Usage {
    /// Read.
    pub prompt_tokens: u64,
    /// Written.
    pub completion_tokens: u64,
    /// Both, as the upstream counts them.
    pub total_tokens: u64,
    /// Of those that were read: from a cache.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cached_tokens: Option<u64>,
    /// Of those that were written: thinking.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_tokens: Option<u64>,
}

impl Event {
    /// Bytes that the model has written.
    #[must_use]
    pub fn text_bytes(&self) -> usize {
        match self {
            Self::Content(text) | Self::Reasoning(text) | Self::Refusal(text) => text.len(),
            Self::ToolCall(call) => call.get().len(),
            Self::Native { text_bytes, .. } => *text_bytes,
            Self::Usage(_) | Self::Finish { .. } => 0,
        }
    }

    /// There is nothing in it for anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Content(text) | Self::Reasoning(text) | Self::Refusal(text) => text.is_empty(),
            Self::Native { bytes, .. } => bytes.is_empty(),
            Self::ToolCall(_) | Self::Usage(_) | Self::Finish { .. } => false,
        }
    }

    /// The answer has begun: the head may go out.
    #[must_use]
    pub fn is_meaningful(&self) -> bool {
        match self {
            Self::Usage(_) => false,
            Self::Native { is_meaningful, .. } => *is_meaningful,
            Self::Content(_)
            | Self::Reasoning(_)
            | Self::ToolCall(_)
            | Self::Refusal(_)
            | Self::Finish { .. } => !self.is_empty(),
        }
    }
}
