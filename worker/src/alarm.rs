//! The one timer of a session. In: from everybody within it who waits, by when he wants to be asked again. Out: one
//! wake-up, at the earliest of these times.
//!
//! Never: early; more than a tick late of its own doing; touches the runtime's timer for a time that is later than the
//! one that is set.
//!
//! What costs is waking up, not what is done then: times are rounded up to a tick that all sessions of a process share,
//! so that thousands of slow streams wake the process some hundred times a second, not thousands of times.

use std::cell::Cell;
use std::pin::Pin;
use std::sync::LazyLock;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use tokio::time::Sleep;

/// So much later than asked for a session is woken at most.
const TICK: Duration = Duration::from_millis(5);

/// When a session looks again at the latest.
#[derive(Debug)]
pub(crate) struct Alarm {
    now: Instant,
    wanted: Cell<Option<Instant>>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Default for Alarm {
    fn default() -> Self {
        Self { now: Instant::now(), wanted: Cell::new(None), sleep: None }
    }
}

impl Alarm {
    /// A round at this time.
    #[cfg(test)]
    pub(crate) fn at(now: Instant) -> Self {
        Self { now, ..Self::default() }
    }

    /// Everybody is asked anew, and says anew how long he can wait.
    pub(crate) fn begin(&mut self) {
        self.now = Instant::now();
        self.wanted.set(None);
    }

    /// The time of this round.
    pub(crate) fn now(&self) -> Instant {
        self.now
    }

    /// Somebody within the session wants to be asked again by then.
    pub(crate) fn by(&self, at: Instant) {
        self.wanted.set(Some(self.wanted.get().map_or(at, |wanted| wanted.min(at))));
    }

    /// As a wait: ready when the time has come.
    pub(crate) fn poll_until(&self, at: Instant) -> Poll<()> {
        if at <= self.now {
            return Poll::Ready(());
        }
        self.by(at);
        Poll::Pending
    }

    /// At the end of a round in which nobody had anything to do. Ready: the next round is due at once.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(at) = self.wanted.get().map(tick_after) else { return Poll::Pending };
        let at = tokio::time::Instant::from_std(at);
        let sleep = match &mut self.sleep {
            Some(sleep) => sleep,
            None => self.sleep.insert(Box::pin(tokio::time::sleep_until(at))),
        };
        if sleep.is_elapsed() || sleep.deadline() > at {
            sleep.as_mut().reset(at);
        }
        sleep.as_mut().poll(cx)
    }
}

/// The first tick that is not before this moment.
pub(crate) fn tick_after(at: Instant) -> Instant {
    static BEGAN_AT: LazyLock<Instant> = LazyLock::new(Instant::now);
    let since = at.saturating_duration_since(*BEGAN_AT).as_nanos();
    let over = u64::try_from(since % TICK.as_nanos()).unwrap_or(0);
    if over == 0 { at } else { at + (TICK - Duration::from_nanos(over)) }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[test]
    fn ticks_are_shared_and_never_early() {
        let now = Instant::now();
        for micros in 0..20_000 {
            let at = now + Duration::from_micros(micros);
            let tick = tick_after(at);
            assert!(tick >= at && tick < at + TICK);
            assert_eq!(tick_after(tick), tick);
        }
    }

    #[tokio::test]
    async fn it_rings_at_the_earliest_time_also_when_a_later_one_was_set_before() {
        let mut alarm = Alarm::default();
        let began_at = Instant::now();
        let rung = poll_fn(|cx| {
            alarm.begin();
            alarm.by(began_at + Duration::from_secs(60));
            assert!(alarm.poll(cx).is_pending());
            if alarm.poll_until(began_at + Duration::from_millis(20)).is_ready() {
                return Poll::Ready(());
            }
            alarm.poll(cx)
        });
        tokio::time::timeout(Duration::from_secs(5), rung).await.unwrap();
        assert!(began_at.elapsed() >= Duration::from_millis(20));
    }
}
