//! Durations, counted in buckets that grow with them. In: nanoseconds. Out: quantiles, at most 1 % wrong.
//! Never: keeps single values, forgets the largest one, divides what it has counted.

use serde::{Deserialize, Serialize};

/// Buckets in each power of two: a value is at most 1/128 wrong.
const BITS: u32 = 7;
const LINEAR: u64 = 1 << BITS;
/// About 18 minutes; what is longer is counted as this long.
const NS_MAX: u64 = 1 << 40;

/// Counts of durations.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Histogram {
    counts: Vec<u64>,
    count: u64,
    max_ns: u64,
}

/// What goes over a pipe: the buckets that have something in them.
#[derive(Debug, Deserialize, Serialize)]
struct Sparse {
    buckets: Vec<(usize, u64)>,
    max_ns: u64,
}

/// What a report says of durations, in microseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
    pub(super) max: f64,
}

impl Histogram {
    /// Counts one duration.
    pub(super) fn record(&mut self, ns: u64) {
        self.record_many(ns, 1);
    }

    /// Counts the same duration `times` times.
    pub(super) fn record_many(&mut self, ns: u64, times: u64) {
        if times == 0 {
            return;
        }
        let bucket = bucket(ns.min(NS_MAX));
        if bucket >= self.counts.len() {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += times;
        self.count += times;
        self.max_ns = self.max_ns.max(ns);
    }

    /// Adds what another one has counted.
    pub(super) fn merge(&mut self, other: &Self) {
        if other.counts.len() > self.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        self.counts.iter_mut().zip(&other.counts).for_each(|(ours, theirs)| *ours += theirs);
        self.count += other.count;
        self.max_ns = self.max_ns.max(other.max_ns);
    }

    /// The quantiles of a report; zeros where nothing was counted.
    pub(super) fn quantiles(&self) -> Quantiles {
        let us = |percent| self.percentile_ns(percent) as f64 / 1000.0;
        Quantiles { p50: us(50), p90: us(90), p99: us(99), max: self.max_ns as f64 / 1000.0 }
    }

    /// The duration that `percent` of all do not exceed (nearest rank), in nanoseconds.
    pub(super) fn percentile_ns(&self, percent: u64) -> u64 {
        let rank = (self.count * percent).div_ceil(100).max(1);
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            below += count;
            if below >= rank {
                return middle(bucket).min(self.max_ns);
            }
        }
        self.max_ns
    }
}

impl Serialize for Histogram {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let filled = self.counts.iter().copied().enumerate().filter(|(_, count)| *count > 0);
        Sparse { buckets: filled.collect(), max_ns: self.max_ns }.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Histogram {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let sparse = Sparse::deserialize(deserializer)?;
        let length = sparse.buckets.last().map_or(0, |(bucket, _)| bucket + 1);
        if length > bucket(NS_MAX) + 1 || !sparse.buckets.is_sorted_by(|a, b| a.0 < b.0) {
            return Err(serde::de::Error::custom("no histogram of ours"));
        }
        let mut counts = vec![0; length];
        sparse.buckets.iter().for_each(|(bucket, count)| counts[*bucket] = *count);
        Ok(Self { count: counts.iter().sum(), counts, max_ns: sparse.max_ns })
    }
}

/// Linear up to [`LINEAR`], then as many buckets again for each power of two.
fn bucket(ns: u64) -> usize {
    let octave = (u64::BITS - ns.leading_zeros()).saturating_sub(BITS + 1);
    let index = u64::from(octave) * LINEAR + (ns >> octave);
    usize::try_from(index).unwrap_or(usize::MAX)
}

fn middle(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < 2 * LINEAR {
        return bucket;
    }
    let octave = bucket / LINEAR - 1;
    ((bucket - octave * LINEAR) << octave) + (1 << (octave - 1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn of(values: &[u64]) -> Histogram {
        let mut histogram = Histogram::default();
        values.iter().for_each(|ns| histogram.record(*ns));
        histogram
    }

    proptest! {
        #[test]
        fn no_percentile_is_more_than_one_percent_wrong(
            mut values in prop::collection::vec(0..NS_MAX, 1..200), percent in 1..=100u64
        ) {
            let told = of(&values).percentile_ns(percent);
            values.sort_unstable();
            let rank = (values.len() * usize::try_from(percent).unwrap()).div_ceil(100).max(1);
            let exact = values[rank - 1];
            prop_assert!(told.abs_diff(exact) as f64 <= exact as f64 * 0.01, "{told} for {exact}");
        }

        #[test]
        fn parts_that_went_over_a_pipe_add_up_to_the_whole(
            left in prop::collection::vec(0..NS_MAX, 0..50), right in prop::collection::vec(0..NS_MAX, 0..50)
        ) {
            let piped = |values: &[u64]| {
                serde_json::from_str::<Histogram>(&serde_json::to_string(&of(values)).unwrap()).unwrap()
            };
            let mut merged = piped(&left);
            merged.merge(&piped(&right));
            prop_assert_eq!(merged, of(&[left, right].concat()));
        }
    }

    #[test]
    fn the_largest_is_exact_and_nothing_is_zero() {
        assert_eq!(of(&[1_000_003, 7]).quantiles().max, 1000.003);
        assert_eq!(Histogram::default().quantiles(), Quantiles::default());
        assert_eq!(of(&[NS_MAX * 4]).percentile_ns(100), NS_MAX + (NS_MAX >> 8));
    }
}
