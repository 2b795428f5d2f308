//! Slots and the processes in them: starting, ready, draining, dying.

use std::collections::{BTreeMap, VecDeque};
use std::time::Instant;

use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::limits::{
    ADOPT_TIMEOUT, BEAT_TIMEOUT, DRAIN_GRACE, RECYCLE_AGE_MIN, START_TIMEOUT, TAKE_TIMEOUT,
};

use super::backoff::{EARLY, Life};
use super::{Action, Cause, Exit, Fleet, Policy};

/// A numbered place for a worker. It survives restarts.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) id: SlotId,
    pub(super) occupant: Occupant,
    /// Started to take the current worker's place once it is Ready.
    pub(super) successor: Option<WorkerId>,
    /// Grows with each lease that was placed here: least recently used is smallest.
    pub(super) last_used: u64,
    pub(super) restarts: u64,
    /// Deaths in a row before Ready, or right after it without having done anything.
    pub(super) early_deaths: u32,
    /// No successor is started before: the last one died early.
    pub(super) successor_after: Option<Instant>,
}

/// Who is in a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Occupant {
    /// Nobody, and nobody is due: before the start, at the end, and in a new slot until its successor is Ready.
    Nobody,
    /// This worker, until it dies or a successor is Ready.
    Worker(WorkerId),
    /// Nobody until then.
    Backoff { until: Instant, cause: Cause },
}

/// A process that is not confirmed dead.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) slot: SlotId,
    pub(super) generation: Generation,
    pub(super) stage: Stage,
    pub(super) spawned_at: Instant,
    pub(super) ready_at: Option<Instant>,
    pub(super) beat_at: Instant,
    pub(super) rss_bytes: u64,
    /// Leases that it holds.
    pub(super) load: u32,
    /// Leases that it was ever lent.
    pub(super) lent: u64,
    /// It has committed or released a lease.
    pub(super) has_worked: bool,
    /// Sent and not yet taken, oldest first, each with its deadline.
    pub(super) untaken: VecDeque<(LeaseId, Instant)>,
    /// Why it was told to end; none: a death comes from itself.
    pub(super) ended_by: Option<Cause>,
}

/// Where a worker is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Starting {
        deadline: Instant,
    },
    /// Started by an earlier supervisor; it has not said yet what it holds.
    Adopted {
        deadline: Instant,
    },
    Ready,
    Draining {
        deadline: Instant,
    },
    /// Killed; its death is not confirmed.
    Dying,
}

impl Slot {
    pub(super) fn new(id: SlotId) -> Self {
        Self {
            id,
            occupant: Occupant::Nobody,
            successor: None,
            last_used: 0,
            restarts: 0,
            early_deaths: 0,
            successor_after: None,
        }
    }

    pub(super) fn current(&self) -> Option<WorkerId> {
        match self.occupant {
            Occupant::Worker(worker) => Some(worker),
            Occupant::Nobody | Occupant::Backoff { .. } => None,
        }
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let until = match self.occupant {
            Occupant::Backoff { until, .. } => Some(until),
            Occupant::Nobody | Occupant::Worker(_) => None,
        };
        until.into_iter().chain(self.successor_after).min()
    }

    pub(super) fn vacate(&mut self) {
        self.occupant = Occupant::Nobody;
        self.successor = None;
        self.successor_after = None;
    }
}

impl Worker {
    /// A process that an earlier supervisor has started. Slot and generation are known with its first page.
    pub(super) fn adopted(now: Instant, deadline: Instant) -> Self {
        Self::new(now, SlotId(0), Generation(0), Stage::Adopted { deadline })
    }

    fn new(now: Instant, slot: SlotId, generation: Generation, stage: Stage) -> Self {
        Self {
            slot,
            generation,
            stage,
            spawned_at: now,
            ready_at: None,
            beat_at: now,
            rss_bytes: 0,
            load: 0,
            lent: 0,
            has_worked: false,
            untaken: VecDeque::new(),
            ended_by: None,
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        self.stage == Stage::Ready
    }

    pub(super) fn is_starting(&self) -> bool {
        matches!(self.stage, Stage::Starting { .. })
    }

    /// Age and size are looked at with each beat, not here.
    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let untaken = self.untaken.front().map(|(_, deadline)| *deadline);
        let hang = Some(self.beat_at + BEAT_TIMEOUT).into_iter().chain(untaken);
        match self.stage {
            Stage::Starting { deadline } | Stage::Adopted { deadline } => Some(deadline),
            Stage::Ready => hang.min(),
            Stage::Draining { deadline } => hang.chain([deadline + DRAIN_GRACE]).min(),
            Stage::Dying => None,
        }
    }

