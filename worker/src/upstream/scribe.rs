//! An upstream's events, turned into ours. In: one event at a time. Out: what it says, or its own bytes; word to the watch.
//! Never: keeps anything of an event that it has turned.

use std::collections::VecDeque;

use handoff_config::backend::Dialect;

use super::dialect::{self, Decoder, Pass, Wishes};
use super::event_reader::{Framing, RawEvent};
use super::trouble::Trouble;
use super::watch::Watch;
use crate::event::Event;
use crate::moment::Moment;
use crate::sse;

/// An upstream's own bytes, where the client wants those.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Native {
    /// It does not.
    No,
    /// Each event's data, except what only says that the stream ends. Whether the usage is wanted.
    Data { usage: bool },
    /// Whole events.
    Whole,
}

/// Turns an upstream's events into ours.
#[derive(Debug)]
pub(super) struct Scribe {
    pub(super) decoder: Decoder,
    framing: Framing,
    native: Native,
}

impl Scribe {
    pub(super) fn new(dialect: &Dialect, wishes: Wishes, native: Native) -> Self {
        let framing = dialect::framing(dialect);
        Self { decoder: Decoder::new(dialect, wishes), framing, native }
    }

    /// One event: what it says, or its own bytes. Whether it is the last.
    pub(super) fn take(
        &mut self,
        event: &RawEvent<'_>,
        now: Moment,
        watch: &mut Watch,
        events: &mut VecDeque<Event>,
    ) -> Result<bool, Trouble> {
        let mut said = Vec::new();
        let verdict = self.decoder.decode(event, &mut said)?;
        if verdict.is_meaningful {
            watch.content(now);
        }
        if self.decoder.is_answered() {
            watch.answered(now);
        }
        if verdict.is_last && !self.decoder.is_answered() {
            // A gateway's own `[DONE]` behind an answer that has none.
            return Err(Trouble::incomplete("the stream said that it was done, and the answer was not"));
        }
        let passes = match (self.native, verdict.pass) {
            (Native::No, _) => {
                events.extend(said);
                return Ok(verdict.is_last);
            }
            (Native::Whole, _) | (Native::Data { .. }, Pass::On) => true,
            (Native::Data { usage }, Pass::Usage) => usage,
            (Native::Data { .. }, Pass::Terminator) => false,
        };
        if passes {
            let mut bytes = Vec::new();
            match (self.native, self.framing) {
                (Native::Whole, Framing::ServerSentEvents) => bytes.extend_from_slice(event.raw),
                _ => sse::text(&mut bytes, &event.data),
            }
            let text_bytes = said.iter().map(Event::text_bytes).sum();
            let is_meaningful = verdict.is_meaningful;
            events.push_back(Event::Native { bytes, is_meaningful, text_bytes });
        }
        // The usage is counted whether it is passed on or not.
        events.extend(said.into_iter().filter(|event| matches!(event, Event::Usage(_))));
        Ok(verdict.is_last)
    }
}
