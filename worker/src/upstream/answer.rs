//! One answer, however many attempts it takes. In: a question, and the backends that may be asked. Out: events of one
//! of them, then the end, or one [`Failure`].
//!
//! Never: asks again once an event has gone out that means something, hands out such events of two attempts, forgets
//! to cancel what nobody wants any more.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use handoff_config::backend::{OnDisconnect, Timeouts};
use handoff_shared::metric::{
    BackendCounts, Counts, DURATION_FIRST_BOUND, FIRST_BYTE_FIRST_BOUND, FailureReason,
};

use super::again::Next;
use super::attempt::{Attempt, Progress};
use super::backend::Backend;
use super::open::Tag;
use super::rest::{Insistence, Span};
use super::scribe::Native;
use super::trouble::{Again, Trouble};
use crate::alarm::Alarm;
use crate::event::{Event, Usage};
use crate::failure::{Code, Failure};
use crate::moment::Moment;
use crate::report::Reporter;
use crate::request::{self, ChatRequest};

/// Memory for events without meaning that are held back, in bytes, before an answer counts as begun by them.
const HELD_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Bytes of text in one token, where nobody has counted.
const BYTES_PER_TOKEN: u64 = 4;

/// An answer on its way. Dropping it cancels it.
#[derive(Debug)]
pub(crate) struct Answer {
    question: Question,
    /// It is asked now, or was asked last.
    choice: Choice,
    /// Those may follow, the last one first.
    others: Vec<Choice>,
    state: State,
    /// Further attempts at the backend that is asked now.
    repeated: u8,
    attempts: u32,
    /// The last of them.
    attempted_at: Moment,
    /// Events that wait to be taken.
    ready: VecDeque<Event>,
    /// Bytes among them that have no meaning yet.
    held_bytes: usize,
    /// Something that means something has gone out, or nobody waits for it: from here on there is no other attempt.
    has_begun: bool,
    asked_at: Moment,
    tokens: Tokens,
    /// What comes after the last event.
    failure: Option<Box<Failure>>,
}

/// What stays the same over all attempts.
#[derive(Debug)]
pub(super) struct Question {
    /// Until the answer has begun: nobody is asked from then on, and a question may have megabytes.
    pub(super) asked: Option<(Rc<ChatRequest>, Rc<Tag>)>,
    /// For the log.
    pub(super) request_id: Rc<str>,
    /// What the site is willing to wait, if it says so.
    pub(super) timeouts: Option<Box<request::Timeouts>>,
    pub(super) on_disconnect: Option<OnDisconnect>,
    pub(super) counts: Rc<RefCell<Counts>>,
    pub(super) reporter: Rc<Reporter>,
}

/// A backend that may be asked, and what for.
#[derive(Clone, Debug)]
pub(super) struct Choice {
    pub(super) backend: Rc<Backend>,
    pub(super) model: Rc<str>,
    pub(super) native: Native,
}

#[derive(Debug)]
enum State {
    /// The backend is asked next.
    Due,
    Asking(Attempt),
    Waiting(Moment),
    Over,
}

/// What an answer has cost.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tokens {
    /// As the upstream counts.
    pub(crate) usage: Option<Box<Usage>>,
    /// Bytes of text that were written, for an estimate.
    text_bytes: u64,
}

impl Tokens {
    /// Tokens written as far as the text tells, where nobody has counted.
    pub(crate) fn estimate(&self) -> u64 {
        self.text_bytes.div_ceil(BYTES_PER_TOKEN)
    }
}

impl Answer {
    /// Asks `choice` first, then `others`, the last of them first.
    pub(super) fn new(question: Question, choice: Choice, others: Vec<Choice>) -> Self {
        let mut answer = Self {
            question,
            choice,
            others,
            state: State::Over,
            repeated: 0,
            attempts: 0,
            attempted_at: Moment::now(),
            ready: VecDeque::new(),
            held_bytes: 0,
            has_begun: false,
            asked_at: Moment::now(),
            tokens: Tokens::default(),
            failure: None,
        };
        answer.turn();
        answer
    }

    /// The backend that is asked now, or was asked last.
    pub(crate) fn backend(&self) -> &str {
        &self.choice.backend.config.name
    }

    /// What it is asked for.
    pub(crate) fn model(&self) -> Rc<str> {
        Rc::clone(&self.choice.model)
    }

