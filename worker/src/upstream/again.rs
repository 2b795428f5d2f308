//! Whether, where and when an answer is asked for again. In: what failed, what is left to try. Out: a decision.
//! Never: reads a clock, rolls its own dice.

use std::time::Duration;

use super::trouble::{Again, Trouble};

/// The first wait before the same backend is asked again; the next are twice as long.
const BACKOFF: Duration = Duration::from_millis(250);
/// Rather than wait longer than this, another backend is asked.
const WAIT_BEFORE_OTHERS_MAX: Duration = Duration::from_secs(1);
/// Rather than wait longer than this, the client is told.
const WAIT_MAX: Duration = Duration::from_secs(10);

/// What can still be tried.
#[derive(Clone, Copy, Debug)]
pub(super) struct Left {
    /// Further attempts that were made at the same backend for this answer.
    pub(super) repeated: u8,
    /// Further attempts that are allowed: by the configuration.
    pub(super) repeats_max: u8,
    /// The budget over all answers has one left.
    pub(super) budget: bool,
    /// There is another backend.
    pub(super) others: bool,
    /// For how long this one is asked after others, or not at all.
    pub(super) rests_for: Duration,
    /// From 0 to 1, evenly.
    pub(super) dice: f64,
}

/// What happens next.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Next {
    /// The same backend, after this wait; it costs budget.
    Same { wait: Duration },
    /// Another backend, now.
    Other,
    /// The client is told.
    GiveUp,
}

pub(super) fn next(trouble: &Trouble, left: Left) -> Next {
    let otherwise = if left.others { Next::Other } else { Next::GiveUp };
    match trouble.again {
        Again::Nobody => Next::GiveUp,
        Again::Elsewhere => otherwise,
        Again::Anybody => {
            let (after, backoff) = (trouble.failure.retry_after, wait(left.repeated, left.dice));
            // Those who were told the same time do not come back together either.
            let spread = BACKOFF.mul_f64(left.dice.clamp(0.0, 1.0));
            let wait = after.map_or(backoff, |after| backoff.max(after.saturating_add(spread)));
            let wait_max = if left.others { WAIT_BEFORE_OTHERS_MAX } else { WAIT_MAX };
            let is_short = after.unwrap_or_default().max(backoff) <= wait_max;
            let is_passed_over = left.others && left.rests_for > wait;
            match left.repeated < left.repeats_max && left.budget && is_short && !is_passed_over {
                true => Next::Same { wait },
                false => otherwise,
            }
        }
    }
}

/// Half of it is certain, the other half is chance: those who failed together do not come back together.
fn wait(repeated: u8, dice: f64) -> Duration {
    let longest = BACKOFF * 2_u32.saturating_pow(u32::from(repeated));
    longest.mul_f64(0.5 + 0.5 * dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use handoff_shared::metric::FailureReason;

    use super::*;
    use crate::failure::Code;

    const LEFT: Left = Left {
        repeated: 0,
        repeats_max: 2,
        budget: true,
        others: false,
        rests_for: Duration::ZERO,
        dice: 1.0,
    };

    fn trouble(again: Again, after: Option<Duration>) -> Trouble {
        Trouble::new(FailureReason::Server, Code::UpstreamError, "no", again, "").after(after)
    }

    fn same(millis: u64) -> Next {
        Next::Same { wait: Duration::from_millis(millis) }
    }

    #[test]
    fn a_transient_failure_is_tried_again_twice_each_time_later() {
        let trouble = trouble(Again::Anybody, None);
        assert_eq!(next(&trouble, LEFT), same(250));
        assert_eq!(next(&trouble, Left { repeated: 1, ..LEFT }), same(500));
        assert_eq!(next(&trouble, Left { repeated: 2, ..LEFT }), Next::GiveUp);
        assert_eq!(next(&trouble, Left { repeated: 2, others: true, ..LEFT }), Next::Other);
        assert_eq!(next(&trouble, Left { dice: 0.0, ..LEFT }), same(125));
    }

    #[test]
    fn nobody_waits_for_one_that_would_be_passed_over_then() {
        let (trouble, rests_for) = (trouble(Again::Anybody, None), Duration::from_secs(10));
        assert_eq!(next(&trouble, Left { rests_for, others: true, ..LEFT }), Next::Other);
        assert_eq!(next(&trouble, Left { rests_for, ..LEFT }), same(250));
        let rests_for = Duration::from_millis(200);
        assert_eq!(next(&trouble, Left { rests_for, others: true, ..LEFT }), same(250));
    }

    #[test]
    fn a_spent_budget_ends_repeating_but_not_asking_others() {
        let trouble = trouble(Again::Anybody, None);
        assert_eq!(next(&trouble, Left { budget: false, ..LEFT }), Next::GiveUp);
        assert_eq!(next(&trouble, Left { budget: false, others: true, ..LEFT }), Next::Other);
    }

    #[test]
    fn the_upstreams_own_time_is_the_earliest() {
        let after = |millis| trouble(Again::Anybody, Some(Duration::from_millis(millis)));
        let at_once = Left { dice: 0.0, ..LEFT };
        assert_eq!(next(&after(900), at_once), same(900));
        assert_eq!(next(&after(9_000), at_once), same(9_000));
        assert_eq!(next(&after(9_000), Left { others: true, ..LEFT }), Next::Other);
        assert_eq!(next(&after(11_000), LEFT), Next::GiveUp);
    }

    #[test]
    fn those_who_were_told_the_same_time_do_not_come_back_together() {
        let trouble = trouble(Again::Anybody, Some(Duration::from_secs(9)));
        assert_eq!(next(&trouble, Left { dice: 0.5, ..LEFT }), same(9_125));
        assert_eq!(next(&trouble, LEFT), same(9_250));
    }

    #[test]
    fn a_question_at_fault_is_asked_of_nobody_else() {
        let left = Left { others: true, ..LEFT };
        assert_eq!(next(&trouble(Again::Nobody, None), left), Next::GiveUp);
        assert_eq!(next(&trouble(Again::Elsewhere, None), left), Next::Other);
        assert_eq!(next(&trouble(Again::Elsewhere, None), LEFT), Next::GiveUp);
    }
}
