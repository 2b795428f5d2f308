//! The judge's rules about adoption and leaving: what a new supervisor may know, when, and what it may do.
//!
//! `estate` is what living workers hold and have not said yet; the fleet knows nothing of it. Page by page it becomes
//! `leases` again.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Instant;

use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::limits::ADOPT_TIMEOUT;

use super::judge::{Judge, Lease, LeaseStage, Stage, Worker};
use super::suspicion::Record;
use crate::fleet::{Cause, Fleet, HeldLease, HeldPage, HeldStage, Intake, Policy};

/// What an ended supervisor leaves behind.
#[derive(Debug)]
pub(super) struct Heritage {
    pub(super) workers: BTreeMap<WorkerId, (SlotId, Generation)>,
    pub(super) holders: BTreeMap<LeaseId, WorkerId>,
    pub(super) known: BTreeSet<Generation>,
}

impl Judge {
    /// A new supervisor begins: all that it knows is what the workers will say.
    pub(super) fn inherit(&mut self, now: Instant, policy: Policy, heritage: Heritage) {
        let Heritage { workers, holders, known } = heritage;
        let mut next = Self::new(now, policy, self.faultless);
        next.policies.extend(std::mem::take(&mut self.policies));
        next.policies.insert(Generation::FIRST, next.policy.clone());
        let leases = [&mut self.leases, &mut self.estate, &mut self.ended].map(std::mem::take);
        next.estate = leases
            .into_iter()
            .flatten()
            .filter_map(|(id, lease)| Some((id, Lease { holder: Some(*holders.get(&id)?), ..lease })))
            .collect();
        // The truth stays; what was held against anybody is forgotten.
        next.suspicion = self.suspicion.inherited();
        next.estate.values_mut().for_each(|lease| lease.record = Record::inherited(lease.lends));
        next.known = known;
        next.adopting = !workers.is_empty() || !next.known.is_empty();
        for (id, (slot, generation)) in workers {
            let worker = Worker {
                slot,
                generation,
                stage: Stage::Adopted { deadline: now + ADOPT_TIMEOUT },
                beat_at: now,
                untaken: VecDeque::new(),
                load: 0,
                replaced: false,
                is_foreign: false,
                is_heard: false,
            };
            next.workers.insert(id, worker);
        }
        *self = next;
    }

    pub(super) fn is_adopting(&self) -> bool {
        self.adopting
    }

    pub(super) fn is_live(&self, lease: LeaseId) -> bool {
        [&self.leases, &self.estate, &self.ended].iter().any(|leases| leases.contains_key(&lease))
    }

    pub(super) fn wrote(&mut self, lease: LeaseId) {
        let known = [self.leases.get_mut(&lease), self.estate.get_mut(&lease)];
        known.into_iter().flatten().for_each(|lease| lease.bytes_out = true);
    }

    /// What it says may belong to an earlier supervisor.
    pub(super) fn is_of_the_past(&self, id: WorkerId) -> bool {
        self.adopting && self.workers.get(&id).is_some_and(|worker| !worker.is_heard)
    }

    /// A lease of an earlier supervisor has ended. It can be nobody else's.
    pub(super) fn told_released_before(&mut self, by: WorkerId, lease: LeaseId) -> bool {
        if !self.is_of_the_past(by) {
            return false;
        }
        if self.leases.contains_key(&lease) {
            self.expect_kill(by, Cause::Protocol);
        } else if let Some(ended) = self.estate.remove(&lease) {
            // Should it have lied, it will still say that it holds it.
            self.ended.insert(lease, ended);
        }
        true
    }

    pub(super) fn told_held(&mut self, now: Instant, id: WorkerId, page: &HeldPage) {
        let is_of_the_past = self.is_of_the_past(id);
        assert!(is_of_the_past, "the world asks once");
        for held in &page.leases {
            self.readmit(id, held);
        }
        let stopping = self.stopping;
        let Some(worker) = self.workers.get_mut(&id) else { return };
        assert_eq!((worker.slot, worker.generation), (page.slot, page.generation), "the world knows it");
        worker.beat_at = now;
        worker.load += u32::try_from(page.leases.len()).unwrap_or(0);
        let is_killed = worker.stage == Stage::Dying;
        if page.last && !is_killed {
            worker.is_heard = true;
            worker.is_foreign = !page.speaks_ours;
            let own = page.drain_remaining.map(|remaining| now + remaining);
            let deadline = own.into_iter().chain(stopping).min();
            worker.stage = deadline.map_or(Stage::Ready, |deadline| Stage::Draining { deadline });
            let forgotten = self.estate.values().any(|lease| lease.holder == Some(id));
            assert!(!forgotten, "a worker says all that it holds");
        }
    }

    fn readmit(&mut self, by: WorkerId, held: &HeldLease) {
        let lease = self.estate.remove(&held.lease).or_else(|| self.ended.remove(&held.lease));
        let Some(mut lease) = lease else { panic!("{} holds {}, which has ended", by, held.lease) };
        assert_eq!(lease.holder, Some(by), "the world knows who holds it");
        let is_epitaph = held.stage == HeldStage::Epitaph;
        assert_eq!(lease.epitaph, is_epitaph, "an epitaph stays one");
        assert!(is_epitaph || lease.lends == held.attempt + 1, "attempts are counted: {held:?}, {lease:?}");
        lease.has_fd = held.has_fd;
        lease.stage = match held.stage {
            HeldStage::Taken | HeldStage::Epitaph => LeaseStage::Taken,
            HeldStage::Committed(_) => LeaseStage::Committed,
        };
        self.leases.insert(held.lease, lease);
    }

