//! Ollama's own API.
//!
//! In: a request, and one JSON object a line. Out: one call, and events in no dialect.
//! Never: keeps a message's text.

mod ask;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::value::{RawValue, to_raw_value};

use super::{Pass, Verdict, error, parse};
use crate::event::{Event, Usage};
use crate::upstream::event_reader::RawEvent;
use crate::upstream::trouble::Trouble;

pub(super) use ask::ask;

/// Reads one answer.
#[derive(Debug, Default)]
pub struct Decoder {
    /// Calls of tools so far.
    calls: u64,
    is_answered: bool,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, default)]
    message: Option<Message<'a>>,
    #[serde(default)]
    done: Option<bool>,
    #[serde(borrow, default)]
    done_reason: Option<Cow<'a, str>>,
    #[serde(default)]
    prompt_eval_count: Option<u64>,
    #[serde(default)]
    eval_count: Option<u64>,
    #[serde(borrow, default)]
    error: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    content: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    thinking: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    tool_calls: Option<Vec<Called<'a>>>,
}

/// A call of a tool, always whole.
#[derive(Deserialize)]
struct Called<'a> {
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow)]
    function: CalledFunction<'a>,
}

#[derive(Deserialize)]
struct CalledFunction<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

impl Decoder {
    pub(super) fn decode(
        &mut self,
        event: &RawEvent<'_>,
        events: &mut Vec<Event>,
    ) -> Result<Verdict, Trouble> {
        let line: Line<'_> = parse(&event.data)?;
        if line.error.is_some() {
            return Err(error::of_event(&event.data));
        }
        let before = events.len();
        if let Some(message) = line.message {
            let reasoning = message.thinking.map(|text| Event::Reasoning(text.into_owned()));
            let content = message.content.map(|text| Event::Content(text.into_owned()));
            events.extend(reasoning.into_iter().chain(content).filter(|event| !event.is_empty()));
            for call in message.tool_calls.unwrap_or_default() {
                self.push_call(&call, events);
            }
        }
        let is_last = line.done == Some(true);
        if is_last {
            self.is_answered = true;
            let reason = self.finish_reason(line.done_reason);
            events.push(Event::Finish { reason });
        }
        let is_meaningful = events.len() > before;
        if is_last && (line.prompt_eval_count.is_some() || line.eval_count.is_some()) {
            // What was in its cache is not counted.
            let prompt_tokens = line.prompt_eval_count.unwrap_or_default();
            let completion_tokens = line.eval_count.unwrap_or_default();
            let total_tokens = prompt_tokens.saturating_add(completion_tokens);
            events.push(Event::Usage(Usage {
                prompt_tokens,
                completion_tokens,
                total_tokens,
                ..Usage::default()
            }));
        }
        Ok(Verdict { pass: Pass::On, is_meaningful, is_last })
    }

    /// `done` has come.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// `load` and `unload` are Ollama's own. That tools are to be called, it does not say.
    fn finish_reason(&self, reason: Option<Cow<'_, str>>) -> String {
        match reason.as_deref() {
            None | Some("" | "stop") if self.calls > 0 => "tool_calls".to_owned(),
            None | Some("") => "stop".to_owned(),
            Some(reason) => reason.to_owned(),
        }
    }

    fn push_call(&mut self, call: &Called<'_>, events: &mut Vec<Event>) {
        #[derive(Serialize)]
        struct Call<'a> {
            index: u64,
            id: Cow<'a, str>,
            r#type: &'static str,
            function: Function<'a>,
        }
        #[derive(Serialize)]
        struct Function<'a> {
            name: &'a str,
            arguments: &'a str,
        }
        let index = self.calls;
        self.calls += 1;
        // Older versions give no id; those who answer a call need one.
        let id = call.id.as_deref().filter(|id| !id.is_empty());
        let id = id.map_or_else(|| Cow::Owned(format!("call_{index}")), Cow::Borrowed);
        let arguments = call.function.arguments.map_or("{}", RawValue::get);
        let function = Function { name: &call.function.name, arguments };
        let raw = to_raw_value(&Call { index, id, r#type: "function", function });
        debug_assert!(raw.is_ok(), "JSON of our own types");
        events.extend(raw.ok().map(Event::ToolCall));
    }
}
