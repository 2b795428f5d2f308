//! What the log says about a session: one line, with everything but what was asked and answered.

use std::rc::Rc;

use handoff_config::Config;
use handoff_shared::ids::LeaseId;
use handoff_shared::message::{Configure, Outcome};

use crate::failure::Failure;
use crate::inbox::Room;
use crate::moment::Moment;
use crate::request::{Caller, ChatRequest, Said};
use crate::upstream::{Answer, Tokens};

/// One session's facts, as they become known. For as long as the answer takes, most of them are elsewhere, or not there.
#[derive(Debug)]
pub(super) struct Story {
    received_at: Moment,
    first_byte_at: Option<Moment>,
    events: u64,
    bytes: u64,
    asked: Option<Box<Asked>>,
    answered: Option<Box<Answered>>,
    error: Option<Box<str>>,
}

/// Who has asked.
#[derive(Debug, Default, PartialEq)]
struct Asked {
    request_id: Option<String>,
    user_id: Option<String>,
    said: Said,
    /// Only where the operator has switched it on.
    prompt: Option<String>,
}

/// Who has answered, and what it cost.
#[derive(Debug)]
struct Answered {
    model: Rc<str>,
    backend: String,
    attempts: u32,
    tokens: Tokens,
}

impl Story {
    pub(super) fn new(received_at: Moment) -> Self {
        Self {
            received_at,
            first_byte_at: None,
            events: 0,
            bytes: 0,
            asked: None,
            answered: None,
            error: None,
        }
    }

    pub(super) fn received_at(&self) -> Moment {
        self.received_at
    }

    /// The request makes sense.
    pub(super) fn tell(&mut self, request: &ChatRequest, config: &Config) {
        let asked = Asked {
            request_id: request.request_id.clone(),
            user_id: request.user_id.clone(),
            said: Caller::of(request, &config.logging.request_headers).said,
            prompt: config.logging.prompts.then(|| request.last_user_text().into_owned()),
        };
        // Of many there is nothing to be known but the lease.
        let is_known = asked != Asked::default();
        self.asked = is_known.then(|| Box::new(asked));
    }

    /// The request goes no further; who made it may be known all the same.
    pub(super) fn refuse(&mut self, caller: Caller) {
        let Caller { request_id, said, .. } = caller;
        self.asked = Some(Box::new(Asked { request_id, said, ..Asked::default() }));
    }

    /// Who answered, and what it cost.
    pub(super) fn answered(&mut self, answer: &Answer) {
        self.answered = Some(Box::new(Answered {
            backend: answer.backend().to_owned(),
            model: answer.model(),
            attempts: answer.attempts(),
            tokens: answer.tokens(),
        }));
    }

    pub(super) fn fail(&mut self, failure: &Failure) {
        self.error = Some(failure.to_string().into());
    }

    /// Bytes have gone out, or were tried.
    pub(super) fn wrote(&mut self, room: &Room, bytes: usize, events: u64) {
        self.first_byte_at.get_or_insert_with(Moment::now);
        self.bytes += bytes as u64;
        self.events += events;
        let mut counts = room.counts.borrow_mut();
        counts.bytes_sent += bytes as u64;
        counts.events_sent += events;
    }

    pub(super) fn log(&self, outcome: Outcome, lease: LeaseId, configure: &Configure) {
        let first_byte_ms = self.first_byte_at.map(|at| milliseconds(at - self.received_at));
        let nobody = Asked::default();
        let asked = self.asked.as_deref().unwrap_or(&nobody);
        let said = &asked.said;
        let answered = self.answered.as_deref();
        let tokens = answered.map(|answered| &answered.tokens);
        let usage = tokens.and_then(|tokens| tokens.usage.as_deref());
        // Where nobody has counted: only what was written, and said to be a guess.
        let estimate = tokens.filter(|tokens| tokens.usage.is_none()).map(|tokens| tokens.estimate());
        tracing::info!(
            outcome = outcome.as_str(),
            request_id = asked.request_id.as_deref().unwrap_or(&lease.to_string()),
            user_id = asked.user_id,
            client = said.client,
            method = said.method,
            path = said.path,
            proto = said.proto,
            tls = said.tls,
            relay = said.relay,
            request_headers = said.request_headers.as_deref().map(tracing::field::display),
            backend = answered.map(|answered| &*answered.backend),
            model = answered.map(|answered| &*answered.model),
            attempts = answered.map_or(0, |answered| answered.attempts),
            prompt_tokens = usage.map(|usage| usage.prompt_tokens),
            completion_tokens = usage.map(|usage| usage.completion_tokens),
            completion_tokens_estimated = estimate,
            events = self.events,
            bytes = self.bytes,
            first_byte_ms,
            duration_ms = milliseconds(self.received_at.elapsed()),
            error = self.error.as_deref(),
            prompt = asked.prompt,
            %lease,
            slot = configure.slot.0,
            generation = configure.generation.0,
            "session ended"
        );
    }
}

fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}
