//! What a worker counts, and the bounds of its histograms.
//!
//! Counters are cumulative over the worker's life: a lost snapshot loses nothing. The supervisor adds up the
//! living and keeps the sums of the dead.

use serde::{Deserialize, Serialize};

use crate::sandbox::SandboxState;

/// A worker's metrics at one moment.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Snapshot {
    /// Counts up by one a beat.
    pub beat: u64,
    /// The worker has been told, or has decided, to take no more.
    pub draining: bool,
    /// Resident memory, in bytes.
    pub rss_bytes: u64,
    /// What confines the worker.
    pub sandbox: SandboxState,
    /// What was counted.
    pub counts: Counts,
    /// Log lines that the lossy writer dropped.
    pub log_lines_dropped: u64,
    /// How often the channel to the supervisor was full when a message was ready.
    pub channel_full: u64,
}

/// The counters and histograms of one worker, or of several added up.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// Bytes written to clients.
    pub bytes_sent: u64,
    /// Events written to clients.
    pub events_sent: u64,
    /// From receipt in the worker to the end of the session, in seconds.
    pub stream_duration: Histogram,
    /// One entry per backend that was ever asked, by name.
    pub backends: Vec<BackendCounts>,
}

/// What one backend did.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct BackendCounts {
    /// The backend's name: a label, so never from a request.
    pub name: String,
    /// Times it was asked: attempts at the same answer count once.
    pub requests: u64,
    /// Times the answer failed for the client.
    pub errors: u64,
    /// Attempts that failed, by [`FailureReason`], also where a further one succeeded.
    pub failures: [u64; FailureReason::ALL.len()],
    /// Further attempts at the same answer.
    pub retries: u64,
    /// Answers that were given up for another backend.
    pub failovers: u64,
    /// Answers cancelled because their client left.
    pub cancelled: u64,
    /// Tokens read, as the upstream counts them.
    pub prompt_tokens: u64,
    /// Tokens written, as the upstream counts them.
    pub completion_tokens: u64,
    /// Tokens written as we estimate them, where the upstream did not come to say it.
    pub estimated_tokens: u64,
    /// Connections opened.
    pub connections_opened: u64,
    /// Connections open now: a gauge.
    pub connections: u64,
    /// Questions that wait for a place on a connection now: a gauge.
    pub queued: u64,
    /// How often it was left alone for a while.
    pub cooldowns: u64,
    /// From the question to the end of the answer, in seconds.
    pub duration: Histogram,
    /// From the question to the first event, in seconds.
    pub first_byte: Histogram,
}

/// Buckets in a [`Histogram`], the one for +Inf not counted.
pub const BUCKETS: usize = 15;

/// A histogram whose bucket `n` counts values of at most `first_bound · 2ⁿ`; the bound is its owner's.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Histogram {
    /// Not cumulative: each value is counted in one bucket.
    pub buckets: [u64; BUCKETS],
    /// Values above the last bound.
    pub overflow: u64,
    /// Sum of all values, in billionths of their unit: whole numbers add up to the same in any order, where a float
    /// could go down by its last digit when another worker dies, which to Prometheus is a counter that starts again.
    pub sum_nanos: u64,
}

/// First bound of handoff durations, in seconds.
pub const HANDOFF_FIRST_BOUND: f64 = 0.0001;
/// First bound of stream and backend durations, in seconds.
pub const DURATION_FIRST_BOUND: f64 = 0.01;
/// First bound of times to first byte, in seconds.
pub const FIRST_BYTE_FIRST_BOUND: f64 = 0.001;

impl Histogram {
    /// Counts one value.
    pub fn record(&mut self, first_bound: f64, value: f64) {
        self.sum_nanos = self.sum_nanos.saturating_add(nanos(value));
        match bounds(first_bound).position(|bound| value <= bound) {
            Some(bucket) => self.buckets[bucket] += 1,
            None => self.overflow += 1,
        }
    }

    /// The sum of all values.
    #[must_use]
    #[expect(clippy::cast_precision_loss, reason = "a larger sum is never shown as a smaller one")]
    pub fn sum(&self) -> f64 {
        self.sum_nanos as f64 / 1e9
    }

    /// How many values were counted.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(self.overflow, |sum, bucket| sum.saturating_add(*bucket))
    }

    /// Adds another histogram with the same bounds. Whatever a worker says, no sum here overflows.
    pub fn add(&mut self, other: &Self) {
        for (own, theirs) in self.buckets.iter_mut().zip(other.buckets) {
            *own = own.saturating_add(theirs);
        }
        self.overflow = self.overflow.saturating_add(other.overflow);
        self.sum_nanos = self.sum_nanos.saturating_add(other.sum_nanos);
    }
}

/// A value in billionths; what is less than nothing is nothing.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "`as` saturates at both ends")]
fn nanos(value: f64) -> u64 {
    (value * 1e9) as u64
}

