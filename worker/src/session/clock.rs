//! The deadlines of one stream. In: what happened when. Out: what is due.
//! Never: waits by itself: the session's alarm does.

use std::task::Poll;
use std::time::Duration;

use crate::alarm::Alarm;
use crate::moment::{Millis, Moment};

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
    /// When the client has heard nothing for too long.
    silent_at: Moment,
    ends_at: Option<Moment>,
    heartbeat: Millis,
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
    pub(super) fn new(now: Moment, limits: Limits) -> Self {
        Self {
            silent_at: now + limits.commit_after,
            ends_at: limits.total.map(|total| now + total),
            heartbeat: limits.heartbeat.into(),
            head_sent: false,
        }
    }

    /// The head goes out: from now on silence means a heartbeat, which may be due earlier than the head was.
    pub(super) fn head_out(&mut self, now: Moment) {
        self.head_sent = true;
        self.wrote(now);
    }

    /// Something has gone out, and so has the head.
    pub(super) fn wrote(&mut self, now: Moment) {
        self.silent_at = now + self.heartbeat;
    }

    /// What is left of the time for the whole stream.
    pub(super) fn remaining(&self) -> Option<Duration> {
        self.ends_at.map(|ends_at| ends_at - Moment::now())
    }

    /// The stream has taken too long. For streams so busy that nobody polls.
    pub(super) fn is_over(&self, now: Moment) -> bool {
        self.ends_at.is_some_and(|ends_at| ends_at <= now)
    }

    /// Ready with what is due now.
    pub(super) fn poll(&self, alarm: &Alarm) -> Poll<Due> {
        let (at, due) = self.next();
        alarm.poll_until(at).map(|()| due)
    }

    fn next(&self) -> (Moment, Due) {
        let silence = (self.silent_at, if self.head_sent { Due::Heartbeat } else { Due::Head });
        let end = self.ends_at.map(|ends_at| (ends_at, Due::End));
        end.filter(|(at, _)| *at <= silence.0).unwrap_or(silence)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const LIMITS: Limits = Limits { commit_after: SECOND, heartbeat: Duration::from_secs(3), total: None };

    #[test]
    fn silence_before_the_head_ends_with_the_head_and_after_it_with_a_heartbeat() {
        let now = Moment::now();
        let mut clock = Clock::new(now, LIMITS);
        assert_eq!(clock.next(), (now + SECOND, Due::Head));
        clock.head_out(now);
        assert_eq!(clock.next(), (now + 3 * SECOND, Due::Heartbeat));
        clock.wrote(now + SECOND);
        assert_eq!(clock.next(), (now + 4 * SECOND, Due::Heartbeat));
    }

    #[test]
    fn a_heartbeat_is_due_in_time_also_when_the_head_would_have_been_later() {
        let now = Moment::now();
        let heartbeat = Duration::from_millis(1);
        let mut clock = Clock::new(now, Limits { heartbeat, ..LIMITS });
        clock.head_out(now);
        assert_eq!(clock.next(), (now + heartbeat, Due::Heartbeat));
        assert_eq!(clock.poll(&Alarm::at(now)), Poll::Pending);
        assert_eq!(clock.poll(&Alarm::at(now + heartbeat)), Poll::Ready(Due::Heartbeat));
    }

    #[test]
    fn a_long_stream_ends_at_its_limit_however_busy_it_is() {
        let now = Moment::now();
        let total = Duration::from_millis(500);
        let mut clock = Clock::new(now, Limits { total: Some(total), ..LIMITS });
        assert_eq!(clock.next(), (now + total, Due::End));
        clock.head_out(now + total);
        assert!(clock.is_over(now + total) && !clock.is_over(now));
    }
}
