//! The sacrificial worker: one process beside the slots, for suspects only. It is started when the first one
//! waits, and let go when it has had nothing to do for a while, is of an old generation, or is too large.
//!
//! Never: gets an ordinary handoff or an epitaph, counts as Ready, lives beside another one that takes suspects.

use std::time::Instant;

use handoff_shared::ids::{SlotId, WorkerId};
use handoff_shared::limits::QUARANTINE_IDLE;

use super::backoff::{Life, Respawns};
use super::workers::{Occupant, Stage};
use super::{Cause, Fleet};

/// The place beside the slots.
#[derive(Debug)]
pub(super) struct Quarantine {
    pub(super) occupant: Occupant,
    /// Processes that were started here.
    pub(super) starts: u64,
    early_deaths: u32,
    respawns: Respawns,
    /// Since when its worker is Ready and has nothing to do.
    idle_since: Option<Instant>,
    /// Since when suspects wait and no worker is Ready.
    absent_since: Option<Instant>,
    /// A worker is on its way: nobody's time runs.
    is_starting: bool,
}

impl Quarantine {
    pub(super) fn new(now: Instant, seed: u64) -> Self {
        Self {
            occupant: Occupant::Nobody,
            starts: 0,
            early_deaths: 0,
            respawns: Respawns::new(now, 1, !seed),
            idle_since: None,
            absent_since: None,
            is_starting: false,
        }
    }

    pub(super) fn current(&self) -> Option<WorkerId> {
        match self.occupant {
            Occupant::Worker(id) => Some(id),
            Occupant::Nobody | Occupant::Backoff { .. } => None,
        }
    }

    /// Since when suspects wait in vain; none: they do not, or a worker is on its way.
    pub(super) fn absent_since(&self) -> Option<Instant> {
        self.absent_since.filter(|_| !self.is_starting)
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        let until = match self.occupant {
            Occupant::Backoff { until, .. } => Some(until),
            Occupant::Nobody | Occupant::Worker(_) => None,
        };
        until.into_iter().chain(self.idle_since.map(|since| since + QUARANTINE_IDLE)).min()
    }

    pub(super) fn forgive(&mut self, now: Instant) {
        self.absent_since = self.absent_since.map(|_| now);
    }

    pub(super) fn vacate(&mut self) {
        self.occupant = Occupant::Nobody;
        self.idle_since = None;
    }
}

impl Fleet {
    /// The sacrificial worker, when it takes suspects.
    pub(super) fn sacrificial(&self) -> Option<WorkerId> {
        let id = self.quarantine.current()?;
        self.workers.get(&id).filter(|worker| worker.is_ready()).map(|_| id)
    }

    /// Sends the worker away that is not wanted any more, and starts one when suspects wait.
    pub(super) fn settle_quarantine(&mut self, now: Instant) {
        if self.stopping.is_some() || self.is_adopting() {
            return;
        }
        self.release_sacrificial(now);
        let is_wanted = !self.suspects.is_empty();
        match self.quarantine.occupant {
            Occupant::Nobody if is_wanted => self.start_sacrificial(now),
            Occupant::Backoff { until, .. } if until <= now && is_wanted => self.start_sacrificial(now),
            Occupant::Backoff { until, .. } if until <= now => self.quarantine.occupant = Occupant::Nobody,
            Occupant::Nobody | Occupant::Backoff { .. } | Occupant::Worker(_) => {}
        }
        let stage = self.quarantine.current().and_then(|id| self.workers.get(&id)).map(|worker| worker.stage);
        self.quarantine.is_starting = matches!(stage, Some(Stage::Starting { .. }));
        self.quarantine.absent_since = match stage {
            Some(Stage::Ready) => None,
            Some(Stage::Starting { .. } | Stage::Adopted { .. } | Stage::Draining { .. } | Stage::Dying)
            | None => self.quarantine.absent_since.or(Some(now)).filter(|_| is_wanted),
        };
    }

    fn start_sacrificial(&mut self, now: Instant) {
        let id = self.spawn_in(now, SlotId::QUARANTINE, self.generation, Cause::Suspects);
        self.quarantine.starts += 1;
        self.quarantine.occupant = Occupant::Worker(id);
        self.suspects.begin_anew();
    }

    /// Idle, of an old generation, or overage: it finishes what it has, and takes no more.
    fn release_sacrificial(&mut self, now: Instant) {
        let Some((id, worker)) = self.quarantine.current().and_then(|id| Some((id, self.workers.get(&id)?)))
        else {
            self.quarantine.idle_since = None;
            return;
        };
        let is_idle = worker.is_ready() && worker.load == 0 && self.suspects.is_empty();
        self.quarantine.idle_since = self.quarantine.idle_since.or(Some(now)).filter(|_| is_idle);
        let is_bored = self.quarantine.idle_since.is_some_and(|since| since + QUARANTINE_IDLE <= now);
        let is_old = !self.is_of_active_generation(Some(id)) && self.may_replace(Some(id), self.generation);
        let is_overage = worker.is_ready()
            && worker.is_overage(now, &self.policy)
            && !self.workers.values().any(|other| other.slot == SlotId::QUARANTINE && other.is_departing());
        if worker.stage != Stage::Dying && (is_bored || is_old || is_overage) {
            let cause = if is_old { Cause::Roll } else { Cause::Recycle };
            self.quarantine.vacate();
            self.depart(now, id, now + self.policy.drain_timeout, cause);
        }
    }

    /// The sacrificial worker has died, or drains by its own decision. Its deaths after Ready cost a suspect
    /// a try each, and so are bounded by the suspects; those before Ready are a crash loop.
    pub(super) fn sacrificial_left(&mut self, now: Instant, id: WorkerId, life: Life, cause: Cause) {
        if self.quarantine.current() != Some(id) {
            return;
        }
        let delay = match life {
            Life::NeverReady => {
                self.quarantine.early_deaths = self.quarantine.early_deaths.saturating_add(1);
                Some(self.quarantine.respawns.growing(self.quarantine.early_deaths))
            }
            Life::InVain | Life::Useful => {
                self.quarantine.early_deaths = 0;
                self.quarantine.respawns.spare(now)
            }
        };
        self.quarantine.occupant = match delay {
            Some(delay) => Occupant::Backoff { until: now + delay, cause },
            None => Occupant::Nobody,
        };
        self.quarantine.idle_since = None;
    }
}
