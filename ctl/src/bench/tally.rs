//! What a generator has seen. In: handoffs, bytes, ends, as they happen. Out: counts that add up over processes.
//! Never: keeps anything of a single stream.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::histogram::Histogram;

/// Events are counted by when they came, so that those of any time between two looks at the daemon are known.
pub(super) const BIN_NS: u64 = 10_000_000;
const SECOND_NS: u64 = 1_000_000_000;
/// Bins and seconds are kept for this long; later ones are counted in the last.
const BINS_MAX: usize = 6 * 3600 * 100;

/// Why a stream failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// The handoff could not be made.
    Connect,
    /// The answer has another status than 200.
    Status(u16),
    /// The connection ended before the answer did.
    Cut,
    /// The connection was reset.
    Reset,
    /// It was not at its end in time.
    Timeout,
    /// The answer ended with an error event.
    ErrorEvent,
    /// This is no HTTP/1.
    BadAnswer,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => f.write_str("connect"),
            Self::Status(503) => f.write_str("refused_503"),
            Self::Status(status) => write!(f, "status_{status:03}"),
            Self::Cut => f.write_str("cut"),
            Self::Reset => f.write_str("reset"),
            Self::Timeout => f.write_str("timeout"),
            Self::ErrorEvent => f.write_str("error_event"),
            Self::BadAnswer => f.write_str("bad_answer"),
        }
    }
}

/// Everything that was counted. Moments are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug, Default, Deserialize, Serialize)]
pub(super) struct Tally {
    pub(super) handoffs: u64,
    /// Attempts that met a full backlog, or nobody, and were made again.
    pub(super) retries: u64,
    pub(super) completed: u64,
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) events: u64,
    pub(super) tokens: u64,
    pub(super) handoff: Histogram,
    pub(super) first_byte: Histogram,
    pub(super) first_token: Histogram,
    pub(super) token_gap: Histogram,
    pub(super) added: Histogram,
    /// How late handoffs were made by the generator's own schedule.
    pub(super) late: Histogram,
    /// How long the generator's loop took from one look at the kernel to the next.
    pub(super) turn: Histogram,
    /// Events by [`BIN_NS`] since the start.
    pub(super) bins: Vec<u32>,
    /// Streams that failed, likewise.
    pub(super) failure_bins: Vec<u32>,
    /// The longest gap between two tokens that ended in each second since the start.
    pub(super) gap_max_ns: Vec<u64>,
    /// When the first stream was complete.
    pub(super) first_end_ns: Option<u64>,
    pub(super) last_end_ns: u64,
    /// CPU of the generator itself.
    pub(super) cpu_ns: u64,
}

impl Tally {
    /// Events that came `since_start_ns` after the start.
    pub(super) fn events(&mut self, since_start_ns: u64, events: u32, tokens: u32) {
        self.events += u64::from(events);
        self.tokens += u64::from(tokens);
        *slot(&mut self.bins, since_start_ns / BIN_NS) += events;
    }

    /// Tokens of one read: the first came `gap_ns` after the one before it, the others with it.
    pub(super) fn gap(&mut self, since_start_ns: u64, gap_ns: u64) {
        self.token_gap.record(gap_ns);
        let longest = slot(&mut self.gap_max_ns, since_start_ns / SECOND_NS);
        *longest = gap_ns.max(*longest);
    }

    /// The end of a stream of a run that began at `start_ns`.
    pub(super) fn end(&mut self, start_ns: u64, now_ns: u64, verdict: Result<(), Kind>) {
        match verdict {
            Ok(()) => {
                self.completed += 1;
                self.first_end_ns.get_or_insert(now_ns);
            }
            Err(kind) => {
                *self.failed.entry(kind.to_string()).or_default() += 1;
                *slot(&mut self.failure_bins, now_ns.saturating_sub(start_ns) / BIN_NS) += 1;
            }
        }
        self.last_end_ns = now_ns;
    }

