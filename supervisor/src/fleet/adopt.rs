//! Adoption: a new supervisor takes over workers that an earlier one has started, with every lease that they
//! hold. And its other half, leaving: this supervisor gets everything out of its own hands before it goes.
//!
//! Nothing is accepted until every adopted worker has said its last page, or is confirmed dead. What a worker said
//! to an earlier supervisor names leases that we do not know: until its last page is heard it breaks no rule by
//! that. Then the newest generation that has a Ready worker is the current one; who is of an older one is
//! replaced as in a roll, who speaks another version drains.
//!
//! Never: starts a worker before it is known who is there, gives a slot to two workers.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::limits::{ADOPT_TIMEOUT, SLOTS_MAX};
use handoff_shared::message::Format;

use super::roll::Roll;
use super::workers::{Occupant, Slot, Stage, Worker};
use super::{Action, Cause, Fleet};

/// One page of what an adopted worker holds.
#[derive(Clone, Debug)]
pub(crate) struct HeldPage {
    pub(crate) last: bool,
    /// It speaks our version of the protocol.
    pub(crate) speaks_ours: bool,
    pub(crate) slot: SlotId,
    pub(crate) generation: Generation,
    /// It drains, for so long.
    pub(crate) drain_remaining: Option<Duration>,
    pub(crate) leases: Vec<HeldLease>,
}

/// One lease on it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct HeldLease {
    pub(crate) lease: LeaseId,
    /// Which worker in a row has it, from 0.
    pub(crate) attempt: u8,
    pub(crate) stage: HeldStage,
    /// We have a dup of its client's fd.
    pub(crate) has_fd: bool,
}

/// How far it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeldStage {
    Taken,
    Committed(Format),
    Epitaph,
}

/// An adoption on its way.
#[derive(Debug)]
pub(super) struct Adoption {
    /// Generations whose binary and configuration we have.
    known: BTreeSet<Generation>,
    /// Workers that speak another version.
    foreign: BTreeSet<WorkerId>,
}

impl Fleet {
    /// These processes are there, whoever started them. Each is asked for what it holds.
    pub(super) fn adopt(&mut self, now: Instant, workers: Vec<WorkerId>, known: BTreeSet<Generation>) {
        for id in workers {
            self.next_worker = WorkerId(self.next_worker.0.max(id.0 + 1));
            self.workers.insert(id, Worker::adopted(now, now + ADOPT_TIMEOUT));
            self.actions.push_back(Action::Resync { worker: id });
        }
        self.adoption = Some(Adoption { known, foreign: BTreeSet::new() });
        self.finish_adoption(now);
    }

    pub(super) fn is_adopting(&self) -> bool {
        self.adoption.is_some()
    }

    /// A page of what a worker holds.
    pub(super) fn held(&mut self, now: Instant, id: WorkerId, page: &HeldPage) {
        let speaks_of_the_past = self.speaks_of_the_past(id);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        // Also of one that is being killed: its clients are looked after when it is dead.
        let mut is_honest = speaks_of_the_past;
        for held in &page.leases {
            let is_new = self.leases.readmit(id, held);
            is_honest &= is_new;
            worker.load += u32::from(is_new);
            worker.lent += u64::from(is_new);
        }
        if !is_honest {
            return self.kill(id, Cause::Protocol);
        }
        worker.slot = page.slot;
        worker.generation = page.generation;
        worker.beat_at = now;
        if page.last && worker.stage != Stage::Dying {
            worker.ready_at = Some(now);
            let own = page.drain_remaining.map(|remaining| now + remaining);
            let deadline = own.into_iter().chain(self.stopping).min();
            worker.stage = deadline.map_or(Stage::Ready, |deadline| Stage::Draining { deadline });
            if let Some(adoption) = self.adoption.as_mut().filter(|_| !page.speaks_ours) {
                adoption.foreign.insert(id);
            }
            self.finish_adoption(now);
        }
    }

    /// Whether what this worker says still belongs to an earlier supervisor.
    pub(super) fn speaks_of_the_past(&self, id: WorkerId) -> bool {
        self.is_adopting() && self.workers.get(&id).is_some_and(Worker::is_unheard)
    }

