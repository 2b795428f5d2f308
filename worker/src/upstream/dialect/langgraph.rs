//! The LangGraph platform's runs.
//!
//! In: a request, and server-sent events whose names are the modes that were asked for. Out: one call, before it another
//! that makes the thread, and events in no dialect.
//! Never: changes an event that is passed on, keeps a message's text.

mod ask;
#[cfg(test)]
mod tests;

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::{Pass, Verdict, error, parse};
use crate::event::{Event, Usage};
use crate::upstream::event_reader::RawEvent;
use crate::upstream::trouble::Trouble;

pub(super) use ask::ask;

/// Messages that are remembered: those that are written at the same time, and some more.
const MESSAGES_MAX: usize = 64;

/// Reads one run.
#[derive(Debug, Default)]
pub struct Decoder {
    /// The messages of the models, the youngest last.
    messages: Vec<Known>,
    /// What messages that are forgotten have cost.
    usage_before: Usage,
    has_begun: bool,
    is_answered: bool,
}

/// A message of which something has come.
#[derive(Debug)]
struct Known {
    id: String,
    /// How it comes: what comes also in the other way is not told twice.
    way: Way,
    /// Bytes of its text so far.
    text_bytes: usize,
    /// Bytes of its thinking so far.
    reasoning_bytes: usize,
    usage: Usage,
}

/// How a message comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `messages`: each event has a further piece.
    Pieces,
    /// `messages/partial`, `messages/complete`: each event has all of it so far.
    Wholes,
}

#[derive(Deserialize)]
struct Message<'a> {
    #[serde(borrow, default)]
    r#type: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    id: Option<Cow<'a, str>>,
    #[serde(borrow, default)]
    content: Option<&'a RawValue>,
    #[serde(borrow, default)]
    additional_kwargs: Option<&'a RawValue>,
    #[serde(borrow, default)]
    usage_metadata: Option<&'a RawValue>,
}

impl Decoder {
    pub(super) fn decode(
        &mut self,
        event: &RawEvent<'_>,
        events: &mut Vec<Event>,
    ) -> Result<Verdict, Trouble> {
        self.has_begun = true;
        // A subgraph's events have its name behind a bar.
        let name = event.name.unwrap_or_default();
        let mode = name.split('|').next().unwrap_or_default();
        let mut verdict = Verdict { pass: Pass::On, is_meaningful: true, is_last: false };
        match mode {
            "metadata" | "messages/metadata" => verdict.is_meaningful = false,
            "messages" => self.piece(&event.data, events)?,
            "messages/partial" | "messages/complete" => self.wholes(&event.data, events)?,
            "error" => return Err(trouble(&event.data)),
            "end" => {
                self.is_answered = true;
                verdict.is_last = true;
                events.push(Event::Finish { reason: "stop".to_owned() });
            }
            // Other modes, whose shape is the graph's own.
            _ => {}
        }
        Ok(verdict)
    }

    /// `end` has come. Not every version sends it.
    pub(super) fn is_answered(&self) -> bool {
        self.is_answered
    }

    /// Some event has come: what has none is no run.
    pub(super) fn has_begun(&self) -> bool {
        self.has_begun
    }

    /// A message, or a piece of it, and what is known of it.
    fn piece(&mut self, data: &str, events: &mut Vec<Event>) -> Result<(), Trouble> {
        let pair: Vec<&RawValue> = read_list(data)?;
        let Some(message) = pair.first().and_then(|raw| read_message(raw)) else { return Ok(()) };
        // A node may put a message into the state that has come in pieces before: it is told once.
        let is_piece = message.r#type.as_deref() == Some("AIMessageChunk");
        let id = message.id.clone().unwrap_or_default();
        if !is_piece && !id.is_empty() && self.messages.iter().any(|known| known.id == id) {
            return Ok(());
        }
        let (text, reasoning) = words(&message);
        let known = self.know(&id, Way::Pieces);
        if known.way != Way::Pieces {
            return Ok(());
        }
        known.text_bytes = known.text_bytes.saturating_add(text.len());
        known.reasoning_bytes = known.reasoning_bytes.saturating_add(reasoning.len());
        let usage = read_usage(&message);
        if let Some(usage) = usage {
            known.usage = sum(known.usage, usage);
        }
        push(events, reasoning, text);
        self.push_usage(usage.is_some(), events);
        Ok(())
    }

    /// Messages, each with all that it has so far.
    fn wholes(&mut self, data: &str, events: &mut Vec<Event>) -> Result<(), Trouble> {
        let messages: Vec<&RawValue> = read_list(data)?;
        for message in messages.into_iter().filter_map(read_message) {
            let (text, reasoning) = words(&message);
            let known = self.know(message.id.as_deref().unwrap_or_default(), Way::Wholes);
            if known.way != Way::Wholes {
                continue;
            }
            let text = suffix(&mut known.text_bytes, &text);
            let reasoning = suffix(&mut known.reasoning_bytes, &reasoning);
            let usage = read_usage(&message).filter(|usage| *usage != known.usage);
            if let Some(usage) = usage {
                known.usage = usage;
            }
            push(events, reasoning, text);
            self.push_usage(usage.is_some(), events);
        }
        Ok(())
    }

    /// The message of this id, which is remembered from now on.
    fn know(&mut self, id: &str, way: Way) -> &mut Known {
        let known = match self.messages.iter().position(|known| known.id == id) {
            Some(place) => self.messages.remove(place),
            None => {
                if self.messages.len() == MESSAGES_MAX {
                    self.usage_before = sum(self.usage_before, self.messages.remove(0).usage);
                }
                Known { id: id.to_owned(), way, text_bytes: 0, reasoning_bytes: 0, usage: Usage::default() }
            }
        };
        self.messages.push(known);
        let last = self.messages.len() - 1;
        &mut self.messages[last]
    }