    /// Adds what another generator has counted.
    pub(super) fn merge(&mut self, other: &Self) {
        self.handoffs += other.handoffs;
        self.retries += other.retries;
        self.completed += other.completed;
        other.failed.iter().for_each(|(kind, count)| *self.failed.entry(kind.clone()).or_default() += count);
        self.events += other.events;
        self.tokens += other.tokens;
        self.handoff.merge(&other.handoff);
        self.first_byte.merge(&other.first_byte);
        self.first_token.merge(&other.first_token);
        self.token_gap.merge(&other.token_gap);
        self.added.merge(&other.added);
        self.late.merge(&other.late);
        self.turn.merge(&other.turn);
        merge_slots(&mut self.bins, &other.bins, |ours, theirs| *ours += theirs);
        merge_slots(&mut self.failure_bins, &other.failure_bins, |ours, theirs| *ours += theirs);
        merge_slots(&mut self.gap_max_ns, &other.gap_max_ns, |ours, theirs| *ours = theirs.max(*ours));
        self.first_end_ns = self.first_end_ns.into_iter().chain(other.first_end_ns).min();
        self.last_end_ns = self.last_end_ns.max(other.last_end_ns);
        self.cpu_ns += other.cpu_ns;
    }

    /// How many events came between these two times since the start; of a bin that is cut its share.
    pub(super) fn events_between(&self, from_ns: u64, to_ns: u64) -> f64 {
        let mut events = 0.0;
        for (bin, count) in self.bins.iter().enumerate() {
            let start = bin as u64 * BIN_NS;
            let inside = to_ns.min(start + BIN_NS).saturating_sub(from_ns.max(start));
            events += f64::from(*count) * inside as f64 / BIN_NS as f64;
        }
        events
    }

    /// When a stream failed for the first time after this time since the start, to a bin.
    pub(super) fn failure_after(&self, from_ns: u64) -> Option<u64> {
        let first = usize::try_from(from_ns / BIN_NS).unwrap_or(BINS_MAX);
        let bin = self.failure_bins.iter().skip(first).position(|count| *count > 0)?;
        Some((first + bin) as u64 * BIN_NS)
    }

    /// How many streams failed, for whatever reason.
    pub(super) fn failures(&self) -> u64 {
        self.failed.values().sum()
    }
}

fn slot<T: Clone + Default>(slots: &mut Vec<T>, index: u64) -> &mut T {
    let index = usize::try_from(index).unwrap_or(BINS_MAX).min(BINS_MAX);
    if index >= slots.len() {
        slots.resize(index + 1, T::default());
    }
    &mut slots[index]
}

fn merge_slots<T: Copy + Default>(ours: &mut Vec<T>, theirs: &[T], add: impl Fn(&mut T, T)) {
    if theirs.len() > ours.len() {
        ours.resize(theirs.len(), T::default());
    }
    ours.iter_mut().zip(theirs).for_each(|(ours, theirs)| add(ours, *theirs));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_add_up_and_the_earliest_end_counts() {
        let mut left = Tally { handoffs: 3, cpu_ns: 5, ..Tally::default() };
        left.events(BIN_NS, 2, 1);
        left.gap(0, 7);
        left.end(0, 300, Ok(()));
        left.end(0, 100, Err(Kind::Cut));
        let mut right = Tally { handoffs: 4, cpu_ns: 6, ..Tally::default() };
        right.events(3 * BIN_NS, 5, 5);
        right.gap(SECOND_NS, 9);
        right.gap(0, 3);
        right.end(0, 200, Ok(()));
        right.end(0, 400, Err(Kind::Cut));
        right.end(0, 2 * BIN_NS, Err(Kind::Status(503)));
        left.merge(&right);
        assert_eq!((left.handoffs, left.completed, left.events, left.tokens, left.cpu_ns), (7, 2, 7, 6, 11));
        assert_eq!((&left.bins, &left.gap_max_ns), (&vec![0, 2, 0, 5], &vec![7, 9]));
        assert_eq!((left.first_end_ns, left.last_end_ns), (Some(200), 2 * BIN_NS));
        assert_eq!(left.failed, [("cut".to_owned(), 2), ("refused_503".to_owned(), 1)].into());
        assert_eq!(left.failures(), 3);
        assert_eq!((left.failure_after(0), left.failure_after(BIN_NS)), (Some(0), Some(2 * BIN_NS)));
        assert_eq!(left.failure_after(3 * BIN_NS), None);
    }

    #[test]
    fn of_a_bin_that_is_cut_its_share_counts() {
        let mut tally = Tally::default();
        tally.events(0, 10, 0);
        tally.events(BIN_NS, 20, 0);
        tally.events(5 * BIN_NS, 40, 0);
        assert_eq!(tally.events_between(0, 6 * BIN_NS), 70.0);
        assert_eq!(tally.events_between(BIN_NS / 2, BIN_NS + BIN_NS / 4), 10.0);
        assert_eq!(tally.events_between(2 * BIN_NS, 5 * BIN_NS), 0.0);
    }
}
