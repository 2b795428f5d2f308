//! When streams go on. In: streams that wait, either for their first token or for the next. Out: those that are due.
//! As all that wait for the same have the same time to wait, each queue is in order by itself.
//! Never: looks at a clock.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Schedule<T> {
    first: Duration,
    interval: Duration,
    tick: Duration,
    began: Instant,
    firsts: VecDeque<(Instant, T)>,
    nexts: VecDeque<(Instant, T)>,
}

impl<T> Schedule<T> {
    /// What is due within one tick is due at its end.
    pub(crate) fn new(first: Duration, interval: Duration, tick: Duration, began: Instant) -> Self {
        Self { first, interval, tick, began, firsts: VecDeque::new(), nexts: VecDeque::new() }
    }

    /// Waits for its first token. `false`: there is no need to.
    pub(crate) fn begin(&mut self, now: Instant, stream: T) -> bool {
        if self.first.is_zero() {
            return false;
        }
        self.firsts.push_back((now + self.first, stream));
        true
    }

    /// Waits for its next token, after one that was due at `at`.
    pub(crate) fn go_on(&mut self, at: Instant, stream: T) {
        self.nexts.push_back((at + self.interval, stream));
    }

    /// The end of the tick in which something is due.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        let queues = [&self.firsts, &self.nexts];
        let due = queues.into_iter().filter_map(VecDeque::front).map(|(due, _)| *due).min()?;
        let ticks = due.duration_since(self.began).as_nanos().div_ceil(self.tick.as_nanos());
        Some(self.began + self.ticks(ticks))
    }

    /// A stream that was due by the last tick, and when it was.
    pub(crate) fn pop(&mut self, now: Instant) -> Option<(Instant, T)> {
        let last = self.began + self.ticks(now.duration_since(self.began).as_nanos() / self.tick.as_nanos());
        self.firsts
            .pop_front_if(|(due, _)| *due <= last)
            .or_else(|| self.nexts.pop_front_if(|(due, _)| *due <= last))
    }

    fn ticks(&self, number: u128) -> Duration {
        Duration::from_nanos(u64::try_from(number * self.tick.as_nanos()).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_due_within_a_tick_is_due_together_at_its_end() {
        let began = Instant::now();
        let mut schedule = Schedule::new(3 * MS, 10 * MS, 2 * MS, began);
        assert!(schedule.begin(began, 'a'));
        assert!(schedule.begin(began + MS / 2, 'b'));
        assert_eq!(schedule.next_due(), Some(began + 4 * MS));
        assert_eq!(schedule.pop(began + 7 * MS / 2), None);
        assert_eq!(schedule.pop(began + 4 * MS), Some((began + 3 * MS, 'a')));
        assert_eq!(schedule.pop(began + 4 * MS), Some((began + 7 * MS / 2, 'b')));
        assert_eq!((schedule.pop(began + 4 * MS), schedule.next_due()), (None, None));
    }

    #[test]
    fn intervals_are_counted_from_when_a_token_was_due() {
        let began = Instant::now();
        let mut schedule = Schedule::new(Duration::ZERO, 10 * MS, MS, began);
        assert!(!schedule.begin(began, 'a'));
        schedule.go_on(began, 'a');
        // Late by 5 ms: the one after it is not.
        let (due, stream) = schedule.pop(began + 15 * MS).unwrap();
        schedule.go_on(due, stream);
        assert_eq!(schedule.next_due(), Some(began + 20 * MS));
    }
}
