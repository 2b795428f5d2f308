//! Suspects: the uncommitted leases of a worker that died. One of them may have killed it. In: deaths, and
//! what becomes of leases. Out: whose turn it is with the sacrificial worker, and who is convicted.
//!
//! Suspects go to that worker one at a time: the next when the one before is committed, released, or survived
//! for its probation (`PROBATION`, shorter when many wait). When the worker dies with one uncommitted lease,
//! that lease was *alone* with it; after `redispatch_max` such deaths it is poison: a constant 502. When it
//! dies with several, all go again, each strictly alone: the next only after a commit or a release. Once the
//! poison is found, those that were with it are believed once more, so that nobody waits for long without need.
//!
//! So a lease sees at most `redispatch_max + 3` workers: the first, two in company, the others alone.
//!
//! Never: lends a suspect to a worker in a slot, lets one wait for ever ([`Suspects::late`]).

use std::collections::{BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use handoff_shared::ids::{LeaseId, SlotId, WorkerId};
use handoff_shared::limits::{PROBATION, PROBATION_MIN, PROBATION_OF_ALL, SUSPECT_WAIT_MAX};

use super::leases::Place;
use super::{Action, Fleet, Refusal};

/// Deaths in company after which a lease is never in company again.
const COMPANY_MAX: u8 = 2;

/// Those who wait for the sacrificial worker, and those that it has and that are not committed.
#[derive(Debug, Default)]
pub(super) struct Suspects {
    /// In the order of their turns.
    turns: VecDeque<LeaseId>,
    /// The same ones, by since when they wait.
    since: BTreeSet<(Instant, LeaseId)>,
    trial: Trial,
}

/// What runs in the current sacrificial worker.
#[derive(Debug, Default)]
struct Trial {
    /// Lent, and neither committed nor released.
    uncommitted: BTreeSet<LeaseId>,
    /// The one that was lent last, as long as it keeps the next one waiting.
    last: Option<LeaseId>,
    /// It does so until it is committed or released.
    is_strict: bool,
    /// When it has survived its probation; none: not taken yet.
    survives_at: Option<Instant>,
}

/// What is held against a lease.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Suspicion {
    since: Option<Instant>,
    /// Its next turn is alone.
    is_strict: bool,
    /// Sacrificial workers that died under it and others.
    in_company: u8,
    /// Sacrificial workers that died under it alone.
    alone: u8,
}

/// How an uncommitted lease lost its worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Death {
    /// A worker in a slot.
    Ordinary,
    /// A sacrificial one, that had other uncommitted leases.
    InCompany,
    /// A sacrificial one, that had no other uncommitted lease.
    Alone,
}

impl Suspects {
    pub(super) fn len(&self) -> usize {
        self.turns.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.turns.is_empty()
    }

    /// The sacrificial worker is another one.
    pub(super) fn begin_anew(&mut self) {
        self.trial = Trial::default();
    }

    /// When the first of those who wait is given up. `absent_since`: since when no sacrificial worker is Ready,
    /// unless one is starting; only then `queue_timeout` counts.
    pub(super) fn next_late(
        &self,
        queue_timeout: Duration,
        absent_since: Option<Instant>,
    ) -> Option<Instant> {
        let (since, _) = self.since.first()?;
        let absent = absent_since.map(|absent| (*since).max(absent) + queue_timeout);
        absent.into_iter().chain([*since + SUSPECT_WAIT_MAX]).min()
    }

    /// When the next one's turn comes, unless something happens before.
    pub(super) fn next_turn(&self) -> Option<Instant> {
        let is_awaited = self.trial.last.is_some() && !self.trial.is_strict && !self.turns.is_empty();
        self.trial.survives_at.filter(|_| is_awaited)
    }

    fn add(&mut self, id: LeaseId, since: Instant, is_first: bool) {
        match is_first {
            true => self.turns.push_front(id),
            false => self.turns.push_back(id),
        }
        self.since.insert((since, id));
    }

    /// This one is committed, or has ended.
    pub(super) fn settle(&mut self, id: LeaseId) {
        self.trial.uncommitted.remove(&id);
        self.trial.last = self.trial.last.filter(|last| *last != id);
    }

    /// Each has the same share of the time that all together may take.
    fn probation(&self) -> Duration {
        let waiting = u32::try_from(self.turns.len()).unwrap_or(u32::MAX).max(1);
        (PROBATION_OF_ALL / waiting).clamp(PROBATION_MIN, PROBATION)
    }

    /// Whether the sacrificial worker may have one more, strictly alone or not.
    fn may_go(&self, is_strict: bool) -> bool {
        if is_strict { self.trial.uncommitted.is_empty() } else { self.trial.last.is_none() }
    }
}