    /// Everybody has answered, or is dead: the slots are filled with who is there.
    pub(super) fn finish_adoption(&mut self, now: Instant) {
        if self.workers.values().any(Worker::is_unheard) {
            return;
        }
        let Some(Adoption { known, foreign }) = self.adoption.take() else { return };
        if self.stopping.is_some() {
            return;
        }
        self.choose_generation(&known, &foreign);
        self.actions.push_back(Action::Adopted { generation: self.generation });
        self.seat(now, &foreign);
        for index in 0..usize::from(self.policy.slots) {
            if self.slots[index].occupant == Occupant::Nobody {
                self.fill(now, index, Cause::Start);
            }
        }
        self.leases.forgive(now + self.policy.queue_timeout);
        self.forgive_suspects(now);
        self.no_credit_since = Some(now);
        if self.has_outdated_slots() {
            // What an earlier supervisor had begun: slot by slot to the newest generation.
            self.roll = Some(Roll::proven(self.generation, self.policy.clone()));
            self.advance_roll(now);
        }
    }

    /// The newest one with a Ready worker of which we could start others; else a new one.
    fn choose_generation(&mut self, known: &BTreeSet<Generation>, foreign: &BTreeSet<WorkerId>) {
        let is_usable = |(id, worker): &(&WorkerId, &Worker)| {
            worker.is_ready() && !foreign.contains(id) && known.contains(&worker.generation)
        };
        let current = self.workers.iter().filter(is_usable).map(|(_, worker)| worker.generation).max();
        let newest = self.workers.values().map(|worker| worker.generation).chain(known.iter().copied()).max();
        self.generation = current.or(newest.map(Generation::next)).unwrap_or(Generation::FIRST);
    }

    /// Each Ready worker keeps its slot, if nobody newer is in it.
    fn seat(&mut self, now: Instant, foreign: &BTreeSet<WorkerId>) {
        let deadline = now + self.policy.drain_timeout;
        let mut ready: Vec<(Generation, WorkerId)> = Vec::new();
        for (id, worker) in &self.workers {
            match worker.stage {
                Stage::Ready => ready.push((worker.generation, *id)),
                Stage::Draining { deadline } => {
                    let remaining = deadline.saturating_duration_since(now);
                    self.actions.push_back(Action::Drain { worker: *id, remaining });
                }
                Stage::Starting { .. } | Stage::Adopted { .. } | Stage::Dying => {}
            }
        }
        ready.sort_unstable();
        for (_, id) in ready {
            let slot = self.workers.get(&id).map_or(SlotId(0), |worker| worker.slot);
            if foreign.contains(&id) || !self.is_seat(slot) {
                self.depart(now, id, deadline, Cause::Roll);
                continue;
            }
            for missing in self.slots.len()..=usize::from(slot.0) {
                self.slots.push(Slot::new(SlotId(u16::try_from(missing).unwrap_or(u16::MAX))));
            }
            let index = usize::from(slot.0);
            if let Some(older) = self.slots[index].current() {
                self.depart(now, older, deadline, Cause::Roll);
            }
            self.slots[index].occupant = Occupant::Worker(id);
        }
    }

    /// A slot that the policy knows, or that an earlier, larger policy may have known.
    fn is_seat(&self, slot: SlotId) -> bool {
        slot.0 < SLOTS_MAX
    }

    /// Gets everything out of our hands: nothing is accepted, nobody is started but for suspects and, where no worker is
    /// left, for leases in the queue; who has not started yet is ended, unless he is needed for these.
    /// [`Fleet::is_quiet`] says when that is so.
    pub(super) fn leave_everything(&mut self) {
        self.leaving = true;
        if self.ready() == 0 && self.leases.queued() > 0 {
            return;
        }
        let starting = |worker: &Worker| matches!(worker.stage, Stage::Starting { .. });
        let starting: Vec<WorkerId> =
            self.workers.iter().filter(|(_, worker)| starting(worker)).map(|(id, _)| *id).collect();
        for id in starting {
            self.kill(id, Cause::Stop);
        }
    }

    /// Leases wait, and there is no worker in any slot, nor one on its way.
    pub(super) fn is_deserted(&self) -> bool {
        self.leases.queued() > 0 && self.slots.iter().all(|slot| slot.current().is_none())
    }

    /// It was not to be: everything goes on.
    pub(super) fn stay(&mut self, now: Instant) {
        self.leaving = false;
        self.expire_backoffs(now);
        self.advance_roll(now);
    }

    /// Every lease is in the hands of a living worker, and no process is on its way in or being ended.
    pub(crate) fn is_quiet(&self) -> bool {
        let is_settled = |worker: &Worker| match worker.stage {
            Stage::Ready | Stage::Draining { .. } => worker.untaken.is_empty(),
            Stage::Starting { .. } | Stage::Adopted { .. } | Stage::Dying => false,
        };
        self.leases.queued() == 0 && self.suspects.is_empty() && self.workers.values().all(is_settled)
    }

    /// No roll, and none wanted.
    pub(crate) fn is_settled(&self) -> bool {
        self.roll.is_none() && !self.loading && !self.reload_pending && !self.is_adopting()
    }
}
