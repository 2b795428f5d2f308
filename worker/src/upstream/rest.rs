//! When a backend is left alone. In: its failures and successes, what other workers have met. Out: until when.
//! Never: reads a clock, keeps more than a bounded number of models.

use std::time::Duration;

use handoff_shared::limits::COOLDOWNS_MAX;
use handoff_shared::metric::FailureReason;

use crate::moment::Moment;

/// Longer than this nobody is believed: a clock somewhere is wrong.
const REST_MAX: Duration = Duration::from_secs(3600);

/// How insistently a backend wants to be left alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Insistence {
    /// Others are asked first; who has no other asks nevertheless.
    Rather,
    /// It is not asked: it has said until when, or it has failed too often in a row.
    Must,
}

/// A backend at rest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Resting {
    pub(super) until: Moment,
    pub(super) insistence: Insistence,
}

/// One backend's rests, and what leads to them.
#[derive(Debug, Default)]
pub(super) struct Rest {
    /// By model; none: all of them.
    rests: Vec<(Option<String>, Resting)>,
    /// Failures since the last success.
    streak: u32,
    /// The last of them.
    failed_at: Option<Moment>,
}

/// When an attempt was made that has failed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Span {
    pub(super) began: Moment,
    pub(super) failed: Moment,
}

/// What a failure leads to: a rest of one model, or of the whole backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct NewRest {
    pub(super) model: Option<String>,
    pub(super) lasts: Duration,
    pub(super) insistence: Insistence,
}

impl Rest {
    /// Until when this model is left alone.
    pub(super) fn of(&self, model: &str, now: Moment) -> Option<Resting> {
        let of_model = |name: &Option<String>| name.as_deref().is_none_or(|name| name == model);
        let now = self.rests.iter().filter(|(name, rest)| of_model(name) && rest.until > now);
        now.map(|(_, rest)| *rest).max_by_key(|rest| (rest.insistence, rest.until))
    }

    /// An answer has begun.
    pub(super) fn succeeded(&mut self) {
        self.streak = 0;
    }

    /// An attempt has failed. `breaker`: failures in a row that are too many; 0: any number is fine. Attempts that were
    /// under way together are no row: one broken connection may fail a hundred of them.
    pub(super) fn failed(
        &mut self,
        reason: FailureReason,
        span: Span,
        retry_after: Option<Duration>,
        model: &str,
        cooldown: Duration,
        breaker: u32,
    ) -> Option<NewRest> {
        let is_next = self.failed_at.is_none_or(|at| span.began >= at);
        if is_of_the_server(reason) && is_next {
            self.failed_at = Some(span.failed);
            self.streak = self.streak.saturating_add(1);
            if breaker > 0 && self.streak >= breaker {
                let lasts = cooldown.max(retry_after.unwrap_or_default());
                return Some(NewRest { model: None, lasts, insistence: Insistence::Must });
            }
        }
        let model = Some(model.to_owned());
        match (reason, retry_after) {
            (FailureReason::RateLimited | FailureReason::Server, Some(lasts)) => {
                Some(NewRest { model, lasts, insistence: Insistence::Must })
            }
            (FailureReason::RateLimited, None) => {
                Some(NewRest { model, lasts: cooldown, insistence: Insistence::Rather })
            }
            _ => None,
        }
    }

    /// A rest begins, or is prolonged.
    pub(super) fn begin(&mut self, new: &NewRest, now: Moment) {
        let resting = Resting { until: now + new.lasts.min(REST_MAX), insistence: new.insistence };
        self.rests.retain(|(_, rest)| rest.until > now);
        let same = |(model, rest): &&mut (Option<String>, Resting)| {
            *model == new.model && rest.insistence == new.insistence
        };
        if let Some((_, known)) = self.rests.iter_mut().find(same) {
            known.until = known.until.max(resting.until);
            return;
        }
        if self.rests.len() >= COOLDOWNS_MAX {
            let first = self.rests.iter().enumerate().min_by_key(|(_, (_, rest))| rest.until);
            if let Some((index, _)) = first {
                self.rests.swap_remove(index);
            }
        }
        self.rests.push((new.model.clone(), resting));
    }
}