/// The upper bounds of a histogram's buckets.
pub fn bounds(first_bound: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(first_bound), |bound| Some(bound * 2.0)).take(BUCKETS)
}

impl Counts {
    /// Their worker is dead: what it had open or waiting is no more, what it had counted stays.
    pub fn end(&mut self) {
        for backend in &mut self.backends {
            (backend.connections, backend.queued) = (0, 0);
        }
    }

    /// Adds another worker's counts.
    pub fn add(&mut self, other: &Self) {
        self.bytes_sent = self.bytes_sent.saturating_add(other.bytes_sent);
        self.events_sent = self.events_sent.saturating_add(other.events_sent);
        self.stream_duration.add(&other.stream_duration);
        for theirs in &other.backends {
            self.backend(&theirs.name).add(theirs);
        }
    }

    /// The counts of a backend, made when there are none yet.
    pub fn backend(&mut self, name: &str) -> &mut BackendCounts {
        let index = match self.backends.iter().position(|backend| backend.name == name) {
            Some(index) => index,
            None => {
                self.backends.push(BackendCounts { name: name.to_owned(), ..BackendCounts::default() });
                self.backends.len() - 1
            }
        };
        &mut self.backends[index]
    }
}

/// Why an attempt at a backend failed: a label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum FailureReason {
    /// No connection: name, route, refused.
    Connect,
    /// The connection was not there in time.
    ConnectTimeout,
    /// TLS failed, or took too long.
    Tls,
    /// No place on a connection in time.
    Queue,
    /// The connection ended before the head of the answer.
    Broken,
    /// The head of the answer did not come in time.
    HeadTimeout,
    /// No meaningful event in time.
    FirstContentTimeout,
    /// No byte for too long.
    IdleTimeout,
    /// No meaningful event for too long, although bytes came.
    ContentTimeout,
    /// Longer than allowed altogether.
    TotalTimeout,
    /// The key is not accepted (401, 403).
    Auth,
    /// Patience is asked for (429).
    RateLimited,
    /// The question is not accepted (other 4xx).
    Rejected,
    /// The server failed (5xx, 408, 529).
    Server,
    /// The answer points elsewhere (3xx).
    Redirect,
    /// An answer that is no stream of this dialect.
    NotAStream,
    /// An event that is an error.
    ErrorEvent,
    /// An event that cannot be read.
    Malformed,
    /// An event larger than allowed.
    TooLarge,
    /// The stream ended before the answer did.
    Incomplete,
    /// It is left alone for now, after earlier failures.
    Cooldown,
}

impl FailureReason {
    /// All, in the order of [`BackendCounts::failures`].
    pub const ALL: [Self; 21] = [
        Self::Connect,
        Self::ConnectTimeout,
        Self::Tls,
        Self::Queue,
        Self::Broken,
        Self::HeadTimeout,
        Self::FirstContentTimeout,
        Self::IdleTimeout,
        Self::ContentTimeout,
        Self::TotalTimeout,
        Self::Auth,
        Self::RateLimited,
        Self::Rejected,
        Self::Server,
        Self::Redirect,
        Self::NotAStream,
        Self::ErrorEvent,
        Self::Malformed,
        Self::TooLarge,
        Self::Incomplete,
        Self::Cooldown,
    ];

    /// The word for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::ConnectTimeout => "connect_timeout",
            Self::Tls => "tls",
            Self::Queue => "queue",
            Self::Broken => "broken",
            Self::HeadTimeout => "head_timeout",
            Self::FirstContentTimeout => "first_content_timeout",
            Self::IdleTimeout => "idle_timeout",
            Self::ContentTimeout => "content_timeout",
            Self::TotalTimeout => "total_timeout",
            Self::Auth => "auth",
            Self::RateLimited => "rate_limited",
            Self::Rejected => "rejected",
            Self::Server => "server",
            Self::Redirect => "redirect",
            Self::NotAStream => "not_a_stream",
            Self::ErrorEvent => "error_event",
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Incomplete => "incomplete",
            Self::Cooldown => "cooldown",
        }
    }
}

impl BackendCounts {
    /// Counts a failed attempt.
    pub fn failed(&mut self, reason: FailureReason) {
        self.failures[reason as usize] += 1;
    }

