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
    /// Times it was asked.
    pub requests: u64,
    /// Times it failed.
    pub errors: u64,
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
    /// Sum of all values.
    pub sum: f64,
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
        self.sum += value;
        match bounds(first_bound).position(|bound| value <= bound) {
            Some(bucket) => self.buckets[bucket] += 1,
            None => self.overflow += 1,
        }
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
        self.sum += other.sum;
    }
}

/// The upper bounds of a histogram's buckets.
pub fn bounds(first_bound: f64) -> impl Iterator<Item = f64> {
    std::iter::successors(Some(first_bound), |bound| Some(bound * 2.0)).take(BUCKETS)
}

impl Counts {
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

impl BackendCounts {
    fn add(&mut self, other: &Self) {
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
    fn what_a_liar_counts_overflows_nothing() {
        let all = Histogram { buckets: [u64::MAX; BUCKETS], overflow: u64::MAX, sum: f64::MAX };
        let mut lie = Counts { bytes_sent: u64::MAX, events_sent: u64::MAX, ..Counts::default() };
        lie.stream_duration = all.clone();
        *lie.backend("mock") = BackendCounts {
            name: "mock".to_owned(),
            requests: u64::MAX,
            errors: u64::MAX,
            duration: all.clone(),
            first_byte: all,
        };
        let mut sum = lie.clone();
        sum.add(&lie);
        assert_eq!((sum.bytes_sent, sum.stream_duration.count()), (u64::MAX, u64::MAX));
        assert_eq!(sum.backend("mock").requests, u64::MAX);
    }
}
