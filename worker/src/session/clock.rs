//! The deadlines of one stream. In: what happened when. Out: what is due.
//! Never: waits by itself: the session's alarm does.

use std::task::Poll;
use std::time::{Duration, Instant};

use crate::alarm::Alarm;

/// What may be due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Due {
    /// The head goes out, although there is no event yet.
    Head,
    /// The client has heard nothing for a while.
    Heartbeat,
    /// The stream has taken too long altogether.
    End,
}

/// The times that matter to one stream.
#[derive(Debug)]
pub(super) struct Clock {
    pub(super) limits: Limits,
    began_at: Instant,
    /// The last write to the client.
    wrote_at: Instant,
    pub(super) head_sent: bool,
}

/// How long each of them may take.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) commit_after: Duration,
    pub(super) heartbeat: Duration,
    pub(super) total: Option<Duration>,
}

impl Clock {
    pub(super) fn new(now: Instant, limits: Limits) -> Self {
        Self { limits, began_at: now, wrote_at: now, head_sent: false }
    }

    /// The head goes out: from now on silence means a heartbeat, which may be due earlier than the head was.
    pub(super) fn head_out(&mut self, now: Instant) {
        self.head_sent = true;
        self.wrote_at = now;
    }

    pub(super) fn wrote(&mut self, now: Instant) {
        self.wrote_at = now;
    }

    /// What is left of the time for the whole stream.
    pub(super) fn remaining(&self) -> Option<Duration> {
        self.limits.total.map(|total| total.saturating_sub(self.began_at.elapsed()))
    }

    /// The stream has taken too long. For streams so busy that nobody polls.
    pub(super) fn is_over(&self, now: Instant) -> bool {
        self.limits.total.is_some_and(|total| now.duration_since(self.began_at) >= total)
    }

    /// Ready with what is due now.
    pub(super) fn poll(&self, alarm: &Alarm) -> Poll<Due> {
        let (at, due) = self.next();
        alarm.poll_until(at).map(|()| due)
    }

    fn next(&self) -> (Instant, Due) {
        let Limits { commit_after, heartbeat, total } = self.limits;
        let silence = match self.head_sent {
            true => (self.wrote_at + heartbeat, Due::Heartbeat),
            false => (self.began_at + commit_after, Due::Head),
        };
        let end = total.map(|total| (self.began_at + total, Due::End));
        end.filter(|(at, _)| *at <= silence.0).unwrap_or(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn clock(now: Instant) -> Clock {
        let second = Duration::from_secs(1);
        let limits = Limits { commit_after: second, heartbeat: 3 * second, total: None };
        Clock::new(now, limits)
    }

    #[test]
    fn silence_before_the_head_ends_with_the_head_and_after_it_with_a_heartbeat() {
        let now = Instant::now();
        let mut clock = clock(now);
        assert_eq!(clock.next(), (now + Duration::from_secs(1), Due::Head));
        clock.head_out(now);
        assert_eq!(clock.next(), (now + Duration::from_secs(3), Due::Heartbeat));
    }

    #[test]
    fn a_heartbeat_is_due_in_time_also_when_the_head_would_have_been_later() {
        let now = Instant::now();
        let mut clock = clock(now);
        clock.limits.heartbeat = Duration::from_millis(1);
        clock.head_out(now);
        assert_eq!(clock.next(), (now + Duration::from_millis(1), Due::Heartbeat));
        assert_eq!(clock.poll(&Alarm::at(now)), Poll::Pending);
        assert_eq!(clock.poll(&Alarm::at(now + Duration::from_millis(1))), Poll::Ready(Due::Heartbeat));
    }

    #[test]
    fn a_long_stream_ends_at_its_limit_however_busy_it_is() {
        let now = Instant::now();
        let mut clock = clock(now);
        clock.limits.total = Some(Duration::from_millis(500));
        assert_eq!(clock.next(), (now + Duration::from_millis(500), Due::End));
    }
}