    pub(super) fn forgive(&mut self, now: Instant) {
        self.beat_at = now;
        for (_, deadline) in &mut self.untaken {
            *deadline = now + TAKE_TIMEOUT;
        }
        match &mut self.stage {
            Stage::Starting { deadline } => *deadline = now + START_TIMEOUT,
            Stage::Adopted { deadline } => *deadline = now + ADOPT_TIMEOUT,
            // The worker's own clock ran on; it gets its grace again.
            Stage::Draining { deadline } => *deadline = now.max(*deadline),
            Stage::Ready | Stage::Dying => {}
        }
    }

    /// Why it has to be killed now, if it has.
    fn overdue(&self, now: Instant) -> Option<Cause> {
        let late_handoff = self.untaken.front().is_some_and(|(_, deadline)| *deadline <= now);
        let hung = late_handoff || self.beat_at + BEAT_TIMEOUT <= now;
        match self.stage {
            Stage::Starting { deadline } => (deadline <= now).then_some(Cause::StartTimeout),
            Stage::Adopted { deadline } => (deadline <= now).then_some(Cause::Hang),
            Stage::Ready => hung.then_some(Cause::Hang),
            Stage::Draining { deadline } if deadline + DRAIN_GRACE <= now => Some(Cause::DrainTimeout),
            Stage::Draining { .. } => hung.then_some(Cause::Hang),
            Stage::Dying => None,
        }
    }

    /// During an adoption: it has not said everything that it holds. If it was killed before it had, its death must
    /// be confirmed.
    pub(super) fn is_unheard(&self) -> bool {
        match self.stage {
            Stage::Adopted { .. } => true,
            Stage::Dying => self.ready_at.is_none(),
            Stage::Starting { .. } | Stage::Ready | Stage::Draining { .. } => false,
        }
    }

    /// What a death now would say about it.
    fn life(&self, now: Instant) -> Life {
        match self.ready_at {
            None => Life::NeverReady,
            Some(ready_at) if self.has_worked || now.duration_since(ready_at) >= EARLY => Life::Useful,
            Some(_) => Life::InVain,
        }
    }

    /// On its way out: told to end, or killed.
    pub(super) fn is_departing(&self) -> bool {
        match self.stage {
            Stage::Draining { .. } | Stage::Dying => true,
            Stage::Starting { .. } | Stage::Adopted { .. } | Stage::Ready => false,
        }
    }

    /// A young worker is never too old or too large: a limit below what every worker needs must not turn into
    /// a crowd of starting processes.
    pub(super) fn is_overage(&self, now: Instant, policy: &Policy) -> bool {
        if self.spawned_at + RECYCLE_AGE_MIN > now {
            return false;
        }
        policy.age_max.is_some_and(|age| self.spawned_at + age <= now)
            || policy.streams_max.is_some_and(|streams| self.lent >= streams)
            || policy.rss_max_bytes.is_some_and(|bytes| self.rss_bytes > bytes)
    }
}

impl Fleet {
    pub(super) fn fill_slots(&mut self, now: Instant) {
        for index in 0..self.slots.len() {
            let worker = self.spawn(now, index, self.generation, Cause::Start);
            self.slots[index].occupant = Occupant::Worker(worker);
        }
    }

    pub(super) fn spawn(
        &mut self,
        now: Instant,
        index: usize,
        generation: Generation,
        cause: Cause,
    ) -> WorkerId {
        if cause != Cause::Start {
            self.slots[index].restarts += 1;
        }
        self.spawn_in(now, self.slots[index].id, generation, cause)
    }

    pub(super) fn spawn_in(
        &mut self,
        now: Instant,
        slot: SlotId,
        generation: Generation,
        cause: Cause,
    ) -> WorkerId {
        let worker = self.next_worker;
        self.next_worker = WorkerId(worker.0 + 1);
        let stage = Stage::Starting { deadline: now + START_TIMEOUT };
        self.workers.insert(worker, Worker::new(now, slot, generation, stage));
        self.actions.push_back(Action::Spawn { worker, slot, generation, cause });
        worker
    }

    pub(super) fn worker_ready(&mut self, now: Instant, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.stage {
            Stage::Starting { .. } => {
                worker.stage = Stage::Ready;
                worker.ready_at = Some(now);
                worker.beat_at = now;
                self.succeed(now, id);
                self.advance_roll(now);
                self.recycle(now);
            }
            Stage::Ready | Stage::Draining { .. } => self.kill(id, Cause::Protocol),
            // It said so to an earlier supervisor.
            Stage::Adopted { .. } | Stage::Dying => {}
        }
    }

