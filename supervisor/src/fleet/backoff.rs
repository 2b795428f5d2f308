//! How soon a dead worker is replaced: a crash loop backs off, a single crash does not wait.
//!
//! Who dies before Ready may never be able to live: the delay grows up to half a minute. Who was Ready, and died
//! at once without having done anything, may have met a poisoned first request: the delay grows too, but only to
//! a second, less than a handoff waits. Who has done something was killed by something else: nobody waits for
//! its successor, or 100 ms when there are many such deaths.

use std::time::{Duration, Instant};

use super::workers::Occupant;
use super::{Cause, Fleet};

/// A worker that dies within this time after Ready, and has done nothing, may not be able to.
pub(super) const EARLY: Duration = Duration::from_secs(1);
const FIRST_DELAY: Duration = Duration::from_millis(100);
const LONGEST_DELAY: Duration = Duration::from_secs(30);
/// After a death that came after Ready.
const LONGEST_DELAY_IN_VAIN: Duration = Duration::from_secs(1);
/// How fast immediate respawns come back.
const TOKEN_EVERY: Duration = Duration::from_secs(1);

/// What a worker's death says about its successor's chances.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Life {
    /// It was never Ready.
    NeverReady,
    /// It was Ready for less than [`EARLY`], and neither committed nor released a lease.
    InVain,
    Useful,
}

/// Immediate respawns that are left, and the chance that spreads delays.
#[derive(Debug)]
pub(super) struct Respawns {
    tokens: u32,
    tokens_max: u32,
    refilled_at: Instant,
    random: u64,
}

impl Respawns {
    pub(super) fn new(now: Instant, slots: u16, seed: u64) -> Self {
        let tokens_max = Self::tokens_max(slots);
        Self { tokens: tokens_max, tokens_max, refilled_at: now, random: seed | 1 }
    }

    /// The number of slots has changed.
    pub(super) fn resize(&mut self, slots: u16) {
        self.tokens_max = Self::tokens_max(slots);
        self.tokens = self.tokens.min(self.tokens_max);
    }

    fn tokens_max(slots: u16) -> u32 {
        3 * u32::from(slots) + 2
    }

    fn take(&mut self, now: Instant) -> bool {
        while self.tokens < self.tokens_max && now.duration_since(self.refilled_at) >= TOKEN_EVERY {
            self.tokens += 1;
            self.refilled_at += TOKEN_EVERY;
        }
        if self.tokens == self.tokens_max {
            self.refilled_at = now;
        }
        let taken = self.tokens > 0;
        self.tokens -= u32::from(taken);
        taken
    }

    /// 100 ms, 200 ms, … 30 s, each ± 20 %.
    pub(super) fn growing(&mut self, deaths: u32) -> Duration {
        self.delay(deaths, LONGEST_DELAY)
    }

    /// None as long as there are immediate respawns, then 100 ms ± 20 %.
    pub(super) fn spare(&mut self, now: Instant) -> Option<Duration> {
        (!self.take(now)).then(|| self.delay(1, FIRST_DELAY))
    }

    fn delay(&mut self, deaths: u32, longest: Duration) -> Duration {
        let doubled = FIRST_DELAY.saturating_mul(1 << deaths.saturating_sub(1).min(16));
        // xorshift64: spreads, and is the same for the same seed.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        let percent = 80 + u32::try_from(self.random % 41).unwrap_or(0);
        doubled.min(longest) * percent / 100
    }
}

impl Fleet {
    /// A slot has lost its current worker.
    pub(super) fn refill(&mut self, now: Instant, index: usize, life: Life, cause: Cause) {
        let delay = self.delay_after(now, index, life);
        let successor = self.slots[index].successor;
        if self.is_of_active_generation(successor) {
            // What would be spawned here is on its way.
            self.slots[index].occupant = successor.map_or(Occupant::Nobody, Occupant::Worker);
            self.slots[index].successor = None;
            return;
        }
        match delay {
            Some(delay) => self.slots[index].occupant = Occupant::Backoff { until: now + delay, cause },
            None => self.fill(now, index, cause),
        }
    }

    pub(super) fn fill(&mut self, now: Instant, index: usize, cause: Cause) {
        self.slots[index].occupant = match self.is_surplus(index) {
            true => Occupant::Nobody,
            // Whoever comes after us fills it, unless somebody waits now and nobody else could serve them.
            false if self.leaving && !self.is_deserted() => {
                Occupant::Backoff { until: now + FIRST_DELAY, cause }
            }
            false => Occupant::Worker(self.spawn(now, index, self.generation, cause)),
        };
    }

    /// How long nothing is started in the slot of a dead worker; none: not at all.
    pub(super) fn delay_after(&mut self, now: Instant, index: usize, life: Life) -> Option<Duration> {
        let slot = &mut self.slots[index];
        let longest = match life {
            Life::NeverReady => LONGEST_DELAY,
            Life::InVain => LONGEST_DELAY_IN_VAIN,
            Life::Useful => {
                slot.early_deaths = 0;
                return self.respawns.spare(now);
            }
        };
        slot.early_deaths = slot.early_deaths.saturating_add(1);
        Some(self.respawns.delay(slot.early_deaths, longest))
    }

    pub(super) fn expire_backoffs(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let slot = &mut self.slots[index];
            slot.successor_after = slot.successor_after.filter(|after| now < *after);
            match slot.occupant {
                Occupant::Backoff { until, cause } if until <= now => self.fill(now, index, cause),
                Occupant::Backoff { .. } | Occupant::Nobody | Occupant::Worker(_) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_crash_loop_waits_ever_longer_up_to_a_bound() {
        let mut respawns = Respawns::new(Instant::now(), 2, 7);
        let delays: Vec<Duration> = (1..=40).map(|deaths| respawns.growing(deaths)).collect();
        assert!(delays[0] >= FIRST_DELAY * 80 / 100 && delays[0] <= FIRST_DELAY * 120 / 100);
        assert!(delays.iter().all(|delay| *delay <= LONGEST_DELAY * 120 / 100));
        assert!(delays[20] >= LONGEST_DELAY * 80 / 100);
    }

    #[test]
    fn immediate_respawns_run_out_and_come_back() {
        let start = Instant::now();
        let mut respawns = Respawns::new(start, 1, 7);
        assert_eq!((0..20).filter(|_| respawns.take(start)).count(), 5);
        assert!(respawns.take(start + TOKEN_EVERY));
        assert!(!respawns.take(start + TOKEN_EVERY));
    }
}
