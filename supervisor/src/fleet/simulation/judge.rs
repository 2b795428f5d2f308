//! What the fleet was told and has said, written down a second time and in another way: the promises are
//! checked against it. `told` before an event, `said` (in `rules`) for each action, `check` at the end.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::limits::{
    ADOPT_TIMEOUT, BEAT_TIMEOUT, DRAIN_GRACE, DRAINING_GENERATIONS_MAX, START_TIMEOUT, TAKE_TIMEOUT,
};
use handoff_shared::message::Outcome;

use super::suspicion::{Record, Suspicion};
use crate::fleet::{Cause, Event, Fleet, Policy};

/// A worker, as far as the fleet can know it.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) slot: SlotId,
    pub(super) generation: Generation,
    pub(super) stage: Stage,
    pub(super) beat_at: Instant,
    pub(super) untaken: VecDeque<(LeaseId, Instant)>,
    pub(super) load: u32,
    /// A roll, or recycling, has sent it away.
    pub(super) replaced: bool,
    /// It speaks another version.
    pub(super) is_foreign: bool,
    /// It has said all that it holds, or is our own.
    pub(super) is_heard: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Starting {
        deadline: Instant,
    },
    /// It has not said yet what it holds.
    Adopted {
        deadline: Instant,
    },
    Ready,
    Draining {
        deadline: Instant,
    },
    Dying,
}

#[derive(Debug)]
pub(super) struct Lease {
    pub(super) holder: Option<WorkerId>,
    pub(super) stage: LeaseStage,
    pub(super) lends: u8,
    pub(super) epitaph: bool,
    pub(super) has_fd: bool,
    /// The truth: a byte went out.
    pub(super) bytes_out: bool,
    /// What the witness said when its last worker died.
    pub(super) witness: Option<bool>,
    pub(super) deadline: Instant,
    pub(super) record: Record,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LeaseStage {
    Sent,
    Taken,
    Committed,
}

/// What the event in hand has to lead to.
#[derive(Debug, Default)]
pub(super) struct Expected {
    pub(super) kill: Option<(WorkerId, Cause)>,
    pub(super) close: Option<(LeaseId, Outcome)>,
    pub(super) leaving: Option<WorkerId>,
    pub(super) received: Option<LeaseId>,
    pub(super) superseded: Option<Generation>,
    pub(super) replaced: Option<SlotId>,
    pub(super) tick: bool,
    pub(super) abandon: bool,
    pub(super) adopted: bool,
    pub(super) asked: BTreeSet<WorkerId>,
    /// Who has to be told to drain.
    pub(super) drains: BTreeSet<WorkerId>,
}

#[derive(Debug)]
pub(super) struct Judge {
    pub(super) policy: Policy,
    pub(super) policies: BTreeMap<Generation, Policy>,
    pub(super) active: Generation,
    pub(super) rolling: Option<Generation>,
    pub(super) was_ready: BTreeSet<Generation>,
    pub(super) loading: bool,
    pub(super) reload_wanted: bool,
    pub(super) workers: BTreeMap<WorkerId, Worker>,
    pub(super) leases: BTreeMap<LeaseId, Lease>,
    /// What adopted workers hold and have not said yet, or have said that it has ended.
    pub(super) estate: BTreeMap<LeaseId, Lease>,
    pub(super) ended: BTreeMap<LeaseId, Lease>,
    pub(super) known: BTreeSet<Generation>,
    pub(super) adopting: bool,
    pub(super) leaving: bool,
    pub(super) last_used: BTreeMap<SlotId, u64>,
    pub(super) uses: u64,
    pub(super) spawns: BTreeMap<SlotId, VecDeque<Instant>>,
    pub(super) no_credit_since: Option<Instant>,
    pub(super) stopping: Option<Instant>,
    pub(super) at_once: bool,
    pub(super) exited: bool,
    /// No worker is ever harmed: none may be missed.
    pub(super) faultless: bool,
    pub(super) ready_before: usize,
    pub(super) expected: Expected,
    pub(super) suspicion: Suspicion,
}

impl Judge {
    pub(super) fn new(now: Instant, policy: Policy, faultless: bool) -> Self {
        Self {
            policies: BTreeMap::from([(Generation::FIRST, policy.clone())]),
            policy,
            active: Generation::FIRST,
            rolling: None,
            was_ready: BTreeSet::new(),
            loading: false,
            reload_wanted: false,
            workers: BTreeMap::new(),
            leases: BTreeMap::new(),
            estate: BTreeMap::new(),
            ended: BTreeMap::new(),
            known: BTreeSet::new(),
            adopting: false,
            leaving: false,
            last_used: BTreeMap::new(),
            uses: 0,
            spawns: BTreeMap::new(),
            no_credit_since: Some(now),
            stopping: None,
            at_once: false,
            exited: false,
            faultless,
            ready_before: 0,
            expected: Expected::default(),
            suspicion: Suspicion::default(),
        }
    }

