//! The loop's only clock hand. In: when it is to turn at the latest. Out: a wake-up then.
//!
//! A timer of the runtime's would cost a second wake-up: setting one from within a turn interrupts the very wait that
//! follows. This one is set by one system call, and only when it has to be earlier than it is.
//!
//! Never: reads a clock, is late by more than the kernel is.

use std::io;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use handoff_shared::fdpass::Watched;
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::io::Interest;

/// A timer of the kernel's, timerfd_create(2).
#[derive(Debug)]
pub(crate) struct Alarm {
    timer: Watched,
    /// None: it has gone off.
    set_to: Option<Instant>,
}

impl Alarm {
    /// # Errors
    /// When we are out of fds.
    pub(crate) fn new() -> io::Result<Self> {
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)?;
        Ok(Self { timer: Watched::new(timer, Interest::READABLE)?, set_to: None })
    }

    /// Wakes the loop at this time, or earlier: a turn too early costs less than to set it anew in every turn.
    pub(crate) fn set(&mut self, cx: &mut Context<'_>, now: Instant, until: Instant) {
        // Once more, so that the next time wakes us: the kernel tells each time once.
        while let Poll::Ready(Ok(mut ready)) = self.timer.poll_read_ready(cx) {
            ready.clear_ready();
            self.set_to = None;
        }
        if self.set_to.is_some_and(|set_to| set_to <= until && set_to > now) {
            return;
        }
        // 0 would mean never.
        let left = until.saturating_duration_since(now).max(Duration::from_micros(1));
        let value = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: 1, tv_nsec: 0 });
        let once = Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value };
        match timerfd_settime(&self.timer, TimerfdTimerFlags::empty(), &once) {
            Ok(_) => self.set_to = Some(until),
            // Nothing that timerfd_settime(2) has for a valid time.
            Err(error) => tracing::error!(%error, "the alarm cannot be set"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;

    #[tokio::test]
    async fn it_wakes_at_the_earliest_time_that_was_asked_for_and_again_when_it_is_set_again() {
        let mut alarm = Alarm::new().unwrap();
        for _ in 0..3 {
            let began_at = Instant::now();
            let (early, late) = (began_at + Duration::from_millis(10), began_at + Duration::from_secs(60));
            let mut turns = 0;
            let woken = poll_fn(|cx| {
                turns += 1;
                let now = Instant::now();
                if now >= early {
                    return Poll::Ready(());
                }
                alarm.set(cx, now, late);
                alarm.set(cx, now, early);
                alarm.set(cx, now, late);
                Poll::Pending
            });
            tokio::time::timeout(Duration::from_secs(5), woken).await.expect("woken");
            assert!(turns <= 3, "{turns} turns");
        }
    }
}
