//! Who is woken when. In: places, and the time at which each wants to be woken. Out: the places whose time has come, all of
//! a tick at once.
//!
//! What costs is waking up, not what is done then: times are rounded up to a tick that all sessions of a process share, so
//! that thousands of slow streams wake the process some hundred times a second, not thousands of times.
//!
//! Never: early; more than a tick late of its own doing; touches the runtime's timer for a time that is later than the
//! one that is set.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::Sleep;

use crate::moment::Moment;

/// So much later than asked for somebody is woken at most.
const TICK_NANOS: u64 = 5_000_000;

/// A number of ticks since the first time that anybody looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u64);

impl Tick {
    /// Not in this life.
    pub(crate) const NEVER: Self = Self(u64::MAX);

    /// The first one that is not before this moment.
    pub(crate) fn after(at: Moment) -> Self {
        Self(at.nanos().div_ceil(TICK_NANOS))
    }

    /// The last one that is not behind this moment.
    fn before(at: Moment) -> Self {
        Self(at.nanos() / TICK_NANOS)
    }

    /// When it is.
    pub(crate) fn time(self) -> Moment {
        Moment::from_nanos(self.0.saturating_mul(TICK_NANOS))
    }
}

/// Places by the tick at which they are woken. Who has changed his mind, or has gone, is still called.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    due: BTreeMap<Tick, Vec<u32>>,
    /// The tick until which the process sleeps, and who is to be woken for an earlier one.
    sleeps: Option<(Tick, Waker)>,
}

impl Timers {
    /// This place is called at this tick.
    pub(crate) fn add(&mut self, tick: Tick, place: u32) {
        self.due.entry(tick).or_default().push(place);
        if let Some((until, waker)) = &self.sleeps
            && tick < *until
        {
            waker.wake_by_ref();
            self.sleeps = None;
        }
    }

    /// The places of the earliest tick that has come.
    pub(crate) fn pop(&mut self, now: Moment) -> Option<(Tick, Vec<u32>)> {
        let first = self.due.first_entry().filter(|first| *first.key() <= Tick::before(now))?;
        Some(first.remove_entry())
    }

    /// Waits for the next tick. Ready when it has come already.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<()> {
        let next = self.due.first_key_value().map_or(Tick::NEVER, |(tick, _)| *tick);
        self.sleeps = Some((next, cx.waker().clone()));
        if next == Tick::NEVER {
            return Poll::Pending;
        }
        let at = tokio::time::Instant::from_std(next.time().instant());
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn ticks_are_shared_and_never_early() {
        let now = Moment::now();
        for micros in 0..20_000 {
            let at = now + Duration::from_micros(micros);
            let tick = Tick::after(at);
            assert!(tick.time() >= at && tick.time() < at + Duration::from_nanos(TICK_NANOS));
            assert_eq!((Tick::after(tick.time()), Tick::before(tick.time())), (tick, tick));
        }
    }

    #[test]
    fn places_come_in_the_order_of_their_ticks_and_none_before_its_own() {
        let now = Tick::after(Moment::now());
        let mut timers = Timers::default();
        for (later, place) in [(9, 1), (2, 2), (9, 3), (0, 4)] {
            timers.add(Tick(now.0 + later), place);
        }
        let at = |later| Tick(now.0 + later).time();
        assert_eq!(timers.pop(at(1)), Some((now, vec![4])));
        assert_eq!(timers.pop(at(1)), None);
        assert_eq!(timers.pop(at(20)).unwrap().1, [2]);
        assert_eq!(timers.pop(at(20)).unwrap().1, [1, 3]);
        assert_eq!(timers.pop(at(20)), None);
    }
}
