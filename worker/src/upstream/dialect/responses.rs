//! OpenAI's Responses. In: typed events. Out: events in the words of Chat Completions.
//! Never: builds a tree of an event, takes `[DONE]` for an end: here an answer says itself that it is complete.

mod ask;
mod frame;
#[cfg(test)]
mod tests;

use handoff_shared::metric::FailureReason;
use http::Method;
use serde_json::value::RawValue;

pub(super) use self::ask::ask;
use self::frame::{Frame, Item, Response, text};
use super::{Call, Pass, Verdict, Wishes, error, openai, read_usage};
use crate::event::Event;
use crate::failure::Code;
use crate::upstream::event_reader::RawEvent;
use crate::upstream::trouble::{Again, Trouble};

/// Calls of one answer at most whose pieces are told apart; further ones are not told.
const CALLS_MAX: usize = 128;

/// Reads one answer.
#[derive(Debug)]
pub struct Decoder {
    is_background: bool,
    /// Known once it has begun, if it goes on without us.
    id: Option<String>,
    /// In the order in which they were begun: their index in `tool_calls`.
    calls: Vec<FunctionCall>,
    /// The text that is being written came in pieces: its whole need not be told.
    has_pieces: bool,
    is_answered: bool,
}

#[derive(Debug)]
struct FunctionCall {
    output_index: u64,
    has_arguments: bool,
}

impl Decoder {
    pub(super) fn new(wishes: Wishes) -> Self {
        Self {
            is_background: wishes.background,
            id: None,
            calls: Vec::new(),
            has_pieces: false,
            is_answered: false,
        }
    }

    pub(super) fn decode(
        &mut self,
        event: &RawEvent<'_>,
        events: &mut Vec<Event>,
    ) -> Result<Verdict, Trouble> {
        if openai::is_done(event) {
            return Ok(Verdict { pass: Pass::Terminator, is_meaningful: false, is_last: true });
        }
        let frame: Frame<'_> = super::parse(&event.data)?;
        let kind = if frame.r#type.is_empty() { event.name.unwrap_or_default() } else { &frame.r#type };
        if kind.is_empty() && frame.error.is_some() {
            return Err(error::of_event(&event.data));
        }
        let before = events.len();
        let (mut is_meaningful, mut is_last) = (false, false);
        match kind {
            "response.output_text.delta" => {
                self.has_pieces = true;
                tell(Event::Content(text(frame.delta)), events);
            }
            "response.output_text.done" if !std::mem::take(&mut self.has_pieces) => {
                tell(Event::Content(text(frame.text)), events);
            }
            "response.refusal.delta" => tell(Event::Refusal(text(frame.delta)), events),
            "response.reasoning_text.delta" | "response.reasoning_summary_text.delta" => {
                tell(Event::Reasoning(text(frame.delta)), events);
            }
            "response.output_item.added" => is_meaningful = self.item_begins(&frame, events),
            "response.output_item.done" => self.item_ends(&frame, events),
            "response.function_call_arguments.delta" => self.arguments(&frame, frame.delta, true, events),
            "response.function_call_arguments.done" => self.arguments(&frame, frame.arguments, false, events),
            "response.created" | "response.queued" | "response.in_progress" if self.is_background => {
                self.id = self.id.take().or_else(|| response(&frame)?.id);
            }
            "response.completed" | "response.incomplete" => {
                self.end(&frame, kind == "response.completed", events);
                is_last = true;
            }
            "response.failed" | "error" => {
                self.id = None;
                return Err(error::of_event(&event.data));
            }
            "response.cancelled" => {
                self.id = None;
                return Err(cancelled());
            }
            // Sound, pictures and whatever comes: pieces of an answer that only its own format can carry.
            other => is_meaningful = other.ends_with(".delta"),
        }
        is_meaningful |= events[before..].iter().any(Event::is_meaningful);
        Ok(Verdict { pass: Pass::On, is_meaningful, is_last })
    }

    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    pub(super) fn cancel(&self) -> Option<Call> {
        let id = ask::segment(self.id.as_ref()?);
        let path = format!("/responses/{id}/cancel");
        Some(Call { method: Method::POST, path, headers: http::HeaderMap::new(), body: Vec::new() })
    }