    fn add(&mut self, other: &Self) {
        for (own, theirs) in self.failures.iter_mut().zip(other.failures) {
            *own = own.saturating_add(theirs);
        }
        for (own, theirs) in [
            (&mut self.retries, other.retries),
            (&mut self.failovers, other.failovers),
            (&mut self.cancelled, other.cancelled),
            (&mut self.prompt_tokens, other.prompt_tokens),
            (&mut self.completion_tokens, other.completion_tokens),
            (&mut self.estimated_tokens, other.estimated_tokens),
            (&mut self.connections_opened, other.connections_opened),
            (&mut self.connections, other.connections),
            (&mut self.queued, other.queued),
            (&mut self.cooldowns, other.cooldowns),
        ] {
            *own = own.saturating_add(theirs);
        }
        self.requests = self.requests.saturating_add(other.requests);
        self.errors = self.errors.saturating_add(other.errors);
        self.duration.add(&other.duration);
        self.first_byte.add(&other.first_byte);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_dead_counters_stay_and_gauges_do_not() {
        let mut counts = Counts::default();
        *counts.backend("eu") = BackendCounts {
            name: "eu".to_owned(),
            requests: 9,
            connections_opened: 4,
            connections: 3,
            queued: 2,
            ..BackendCounts::default()
        };
        counts.end();
        let eu = counts.backend("eu");
        assert_eq!([eu.requests, eu.connections_opened, eu.connections, eu.queued], [9, 4, 0, 0]);
    }

    #[test]
    fn every_count_of_a_backend_is_added() {
        let one = BackendCounts {
            name: "eu".to_owned(),
            requests: 1,
            errors: 2,
            failures: [3; FailureReason::ALL.len()],
            retries: 4,
            failovers: 5,
            cancelled: 6,
            prompt_tokens: 7,
            completion_tokens: 8,
            estimated_tokens: 9,
            connections_opened: 10,
            connections: 11,
            queued: 12,
            cooldowns: 13,
            duration: Histogram { overflow: 14, ..Histogram::default() },
            first_byte: Histogram { overflow: 15, ..Histogram::default() },
        };
        let mut counts = Counts { backends: vec![one.clone()], ..Counts::default() };
        counts.add(&Counts { backends: vec![one], ..Counts::default() });
        let twice = BackendCounts {
            name: "eu".to_owned(),
            requests: 2,
            errors: 4,
            failures: [6; FailureReason::ALL.len()],
            retries: 8,
            failovers: 10,
            cancelled: 12,
            prompt_tokens: 14,
            completion_tokens: 16,
            estimated_tokens: 18,
            connections_opened: 20,
            connections: 22,
            queued: 24,
            cooldowns: 26,
            duration: Histogram { overflow: 28, ..Histogram::default() },
            first_byte: Histogram { overflow: 30, ..Histogram::default() },
        };
        assert_eq!(counts.backends, [twice]);
    }

    #[test]
    fn each_reason_has_its_own_place_and_word() {
        let mut counts = BackendCounts::default();
        FailureReason::ALL.into_iter().for_each(|reason| counts.failed(reason));
        assert_eq!(counts.failures, [1; FailureReason::ALL.len()]);
        for (place, reason) in FailureReason::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, place, "{reason:?}");
        }
        let words: std::collections::BTreeSet<_> =
            FailureReason::ALL.into_iter().map(FailureReason::as_str).collect();
        assert_eq!(words.len(), FailureReason::ALL.len());
    }

    #[test]
    fn a_sum_is_the_same_in_whatever_order_it_is_added_up() {
        let of = |values: &[f64]| {
            let mut histogram = Histogram::default();
            values.iter().for_each(|value| histogram.record(FIRST_BYTE_FIRST_BOUND, *value));
            histogram
        };
        let parts = [of(&[0.1, 0.2]), of(&[0.3]), of(&[1e-9, 7.7])];
        let sum = |order: [usize; 3]| {
            let mut sum = Histogram::default();
            order.iter().for_each(|index| sum.add(&parts[*index]));
            sum.sum()
        };
        assert_eq!(sum([0, 1, 2]).to_bits(), sum([2, 1, 0]).to_bits());
        assert!((sum([0, 1, 2]) - 8.300_000_001).abs() < 1e-8);
        assert_eq!(of(&[-1.0, f64::NAN]).sum(), 0.0);
    }

    #[test]
    fn what_a_liar_counts_overflows_nothing() {
        let all = Histogram { buckets: [u64::MAX; BUCKETS], overflow: u64::MAX, sum_nanos: u64::MAX };
        let mut lie = Counts { bytes_sent: u64::MAX, events_sent: u64::MAX, ..Counts::default() };
        lie.stream_duration = all.clone();
        *lie.backend("mock") = BackendCounts {
            name: "mock".to_owned(),
            requests: u64::MAX,
            errors: u64::MAX,
            failures: [u64::MAX; FailureReason::ALL.len()],
            duration: all.clone(),
            first_byte: all,
            ..BackendCounts::default()
        };
        let mut sum = lie.clone();
        sum.add(&lie);
        assert_eq!((sum.bytes_sent, sum.stream_duration.count()), (u64::MAX, u64::MAX));
        assert_eq!(sum.backend("mock").requests, u64::MAX);
    }
}
