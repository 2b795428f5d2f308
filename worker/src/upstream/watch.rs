//! How long one attempt at an upstream has been silent. In: what was heard, and when. Out: which patience has ended.
//! Never: counts the time in which nobody asked: a client that reads late is no silence of the upstream's.

use std::task::Poll;
use std::time::Duration;

use crate::alarm::Alarm;
use crate::moment::{Millis, Moment};
use handoff_config::backend::Timeouts;

/// An answer that is complete may say a little more (the usage, a last line) for this long.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Which patience has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Lapse {
    /// No meaningful event came in time.
    FirstContent,
    /// No byte for too long.
    Idle,
    /// Bytes, but no meaningful event for too long.
    Content,
    /// The answer was complete, and nothing followed.
    Over,
}

/// The times that matter to one attempt.
#[derive(Debug)]
pub(super) struct Watch {
    /// When the first meaningful event must have come.
    content_by: Moment,
    idle: Millis,
    idle_content: Millis,
    /// What is running before an answer's head is not silence: the pool has its own limits for it.
    is_open: bool,
    heard_at: Moment,
    content_at: Option<Moment>,
    answered_at: Option<Moment>,
    /// Since then nobody has asked.
    left_at: Option<Moment>,
}

/// How long each may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) first_content: Duration,
    pub(super) idle: Duration,
    pub(super) idle_content: Duration,
}

impl From<&Timeouts> for Limits {
    fn from(timeouts: &Timeouts) -> Self {
        let Timeouts { first_content, idle, idle_content, .. } = *timeouts;
        Self { first_content, idle, idle_content }
    }
}

impl Watch {
    pub(super) fn new(limits: Limits, now: Moment) -> Self {
        Self {
            content_by: now + limits.first_content,
            idle: limits.idle.into(),
            idle_content: limits.idle_content.into(),
            is_open: false,
            heard_at: now,
            content_at: None,
            answered_at: None,
            left_at: None,
        }
    }

    /// The head of the answer has come.
    pub(super) fn opened(&mut self, now: Moment) {
        self.is_open = true;
        self.heard_at = now;
    }

    /// Bytes have come.
    pub(super) fn heard(&mut self, now: Moment) {
        self.heard_at = now;
    }

    /// A meaningful event has come.
    pub(super) fn content(&mut self, now: Moment) {
        self.content_at = Some(now);
    }

    /// A meaningful event has come before.
    pub(super) fn has_content(&self) -> bool {
        self.content_at.is_some()
    }

    /// The answer is complete.
    pub(super) fn answered(&mut self, now: Moment) {
        self.answered_at = Some(now);
    }

    /// Somebody has got an event, and may be busy with it.
    pub(super) fn left(&mut self, now: Moment) {
        self.left_at = Some(now);
    }

    /// Somebody asks again.
    pub(super) fn back(&mut self, now: Moment) {
        let Some(away) = self.left_at.take().map(|left_at| now.duration_since(left_at)) else { return };
        self.heard_at += away;
        for at in [&mut self.content_at, &mut self.answered_at] {
            *at = at.map(|at| at + away);
        }
    }

    /// Ready when there is nothing to wait for any more.
    pub(super) fn poll(&self, alarm: &Alarm) -> Poll<Lapse> {
        let (at, lapse) = self.next();
        alarm.poll_until(at).map(|()| lapse)
    }

    fn next(&self) -> (Moment, Lapse) {
        if let Some(answered_at) = self.answered_at {
            return (answered_at.max(self.heard_at) + LAST_WORDS, Lapse::Over);
        }
        let content = match self.content_at {
            None => (self.content_by, Lapse::FirstContent),
            Some(at) => (at + self.idle_content, Lapse::Content),
        };
        let idle = (self.heard_at + self.idle, Lapse::Idle);
        if self.is_open && idle.0 < content.0 { idle } else { content }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn watch(now: Moment) -> Watch {
        Watch::new(Limits { first_content: 20 * SECOND, idle: 5 * SECOND, idle_content: 8 * SECOND }, now)
    }

    #[test]
    fn before_the_head_only_the_first_content_is_waited_for() {
        let now = Moment::now();
        let mut watch = watch(now);
        assert_eq!(watch.next(), (now + 20 * SECOND, Lapse::FirstContent));
        watch.opened(now + 10 * SECOND);
        assert_eq!(watch.next(), (now + 15 * SECOND, Lapse::Idle));
    }

    #[test]
    fn pings_are_no_content() {
        let now = Moment::now();
        let mut watch = watch(now);
        watch.opened(now);
        watch.heard(now + 18 * SECOND);
        assert_eq!(watch.next(), (now + 20 * SECOND, Lapse::FirstContent));
        watch.content(now + 18 * SECOND);
        watch.heard(now + 25 * SECOND);
        assert_eq!(watch.next(), (now + 26 * SECOND, Lapse::Content));
    }

    #[test]
    fn an_impatience_that_begins_with_the_first_content_is_felt_in_time() {
        let now = Moment::now();
        let minute = Duration::from_secs(60);
        let idle_content = Duration::from_millis(1);
        let mut watch = Watch::new(Limits { first_content: minute, idle: minute, idle_content }, now);
        watch.opened(now);
        watch.content(now);
        assert_eq!(watch.next(), (now + idle_content, Lapse::Content));
        assert_eq!(watch.poll(&Alarm::at(now)), Poll::Pending);
        assert_eq!(watch.poll(&Alarm::at(now + idle_content)), Poll::Ready(Lapse::Content));
    }

    #[test]
    fn a_client_that_reads_late_is_no_silence_of_the_upstreams() {
        let now = Moment::now();
        let mut watch = watch(now);
        watch.opened(now);
        watch.content(now);
        watch.left(now);
        watch.back(now + 60 * SECOND);
        assert_eq!(watch.next(), (now + 65 * SECOND, Lapse::Idle));
    }

    #[test]
    fn a_complete_answer_is_not_waited_for() {
        let now = Moment::now();
        let mut watch = watch(now);
        watch.opened(now);
        watch.content(now);
        watch.answered(now + SECOND);
        assert_eq!(watch.next(), (now + SECOND + LAST_WORDS, Lapse::Over));
    }
}
