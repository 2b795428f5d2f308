//! What an event means in each format. In: an event. Out: text to print, the end, an error.
//! Never: remembers an earlier event.

use std::fmt;

use serde_json::Value;

use super::Event;

/// How the daemon writes its events.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Format {
    /// `data: {"content":"…"}`
    Content,
    /// `data: …`, plain text
    Text,
    /// `data: {"choices":[{"delta":{"content":"…"}}]}`
    Openai,
    /// typed events: delta, reasoning, usage, done, error, …
    Events,
    /// The upstream's own events, byte for byte; they end with the connection
    Raw,
}

/// What one event says.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// A part of the answer.
    Text(String),
    /// The answer is complete.
    End,
    /// The answer breaks off here.
    Error(ErrorMessage),
    /// Something that is not printed: usage, reasoning, a role.
    Other,
}

/// The daemon's `{"error":{"message","type","code"}}`.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct ErrorMessage {
    message: String,
    code: Option<String>,
}

impl Format {
    /// The name that a payload uses.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Content => "content",
            Self::Text => "text",
            Self::Openai => "openai",
            Self::Events => "events",
            Self::Raw => "raw",
        }
    }

    /// Reads one event.
    pub(crate) fn meaning(self, event: &Event) -> Meaning {
        if self == Self::Raw {
            return raw_meaning(event);
        }
        if let Some(error) = ErrorMessage::parse(event.data.as_bytes()) {
            return Meaning::Error(error);
        }
        let text = match (self, event.name.as_deref()) {
            (_, Some("done")) => return Meaning::End,
            (Self::Content | Self::Openai, None) if event.data == "[DONE]" => return Meaning::End,
            (Self::Text, None) => Some(event.data.clone()),
            (Self::Content, None) | (Self::Events, Some("delta")) => string_at(&event.data, "/content"),
            (Self::Openai, None) => string_at(&event.data, "/choices/0/delta/content"),
            (Self::Content | Self::Text | Self::Openai, Some(_)) | (Self::Events | Self::Raw, _) => None,
        };
        text.map_or(Meaning::Other, Meaning::Text)
    }
}

/// Each event may be the last: which one is, only the upstream's own language tells. An error has our name; what has no
/// name is the upstream's own, whatever is in it.
fn raw_meaning(event: &Event) -> Meaning {
    let error = event.name.as_deref().filter(|name| *name == "error");
    let error = error.and_then(|_| ErrorMessage::parse(event.data.as_bytes()));
    error.map_or(Meaning::End, Meaning::Error)
}

impl ErrorMessage {
    /// Reads the body of an error response, or the data of an error event: an object whose `error` is an object.
    pub(crate) fn parse(json: &[u8]) -> Option<Self> {
        let value: Value = serde_json::from_slice(json).ok()?;
        let error = value.get("error")?.as_object()?;
        let text = |key: &str| error.get(key).and_then(Value::as_str).map(str::to_owned);
        Some(Self { message: text("message").unwrap_or_else(|| "no message".into()), code: text("code") })
    }
}

impl fmt::Display for ErrorMessage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.code.as_ref().map_or(Ok(()), |code| write!(f, " ({code})"))
    }
}

fn string_at(json: &str, pointer: &str) -> Option<String> {
    let value: Value = serde_json::from_str(json).ok()?;
    value.pointer(pointer)?.as_str().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(name: Option<&str>, data: &str) -> Event {
        Event { name: name.map(str::to_owned), data: data.into(), id: None }
    }

    fn text(text: &str) -> Meaning {
        Meaning::Text(text.into())
    }

    #[test]
    fn each_format_finds_its_text() {
        assert_eq!(Format::Content.meaning(&event(None, r#"{"content":"a"}"#)), text("a"));
        assert_eq!(Format::Text.meaning(&event(None, "a\nb")), text("a\nb"));
        assert_eq!(
            Format::Openai.meaning(&event(None, r#"{"choices":[{"delta":{"content":"a"}}]}"#)),
            text("a")
        );
        assert_eq!(Format::Events.meaning(&event(Some("delta"), r#"{"content":"a"}"#)), text("a"));
    }

    #[test]
    fn each_format_knows_its_end() {
        assert_eq!(Format::Content.meaning(&event(None, "[DONE]")), Meaning::End);
        assert_eq!(Format::Openai.meaning(&event(None, "[DONE]")), Meaning::End);
        assert_eq!(Format::Text.meaning(&event(Some("done"), "[DONE]")), Meaning::End);
        assert_eq!(Format::Events.meaning(&event(Some("done"), "{}")), Meaning::End);
    }

    #[test]
    fn plain_text_may_say_done() {
        assert_eq!(Format::Text.meaning(&event(None, "[DONE]")), text("[DONE]"));
    }

    #[test]
    fn an_error_event_is_an_error_in_every_format() {
        let data = r#"{"error":{"message":"the worker died","type":"server_error","code":"worker_crashed"}}"#;
        for format in [Format::Content, Format::Text, Format::Openai, Format::Events] {
            for name in [None, Some("error")] {
                let Meaning::Error(error) = format.meaning(&event(name, data)) else { panic!("{format:?}") };
                assert_eq!(error.to_string(), "the worker died (worker_crashed)");
            }
        }
    }

    #[test]
    fn of_the_upstreams_own_events_only_ours_is_an_error() {
        let data = r#"{"error":{"message":"no"}}"#;
        assert_eq!(Format::Raw.meaning(&event(None, data)), Meaning::End);
        assert_eq!(Format::Raw.meaning(&event(Some("messages"), "[]")), Meaning::End);
        assert!(matches!(Format::Raw.meaning(&event(Some("error"), data)), Meaning::Error(_)));
    }

    #[test]
    fn what_carries_no_text_is_not_printed() {
        assert_eq!(Format::Content.meaning(&event(None, r#"{"usage":{}}"#)), Meaning::Other);
        assert_eq!(Format::Events.meaning(&event(Some("usage"), r#"{"content":"a"}"#)), Meaning::Other);
        assert_eq!(Format::Openai.meaning(&event(None, r#"{"choices":[]}"#)), Meaning::Other);
    }
}
