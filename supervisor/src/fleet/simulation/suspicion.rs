//! The judge's rules about suspects and the sacrificial worker. The world knows what the fleet cannot: which
//! leases are poison, and which of them a worker died of.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use handoff_shared::ids::{LeaseId, SlotId, WorkerId};
use handoff_shared::limits::{CREDITS_PER_WORKER, PROBATION_MIN, QUARANTINE_IDLE, SUSPECT_WAIT_MAX};

use super::judge::{Judge, Lease, LeaseStage, Stage, Worker};

/// Workers that one lease is given to, by all supervisors.
const LENDS_MAX: u8 = 16;
/// Workers that one lease may see beyond `redispatch_max`: the first, and two in company.
const WORKERS_BEYOND: u8 = 3;

/// The truth, and what follows from it.
#[derive(Debug, Default)]
pub(super) struct Suspicion {
    /// Nothing harms workers but these.
    pub(super) only_poison: bool,
    pub(super) poison: BTreeSet<LeaseId>,
    /// What the worker died of that is told dead next.
    pub(super) culprit: Option<LeaseId>,
    /// Workers that a poison has killed: in slots, and sacrificial ones.
    killed: BTreeMap<LeaseId, (u8, u8)>,
    convicted: Option<LeaseId>,
    absent_since: Option<Instant>,
    idle_since: Option<Instant>,
}

/// What is held against a lease.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Record {
    pub(super) waits_since: Option<Instant>,
    taken_at: Option<Instant>,
    in_company: u8,
    alone: u8,
    died_alone: bool,
    /// Workers that it was given to by earlier supervisors: what they held against it has ended with them.
    lent_before: u8,
}

impl Record {
    pub(super) fn inherited(lent_before: u8) -> Self {
        Self { lent_before, ..Self::default() }
    }
}

impl Suspicion {
    pub(super) fn inherited(&mut self) -> Self {
        Self { only_poison: self.only_poison, poison: std::mem::take(&mut self.poison), ..Self::default() }
    }
}

impl Lease {
    /// It waits for the sacrificial worker: its worker has died, and no byte can be out.
    pub(super) fn is_suspect(&self) -> bool {
        let may_be_out = self.stage == LeaseStage::Committed || self.witness == Some(true);
        self.holder.is_none() && self.lends > 0 && !may_be_out && !self.epitaph
    }
}

impl Judge {
    /// The sacrificial worker that is not on its way out.
    fn sacrificial(&self) -> Option<(WorkerId, &Worker)> {
        if self.adopting {
            // One that an earlier supervisor has started drains.
            return None;
        }
        let mut all = self.workers.iter().filter(|(_, worker)| worker.slot == SlotId::QUARANTINE);
        all.find(|(_, worker)| matches!(worker.stage, Stage::Starting { .. } | Stage::Ready))
            .map(|(id, worker)| (*id, worker))
    }

    fn waiting(&self) -> impl Iterator<Item = (&LeaseId, &Lease)> {
        self.leases.iter().filter(|(_, lease)| lease.is_suspect())
    }

    fn uncommitted(&self, worker: WorkerId) -> impl Iterator<Item = (LeaseId, &Lease)> {
        let is_uncommitted = move |lease: &Lease| {
            lease.holder == Some(worker) && lease.stage != LeaseStage::Committed && !lease.epitaph
        };
        self.leases.iter().filter(move |(_, lease)| is_uncommitted(lease)).map(|(id, lease)| (*id, lease))
    }

    /// Before the leases of a dead worker are let go.
    pub(super) fn told_suspects(&mut self, now: Instant, dead: WorkerId, slot: SlotId) {
        let uncommitted: Vec<LeaseId> = self.uncommitted(dead).map(|(id, _)| id).collect();
        let is_sacrificial = slot == SlotId::QUARANTINE;
        if let Some(culprit) = self.suspicion.culprit.take() {
            let (in_slots, sacrificial) = self.suspicion.killed.entry(culprit).or_default();
            *(if is_sacrificial { &mut *sacrificial } else { &mut *in_slots }) += 1;
            assert!(*in_slots <= 1, "{culprit} has killed {in_slots} workers with other people's streams");
            let most = self.policies.values().map(|policy| policy.redispatch_max).max().unwrap_or(0);
            assert!(*sacrificial < most + WORKERS_BEYOND, "{culprit} has killed {sacrificial} workers");
        }
        for id in &uncommitted {
            let Some(lease) = self.leases.get_mut(id) else { continue };
            let record = &mut lease.record;
            record.waits_since.get_or_insert(now);
            record.died_alone = is_sacrificial && uncommitted.len() == 1;
            record.alone += u8::from(record.died_alone);
            record.in_company += u8::from(is_sacrificial && !record.died_alone);
            record.taken_at = None;
        }
    }

    pub(super) fn said_poison(&mut self, id: LeaseId) {
        let lease = &self.leases[&id];
        let record = lease.record;
        assert!(lease.holder.is_none() && lease.stage != LeaseStage::Committed, "{id}: {lease:?}");
        assert!(record.died_alone && record.alone >= self.policy.redispatch_max, "{id}: {record:?}");
        let is_guilty = self.suspicion.poison.contains(&id);
        assert!(is_guilty || !self.suspicion.only_poison, "{id} is innocent: {lease:?}");
        assert_eq!(self.suspicion.convicted.replace(id), None, "one at a time");
    }

