//! Anthropic's Messages.

use handoff_config::backend::Anthropic;

use super::{Asking, Question, Verdict};
use crate::event::Event;
use crate::failure::{Code, Failure};
use crate::upstream::event_reader::RawEvent;
use crate::upstream::trouble::Trouble;

/// Reads one answer.
#[derive(Debug, Default)]
pub struct Decoder {}

pub(super) fn ask(_config: &Anthropic, _question: Question<'_>) -> Result<Asking, Failure> {
    Err(Failure::new(Code::UpstreamError, "not yet"))
}

impl Decoder {
    pub(super) fn decode(
        &mut self,
        _event: &RawEvent<'_>,
        _events: &mut Vec<Event>,
    ) -> Result<Verdict, Trouble> {
        Err(Trouble::malformed("not yet"))
    }

    pub(super) fn is_answered(&self) -> bool {
        false
    }
}