    /// How many times somebody was asked.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts
    }

    pub(crate) fn tokens(&self) -> Tokens {
        self.tokens.clone()
    }

    /// How long its parts may take.
    pub(crate) fn timeouts(&self) -> Timeouts {
        let timeouts = self.choice.backend.config.timeouts;
        self.question.timeouts.as_ref().map_or(timeouts, |asked| asked.lower(timeouts))
    }

    /// What becomes of it when its client leaves.
    pub(crate) fn on_disconnect(&self) -> OnDisconnect {
        let configured = self.choice.backend.config.on_disconnect;
        self.question.on_disconnect.map_or(configured, |asked| asked.min(configured))
    }

    /// Nobody waits for it any more: the attempt that runs is the last one. Whether there is one.
    pub(crate) fn ask_no_more(&mut self) -> bool {
        self.begun();
        matches!(self.state, State::Asking(_))
    }

    /// It has taken longer than allowed altogether.
    pub(crate) fn too_long(&mut self) {
        self.count(|counts| {
            counts.failed(FailureReason::TotalTimeout);
            counts.errors += 1;
        });
        // It has failed, and so was not cancelled for want of a client.
        self.finish();
    }

    /// The next event; `None` after the last of a complete answer.
    pub(crate) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        alarm: &Alarm,
    ) -> Poll<Option<Result<Event, Failure>>> {
        loop {
            if (self.has_begun || matches!(self.state, State::Over))
                && let Some(event) = self.ready.pop_front()
            {
                if self.ready.is_empty() {
                    self.ready = VecDeque::new();
                }
                return Poll::Ready(Some(Ok(event)));
            }
            match &mut self.state {
                State::Over => return Poll::Ready(self.failure.take().map(|failure| Err(*failure))),
                State::Due => self.ask(),
                State::Waiting(until) => {
                    ready!(alarm.poll_until(*until));
                    self.ask();
                }
                State::Asking(attempt) => {
                    let before = self.ready.len();
                    let polled = ready!(attempt.poll(cx, alarm, &mut self.ready));
                    self.look(before);
                    match polled {
                        Ok(Progress::Events) => {}
                        Ok(Progress::Complete) => self.finish(),
                        Err(trouble) => self.failed(&trouble),
                    }
                }
            }
        }
    }

    /// What is asked becomes part of a conversation that the upstream keeps: asked twice, it would be there twice.
    fn leaves_traces(&self) -> bool {
        let asked = self.question.asked.as_ref();
        let is_in_a_thread = asked.is_some_and(|(request, _)| request.langgraph.thread_id.is_some());
        is_in_a_thread && self.choice.backend.keeps_threads()
    }

    /// Asks the backend. One that rests is passed over; the last one only if it must rest.
    fn ask(&mut self) {
        let (choice, Some((request, tag))) = (&self.choice, &self.question.asked) else {
            self.state = State::Over;
            return;
        };
        let now = Moment::now();
        if let Some(resting) = choice.backend.resting(&choice.model, now)
            && (!self.others.is_empty() || resting.insistence == Insistence::Must)
        {
            return self.failed(&Trouble::resting(resting.until.duration_since(now)));
        }
        let attempt = Attempt::begin(&choice.backend, request, &choice.model, tag, choice.native);
        self.attempts += 1;
        self.attempted_at = now;
        match attempt {
            Ok(attempt) => self.state = State::Asking(attempt),
            Err(trouble) => self.failed(&trouble),
        }
    }

    /// An attempt has failed: somebody is asked again, or the client is told.
    fn failed(&mut self, trouble: &Trouble) {
        let (repeated, others) = (self.repeated, !self.others.is_empty());
        self.state = State::Over;
        let backend = Rc::clone(&self.choice.backend);
        let timeouts = self.question.timeouts.as_deref().copied().unwrap_or_default();
        let span = Span { began: self.attempted_at, failed: Moment::now() };
        let model = Rc::clone(&self.choice.model);
        let cooldown = backend.failed(trouble, &model, &timeouts, span);
        self.count(|counts| {
            counts.failed(trouble.reason);
            counts.cooldowns += u64::from(cooldown.is_some());
        });
        if let Some(cooldown) = cooldown {
            self.question.reporter.cooldown(cooldown);
        }
        let is_final = self.has_begun || (self.leaves_traces() && trouble.may_have_begun());
        let next = if is_final { Next::GiveUp } else { backend.next(trouble, &model, repeated, others) };
        tracing::info!(
            request_id = &*self.question.request_id,
            backend = backend.config.name,
            reason = trouble.reason.as_str(),
            detail = &*backend.without_secrets(&trouble.detail),
            attempt = self.attempts,
            next = ?next,
            "upstream failed"
        );
        if !self.has_begun {
            self.ready.clear();
            self.held_bytes = 0;
        }
        match next {
            Next::Same { wait } => {
                self.repeated += 1;
                self.count(|counts| counts.retries += 1);
                self.wait(wait);
            }
            Next::Other => {
                self.count(|counts| counts.failovers += 1);
                if let Some(next) = self.others.pop() {
                    self.choice = next;
                }
                self.turn();
            }
            Next::GiveUp => {
                self.count(|counts| counts.errors += 1);
                self.account();
                self.failure = Some(Box::new(trouble.failure.clone()));
            }
        }
    }

    /// It is this backend's turn.
    fn turn(&mut self) {
        self.choice.backend.asked();
        self.count(|counts| counts.requests += 1);
        self.repeated = 0;
        self.wait(Duration::ZERO);
    }

    fn wait(&mut self, wait: Duration) {
        self.tokens = Tokens::default();
        self.state = match wait.is_zero() {
            true => State::Due,
            false => State::Waiting(Moment::now() + wait),
        };
    }

    /// What the new events mean.
    fn look(&mut self, before: usize) {
        for event in self.ready.iter().skip(before) {
            self.tokens.text_bytes += event.text_bytes() as u64;
            self.held_bytes += size_of::<Event>();
            match event {
                Event::Native { bytes, .. } => self.held_bytes += bytes.len(),
                Event::Usage(usage) => self.tokens.usage = Some(Box::new(*usage)),
                Event::Content(_)
                | Event::Reasoning(_)
                | Event::Refusal(_)
                | Event::ToolCall(_)
                | Event::Finish { .. } => {}
            }
        }
        let begins = self.ready.iter().skip(before).any(Event::is_meaningful);
        if !self.has_begun && (begins || self.held_bytes > HELD_BYTES_MAX) {
            self.begun();
            let waited = self.asked_at.elapsed().as_secs_f64();
            self.count(|counts| counts.first_byte.record(FIRST_BYTE_FIRST_BOUND, waited));
            self.choice.backend.succeeded();
        }
    }

    /// Nobody is asked again.
    fn begun(&mut self) {
        self.has_begun = true;
        self.question.asked = None;
        self.others = Vec::new();
    }

    fn finish(&mut self) {
        self.state = State::Over;
        self.account();
    }

    /// Time and tokens, once.
    fn account(&mut self) {
        let (took, tokens) = (self.asked_at.elapsed().as_secs_f64(), self.tokens.clone());
        self.count(|counts| {
            counts.duration.record(DURATION_FIRST_BOUND, took);
            match &tokens.usage {
                Some(usage) => {
                    counts.prompt_tokens = counts.prompt_tokens.saturating_add(usage.prompt_tokens);
                    counts.completion_tokens =
                        counts.completion_tokens.saturating_add(usage.completion_tokens);
                }
                None => counts.estimated_tokens = counts.estimated_tokens.saturating_add(tokens.estimate()),
            }
        });
    }

    fn count(&self, count: impl FnOnce(&mut BackendCounts)) {
        count(self.question.counts.borrow_mut().backend(&self.choice.backend.config.name));
    }
}

/// Nobody wants it any more.
impl Drop for Answer {
    fn drop(&mut self) {
        if !matches!(self.state, State::Over) {
            self.count(|counts| counts.cancelled += 1);
            self.account();
        }
    }
}

impl Trouble {
    /// It has asked to be left alone, or has failed too often.
    fn resting(remaining: Duration) -> Self {
        let message = "the upstream needs a pause, please retry";
        Self::new(
            FailureReason::Cooldown,
            Code::Overloaded,
            message,
            Again::Elsewhere,
            format!("left alone for another {remaining:?}"),
        )
        .after(Some(remaining))
    }
}