    /// Whether an uncommitted lease that nobody holds may be answered 502.
    pub(super) fn may_be_refused(&mut self, id: LeaseId, lease: &Lease) -> bool {
        match self.suspicion.convicted.take() {
            Some(convicted) => convicted == id,
            None => self.policy.redispatch_max == 0 && lease.lends == 1,
        }
    }

    /// Whether a suspect has waited for too long.
    pub(super) fn is_late(&self, now: Instant, lease: &Lease) -> bool {
        let Some(since) = lease.record.waits_since else { return false };
        // Its worker may have been killed in this very step.
        let absent = self.suspicion.absent_since.or(Some(now)).filter(|_| self.sacrificial().is_none());
        let in_vain = absent.is_some_and(|absent| absent.max(since) + self.policy.queue_timeout <= now);
        since + SUSPECT_WAIT_MAX <= now || in_vain
    }

    pub(super) fn said_lend_suspect(&self, now: Instant, id: LeaseId, to: WorkerId) {
        let record = self.leases[&id].record;
        assert!(record.waits_since.is_some(), "{id} is no suspect");
        let worker = &self.workers[&to];
        assert_eq!(self.sacrificial().map(|(id, _)| id), Some(to), "there is one sacrificial worker");
        assert_eq!(worker.stage, Stage::Ready, "only Ready workers get leases");
        assert!(self.has_credit(worker), "no credit left");
        let others: Vec<(LeaseId, &Lease)> = self.uncommitted(to).collect();
        let must_be_alone = record.alone > 0 || record.in_company >= 2;
        assert!(!must_be_alone || others.is_empty(), "{id} must be alone: {others:?}");
        let has_survived = |lease: &Lease| lease.record.taken_at.is_some_and(|at| at + PROBATION_MIN <= now);
        let all_survived = others.iter().all(|(_, lease)| has_survived(lease) && lease.record.alone == 0);
        assert!(all_survived, "one at a time: {id} {others:?}");
        let most = self.policies.values().map(|policy| policy.redispatch_max).max().unwrap_or(0);
        assert!(record.alone < most.max(1), "{id} was tried often enough: {record:?}");
        let lends = self.leases[&id].lends;
        assert!(lends < LENDS_MAX, "{id} has seen too many workers, whatever dies");
        assert!(lends - record.lent_before <= most + WORKERS_BEYOND, "{id} has seen too many workers");
    }

    pub(super) fn told_taken_suspect(&mut self, now: Instant, id: LeaseId) {
        self.leases.entry(id).and_modify(|lease| lease.record.taken_at = Some(now));
    }

    /// Whether the sacrificial worker may be sent away.
    pub(super) fn may_leave_quarantine(&self, now: Instant, worker: &Worker) -> bool {
        let policy = &self.policy;
        let recycles = policy.age_max.or(policy.streams_max.map(Duration::from_secs)).is_some()
            || policy.rss_max_bytes.is_some();
        let is_idle = self.suspicion.idle_since.is_some_and(|since| since + QUARANTINE_IDLE <= now);
        worker.slot == SlotId::QUARANTINE && (worker.generation != self.active || is_idle || recycles)
    }

    pub(super) fn assert_wanted(&self) {
        assert!(self.waiting().next().is_some(), "a sacrificial worker without a suspect");
        assert!(self.sacrificial().is_none(), "a second sacrificial worker");
    }

    pub(super) fn has_credit(&self, worker: &Worker) -> bool {
        worker.untaken.len() < CREDITS_PER_WORKER as usize && worker.load < self.policy.leases_per_worker_max
    }

    /// After the last action of a step.
    pub(super) fn check_suspects(&mut self, now: Instant) {
        assert_eq!(self.suspicion.convicted, None, "who is convicted gets its 502");
        let waiting = self.waiting().count();
        assert!(waiting == 0 || self.stopping.is_none(), "nobody waits after Stop");
        let ready = self.sacrificial().filter(|(_, worker)| worker.stage == Stage::Ready);
        let is_free = ready
            .is_some_and(|(id, worker)| self.has_credit(worker) && self.uncommitted(id).next().is_none());
        assert!(waiting == 0 || !is_free, "a suspect waits for a worker that has none");
        let is_ready = ready.is_some();
        let is_idle = waiting == 0 && ready.is_some_and(|(_, worker)| worker.load == 0);
        let absent = self.suspicion.absent_since.unwrap_or(now);
        self.suspicion.absent_since = (waiting > 0 && !is_ready && !self.adopting).then_some(absent);
        self.suspicion.idle_since = is_idle.then_some(self.suspicion.idle_since.unwrap_or(now));
        if self.expected.tick && !self.adopting {
            let late = self.waiting().find(|(_, lease)| self.is_late(now, lease));
            assert!(late.is_none(), "a suspect waits for ever: {late:?}");
            let bored = self.suspicion.idle_since.is_some_and(|since| since + QUARANTINE_IDLE <= now);
            assert!(!bored || self.stopping.is_some(), "an idle sacrificial worker stays");
        }
    }

    /// Nobody has waited while the supervisor was away.
    pub(super) fn forgive_suspects(&mut self, now: Instant) {
        self.suspicion.absent_since = self.suspicion.absent_since.map(|_| now);
        for lease in self.leases.values_mut().filter(|lease| lease.holder.is_none()) {
            lease.record.waits_since = lease.record.waits_since.map(|_| now);
        }
    }
}
