//! OpenAI's Chat Completions, and everything that imitates it. In: chunks, each with any of its parts missing, null or
//! in a place of its maker's choice. Out: events of choice 0; the other choices are the site's own to read.
//! Never: builds a tree of a chunk, holds on to one.

mod ask;
mod chunk;
#[cfg(test)]
mod tests;

use serde_json::value::RawValue;

pub(super) use self::ask::{DataUrl, ask, headers, must_ask_something};
use self::chunk::{Choice, Chunk, Delta};
use super::{Pass, Verdict, Wishes, error, read_usage};
use crate::event::Event;
use crate::upstream::event_reader::RawEvent;
use crate::upstream::trouble::Trouble;

/// What ends a stream of chunks.
const DONE: &str = "[DONE]";

/// Reads one answer.
#[derive(Debug)]
pub struct Decoder {
    site_wants_usage: bool,
    /// One bit for each choice that was asked for or seen, and for each that has ended. OpenAI has at most 128 of them.
    seen: u128,
    ended: u128,
    /// Choice 0's end was told.
    is_finished: bool,
    is_done: bool,
}

/// The event is `[DONE]`: others than OpenAI send it in other dialects too.
pub(super) fn is_done(event: &RawEvent<'_>) -> bool {
    event.data.trim() == DONE
}

impl Decoder {
    pub(super) fn new(wishes: Wishes) -> Self {
        // A choice of which nothing has come yet has not ended.
        let seen = match wishes.choices {
            0 | 1 => 0,
            choices => 1u128.checked_shl(choices).map_or(u128::MAX, |bit| bit - 1),
        };
        Self { site_wants_usage: wishes.usage, seen, ended: 0, is_finished: false, is_done: false }
    }

    pub(super) fn decode(
        &mut self,
        event: &RawEvent<'_>,
        events: &mut Vec<Event>,
    ) -> Result<Verdict, Trouble> {
        if is_done(event) {
            self.is_done = true;
            return Ok(Verdict { pass: Pass::Terminator, is_meaningful: false, is_last: true });
        }
        let chunk: Chunk<'_> = super::parse(&event.data)?;
        if chunk.is_error() || event.name == Some("error") {
            return Err(error::of_event(&event.data));
        }
        let mut is_meaningful = false;
        for choice in &chunk.choices {
            is_meaningful |= choice.is_meaningful();
            self.mark(choice);
            if choice.ends_with("error") {
                return Err(error::of_event(&event.data));
            }
        }
        let is_usage_alone = chunk.choices.is_empty() && chunk.usage.is_some();
        for choice in chunk.choices.into_iter().filter(|choice| choice.index == 0) {
            self.tell(choice, events);
        }
        events.extend(chunk.usage.and_then(read_usage).map(Event::Usage));
        let pass = if is_usage_alone && !self.site_wants_usage { Pass::Usage } else { Pass::On };
        Ok(Verdict { pass, is_meaningful, is_last: false })
    }

    pub(super) fn is_answered(&self) -> bool {
        self.is_done || (self.seen != 0 && self.seen & !self.ended == 0)
    }

    fn mark(&mut self, choice: &Choice<'_>) {
        let bit = u32::try_from(choice.index).ok().and_then(|index| 1u128.checked_shl(index)).unwrap_or(0);
        self.seen |= bit;
        if choice.has_ended() {
            self.ended |= bit;
        }
    }

    fn tell(&mut self, choice: Choice<'_>, events: &mut Vec<Event>) {
        let Choice { delta, finish_reason, .. } = choice;
        let Delta { content, reasoning_content, reasoning, refusal, tool_calls, function_call } = delta;
        // Who sends both says the same twice.
        let thoughts =
            if reasoning_content.text.is_empty() { reasoning.text } else { reasoning_content.text };
        let pieces = [
            Event::Reasoning(thoughts),
            Event::Reasoning(content.thinking),
            Event::Content(content.text),
            Event::Refusal(refusal.text),
        ];
        events.extend(pieces.into_iter().filter(|event| !event.is_empty()));
        events.extend(tool_calls.into_iter().map(|call| Event::ToolCall(call.to_owned())));
        events.extend(function_call.and_then(as_tool_call).map(Event::ToolCall));
        if let Some(reason) = finish_reason.filter(|reason| !reason.is_empty() && !self.is_finished) {
            self.is_finished = true;
            events.push(Event::Finish { reason: reason.into_owned() });
        }
    }
}

/// The only call of an API from before there were several.
fn as_tool_call(function: &RawValue) -> Option<Box<RawValue>> {
    RawValue::from_string(format!(r#"{{"index":0,"type":"function","function":{}}}"#, function.get())).ok()
}