    pub(super) fn told(&mut self, now: Instant, event: &Event) {
        self.expected = Expected::default();
        match event {
            Event::Start | Event::LoadRefused => self.loading = false,
            Event::Adopt { .. } => {}
            Event::Held { worker, page } => self.told_held(now, *worker, page),
            Event::Leave => self.leaving = true,
            Event::Stay => self.leaving = false,
            Event::Abandon => self.expected.abandon = true,
            Event::Replace { slot } => self.expected.replaced = Some(*slot),
            Event::Tick => self.expected.tick = true,
            Event::Received { lease } => self.told_received(now, *lease),
            Event::FdDropped { lease } => {
                self.leases.entry(*lease).and_modify(|lease| lease.has_fd = false);
            }
            Event::Ready { worker } => self.told_ready(now, *worker),
            Event::Taken { worker, leases } => self.told_taken(now, *worker, leases),
            Event::Committed { worker, lease, .. } => self.told_committed(*worker, *lease),
            Event::Released { worker, lease, outcome } if self.told_released_before(*worker, *lease) => {
                let is_known = self.leases.contains_key(lease);
                self.expected.close = (!is_known).then_some((*lease, *outcome));
            }
            Event::Released { worker, lease, outcome } => {
                let stage = self.held_mut(*worker, *lease).map(|lease| lease.stage);
                self.expected.close = stage.map(|_| (*lease, *outcome));
                if stage.is_none_or(|stage| stage == LeaseStage::Sent) {
                    self.expect_kill(*worker, Cause::Protocol);
                }
            }
            Event::Beat { worker, rss_bytes, draining } => {
                self.told_beat(now, *worker, *rss_bytes, *draining);
            }
            Event::Misbehaved { worker } => self.expect_kill(*worker, Cause::Protocol),
            Event::Closed { worker } => match self.workers[worker].stage {
                Stage::Starting { .. } | Stage::Adopted { .. } | Stage::Ready => {
                    self.expect_kill(*worker, Cause::Crash);
                }
                Stage::Draining { .. } | Stage::Dying => {}
            },
            Event::Dead { worker, written, .. } => self.told_dead(now, *worker, written),
            Event::Reload => self.reload_wanted |= self.stopping.is_none(),
            Event::Loaded { generation, policy } => {
                self.loading = false;
                if self.stopping.is_none() {
                    self.policies.insert(*generation, (**policy).clone());
                    self.expected.superseded = self.rolling.replace(*generation);
                }
            }
            Event::Stop { deadline } => self.told_stop(*deadline),
            Event::StopNow => {
                self.told_stop(now);
                self.at_once = true;
            }
            Event::Away => self.told_away(now),
        }
    }

    fn told_stop(&mut self, deadline: Instant) {
        self.stopping.get_or_insert(deadline);
        self.reload_wanted = false;
    }

    fn told_received(&mut self, now: Instant, id: LeaseId) {
        self.expected.received = Some(id);
        let lease = Lease {
            holder: None,
            stage: LeaseStage::Sent,
            lends: 0,
            epitaph: false,
            has_fd: true,
            bytes_out: false,
            witness: None,
            deadline: now + self.policy.queue_timeout,
            record: Record::default(),
        };
        assert!(self.leases.insert(id, lease).is_none(), "the world uses an id once");
    }

    fn told_ready(&mut self, now: Instant, id: WorkerId) {
        let Some(worker) = self.workers.get_mut(&id) else { return };
        match worker.stage {
            Stage::Starting { .. } => {
                worker.stage = Stage::Ready;
                worker.beat_at = now;
                self.was_ready.insert(worker.generation);
                if self.rolling == Some(worker.generation) && self.active < worker.generation {
                    self.active = worker.generation;
                    self.policy = self.policies[&self.active].clone();
                }
            }
            Stage::Ready | Stage::Draining { .. } => self.expect_kill(id, Cause::Protocol),
            // It said so to an earlier supervisor.
            Stage::Adopted { .. } | Stage::Dying => {}
        }
    }

    fn told_taken(&mut self, now: Instant, by: WorkerId, leases: &[LeaseId]) {
        if self.is_of_the_past(by) {
            return;
        }
        for id in leases {
            let Some(worker) = self.workers.get_mut(&by) else { return };
            let is_next = worker.untaken.front().is_some_and(|(next, _)| next == id);
            worker.untaken.retain(|(sent, _)| sent != id);
            if !is_next {
                self.expect_kill(by, Cause::Protocol);
            }
            if let Some(lease) = self.held_mut(by, *id).filter(|lease| lease.stage == LeaseStage::Sent) {
                lease.stage = LeaseStage::Taken;
                self.told_taken_suspect(now, *id);
            }
        }
    }