    /// What all messages of the run have cost so far, when it has changed.
    fn push_usage(&self, has_changed: bool, events: &mut Vec<Event>) {
        if has_changed {
            let usages = self.messages.iter().map(|known| known.usage);
            events.push(Event::Usage(usages.fold(self.usage_before, sum)));
        }
    }
}

fn read_list<'a>(data: &'a str) -> Result<Vec<&'a RawValue>, Trouble> {
    let raw: &'a RawValue = parse(data)?;
    // Whatever else it may be, it is passed on to those who want the run's own events.
    Ok(serde_json::from_str(raw.get()).unwrap_or_default())
}

/// A message of a model; none: of a tool or a person, or no message.
fn read_message(raw: &RawValue) -> Option<Message<'_>> {
    let message: Message<'_> = serde_json::from_str(raw.get()).ok()?;
    let is_models = matches!(message.r#type.as_deref(), None | Some("ai" | "AIMessage" | "AIMessageChunk"));
    is_models.then_some(message)
}

/// Text and thinking of a message.
fn words(message: &Message<'_>) -> (String, String) {
    #[derive(Deserialize)]
    struct More<'a> {
        #[serde(borrow, default)]
        reasoning_content: Option<Cow<'a, str>>,
    }
    let (mut text, mut reasoning) = (String::new(), String::new());
    if let Some(content) = message.content {
        if let Ok(whole) = serde_json::from_str(content.get()) {
            text = whole;
        } else {
            let parts: Vec<&RawValue> = serde_json::from_str(content.get()).unwrap_or_default();
            parts.into_iter().for_each(|part| read_part(part, &mut text, &mut reasoning));
        }
    }
    if let Some(more) = message.additional_kwargs
        && let Ok(More { reasoning_content: Some(more) }) = serde_json::from_str(more.get())
    {
        reasoning.push_str(&more);
    }
    (text, reasoning)
}

/// A part of a content: a text, or an object in the words of LangChain or of the model's own API.
fn read_part(part: &RawValue, text: &mut String, reasoning: &mut String) {
    #[derive(Deserialize)]
    struct Part<'a> {
        #[serde(borrow, default)]
        text: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        thinking: Option<Cow<'a, str>>,
        #[serde(borrow, default)]
        reasoning: Option<Cow<'a, str>>,
    }
    if let Ok(whole) = serde_json::from_str::<String>(part.get()) {
        text.push_str(&whole);
    } else if let Ok(part) = serde_json::from_str::<Part<'_>>(part.get()) {
        text.push_str(&part.text.unwrap_or_default());
        reasoning.push_str(&part.thinking.or(part.reasoning).unwrap_or_default());
    }
}

/// What is new in a text of which so many bytes are known.
fn suffix(known_bytes: &mut usize, text: &str) -> String {
    let new = text.get(*known_bytes..).unwrap_or_default().to_owned();
    *known_bytes = (*known_bytes).max(text.len());
    new
}

fn push(events: &mut Vec<Event>, reasoning: String, text: String) {
    let both = [Event::Reasoning(reasoning), Event::Content(text)];
    events.extend(both.into_iter().filter(|event| !event.is_empty()));
}

fn read_usage(message: &Message<'_>) -> Option<Usage> {
    #[derive(Deserialize)]
    struct Metadata {
        #[serde(default)]
        input_tokens: u64,
        #[serde(default)]
        output_tokens: u64,
        #[serde(default)]
        total_tokens: u64,
        #[serde(default)]
        input_token_details: Option<Details>,
        #[serde(default)]
        output_token_details: Option<Details>,
    }
    #[derive(Deserialize)]
    struct Details {
        #[serde(default)]
        cache_read: Option<u64>,
        #[serde(default)]
        reasoning: Option<u64>,
    }
    let metadata: Option<Metadata> = serde_json::from_str(message.usage_metadata?.get()).ok()?;
    let metadata = metadata?;
    Some(Usage {
        prompt_tokens: metadata.input_tokens,
        completion_tokens: metadata.output_tokens,
        total_tokens: metadata.total_tokens,
        cached_tokens: metadata.input_token_details.and_then(|details| details.cache_read),
        reasoning_tokens: metadata.output_token_details.and_then(|details| details.reasoning),
    })
}

fn sum(a: Usage, b: Usage) -> Usage {
    let both = |a: Option<u64>, b: Option<u64>| match (a, b) {
        (Some(a), Some(b)) => Some(a.saturating_add(b)),
        (one, None) | (None, one) => one,
    };
    Usage {
        prompt_tokens: a.prompt_tokens.saturating_add(b.prompt_tokens),
        completion_tokens: a.completion_tokens.saturating_add(b.completion_tokens),
        total_tokens: a.total_tokens.saturating_add(b.total_tokens),
        cached_tokens: both(a.cached_tokens, b.cached_tokens),
        reasoning_tokens: both(a.reasoning_tokens, b.reasoning_tokens),
    }
}

/// The graph has failed: `{"error":…,"message":…}`, in which the error is the name of an exception, or words alone.
fn trouble(data: &str) -> Trouble {
    #[derive(Deserialize)]
    struct Failed {
        message: String,
    }
    let trouble = error::of_event(data);
    let Ok(Failed { message }) = serde_json::from_str(data) else { return trouble };
    let Trouble { failure, reason, again, detail } = trouble;
    Trouble::new(reason, failure.code, failure.message, again, format!("{detail}: {message}"))
}
