//! What the log says about a session: one line, with everything but what was asked and answered.

use std::time::Instant;

use handoff_config::Config;
use handoff_shared::ids::LeaseId;
use handoff_shared::message::{Configure, Outcome};

use crate::failure::Failure;
use crate::inbox::Room;
use crate::request::{Caller, ChatRequest, Said};
use crate::upstream::{Answer, Tokens};

/// One session's facts, as they become known.
#[derive(Debug)]
pub(super) struct Story {
    lease: LeaseId,
    received_at: Instant,
    first_byte_at: Option<Instant>,
    events: u64,
    bytes: u64,
    request_id: Option<String>,
    user_id: Option<String>,
    said: Said,
    model: Option<String>,
    backend: Option<String>,
    attempts: u32,
    tokens: Option<Tokens>,
    /// Only where the operator has switched it on.
    prompt: Option<String>,
    error: Option<String>,
}

impl Story {
    pub(super) fn new(lease: LeaseId, received_at: Instant) -> Self {
        Self {
            lease,
            received_at,
            first_byte_at: None,
            events: 0,
            bytes: 0,
            request_id: None,
            user_id: None,
            said: Said::default(),
            model: None,
            backend: None,
            attempts: 0,
            tokens: None,
            prompt: None,
            error: None,
        }
    }

    /// The request makes sense.
    pub(super) fn tell(&mut self, request: &ChatRequest, config: &Config) {
        self.request_id.clone_from(&request.request_id);
        self.user_id.clone_from(&request.user_id);
        self.said = Caller::of(request, &config.logging.request_headers).said;
        self.prompt = config.logging.prompts.then(|| request.last_user_text().into_owned());
    }

    /// The request goes no further; who made it may be known all the same.
    pub(super) fn refuse(&mut self, caller: Caller) {
        self.request_id = caller.request_id;
        self.said = caller.said;
    }

    /// Who answered, and what it cost.
    pub(super) fn answered(&mut self, answer: &Answer) {
        self.backend = Some(answer.backend().to_owned());
        self.model = Some(answer.model().to_owned());
        self.attempts = answer.attempts();
        self.tokens = Some(answer.tokens());
    }

    pub(super) fn fail(&mut self, failure: &Failure) {
        self.error = Some(failure.to_string());
    }

    /// Bytes have gone out, or were tried.
    pub(super) fn wrote(&mut self, room: &Room, bytes: usize, events: u64) {
        self.first_byte_at.get_or_insert_with(Instant::now);
        self.bytes += bytes as u64;
        self.events += events;
        let mut counts = room.counts.borrow_mut();
        counts.bytes_sent += bytes as u64;
        counts.events_sent += events;
    }

    pub(super) fn log(&self, outcome: Outcome, configure: &Configure) {
        let first_byte_ms = self.first_byte_at.map(|at| milliseconds(at - self.received_at));
        let usage = self.tokens.and_then(|tokens| tokens.usage);
        // Where nobody has counted: only what was written, and said to be a guess.
        let estimate = self.tokens.filter(|tokens| tokens.usage.is_none()).map(|tokens| tokens.estimate());
        tracing::info!(
            outcome = outcome.as_str(),
            request_id = self.request_id.as_deref().unwrap_or(&self.lease.to_string()),
            user_id = self.user_id,
            client = self.said.client,
            method = self.said.method,
            path = self.said.path,
            proto = self.said.proto,
            tls = self.said.tls,
            relay = self.said.relay,
            request_headers = self.said.request_headers.as_deref().map(tracing::field::display),
            backend = self.backend,
            model = self.model,
            attempts = self.attempts,
            prompt_tokens = usage.map(|usage| usage.prompt_tokens),
            completion_tokens = usage.map(|usage| usage.completion_tokens),
            completion_tokens_estimated = estimate,
            events = self.events,
            bytes = self.bytes,
            first_byte_ms,
            duration_ms = milliseconds(self.received_at.elapsed()),
            error = self.error,
            prompt = self.prompt,
            lease = %self.lease,
            slot = configure.slot.0,
            generation = configure.generation.0,
            "session ended"
        );
    }
}

fn milliseconds(duration: std::time::Duration) -> f64 {
    (duration.as_secs_f64() * 1e5).round() / 100.0
}