    fn told_committed(&mut self, by: WorkerId, id: LeaseId) {
        if self.is_of_the_past(by) {
            return;
        }
        let lease = self.held_mut(by, id).filter(|lease| !lease.epitaph);
        let old = lease.map(|lease| std::mem::replace(&mut lease.stage, LeaseStage::Committed));
        if old != Some(LeaseStage::Taken) {
            self.expect_kill(by, Cause::Protocol);
        }
    }

    fn told_beat(&mut self, now: Instant, id: WorkerId, rss_bytes: u64, draining: bool) {
        let is_too_large = self.policy.rss_hard_max_bytes.is_some_and(|bytes| rss_bytes > bytes);
        let Some(worker) = self.workers.get_mut(&id) else { return };
        worker.beat_at = now;
        match worker.stage {
            Stage::Starting { .. } => self.expect_kill(id, Cause::Protocol),
            Stage::Ready | Stage::Draining { .. } if is_too_large => self.expect_kill(id, Cause::Memory),
            Stage::Ready if draining => self.expected.leaving = Some(id),
            Stage::Adopted { .. } | Stage::Ready | Stage::Draining { .. } | Stage::Dying => {}
        }
    }

    fn told_dead(&mut self, now: Instant, id: WorkerId, written: &BTreeMap<LeaseId, bool>) {
        let slot = self.workers[&id].slot;
        self.told_suspects(now, id, slot);
        assert!(self.workers.remove(&id).is_some(), "the world kills a worker once");
        for (lease_id, lease) in self.leases.iter_mut().filter(|(_, lease)| lease.holder == Some(id)) {
            lease.holder = None;
            lease.deadline = now + self.policy.queue_timeout;
            lease.witness = written.get(lease_id).copied();
        }
        self.told_dead_unheard(id);
    }

    fn told_away(&mut self, now: Instant) {
        for worker in self.workers.values_mut() {
            worker.beat_at = now;
            for (_, deadline) in &mut worker.untaken {
                *deadline = now + TAKE_TIMEOUT;
            }
            match &mut worker.stage {
                Stage::Starting { deadline } => *deadline = now + START_TIMEOUT,
                Stage::Adopted { deadline } => *deadline = now + ADOPT_TIMEOUT,
                Stage::Draining { deadline } => *deadline = now.max(*deadline),
                Stage::Ready | Stage::Dying => {}
            }
        }
        for lease in self.leases.values_mut().filter(|lease| lease.holder.is_none()) {
            lease.deadline = now + self.policy.queue_timeout;
        }
        self.forgive_suspects(now);
        self.no_credit_since = self.no_credit_since.map(|_| now);
        self.stopping = self.stopping.map(|deadline| deadline.max(now));
    }

    fn held_mut(&mut self, by: WorkerId, lease: LeaseId) -> Option<&mut Lease> {
        self.leases.get_mut(&lease).filter(|lease| lease.holder == Some(by))
    }

    pub(super) fn expect_kill(&mut self, id: WorkerId, cause: Cause) {
        let is_dying = self.workers.get(&id).is_none_or(|worker| worker.stage == Stage::Dying);
        if !is_dying {
            self.expected.kill = Some((id, cause));
        }
    }

    /// Ready workers that may have one more lease.
    pub(super) fn candidates(&self) -> impl Iterator<Item = (u32, u64, WorkerId)> {
        let may = |worker: &Worker| {
            worker.stage == Stage::Ready
                && worker.slot != SlotId::QUARANTINE
                && self.has_credit(worker)
                && !self.adopting
        };
        self.workers
            .iter()
            .filter(move |(_, worker)| may(worker))
            .map(|(id, worker)| (worker.load, self.last_used.get(&worker.slot).copied().unwrap_or(0), *id))
    }

    pub(super) fn overdue(&self, now: Instant, worker: &Worker) -> Option<Cause> {
        let late = worker.untaken.front().is_some_and(|(_, deadline)| *deadline <= now);
        let hung = (late || worker.beat_at + BEAT_TIMEOUT <= now).then_some(Cause::Hang);
        match worker.stage {
            Stage::Starting { deadline } => (deadline <= now).then_some(Cause::StartTimeout),
            Stage::Adopted { deadline } => (deadline <= now).then_some(Cause::Hang),
            Stage::Ready => hung,
            Stage::Draining { deadline } if deadline + DRAIN_GRACE <= now => Some(Cause::DrainTimeout),
            Stage::Draining { .. } => hung,
            Stage::Dying => None,
        }
    }

