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
use std::sync::LazyLock;
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// So much later than asked for somebody is woken at most.
const TICK: Duration = Duration::from_millis(5);

/// A number of ticks since the first time that anybody looked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Tick(u64);

impl Tick {
    /// The first one that is not before this moment.
    pub(crate) fn after(at: Instant) -> Self {
        let since = at.saturating_duration_since(began_at()).as_nanos();
        Self(u64::try_from(since.div_ceil(TICK.as_nanos())).unwrap_or(u64::MAX))
    }

    /// The last one that is not behind this moment.
    fn before(at: Instant) -> Self {
        let since = at.saturating_duration_since(began_at()).as_nanos();
        Self(u64::try_from(since / TICK.as_nanos()).unwrap_or(u64::MAX))
    }

    /// When it is.
    pub(crate) fn time(self) -> Instant {
        let nanos = u64::try_from(TICK.as_nanos()).unwrap_or(0).saturating_mul(self.0);
        began_at() + Duration::from_nanos(nanos)
    }
}

fn began_at() -> Instant {
    static BEGAN_AT: LazyLock<Instant> = LazyLock::new(Instant::now);
    *BEGAN_AT
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
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Tick, Vec<u32>)> {
        let first = self.due.first_entry().filter(|first| *first.key() <= Tick::before(now))?;
        Some(first.remove_entry())
    }

    /// Waits for the next tick. Ready when it has come already.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>, sleep: Pin<&mut Sleep>) -> Poll<()> {
        let next = self.due.first_key_value().map_or(Tick(u64::MAX), |(tick, _)| *tick);
        self.sleeps = Some((next, cx.waker().clone()));
        if next == Tick(u64::MAX) {
            return Poll::Pending;
        }
        self.poll_until(next, cx, sleep)
    }

    fn poll_until(&self, tick: Tick, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) -> Poll<()> {
        let at = tokio::time::Instant::from_std(tick.time());
        if sleep.deadline() != at {
            sleep.as_mut().reset(at);
        }
        sleep.poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_shared_and_never_early() {
        let now = Instant::now();
        for micros in 0..20_000 {
            let at = now + Duration::from_micros(micros);
            let tick = Tick::after(at);
            assert!(tick.time() >= at && tick.time() < at + TICK);
            assert_eq!((Tick::after(tick.time()), Tick::before(tick.time())), (tick, tick));
        }
    }

    #[test]
    fn places_come_in_the_order_of_their_ticks_and_none_before_its_own() {
        let now = Tick::after(Instant::now());
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
