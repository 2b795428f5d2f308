//! Rolls: the fleet moves to a new generation, slot by slot. A successor starts beside the current worker;
//! when it is Ready the old one departs.
//!
//! The first successor of a generation proves it: until then everything stays as it was, and if it dies the
//! roll is over. From then on the new generation is the active one, and [`Fleet::settle`] brings every slot to
//! it. Never: takes an old Ready worker away while a worker of the new generation is missing.

use std::collections::BTreeSet;
use std::time::Instant;

use handoff_shared::ids::{Generation, SlotId, WorkerId};
use handoff_shared::limits::{DRAINING_GENERATIONS_MAX, RELOAD_INTERVAL};

use super::backoff::Life;
use super::workers::{Occupant, Slot};
use super::{Action, Cause, Fleet, Policy, RollResult};

/// A running roll.
#[derive(Debug)]
pub(super) struct Roll {
    pub(super) to: Generation,
    policy: Policy,
    /// One worker of this generation has become Ready.
    proven: bool,
}

impl Roll {
    /// One that an earlier supervisor has begun: there are workers of this generation.
    pub(super) fn proven(to: Generation, policy: Policy) -> Self {
        Self { to, policy, proven: true }
    }
}

impl Fleet {
    /// The operator wants a new generation. Requests that cannot start now become one pending bit.
    pub(super) fn reload(&mut self, now: Instant) {
        if self.stopping.is_some() {
            return;
        }
        self.reload_pending = true;
        self.start_pending_reload(now);
    }

    pub(super) fn start_pending_reload(&mut self, now: Instant) {
        if self.reload_at().is_some_and(|at| at <= now) {
            self.reload_pending = false;
            self.loading = true;
            self.loaded_at = Some(now);
            self.actions.push_back(Action::Load);
        }
    }

    /// When a pending reload may start; none while there is none, or while something else must end first.
    pub(super) fn reload_at(&self) -> Option<Instant> {
        // A proven roll without a successor on its way waits for something that may never come.
        let is_free = self.roll.as_ref().is_none_or(|roll| roll.proven && !self.is_successor_due());
        let may_start = self.reload_pending
            && is_free
            && !self.loading
            && !self.leaving
            && !self.is_adopting()
            && self.may_drain(self.generation, None);
        let earliest = self.loaded_at.map_or(self.born_at, |loaded_at| loaded_at + RELOAD_INTERVAL);
        may_start.then_some(earliest)
    }

    /// Whether there is room for one more draining generation beside the one that stays.
    fn may_drain(&self, generation: Generation, stays: Option<Generation>) -> bool {
        let departing = self.workers.values().filter(|worker| worker.is_departing());
        let mut generations: BTreeSet<Generation> = departing.map(|worker| worker.generation).collect();
        generations.insert(generation);
        generations.iter().filter(|generation| Some(**generation) != stays).count()
            <= DRAINING_GENERATIONS_MAX
    }

    pub(super) fn refuse_roll(&mut self, now: Instant) {
        self.loading = false;
        self.start_pending_reload(now);
    }

    pub(super) fn start_roll(&mut self, now: Instant, to: Generation, policy: Policy) {
        self.loading = false;
        if self.stopping.is_some() {
            return;
        }
        if let Some(old) = self.roll.replace(Roll { to, policy, proven: false }) {
            self.actions.push_back(Action::RollEnded { generation: old.to, result: RollResult::Superseded });
        }
        self.advance_roll(now);
    }

    /// Takes the next step, when none is on its way and nothing speaks against it.
    pub(super) fn advance_roll(&mut self, now: Instant) {
        if self.stopping.is_some() || self.leaving || self.is_adopting() || self.is_successor_due() {
            return;
        }
        match self.roll.as_ref().filter(|roll| !roll.proven).map(|roll| roll.to) {
            Some(unproven) => self.start_successor(now, 0, unproven, Cause::Roll),
            None => self.settle(now),
        }
    }

    /// Brings every slot to the active generation, then their number to the policy's.
    fn settle(&mut self, now: Instant) {
        while let Some(index) = self.outdated_slot() {
            if self.is_worker_missing() {
                return;
            }
            if !self.is_surplus(index) {
                return self.start_successor(now, index, self.generation, Cause::Roll);
            }
            let Some(last) = self.slots.last().map(Slot::current) else { return };
            if !self.may_replace(last, self.generation) {
                return;
            }
            if let Some(id) = last {
                self.depart(now, id, now + self.policy.drain_timeout, Cause::Roll);
            }
            self.slots.pop();
        }
        self.end_roll(now, RollResult::Done);
    }

    fn outdated_slot(&self) -> Option<usize> {
        self.outdated_slots().next()
    }

    /// Also when the roll that began it has ended: a newer one took its place, and could not start.
    pub(super) fn is_rolling(&self) -> bool {
        self.roll.is_some() || self.has_outdated_slots()
    }

    pub(super) fn has_outdated_slots(&self) -> bool {
        self.outdated_slot().is_some()
    }

