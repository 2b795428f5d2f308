//! Anthropic's Messages.
//!
//! In: a request, and server-sent events whose data names its own type. Out: one call, and events in no dialect.
//! Never: keeps a block's text.

mod ask;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::openai::is_done;
use super::{Pass, Verdict, error, parse};
use crate::event::{Event, Usage};
use crate::upstream::event_reader::RawEvent;
use crate::upstream::trouble::Trouble;

pub(super) use ask::ask;

/// Calls whose arguments are being written, at most; there is never more than one, so far.
const OPEN_CALLS_MAX: usize = 16;

/// Reads one answer.
#[derive(Debug, Default)]
pub struct Decoder {
    tokens: Tokens,
    /// The calls of tools that are being written.
    open_calls: Vec<OpenCall>,
    /// Calls of tools so far.
    calls: u64,
    is_answered: bool,
}

/// A call of a tool whose arguments are being written.
#[derive(Debug)]
struct OpenCall {
    /// Its block.
    block: u64,
    /// Which call it is, from 0.
    index: u64,
    /// Arguments that came with its beginning, should no others come.
    input: Option<Box<RawValue>>,
}

/// Counts, each as it was said last.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
struct Tokens {
    input_tokens: Option<u64>,
    cache_creation_input_tokens: Option<u64>,
    cache_read_input_tokens: Option<u64>,
    output_tokens: Option<u64>,
}

/// Any event; what a type does not have is none.
#[derive(Deserialize)]
struct Data<'a> {
    #[serde(borrow, default)]
    r#type: Option<Cow<'a, str>>,
    #[serde(default)]
    index: Option<u64>,
    #[serde(borrow, default)]
    message: Option<&'a RawValue>,
    #[serde(borrow, default)]
    content_block: Option<&'a RawValue>,
    #[serde(borrow, default)]
    delta: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage: Option<&'a RawValue>,
}

/// A block's beginning, or a piece of it.
#[derive(Deserialize)]
struct Block<'a> {
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    #[serde(borrow, default)]
    text: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    partial_json: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    name: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    input: Option<&'a RawValue>,
}

impl Decoder {
    pub(super) fn decode(
        &mut self,
        event: &RawEvent<'_>,
        events: &mut Vec<Event>,
    ) -> Result<Verdict, Trouble> {
        // Not Anthropic's, but some gateways end every stream so, whatever came of it.
        if is_done(event) {
            return Ok(Verdict { pass: Pass::Terminator, is_meaningful: false, is_last: true });
        }
        let data: Data<'_> = parse(&event.data)?;
        let kind = data.r#type.as_deref().or(event.name).unwrap_or_default();
        let mut verdict = Verdict { pass: Pass::On, is_meaningful: false, is_last: false };
        match kind {
            "message_start" => self.message_start(&data)?,
            "content_block_start" => verdict.is_meaningful = self.block_start(&data, events)?,
            "content_block_delta" => verdict.is_meaningful = self.block_delta(&data, events)?,
            "content_block_stop" => verdict.is_meaningful = self.block_stop(&data, events),
            "message_delta" => verdict.is_meaningful = self.message_delta(&data, events)?,
            "message_stop" => {
                self.is_answered = true;
                verdict.is_last = true;
            }
            "error" => return Err(error::of_event(&event.data)),
            // `ping`, and what is to come: clients must ignore what they do not know.
            _ => {}
        }
        Ok(verdict)
    }