    /// Its leases that it had not said are lost with it: two ends at once.
    pub(super) fn told_dead_unheard(&mut self, id: WorkerId) {
        self.estate.retain(|_, lease| lease.holder != Some(id));
    }

    pub(super) fn said_resync(&mut self, id: WorkerId) {
        let is_new = matches!(self.workers[&id].stage, Stage::Adopted { .. });
        assert!(is_new && self.expected.asked.insert(id), "each is asked once");
    }

    pub(super) fn said_adopted(&mut self, now: Instant, generation: Generation) {
        assert!(std::mem::take(&mut self.adopting), "adopted once");
        assert!(self.stopping.is_none(), "nothing begins after Stop");
        let unheard = self.workers.values().find(|worker| !worker.is_heard);
        assert!(unheard.is_none(), "not everybody has answered: {unheard:?}");
        self.estate.clear();
        self.ended.clear();
        assert_eq!(generation, self.wanted_generation(), "the newest that works and is known");
        self.active = generation;
        self.expected.adopted = true;
        self.forgive_suspects(now);
        self.no_credit_since = Some(now);
        for lease in self.leases.values_mut().filter(|lease| lease.holder.is_none()) {
            lease.deadline = now + self.policy.queue_timeout;
        }
        let mut seats: BTreeMap<SlotId, Generation> = BTreeMap::new();
        for (id, worker) in &self.workers {
            let is_ready = worker.stage == Stage::Ready;
            let has_no_seat = worker.is_foreign || worker.slot == SlotId::QUARANTINE;
            if matches!(worker.stage, Stage::Draining { .. }) || (is_ready && has_no_seat) {
                self.expected.drains.insert(*id);
            }
            if is_ready && !has_no_seat {
                let seat = seats.entry(worker.slot).or_insert(worker.generation);
                *seat = worker.generation.max(*seat);
            }
            if is_ready && worker.generation == generation {
                self.was_ready.insert(generation);
            }
        }
        let is_outdated =
            |(slot, seated): (&SlotId, &Generation)| slot.0 >= self.policy.slots || *seated != generation;
        self.rolling = seats.iter().any(is_outdated).then_some(generation);
    }

    /// What is rare, and must have been seen.
    pub(super) fn sights(&self) -> Vec<&'static str> {
        let mut slots = BTreeSet::new();
        let ready = self.workers.values().filter(|worker| worker.stage == Stage::Ready);
        let is_crowded = ready.filter(|worker| !worker.is_foreign).any(|worker| !slots.insert(worker.slot));
        let is_leaving =
            |worker: &&Worker| worker.is_foreign || matches!(worker.stage, Stage::Draining { .. });
        let draining = self.workers.values().filter(is_leaving);
        let draining: BTreeSet<Generation> = draining.map(|worker| worker.generation).collect();
        let sights = [
            (is_crowded, "Two in a slot"),
            (draining.len() > 2, "Three generations drain"),
            (self.workers.values().any(|worker| worker.is_foreign), "Foreign worker"),
        ];
        sights.into_iter().filter(|(is_there, _)| *is_there).map(|(_, word)| word).collect()
    }

    fn wanted_generation(&self) -> Generation {
        let usable = self.workers.values().filter(|worker| {
            worker.stage == Stage::Ready && !worker.is_foreign && self.known.contains(&worker.generation)
        });
        let all = self.workers.values().map(|worker| worker.generation).chain(self.known.iter().copied());
        let fresh = all.max().map_or(Generation::FIRST, Generation::next);
        usable.map(|worker| worker.generation).max().unwrap_or(fresh)
    }

    /// Nothing more drains beside two generations, whatever was inherited.
    pub(super) fn assert_room_for_drain(&self, slot: SlotId, generation: Generation) {
        let is_departing = |worker: &&Worker| matches!(worker.stage, Stage::Draining { .. } | Stage::Dying);
        let is_old = |worker: &&Worker| worker.slot == slot && worker.stage == Stage::Ready;
        let workers = self.workers.values();
        let drain: BTreeSet<Generation> = workers
            .filter(|worker| is_departing(worker) || is_old(worker))
            .map(|worker| worker.generation)
            .filter(|other| *other != generation)
            .collect();
        assert!(drain.len() <= 2, "a third generation would drain: {drain:?}");
    }

    /// Everybody has answered, or is dead.
    pub(super) fn check_adoption(&mut self) {
        if self.adopting && self.workers.values().all(|worker| worker.is_heard) {
            assert!(self.stopping.is_some(), "everybody has answered");
            self.adopting = false;
        }
    }

    pub(super) fn check_succession(&self, now: Instant, fleet: &Fleet) {
        assert!(self.expected.drains.is_empty(), "drains are said again: {:?}", self.expected);
        let is_held = self.adopting || self.leaving;
        if is_held && self.stopping.is_none() {
            assert_eq!(fleet.intake(now), Intake::Hold, "nothing is accepted now");
        }
        if fleet.is_quiet() {
            let is_queued = self.leases.values().any(|lease| lease.holder.is_none());
            let is_sent = self.workers.values().any(|worker| !worker.untaken.is_empty());
            assert!(!is_queued && !is_sent && !self.adopting, "something is in our hands");
        }
    }
}

impl Lease {
    /// Its worker has died after it had committed.
    pub(super) fn is_epitaph_due(&self) -> bool {
        self.epitaph || self.stage == LeaseStage::Committed || self.witness == Some(true)
    }
}