    /// Something other than a message or a thought has begun.
    fn item_begins(&mut self, frame: &Frame<'_>, events: &mut Vec<Event>) -> bool {
        let Some(item) = item(frame) else { return false };
        if item.r#type == "function_call" {
            self.call_begins(frame.output_index, &item, events);
        }
        !matches!(&*item.r#type, "message" | "reasoning")
    }

    fn call_begins(&mut self, output_index: u64, item: &Item<'_>, events: &mut Vec<Event>) {
        if self.calls.len() == CALLS_MAX {
            return;
        }
        let call = ToolCall {
            index: self.calls.len(),
            id: item.call_id,
            r#type: Some("function"),
            function: Function { name: item.name, arguments: item.arguments.or(empty_text()) },
        };
        let has_arguments = !text(item.arguments).is_empty();
        self.calls.push(FunctionCall { output_index, has_arguments });
        events.extend(call.event());
    }

    /// Tells what a server that does not stream calls says at their end.
    fn item_ends(&mut self, frame: &Frame<'_>, events: &mut Vec<Event>) {
        let Some(item) = item(frame).filter(|item| item.r#type == "function_call") else { return };
        if self.calls.iter().any(|call| call.output_index == frame.output_index) {
            self.arguments(frame, item.arguments, false, events);
        } else {
            self.call_begins(frame.output_index, &item, events);
        }
    }

    fn arguments(
        &mut self,
        frame: &Frame<'_>,
        arguments: Option<&RawValue>,
        is_piece: bool,
        events: &mut Vec<Event>,
    ) {
        let known =
            self.calls.iter_mut().enumerate().find(|(_, call)| call.output_index == frame.output_index);
        let Some((index, call)) = known else { return };
        if text(arguments).is_empty() || (call.has_arguments && !is_piece) {
            return;
        }
        call.has_arguments = true;
        let function = Function { name: None, arguments };
        events.extend(ToolCall { index, id: None, r#type: None, function }.event());
    }

    fn end(&mut self, frame: &Frame<'_>, is_complete: bool, events: &mut Vec<Event>) {
        let response = response(frame);
        (self.is_answered, self.id) = (true, None);
        let details = response.as_ref().and_then(|response| response.incomplete_details.as_ref());
        let reason = match details.and_then(|details| details.reason.as_deref()) {
            _ if is_complete && !self.calls.is_empty() => "tool_calls",
            _ if is_complete => "stop",
            None | Some("max_output_tokens") => "length",
            Some(other) => other,
        };
        events.push(Event::Finish { reason: reason.to_owned() });
        let usage = response.and_then(|response| read_usage(response.usage?));
        events.extend(usage.map(Event::Usage));
    }
}

fn tell(event: Event, events: &mut Vec<Event>) {
    if !event.is_empty() {
        events.push(event);
    }
}

fn item<'a>(frame: &Frame<'a>) -> Option<Item<'a>> {
    serde_json::from_str(frame.item?.get()).ok()
}

fn response<'a>(frame: &Frame<'a>) -> Option<Response<'a>> {
    serde_json::from_str(frame.response?.get()).ok()
}

fn cancelled() -> Trouble {
    let message = "the upstream has cancelled the answer";
    Trouble::new(
        FailureReason::ErrorEvent,
        Code::UpstreamError,
        message,
        Again::Anybody,
        "response.cancelled",
    )
}

fn empty_text() -> Option<&'static RawValue> {
    serde_json::from_str(r#""""#).ok()
}

/// One element of a chat completion's `tool_calls`.
#[derive(serde::Serialize)]
struct ToolCall<'a> {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    r#type: Option<&'static str>,
    function: Function<'a>,
}

#[derive(serde::Serialize)]
struct Function<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<&'a RawValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    arguments: Option<&'a RawValue>,
}

impl ToolCall<'_> {
    fn event(&self) -> Option<Event> {
        serde_json::value::to_raw_value(self).ok().map(Event::ToolCall)
    }
}
