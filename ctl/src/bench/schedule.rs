//! When handoffs are due. In: the time since the start, how many are open. Out: when the next one is.
//! Never: knows a clock, drifts: the k-th handoff's time does not depend on when the others were made.

use super::plan::Pace;

const SECOND_NS: f64 = 1e9;

/// One generator's schedule.
#[derive(Debug)]
pub(super) struct Schedule {
    pace: Pace,
    index: u64,
    processes: u64,
    made: u64,
}

impl Schedule {
    pub(super) fn new(pace: Pace, index: u64, processes: u64) -> Self {
        Self { pace, index, processes, made: 0 }
    }

    /// How many streams there are at a time, at most.
    pub(super) fn open_max(&self) -> u64 {
        match self.pace {
            Pace::Held { streams, .. } => streams,
            Pace::Churn { open, .. } => open,
        }
    }

    /// Whether handoffs have times of their own.
    pub(super) fn is_paced(&self) -> bool {
        matches!(self.pace, Pace::Held { .. })
    }

    /// When the next handoff is due, in nanoseconds since the start; none while as many as may be are open, or ever after.
    pub(super) fn due_ns(&self, since_start_ns: u64, open: u64) -> Option<u64> {
        if self.is_over(since_start_ns) {
            return None;
        }
        match self.pace {
            Pace::Held { rate, .. } => {
                let number = (self.made * self.processes + self.index) as f64;
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_sign_loss,
                    reason = "positive, far below 2^63"
                )]
                let due_ns = (number / rate * SECOND_NS) as u64;
                Some(due_ns)
            }
            Pace::Churn { open: open_max, .. } => (open < open_max).then_some(0),
        }
    }

    /// A handoff was begun.
    pub(super) fn made(&mut self) {
        self.made += 1;
    }

    /// No further handoff will be due.
    pub(super) fn is_over(&self, since_start_ns: u64) -> bool {
        match self.pace {
            Pace::Held { streams, .. } => self.made >= streams,
            Pace::Churn { handoffs, ns, .. } => self.made >= handoffs || since_start_ns >= ns,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_take_turns_and_nobody_drifts() {
        let mut due = Vec::new();
        for index in 0..3 {
            let mut schedule = Schedule::new(Pace::Held { streams: 4, rate: 1000.0 }, index, 3);
            // However late each one is made.
            while let Some(due_ns) = schedule.due_ns(u64::MAX, 0) {
                due.push(due_ns);
                schedule.made();
            }
        }
        due.sort_unstable();
        assert_eq!(due, (0..12).map(|k| k * 1_000_000).collect::<Vec<_>>());
    }

    #[test]
    fn a_churn_keeps_its_number_open_until_its_time_or_number_is_reached() {
        let mut schedule = Schedule::new(Pace::Churn { open: 2, handoffs: 3, ns: 100 }, 0, 1);
        assert_eq!((schedule.due_ns(0, 1), schedule.due_ns(0, 2)), (Some(0), None));
        assert!(schedule.is_over(100) && !schedule.is_over(99));
        (0..3).for_each(|_| schedule.made());
        assert_eq!(schedule.due_ns(0, 0), None);
    }
}
