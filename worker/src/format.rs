//! An answer in the client's format. In: events in no dialect. Out: server-sent events at the end of a
//! buffer, ids counted, a blank line after each.
//! Never: touches a socket, holds an event back, writes part of one.

mod chunk;
#[cfg(test)]
mod tests;

use std::rc::Rc;

use handoff_shared::message::Format;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::event::{Event, Usage};
use crate::failure::Failure;
use crate::request::Include;
use crate::sse;

/// What stays the same from a stream's first event to its last.
#[derive(Clone, Debug)]
pub struct Stream {
    /// How events are written.
    pub format: Format,
    /// What they carry besides the answer.
    pub include: Include,
    /// The prefix of every event's id.
    pub request_id: Rc<str>,
    /// For `openai`: the model's name.
    pub model: Rc<str>,
    /// For `openai`: when the answer began, in Unix time.
    pub created_secs: u64,
}

/// Writes one stream.
#[derive(Debug)]
pub struct Writer {
    stream: Stream,
    next_id: u64,
    /// `openai`: the first chunk has named the assistant.
    role_sent: bool,
    /// `openai`: the chunks are the upstream's own.
    is_native: bool,
    /// `text`: an LF now would be the second half of a CRLF, and the first half is a line break already.
    after_cr: bool,
    /// `events`: what `done` will say.
    finish_reason: Option<Box<str>>,
}

impl Writer {
    /// At the stream's beginning.
    #[must_use]
    pub fn new(stream: Stream) -> Self {
        Self { stream, next_id: 1, role_sent: false, is_native: false, after_cr: false, finish_reason: None }
    }

    /// What the site calls the stream.
    #[must_use]
    pub fn request_id(&self) -> &str {
        &self.stream.request_id
    }

    /// How events are written.
    #[must_use]
    pub fn format(&self) -> Format {
        self.stream.format
    }

    /// One event; nothing, where the format has no place for it or the client did not ask for it.
    pub fn event(&mut self, out: &mut Vec<u8>, event: &Event) {
        if event.is_empty() {
            return;
        }
        match self.stream.format {
            Format::Content => self.content(out, event),
            Format::Text => self.text(out, event),
            Format::OpenAi => self.openai(out, event),
            Format::Events => self.typed(out, event),
            Format::Raw => native(out, event),
        }
    }

    /// The end of a complete answer. The last event's id tells a client that reconnects, and every worker,
    /// that there is nothing left.
    pub fn end(&mut self, out: &mut Vec<u8>) {
        match self.stream.format {
            Format::Content => {
                // Readers by fetch see this one, listeners of an EventSource the next.
                self.id(out);
                sse::text(out, "[DONE]");
                self.done(out);
                sse::text(out, "[DONE]");
            }
            Format::Text => {
                self.done(out);
                sse::text(out, "[DONE]");
            }
            Format::OpenAi => sse::text(out, "[DONE]"),
            // As the upstream ends it.
            Format::Raw => {}
            Format::Events => {
                self.done(out);
                sse::json(out, &Done { finish_reason: self.finish_reason.as_deref() });
            }
        }
    }

    /// The end of an answer that failed: one error event, and no `[DONE]`.
    pub fn error(&mut self, out: &mut Vec<u8>, failure: &Failure) {
        error_event(out, self.stream.format, failure);
    }

    /// A sign of life, between events.
    pub fn heartbeat(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(sse::KEEP_ALIVE);
    }

    fn content(&mut self, out: &mut Vec<u8>, event: &Event) {
        let include = self.stream.include;
        let field = match event {
            Event::Content(text) | Event::Refusal(text) => Field::Content(text),
            Event::Reasoning(text) if include.reasoning => Field::Reasoning(text),
            Event::ToolCall(call) if include.tool_calls => Field::ToolCalls([call]),
            Event::Finish { reason } if include.finish_reason => Field::FinishReason(reason),
            Event::Usage(usage) if include.usage => Field::Usage(usage),
            Event::Native { .. }
            | Event::Reasoning(_)
            | Event::ToolCall(_)
            | Event::Finish { .. }
            | Event::Usage(_) => return,
        };
        self.id(out);
        sse::json(out, &field);
    }

    fn text(&mut self, out: &mut Vec<u8>, event: &Event) {
        match event {
            Event::Content(text) | Event::Refusal(text) => {
                let after_cr = std::mem::replace(&mut self.after_cr, text.ends_with('\r'));
                let text = text.strip_prefix('\n').filter(|_| after_cr).unwrap_or(text);
                if !text.is_empty() {
                    self.id(out);
                    sse::text(out, text);
                }
            }
            Event::Native { .. }
            | Event::Reasoning(_)
            | Event::ToolCall(_)
            | Event::Finish { .. }
            | Event::Usage(_) => {}
        }
    }

    fn openai(&mut self, out: &mut Vec<u8>, event: &Event) {
        self.is_native |= matches!(event, Event::Native { .. });
        if self.is_native {
            return native(out, event);
        }
        if matches!(event, Event::Usage(_)) && !self.stream.include.usage {
            return;
        }
        let names_role = !std::mem::replace(&mut self.role_sent, true);
        sse::json(out, &chunk::Chunk::new(&self.stream, event, names_role));
    }

    fn typed(&mut self, out: &mut Vec<u8>, event: &Event) {
        match event {
            Event::Content(text) => self.typed_event(out, "delta", &Field::Content(text)),
            Event::Reasoning(text) => self.typed_event(out, "reasoning", &Field::Content(text)),
            Event::Refusal(text) => self.typed_event(out, "refusal", &Field::Content(text)),
            Event::ToolCall(call) => self.typed_event(out, "tool_call", call),
            Event::Usage(usage) => self.typed_event(out, "usage", usage),
            Event::Native { .. } => {}
            Event::Finish { reason } => self.finish_reason = Some(reason.as_str().into()),
        }
    }

    fn typed_event(&mut self, out: &mut Vec<u8>, name: &'static str, data: &impl Serialize) {
        self.id(out);
        sse::name(out, name);
        sse::json(out, data);
    }

    fn id(&mut self, out: &mut Vec<u8>) {
        sse::id(out, &self.stream.request_id, itoa::Buffer::new().format(self.next_id));
        self.next_id += 1;
    }

    fn done(&self, out: &mut Vec<u8>) {
        sse::id(out, &self.stream.request_id, "end");
        sse::name(out, "done");
    }
}

/// The upstream's own bytes, and nothing else.
fn native(out: &mut Vec<u8>, event: &Event) {
    if let Event::Native { bytes, .. } = event {
        out.extend_from_slice(bytes);
    }
}

/// The last event of a stream whose writer died, perhaps in the middle of a line: that line ends first, then
/// the event it belonged to.
pub fn epitaph(out: &mut Vec<u8>, format: Format, failure: &Failure) {
    out.extend_from_slice(b"\n\n");
    error_event(out, format, failure);
}

/// Without an id: a client that reconnects after it may ask again.
fn error_event(out: &mut Vec<u8>, format: Format, failure: &Failure) {
    match format {
        Format::Content | Format::Text | Format::OpenAi => {}
        Format::Events | Format::Raw => sse::name(out, "error"),
    }
    sse::json(out, failure);
}

/// An object with one key: the variant's name.
#[derive(Serialize)]
#[serde(rename_all = "snake_case")]
enum Field<'a> {
    Content(&'a str),
    Reasoning(&'a str),
    ToolCalls([&'a RawValue; 1]),
    FinishReason(&'a str),
    Usage(&'a Usage),
}

#[derive(Serialize)]
struct Done<'a> {
    finish_reason: Option<&'a str>,
}