    /// After the last action of a step.
    pub(super) fn check(&mut self, now: Instant, fleet: &Fleet) {
        if self.exited {
            return;
        }
        assert!(self.expected.kill.is_none(), "not killed: {:?}", self.expected);
        assert!(self.expected.close.is_none(), "a released lease is closed: {:?}", self.expected);
        assert!(self.expected.superseded.is_none(), "a roll's end is said: {:?}", self.expected);
        self.check_adoption();
        self.check_leases(now, fleet);
        self.check_suspects(now);
        self.check_workers(now, fleet);
        self.check_deadline(now, fleet);
        self.check_succession(now, fleet);
    }

    fn check_leases(&mut self, now: Instant, fleet: &Fleet) {
        let held: BTreeMap<_, _> = fleet.leases.holders().collect();
        let expected: BTreeMap<_, _> = self.leases.iter().map(|(id, lease)| (*id, lease.holder)).collect();
        assert_eq!(held, expected, "every lease is held by exactly one worker, or queued");
        let queued = self.leases.values().filter(|lease| lease.holder.is_none() && !lease.is_suspect());
        let can_be_lent = self.candidates().next().is_some();
        let (queued, late) =
            queued.fold((0, 0), |(n, late), lease| (n + 1, late + u32::from(lease.deadline <= now)));
        assert!(queued == 0 || !can_be_lent, "a lease waits while a worker has a free place");
        assert!(late == 0 || !self.expected.tick || self.adopting, "a lease waits beyond its deadline");
        assert!(queued == 0 || self.stopping.is_none(), "nothing is queued after Stop");
        self.no_credit_since = match queued == 0 && can_be_lent {
            true => None,
            false => Some(self.no_credit_since.unwrap_or(now)),
        };
        if let Some(id) = self.expected.received.filter(|id| self.leases.contains_key(id)) {
            assert!(self.leases.len() <= self.policy.leases_max as usize, "{id} is one too many");
        }
    }

    fn check_workers(&mut self, now: Instant, fleet: &Fleet) {
        let report = fleet.report(now);
        let told: BTreeMap<_, _> =
            report.workers.iter().filter_map(|worker| Some((worker.worker?, worker.leases))).collect();
        let expected: BTreeMap<_, _> = self.workers.iter().map(|(id, worker)| (*id, worker.load)).collect();
        assert_eq!(told, expected, "load is the leases held");
        self.last_used.retain(|slot, _| usize::from(slot.0) < report.outline.slots);
        let in_slots = self.workers.values().filter(|worker| worker.slot != SlotId::QUARANTINE);
        let ready = in_slots.filter(|worker| worker.stage == Stage::Ready);
        // Nobody has a slot before everybody is known.
        let ready = if self.adopting { 0 } else { ready.count() };
        assert_eq!(report.outline.ready, ready, "Ready workers are those in slots");
        assert_eq!((report.outline.generation, report.outline.rolling_to), (self.active, self.rolling));
        let wanted = usize::from(self.policy.slots);
        let least = self.ready_before.min(wanted);
        let is_harmed = !self.faultless || self.stopping.is_some();
        assert!(is_harmed || ready >= least, "{ready} Ready after {}, without a crash", self.ready_before);
        self.ready_before = ready;
        if self.expected.tick {
            let late = self.workers.iter().find(|(_, worker)| self.overdue(now, worker).is_some());
            assert!(late.is_none(), "overdue, and lives: {late:?}");
        }
        let replaced =
            self.workers.values().filter(|worker| worker.replaced && worker.generation != self.active);
        let generations: BTreeSet<Generation> = replaced.map(|worker| worker.generation).collect();
        assert!(generations.len() <= DRAINING_GENERATIONS_MAX, "draining: {generations:?}");
    }

    fn check_deadline(&self, now: Instant, fleet: &Fleet) {
        let deadline = fleet.next_deadline();
        if self.expected.tick {
            assert!(deadline.is_none_or(|deadline| deadline > now), "the loop would spin");
        }
        let waits = self.workers.values().any(|worker| worker.stage != Stage::Dying)
            || (self.leases.values().any(|lease| lease.holder.is_none()) && !self.adopting)
            || (self.workers.is_empty() && self.stopping.is_none());
        assert!(deadline.is_some() || !waits, "nobody would wake the loop");
        let longest = self.policies.values().map(|policy| policy.drain_timeout).max();
        let far =
            now + longest.unwrap_or(self.policy.drain_timeout).max(Duration::from_secs(36)) + DRAIN_GRACE;
        assert!(
            self.stopping.is_some() || deadline.is_none_or(|deadline| deadline <= far),
            "a deadline too far"
        );
    }
}