impl Fleet {
    /// Lends suspects, as far as it is their turn.
    pub(super) fn place_suspects(&mut self, now: Instant) {
        self.settle_quarantine(now);
        while let (Some(id), Some(to)) = (self.suspects.turns.front().copied(), self.sacrificial()) {
            self.watch_trial(now, to);
            let is_strict = self.leases.suspicion(id).is_some_and(|suspicion| suspicion.is_strict);
            let has_credit = self.workers.get(&to).is_some_and(|worker| self.has_credit(worker));
            if !has_credit || !self.suspects.may_go(is_strict) {
                break;
            }
            self.stop_waiting(id);
            let trial = &mut self.suspects.trial;
            trial.uncommitted.insert(id);
            (trial.last, trial.is_strict, trial.survives_at) = (Some(id), is_strict, None);
            self.lend(now, id, to);
        }
    }

    /// The probation begins when the worker has taken the lease.
    fn watch_trial(&mut self, now: Instant, worker: WorkerId) {
        let probation = self.suspects.probation();
        let trial = &mut self.suspects.trial;
        let Some(last) = trial.last.filter(|_| !trial.is_strict) else { return };
        match trial.survives_at {
            Some(at) if at <= now => trial.last = None,
            Some(_) => {}
            None if self.leases.place(last) == Some(Place::Taken { by: worker }) => {
                trial.survives_at = Some(now + probation);
            }
            None => {}
        }
    }

    fn stop_waiting(&mut self, id: LeaseId) {
        match self.suspects.turns.front() == Some(&id) {
            true => drop(self.suspects.turns.pop_front()),
            false => self.suspects.turns.retain(|waiting| *waiting != id),
        }
        if let Some(since) = self.leases.suspicion(id).and_then(|suspicion| suspicion.since) {
            self.suspects.since.remove(&(since, id));
        }
    }

    /// Nobody has waited while the supervisor was away.
    pub(super) fn forgive_suspects(&mut self, now: Instant) {
        self.quarantine.forgive(now);
        self.suspects.since = self.suspects.turns.iter().map(|id| (now, *id)).collect();
        for id in &self.suspects.turns {
            if let Some(suspicion) = self.leases.suspicion_mut(*id) {
                suspicion.since = Some(now);
            }
        }
    }

    /// How the uncommitted leases of this dead worker lost it.
    pub(super) fn death_of(&self, dead: WorkerId, slot: SlotId) -> Death {
        if slot != SlotId::QUARANTINE {
            return Death::Ordinary;
        }
        let held = self.leases.held_by(dead);
        let uncommitted = held.into_iter().filter(|id| self.leases.is_uncommitted(*id)).count();
        if uncommitted == 1 { Death::Alone } else { Death::InCompany }
    }

    /// This uncommitted lease has lost its worker: it waits for the sacrificial one, or has had its tries.
    pub(super) fn suspect(&mut self, now: Instant, id: LeaseId, death: Death) {
        let tries = self.policy.redispatch_max;
        let Some(suspicion) = self.leases.suspicion_mut(id) else { return };
        match death {
            Death::Ordinary if tries == 0 => return self.refuse(id, Refusal::WorkerCrashed),
            Death::Ordinary => {}
            Death::InCompany => suspicion.in_company += 1,
            Death::Alone => suspicion.alone += 1,
        }
        suspicion.is_strict = death != Death::Ordinary;
        let is_convicted = death == Death::Alone && suspicion.alone >= tries;
        let since = *suspicion.since.get_or_insert(now);
        if is_convicted {
            return self.convict(id);
        }
        self.leases.set_waiting(id);
        self.suspects.add(id, since, death != Death::Ordinary);
    }

    /// Poison. Those that were in its company are believed once more.
    fn convict(&mut self, id: LeaseId) {
        self.actions.push_back(Action::Poison { lease: id });
        self.refuse(id, Refusal::WorkerCrashed);
        for waiting in &self.suspects.turns {
            if let Some(suspicion) = self.leases.suspicion_mut(*waiting) {
                suspicion.is_strict &= suspicion.in_company >= COMPANY_MAX || suspicion.alone > 0;
            }
        }
    }

    /// Those who have waited for too long get a 503.
    pub(super) fn expire_suspects(&mut self, now: Instant) {
        if self.is_adopting() {
            return;
        }
        let absent_since = self.quarantine.absent_since();
        while self.suspects.next_late(self.policy.queue_timeout, absent_since).is_some_and(|at| at <= now) {
            let Some((_, id)) = self.suspects.since.first().copied() else { break };
            self.stop_waiting(id);
            self.refuse(id, Refusal::NoWorker);
        }
    }

    pub(super) fn refuse_suspects(&mut self) {
        self.suspects.since.clear();
        for id in std::mem::take(&mut self.suspects.turns) {
            self.refuse(id, Refusal::ShuttingDown);
        }
    }
}
