//! An event as OpenAI's `chat.completion.chunk`, for upstreams that speak another dialect.

use serde::{Serialize, Serializer};
use serde_json::value::RawValue;

use super::Stream;
use crate::event::{Event, Usage};

#[derive(Serialize)]
pub(super) struct Chunk<'a> {
    id: Id<'a>,
    object: &'static str,
    created: u64,
    model: &'a str,
    #[serde(serialize_with = "none_or_one")]
    choices: Option<Choice<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<&'a Usage>,
}

impl<'a> Chunk<'a> {
    pub(super) fn new(stream: &'a Stream, event: &'a Event, names_role: bool) -> Self {
        let mut delta = Delta { role: names_role.then_some("assistant"), ..Delta::default() };
        let mut finish_reason = None;
        let mut usage = None;
        match event {
            Event::Content(text) => delta.content = Some(text),
            Event::Reasoning(text) => delta.reasoning_content = Some(text),
            Event::Refusal(text) => delta.refusal = Some(text),
            Event::ToolCall(call) => delta.tool_calls = Some([call]),
            Event::Finish { reason } => finish_reason = Some(reason.as_str()),
            Event::Usage(tokens) => usage = Some(tokens),
            Event::Native { .. } => {}
        }
        let choice = Choice { index: 0, delta, finish_reason };
        Self {
            id: Id(&stream.request_id),
            object: "chat.completion.chunk",
            created: stream.created_secs,
            model: &stream.model,
            // The usage comes in a chunk of its own, without a choice.
            choices: usage.is_none().then_some(choice),
            usage,
        }
    }
}

struct Id<'a>(&'a str);

impl Serialize for Id<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("chatcmpl-{}", self.0))
    }
}

#[derive(Serialize)]
struct Choice<'a> {
    index: u32,
    delta: Delta<'a>,
    finish_reason: Option<&'a str>,
}

#[derive(Default, Serialize)]
struct Delta<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasoning_content: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    refusal: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[&'a RawValue; 1]>,
}

/// An array, as the API has it.
fn none_or_one<S: Serializer>(choice: &Option<Choice<'_>>, serializer: S) -> Result<S::Ok, S::Error> {
    choice.as_slice().serialize(serializer)
}