/// The server, or the way to it, is to blame: not the question, the key or the rate.
const fn is_of_the_server(reason: FailureReason) -> bool {
    match reason {
        FailureReason::Connect
        | FailureReason::ConnectTimeout
        | FailureReason::Tls
        | FailureReason::Broken
        | FailureReason::HeadTimeout
        | FailureReason::FirstContentTimeout
        | FailureReason::Server
        | FailureReason::NotAStream
        | FailureReason::Malformed
        | FailureReason::Incomplete => true,
        FailureReason::Queue
        | FailureReason::IdleTimeout
        | FailureReason::ContentTimeout
        | FailureReason::TotalTimeout
        | FailureReason::Auth
        | FailureReason::RateLimited
        | FailureReason::Rejected
        | FailureReason::Redirect
        | FailureReason::ErrorEvent
        | FailureReason::TooLarge
        | FailureReason::Cooldown => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn fail(rest: &mut Rest, reason: FailureReason, after: Option<Duration>) -> Option<NewRest> {
        let now = Moment::now();
        rest.failed(reason, Span { began: now, failed: now }, after, "m", 10 * SECOND, 3)
    }

    #[test]
    fn attempts_that_fail_together_are_one_failure() {
        let (mut rest, began) = (Rest::default(), Moment::now());
        for millis in 1..10 {
            let span = Span { began, failed: began + Duration::from_millis(millis) };
            assert_eq!(rest.failed(FailureReason::Connect, span, None, "m", SECOND, 3), None);
        }
        assert_eq!(rest.streak, 1);
    }

    #[test]
    fn a_backend_that_names_a_time_is_not_asked_before() {
        let (mut rest, now) = (Rest::default(), Moment::now());
        let new = fail(&mut rest, FailureReason::RateLimited, Some(7 * SECOND)).unwrap();
        rest.begin(&new, now);
        let resting = rest.of("m", now).unwrap();
        assert_eq!((resting.until, resting.insistence), (now + 7 * SECOND, Insistence::Must));
        assert_eq!(rest.of("m", now + 7 * SECOND), None);
        assert_eq!(rest.of("another", now), None);
    }

    #[test]
    fn a_rate_limit_without_a_time_only_makes_others_preferred() {
        let (mut rest, now) = (Rest::default(), Moment::now());
        let new = fail(&mut rest, FailureReason::RateLimited, None).unwrap();
        rest.begin(&new, now);
        assert_eq!(rest.of("m", now).unwrap().insistence, Insistence::Rather);
    }

    #[test]
    fn failures_in_a_row_open_the_breaker_for_all_models_and_a_success_ends_the_row() {
        let mut rest = Rest::default();
        assert_eq!(fail(&mut rest, FailureReason::Connect, None), None);
        assert_eq!(fail(&mut rest, FailureReason::Server, None), None);
        rest.succeeded();
        assert_eq!(fail(&mut rest, FailureReason::Connect, None), None);
        assert_eq!(fail(&mut rest, FailureReason::Rejected, None), None);
        assert_eq!(fail(&mut rest, FailureReason::Broken, None), None);
        let opened = fail(&mut rest, FailureReason::HeadTimeout, None).unwrap();
        assert_eq!((opened.model, opened.lasts), (None, 10 * SECOND));
        assert_eq!(opened.insistence, Insistence::Must);
        let longer = fail(&mut rest, FailureReason::Server, Some(60 * SECOND)).unwrap();
        assert_eq!(longer.lasts, 60 * SECOND, "its own time is the earliest");
    }

    #[test]
    fn models_out_of_requests_fill_no_memory() {
        let (mut rest, now) = (Rest::default(), Moment::now());
        for number in 0..3 * COOLDOWNS_MAX {
            let lasts = Duration::from_millis(1 + number as u64);
            let model = Some(number.to_string());
            rest.begin(&NewRest { model, lasts, insistence: Insistence::Must }, now);
        }
        assert_eq!(rest.rests.len(), COOLDOWNS_MAX);
        assert!(rest.of(&(3 * COOLDOWNS_MAX - 1).to_string(), now).is_some());
    }

    #[test]
    fn nobody_rests_for_longer_than_an_hour() {
        let (mut rest, now) = (Rest::default(), Moment::now());
        rest.begin(&NewRest { model: None, lasts: Duration::MAX, insistence: Insistence::Must }, now);
        assert_eq!(rest.of("m", now).unwrap().until, now + REST_MAX);
    }
}