    /// Slots that are not what the policy and the active generation want.
    fn outdated_slots(&self) -> impl Iterator<Item = usize> {
        let is_outdated = |(index, slot): &(usize, &Slot)| match slot.occupant {
            Occupant::Nobody => true,
            Occupant::Worker(id) => {
                self.is_surplus(*index)
                    || self.workers.get(&id).is_some_and(|worker| worker.generation != self.generation)
            }
            Occupant::Backoff { .. } => self.is_surplus(*index),
        };
        self.slots.iter().enumerate().filter(is_outdated).map(|(index, _)| index)
    }

    /// A slot waits for a worker of the active generation: it may not be able to live.
    fn is_worker_missing(&self) -> bool {
        let wanted = self.slots.iter().take(usize::from(self.policy.slots));
        wanted.into_iter().any(|slot| match slot.occupant {
            Occupant::Nobody => false,
            Occupant::Backoff { .. } => true,
            Occupant::Worker(id) => self
                .workers
                .get(&id)
                .is_some_and(|worker| worker.generation == self.generation && !worker.is_ready()),
        })
    }

    pub(super) fn is_surplus(&self, index: usize) -> bool {
        index >= usize::from(self.policy.slots)
    }

    pub(super) fn is_successor_due(&self) -> bool {
        self.slots.iter().any(|slot| slot.successor.is_some())
    }

    pub(super) fn is_of_active_generation(&self, id: Option<WorkerId>) -> bool {
        id.and_then(|id| self.workers.get(&id)).is_some_and(|worker| worker.generation == self.generation)
    }

    pub(super) fn may_replace(&self, current: Option<WorkerId>, by: Generation) -> bool {
        let worker = current.and_then(|id| self.workers.get(&id));
        self.may_drain(worker.map_or(self.generation, |worker| worker.generation), Some(by))
    }

    pub(super) fn start_successor(
        &mut self,
        now: Instant,
        index: usize,
        generation: Generation,
        cause: Cause,
    ) {
        let slot = &self.slots[index];
        let is_early = slot.successor_after.is_some_and(|after| now < after);
        if !is_early && self.may_replace(slot.current(), generation) {
            let successor = self.spawn(now, index, generation, cause);
            self.slots[index].successor = Some(successor);
        }
    }

    /// A worker has become Ready: where it is a successor, the old one departs.
    pub(super) fn succeed(&mut self, now: Instant, id: WorkerId) {
        let Some(index) = self.slots.iter().position(|slot| slot.successor == Some(id)) else { return };
        let old = self.slots[index].current();
        self.slots[index].occupant = Occupant::Worker(id);
        self.slots[index].successor = None;
        self.slots[index].successor_after = None;
        let generation_of = |id| self.workers.get(&id).map(|worker| worker.generation);
        let cause =
            if old.and_then(generation_of) == generation_of(id) { Cause::Recycle } else { Cause::Roll };
        if self.roll.as_ref().is_some_and(|roll| !roll.proven && Some(roll.to) == generation_of(id)) {
            self.prove(now);
        }
        if let Some(old) = old {
            self.depart(now, old, now + self.policy.drain_timeout, cause);
        }
    }

    /// The new generation works: it is the active one from here on, and its policy holds.
    fn prove(&mut self, now: Instant) {
        let Some(roll) = &mut self.roll else { return };
        roll.proven = true;
        self.generation = roll.to;
        self.policy = roll.policy.clone();
        self.respawns.resize(self.policy.slots);
        for slot in &mut self.slots {
            // What the old generation did is not held against the new one.
            slot.early_deaths = 0;
            slot.successor_after = None;
            if let Occupant::Backoff { until, .. } = &mut slot.occupant {
                *until = now;
            }
        }
        for id in (0..self.policy.slots).skip(self.slots.len()) {
            self.slots.push(Slot::new(SlotId(id)));
        }
    }

    /// A successor has died before it was Ready.
    pub(super) fn successor_died(&mut self, now: Instant, index: usize, generation: Generation, life: Life) {
        let is_first = self.roll.as_ref().is_some_and(|roll| !roll.proven && roll.to == generation);
        let delay = match is_first {
            // Not held against the slot; still, a storm of reloads must not become one of processes.
            true => Some(self.respawns.growing(1)),
            false => self.delay_after(now, index, life),
        };
        self.slots[index].successor = None;
        self.slots[index].successor_after = delay.map(|delay| now + delay);
        if is_first {
            self.end_roll(now, RollResult::CannotStart);
        }
    }

    fn end_roll(&mut self, now: Instant, result: RollResult) {
        let Some(roll) = self.roll.take() else { return };
        self.actions.push_back(Action::RollEnded { generation: roll.to, result });
        self.start_pending_reload(now);
    }

    /// For the report: where the roll goes, and the slots that still have to.
    pub(super) fn roll_remaining(&self) -> Option<(Generation, usize)> {
        let roll = self.roll.as_ref()?;
        Some((roll.to, if roll.proven { self.outdated_slots().count() } else { self.slots.len() }))
    }
}