    pub(super) fn beat(&mut self, now: Instant, id: WorkerId, rss_bytes: u64, draining: bool) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.beat_at = now;
        worker.rss_bytes = rss_bytes;
        let is_too_large = self.policy.rss_hard_max_bytes.is_some_and(|bytes| rss_bytes > bytes);
        match worker.stage {
            Stage::Starting { .. } => self.kill(id, Cause::Protocol),
            Stage::Ready | Stage::Draining { .. } if is_too_large => self.kill(id, Cause::Memory),
            Stage::Ready if draining => self.leave(now, id),
            Stage::Ready => self.recycle(now),
            Stage::Adopted { .. } | Stage::Draining { .. } | Stage::Dying => {}
        }
    }

    /// The worker drains without having been told: it gives its slot up.
    fn leave(&mut self, now: Instant, id: WorkerId) {
        self.depart(now, id, now + self.policy.drain_timeout, Cause::Left);
        let Some(life) = self.workers.get(&id).map(|worker| worker.life(now)) else { return };
        self.sacrificial_left(now, id, life, Cause::Left);
        let Some(index) = self.slots.iter().position(|slot| slot.current() == Some(id)) else { return };
        self.refill(now, index, life, Cause::Left);
        self.advance_roll(now);
    }

    /// The channel has ended before the process. A draining one is on its way out, and has its deadlines.
    pub(super) fn closed(&mut self, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.stage {
            Stage::Starting { .. } | Stage::Adopted { .. } | Stage::Ready => {
                worker.stage = Stage::Dying;
                self.actions.push_back(Action::Kill { worker: id, cause: Cause::Crash });
            }
            Stage::Draining { .. } | Stage::Dying => {}
        }
    }

    /// Off its slot: it finishes what it holds. The earlier deadline stays.
    pub(super) fn depart(&mut self, now: Instant, id: WorkerId, deadline: Instant, cause: Cause) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        let deadline = match worker.stage {
            Stage::Starting { .. } => return self.kill(id, cause),
            Stage::Ready => deadline,
            // It says first what it holds.
            Stage::Adopted { .. } => {
                let remaining = deadline.saturating_duration_since(now);
                return self.actions.push_back(Action::Drain { worker: id, remaining });
            }
            Stage::Draining { deadline: earlier } => deadline.min(earlier),
            Stage::Dying => return,
        };
        worker.stage = Stage::Draining { deadline };
        worker.ended_by = Some(cause);
        let remaining = deadline.saturating_duration_since(now);
        self.actions.push_back(Action::Drain { worker: id, remaining });
    }

    pub(super) fn kill(&mut self, id: WorkerId, cause: Cause) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.stage {
            Stage::Starting { .. } | Stage::Adopted { .. } | Stage::Ready | Stage::Draining { .. } => {
                worker.stage = Stage::Dying;
                worker.ended_by = Some(cause);
                self.actions.push_back(Action::Kill { worker: id, cause });
            }
            Stage::Dying => {}
        }
    }

    pub(super) fn expire_workers(&mut self, now: Instant) {
        let late: Vec<(WorkerId, Cause)> =
            self.workers.iter().filter_map(|(id, worker)| Some((*id, worker.overdue(now)?))).collect();
        for (id, cause) in late {
            self.kill(id, cause);
        }
    }

    /// The process is gone: its leases are looked at only now.
    pub(super) fn bury(&mut self, now: Instant, id: WorkerId, exit: Exit, written: &BTreeMap<LeaseId, bool>) {
        let Some(worker) = self.workers.remove(&id) else { return };
        let death = self.death_of(id, worker.slot);
        self.recover(now, id, death, written);
        if self.is_adopting() {
            return self.finish_adoption(now);
        }
        if self.stopping.is_some() {
            return;
        }
        let cause = worker.ended_by.unwrap_or(match exit {
            Exit::Clean => Cause::Left,
            Exit::Crashed => Cause::Crash,
        });
        let life = worker.life(now);
        self.sacrificial_left(now, id, life, cause);
        let index = usize::from(worker.slot.0);
        match self.slots.get(index) {
            Some(slot) if slot.successor == Some(id) => {
                self.successor_died(now, index, worker.generation, life)
            }
            Some(slot) if slot.current() == Some(id) => self.refill(now, index, life, cause),
            Some(_) | None => {} // It had departed.
        }
        self.advance_roll(now);
        self.start_pending_reload(now);
    }

    /// A replacement beside the current worker, for one that is old or large: one at a time, and none while a
    /// worker is missing. Each slot has one recycled worker that drains, so that their number is bounded.
    pub(super) fn recycle(&mut self, now: Instant) {
        let is_busy = self.is_rolling() || self.is_successor_due() || self.ready() < self.slots.len();
        if self.stopping.is_some() || self.leaving || is_busy {
            return;
        }
        let is_due = |slot: &Slot| {
            let worker = slot.current().and_then(|id| self.workers.get(&id));
            worker.is_some_and(|worker| worker.is_overage(now, &self.policy))
                && slot.successor_after.is_none_or(|after| after <= now)
                && !self.workers.values().any(|other| other.slot == slot.id && other.is_departing())
        };
        if let Some(index) = self.slots.iter().position(is_due) {
            self.start_successor(now, index, self.generation, Cause::Recycle);
        }
    }

    pub(super) fn mark_used(&mut self, slot: SlotId) {
        let newest = self.slots.iter().map(|slot| slot.last_used).max().unwrap_or(0);
        if let Some(slot) = self.slots.get_mut(usize::from(slot.0)) {
            slot.last_used = newest + 1;
        }
    }
}