    /// Why it ended has come; `message_stop` need not.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    fn message_start(&mut self, data: &Data<'_>) -> Result<(), Trouble> {
        #[derive(Deserialize)]
        struct Message {
            #[serde(default)]
            usage: Option<Tokens>,
        }
        if let Some(message) = data.message
            && let Message { usage: Some(tokens) } = parse(message.get())?
        {
            self.tokens.replace(tokens);
        }
        Ok(())
    }

    fn block_start(&mut self, data: &Data<'_>, events: &mut Vec<Event>) -> Result<bool, Trouble> {
        let Some(block) = data.content_block else { return Ok(false) };
        let block: Block<'_> = parse(block.get())?;
        match block.r#type.as_ref() {
            "text" | "thinking" => Ok(said(block, events)),
            // Thinking that nobody may read.
            "redacted_thinking" => Ok(false),
            "tool_use" => {
                self.open_call(data.index.unwrap_or_default(), &block, events);
                Ok(true)
            }
            // What the upstream's own tools do: it is at work, and nobody here is to call them.
            _ => Ok(true),
        }
    }

    fn open_call(&mut self, number: u64, block: &Block<'_>, events: &mut Vec<Event>) {
        let index = self.calls;
        self.calls += 1;
        let id = block.id.as_deref().unwrap_or_default();
        let name = block.name.as_deref().unwrap_or_default();
        let head = Function { name: Some(name), arguments: "" };
        push_call(events, &Call { index, id: Some(id), r#type: Some("function"), function: head });
        self.open_calls.retain(|call| call.block != number);
        if self.open_calls.len() == OPEN_CALLS_MAX {
            self.open_calls.remove(0);
        }
        self.open_calls.push(OpenCall { block: number, index, input: block.input.map(RawValue::to_owned) });
    }

    fn block_delta(&mut self, data: &Data<'_>, events: &mut Vec<Event>) -> Result<bool, Trouble> {
        let Some(delta) = data.delta else { return Ok(false) };
        let delta: Block<'_> = parse(delta.get())?;
        match delta.r#type.as_ref() {
            "text_delta" | "thinking_delta" => Ok(said(delta, events)),
            "input_json_delta" => {
                let piece = delta.partial_json.as_deref().unwrap_or_default();
                let number = data.index.unwrap_or_default();
                if !piece.is_empty()
                    && let Some(call) = self.open_calls.iter_mut().find(|call| call.block == number)
                {
                    call.input = None;
                    push_arguments(events, call.index, piece);
                }
                Ok(!piece.is_empty())
            }
            // A signature follows what it signs, and citations what they support.
            _ => Ok(false),
        }
    }

    /// Arguments that were not written in pieces came with the block's beginning; there they are never none.
    fn block_stop(&mut self, data: &Data<'_>, events: &mut Vec<Event>) -> bool {
        let number = data.index.unwrap_or_default();
        let Some(place) = self.open_calls.iter().position(|call| call.block == number) else {
            return false;
        };
        let call = self.open_calls.swap_remove(place);
        let Some(input) = call.input else { return false };
        push_arguments(events, call.index, input.get());
        true
    }

    fn message_delta(&mut self, data: &Data<'_>, events: &mut Vec<Event>) -> Result<bool, Trouble> {
        #[derive(Deserialize)]
        struct Delta<'a> {
            #[serde(borrow, default)]
            stop_reason: Option<Cow<'a, str>>,
        }
        let mut has_ended = false;
        if let Some(delta) = data.delta
            && let Delta { stop_reason: Some(reason) } = parse(delta.get())?
        {
            has_ended = true;
            // Said twice, it is still one end.
            if !std::mem::replace(&mut self.is_answered, true) {
                events.push(Event::Finish { reason: finish_reason(&reason).to_owned() });
            }
        }
        if let Some(usage) = data.usage {
            self.tokens.replace(parse(usage.get())?);
            events.push(Event::Usage(self.tokens.usage()));
        }
        Ok(has_ended)
    }
}

impl Tokens {
    /// These counts stand for all of the answer, so far: they are not added.
    fn replace(&mut self, newer: Self) {
        self.input_tokens = newer.input_tokens.or(self.input_tokens);
        self.cache_creation_input_tokens =
            newer.cache_creation_input_tokens.or(self.cache_creation_input_tokens);
        self.cache_read_input_tokens = newer.cache_read_input_tokens.or(self.cache_read_input_tokens);
        self.output_tokens = newer.output_tokens.or(self.output_tokens);
    }

    /// What was read from a cache, or written to it, is not among the input's own.
    fn usage(self) -> Usage {
        let parts = [self.input_tokens, self.cache_creation_input_tokens, self.cache_read_input_tokens];
        let prompt_tokens = parts.into_iter().flatten().fold(0, u64::saturating_add);
        let completion_tokens = self.output_tokens.unwrap_or_default();
        Usage {
            prompt_tokens,
            completion_tokens,
            total_tokens: prompt_tokens.saturating_add(completion_tokens),
            cached_tokens: self.cache_read_input_tokens,
            reasoning_tokens: None,
        }
    }
}

/// The words in a block's beginning, or in a piece of it; whether there are any.
fn said(block: Block<'_>, events: &mut Vec<Event>) -> bool {
    let content = block.text.map(|text| Event::Content(text.into_owned()));
    let reasoning = block.thinking.map(|text| Event::Reasoning(text.into_owned()));
    let before = events.len();
    events.extend(content.into_iter().chain(reasoning).filter(|event| !event.is_empty()));
    events.len() > before
}

#[derive(Serialize)]
struct Call<'a> {
    index: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Function<'a>,
}

#[derive(Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a str>,
    arguments: &'a str,
}

fn push_arguments(events: &mut Vec<Event>, index: u64, arguments: &str) {
    let function = Function { name: None, arguments };
    push_call(events, &Call { index, id: None, r#type: None, function });
}

fn push_call(events: &mut Vec<Event>, call: &Call<'_>) {
    let raw = to_raw_value(call);
    debug_assert!(raw.is_ok(), "JSON of our own types");
    events.extend(raw.ok().map(Event::ToolCall));
}

/// In OpenAI's words, where it has one.
fn finish_reason(reason: &str) -> &str {
    match reason {
        "end_turn" | "stop_sequence" => "stop",
        "max_tokens" | "model_context_window_exceeded" => "length",
        "tool_use" => "tool_calls",
        "refusal" => "content_filter",
        other => other,
    }
}
