//! The fleet's state for people and metrics.

use std::time::{Duration, Instant};

use handoff_shared::ids::{Generation, SlotId, WorkerId};

use super::Fleet;
use super::workers::{Occupant, Stage};

/// The fleet in a few words: cheap enough to be looked at all the time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outline {
    pub(crate) generation: Generation,
    pub(crate) rolling_to: Option<Generation>,
    pub(crate) stopping: bool,
    pub(crate) slots: usize,
    pub(crate) ready: usize,
}

/// The whole fleet at one moment.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub(crate) outline: Outline,
    /// Slots that a roll still has to do.
    pub(crate) slots_remaining: usize,
    pub(crate) reload_pending: bool,
    pub(crate) leases: usize,
    pub(crate) leases_queued: usize,
    /// Of these, leases that wait for the sacrificial worker.
    pub(crate) suspects: usize,
    pub(crate) leases_max: u32,
    pub(crate) workers: Vec<WorkerReport>,
}

/// One worker, or a slot that waits for one.
#[derive(Clone, Debug)]
pub(crate) struct WorkerReport {
    pub(crate) slot: SlotId,
    pub(crate) worker: Option<WorkerId>,
    pub(crate) generation: Generation,
    /// `starting`, `adopted`, `ready`, `draining`, `dying`, `backoff`, `empty`.
    pub(crate) state: &'static str,
    pub(crate) remaining: Option<Duration>,
    pub(crate) age: Duration,
    pub(crate) leases: u32,
    pub(crate) leases_total: u64,
    pub(crate) restarts: u64,
    pub(crate) rss_bytes: u64,
    pub(crate) beat_age: Option<Duration>,
}

impl Fleet {
    /// What there is: current workers by slot, then those on their way in or out.
    pub(crate) fn report(&self, now: Instant) -> Report {
        let current = self.slots.iter().map(|slot| match slot.occupant {
            Occupant::Worker(id) => self.report_worker(now, id),
            Occupant::Backoff { until, .. } => Some(self.report_empty(slot.id, "backoff", Some(until - now))),
            Occupant::Nobody => Some(self.report_empty(slot.id, "empty", None)),
        });
        let in_slots: Vec<WorkerId> = self.slots.iter().filter_map(|slot| slot.current()).collect();
        let quarantined = match self.quarantine.occupant {
            Occupant::Backoff { until, .. } => {
                let remaining = until.saturating_duration_since(now);
                Some(self.report_empty(SlotId::QUARANTINE, "backoff", Some(remaining)))
            }
            Occupant::Nobody | Occupant::Worker(_) => None,
        };
        let beside =
            self.workers.keys().filter(|id| !in_slots.contains(id)).map(|id| self.report_worker(now, *id));
        Report {
            outline: self.outline(),
            slots_remaining: self.roll_remaining().map_or(0, |(_, remaining)| remaining),
            reload_pending: self.reload_pending,
            leases: self.leases.len(),
            leases_queued: self.queued(),
            suspects: self.suspects.len(),
            leases_max: self.policy.leases_max,
            workers: current.chain(beside).chain([quarantined]).flatten().collect(),
        }
    }

    pub(crate) fn outline(&self) -> Outline {
        Outline {
            generation: self.generation,
            rolling_to: self.roll.as_ref().map(|roll| roll.to),
            stopping: self.stopping.is_some(),
            slots: self.slots.len(),
            ready: self.ready(),
        }
    }

    /// Live leases, and how many of them a worker has.
    pub(crate) fn load(&self) -> (usize, usize) {
        (self.leases.len(), self.leases.len() - self.queued())
    }

    fn queued(&self) -> usize {
        self.leases.queued() + self.suspects.len()
    }

    /// Slots whose worker takes handoffs.
    pub(crate) fn ready(&self) -> usize {
        let current = self.slots.iter().filter_map(|slot| slot.current());
        current.filter(|id| self.workers.get(id).is_some_and(|worker| worker.is_ready())).count()
    }

    /// Generations whose binary and configuration may still be needed.
    pub(crate) fn is_generation_in_use(&self, generation: Generation) -> bool {
        self.generation == generation || self.roll.as_ref().is_some_and(|roll| roll.to == generation)
    }

    fn report_worker(&self, now: Instant, id: WorkerId) -> Option<WorkerReport> {
        let worker = self.workers.get(&id)?;
        let (state, deadline) = match worker.stage {
            Stage::Starting { deadline } => ("starting", Some(deadline)),
            Stage::Adopted { deadline } => ("adopted", Some(deadline)),
            Stage::Ready => ("ready", None),
            Stage::Draining { deadline } => ("draining", Some(deadline)),
            Stage::Dying => ("dying", None),
        };
        Some(WorkerReport {
            slot: worker.slot,
            worker: Some(id),
            generation: worker.generation,
            state,
            remaining: deadline.map(|deadline| deadline.saturating_duration_since(now)),
            age: now.duration_since(worker.spawned_at),
            leases: worker.load,
            leases_total: worker.lent,
            restarts: self.restarts(worker.slot),
            rss_bytes: worker.rss_bytes,
            beat_age: worker.ready_at.map(|_| now.duration_since(worker.beat_at)),
        })
    }

    fn report_empty(&self, slot: SlotId, state: &'static str, remaining: Option<Duration>) -> WorkerReport {
        WorkerReport {
            slot,
            worker: None,
            generation: self.generation,
            state,
            remaining,
            age: Duration::ZERO,
            leases: 0,
            leases_total: 0,
            restarts: self.restarts(slot),
            rss_bytes: 0,
            beat_age: None,
        }
    }

    fn restarts(&self, slot: SlotId) -> u64 {
        if slot == SlotId::QUARANTINE {
            return self.quarantine.starts;
        }
        self.slots.get(usize::from(slot.0)).map_or(0, |slot| slot.restarts)
    }
}
