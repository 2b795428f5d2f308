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
}

impl Event {
    /// There is nothing in it for anybody.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        match self {
            Self::Content(text) | Self::Reasoning(text) | Self::Refusal(text) => text.is_empty(),
            Self::ToolCall(_) | Self::Usage(_) | Self::Finish { .. } => false,
        }
    }

    /// The answer has begun: the head may go out.
    #[must_use]
    pub fn is_meaningful(&self) -> bool {
        !self.is_empty() && !matches!(self, Self::Usage(_))
    }
}
