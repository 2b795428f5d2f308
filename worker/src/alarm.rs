//! The time of one round of a session. In: from everybody within it who waits, by when he wants to be asked again. Out: the
//! earliest of these times.
//!
//! Never: waits: the session's port does ([`Port::wake_by`](crate::poller::Port::wake_by)).

use std::cell::Cell;
use std::task::Poll;

use crate::moment::Moment;

/// When a session looks again at the latest.
#[derive(Debug)]
pub(crate) struct Alarm {
    now: Moment,
    wanted: Cell<Option<Moment>>,
}

impl Alarm {
    /// A round that begins now: everybody is asked anew, and says anew how long he can wait.
    pub(crate) fn begin() -> Self {
        Self::at(Moment::now())
    }

    /// A round at this time.
    pub(crate) fn at(now: Moment) -> Self {
        Self { now, wanted: Cell::new(None) }
    }

    /// The time of this round.
    pub(crate) fn now(&self) -> Moment {
        self.now
    }

    /// The earliest time that somebody wants to be asked again.
    pub(crate) fn wanted(&self) -> Option<Moment> {
        self.wanted.get()
    }

    /// As a wait: ready when the time has come.
    pub(crate) fn poll_until(&self, at: Moment) -> Poll<()> {
        if at <= self.now {
            return Poll::Ready(());
        }
        self.wanted.set(Some(self.wanted.get().map_or(at, |wanted| wanted.min(at))));
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn the_earliest_time_is_wanted_and_what_has_come_is_ready() {
        let now = Moment::now();
        let alarm = Alarm::at(now);
        assert_eq!((alarm.poll_until(now), alarm.wanted()), (Poll::Ready(()), None));
        for seconds in [60, 1, 5] {
            assert!(alarm.poll_until(now + Duration::from_secs(seconds)).is_pending());
        }
        assert_eq!(alarm.wanted(), Some(now + Duration::from_secs(1)));
    }
}
