//! Leases: each is queued, or held by exactly one worker, and ends exactly once.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use handoff_shared::ids::{LeaseId, WorkerId};
use handoff_shared::limits::{CREDITS_PER_WORKER, TAKE_TIMEOUT};
use handoff_shared::message::{Format, Outcome};

use super::suspects::{Death, Suspicion};
use super::workers::{Slot, Stage, Worker};
use super::{Action, Cause, Fleet, HeldLease, HeldStage, LeaseEnding, Refusal};

/// Workers that one lease is given to, its epitaph included, whatever dies.
const LENDS_MAX: u8 = 16;

/// All live leases, and the queue of those that no process holds.
#[derive(Debug, Default)]
pub(super) struct Leases {
    live: BTreeMap<LeaseId, Lease>,
    /// Whose deadline comes first is served first.
    queue: BTreeSet<(Instant, LeaseId)>,
}

/// As small as it can be: there may be a hundred thousand, and nearly all are beyond suspicion.
#[derive(Debug)]
struct Lease {
    place: Place,
    work: Work,
    /// How many workers it was given to.
    attempts: u8,
    /// We still have a dup of the client's fd.
    has_fd: bool,
    /// None: nothing is held against it.
    suspicion: Option<Box<Suspicion>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nobody holds it. Its deadline runs only here.
    Queued,
    /// Sent to a worker that has not said that it has it.
    Sent { to: WorkerId },
    /// Owned by a worker; no byte can be out.
    Taken { by: WorkerId },
    /// Owned by a worker; bytes may be out.
    Committed { by: WorkerId, format: Format },
}

/// What is to be done for the client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Work {
    Serve,
    Epitaph(Format),
}

impl Leases {
    pub(super) fn len(&self) -> usize {
        self.live.len()
    }

    /// Waiting for any worker; suspects are not among them.
    pub(super) fn queued(&self) -> usize {
        self.queue.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.queue.first().map(|(deadline, _)| *deadline)
    }

    pub(super) fn forgive(&mut self, deadline: Instant) {
        for (_, id) in std::mem::take(&mut self.queue) {
            self.enqueue(id, deadline);
        }
    }

    fn enqueue(&mut self, id: LeaseId, deadline: Instant) {
        if let Some(lease) = self.live.get_mut(&id) {
            lease.place = Place::Queued;
            self.queue.insert((deadline, id));
        }
    }

    pub(super) fn place(&self, id: LeaseId) -> Option<Place> {
        self.live.get(&id).map(|lease| lease.place)
    }

    /// Sent or taken, to be served: if its worker dies it is a suspect.
    pub(super) fn is_uncommitted(&self, id: LeaseId) -> bool {
        self.live.get(&id).is_some_and(|lease| match lease.place {
            Place::Sent { .. } | Place::Taken { .. } => lease.work == Work::Serve,
            Place::Queued | Place::Committed { .. } => false,
        })
    }

    /// None: nothing is held against it.
    pub(super) fn suspicion(&self, id: LeaseId) -> Option<&Suspicion> {
        self.live.get(&id)?.suspicion.as_deref()
    }

    pub(super) fn suspicion_mut(&mut self, id: LeaseId) -> Option<&mut Suspicion> {
        self.live.get_mut(&id).map(|lease| &mut **lease.suspicion.get_or_insert_default())
    }

    /// Nobody holds it; it waits among the suspects.
    pub(super) fn set_waiting(&mut self, id: LeaseId) {
        if let Some(lease) = self.live.get_mut(&id) {
            lease.place = Place::Queued;
        }
    }

    pub(super) fn held_by(&self, worker: WorkerId) -> Vec<LeaseId> {
        self.live
            .iter()
            .filter(|(_, lease)| lease.place.holder() == Some(worker))
            .map(|(id, _)| *id)
            .collect()
    }

    /// A lease that an adopted worker holds. False: somebody else has it.
    pub(super) fn readmit(&mut self, by: WorkerId, held: &HeldLease) -> bool {
        let (place, work) = match held.stage {
            HeldStage::Taken => (Place::Taken { by }, Work::Serve),
            HeldStage::Committed(format) => (Place::Committed { by, format }, Work::Serve),
            HeldStage::Epitaph => (Place::Taken { by }, Work::Epitaph(Format::default())),
        };
        let attempts = held.attempt.saturating_add(1);
        let lease = Lease { place, work, attempts, has_fd: held.has_fd, suspicion: None };
        match self.live.entry(held.lease) {
            Entry::Vacant(vacant) => {
                vacant.insert(lease);
                true
            }
            Entry::Occupied(_) => false,
        }
    }

    /// For the simulator: who holds what.
    #[cfg(test)]
    pub(super) fn holders(&self) -> impl Iterator<Item = (LeaseId, Option<WorkerId>)> {
        self.live.iter().map(|(id, lease)| (*id, lease.place.holder()))
    }
}

impl Place {
    fn holder(self) -> Option<WorkerId> {
        match self {
            Self::Queued => None,
            Self::Sent { to } => Some(to),
            Self::Taken { by } | Self::Committed { by, .. } => Some(by),
        }
    }
}

impl Fleet {
    /// The leases that this worker holds, or was sent.
    pub(crate) fn held_by(&self, worker: WorkerId) -> Vec<LeaseId> {
        self.leases.held_by(worker)
    }

    /// Who holds this lease, or was sent it; none: nobody, or there is no such lease.
    pub(crate) fn holder(&self, lease: LeaseId) -> Option<WorkerId> {
        self.leases.live.get(&lease)?.place.holder()
    }

    pub(super) fn is_full(&self) -> bool {
        self.leases.len() >= self.policy.leases_max as usize
    }

    pub(super) fn receive(&mut self, now: Instant, lease: LeaseId) {
        let shed =
            self.no_credit_since.is_some_and(|since| now.duration_since(since) >= self.policy.queue_timeout);
        let refusal = match () {
            () if self.stopping.is_some() => Some(Refusal::ShuttingDown),
            () if self.is_full() => Some(Refusal::Full),
            () if shed => Some(Refusal::NoWorker),
            () => None,
        };
        if let Some(refusal) = refusal {
            self.actions.push_back(Action::Refuse { lease, refusal });
            return;
        }
        let fresh =
            Lease { place: Place::Queued, work: Work::Serve, attempts: 0, has_fd: true, suspicion: None };
        let known = self.leases.live.insert(lease, fresh);
        assert!(known.is_none(), "a lease id is used once");
        self.leases.enqueue(lease, now + self.policy.queue_timeout);
    }

    /// Our dup of the client's fd is gone. Who holds the lease has its own; an epitaph that still waits has
    /// nothing left to be written to.
    pub(super) fn drop_fd(&mut self, id: LeaseId) {
        let Some(lease) = self.leases.live.get_mut(&id) else { return };
        lease.has_fd = false;
        match (lease.place, lease.work) {
            (Place::Queued, Work::Epitaph(_)) => {
                self.leases.queue.retain(|(_, queued)| *queued != id);
                self.lose(id);
            }
            (Place::Queued | Place::Sent { .. } | Place::Taken { .. } | Place::Committed { .. }, _) => {}
        }
    }

    /// Lends what is queued, as far as there are free places.
    pub(super) fn place(&mut self, now: Instant) {
        while !self.leases.queue.is_empty() {
            let Some(worker) = self.least_loaded() else { break };
            let Some((_, lease)) = self.leases.queue.pop_first() else { break };
            self.lend(now, lease, worker);
        }
        match self.leases.queue.is_empty() && self.candidates().next().is_some() {
            true => self.no_credit_since = None,
            false => self.no_credit_since = Some(self.no_credit_since.unwrap_or(now)),
        }
    }

    /// The Ready worker with the fewest leases that may have another one; among equals, the one whose slot was
    /// used the longest time ago.
    fn least_loaded(&self) -> Option<WorkerId> {
        let candidates = self.candidates().map(|(id, worker, slot)| (worker.load, slot.last_used, id));
        candidates.min().map(|(_, _, id)| id)
    }

    /// Ready workers that may have another lease.
    fn candidates(&self) -> impl Iterator<Item = (WorkerId, &Worker, &Slot)> {
        self.slots.iter().filter_map(|slot| {
            let id = slot.current()?;
            let worker = self.workers.get(&id)?;
            (worker.is_ready() && self.has_credit(worker)).then_some((id, worker, slot))
        })
    }

    /// The worker may be lent one more.
    pub(super) fn has_credit(&self, worker: &Worker) -> bool {
        worker.untaken.len() < CREDITS_PER_WORKER as usize && worker.load < self.policy.leases_per_worker_max
    }

    pub(super) fn lend(&mut self, now: Instant, id: LeaseId, to: WorkerId) {
        let (Some(lease), Some(worker)) = (self.leases.live.get_mut(&id), self.workers.get_mut(&to)) else {
            return;
        };
        worker.load += 1;
        worker.lent += 1;
        worker.untaken.push_back((id, now + TAKE_TIMEOUT));
        let slot = worker.slot;
        lease.place = Place::Sent { to };
        self.actions.push_back(match lease.work {
            Work::Serve => Action::Lend { lease: id, worker: to, attempt: lease.attempts },
            Work::Epitaph(format) => Action::LendEpitaph { lease: id, worker: to, format },
        });
        lease.attempts = lease.attempts.saturating_add(1);
        self.mark_used(slot);
    }

    pub(super) fn take(&mut self, by: WorkerId, leases: &[LeaseId]) {
        if self.speaks_of_the_past(by) {
            return;
        }
        for id in leases {
            let Some(worker) = self.workers.get_mut(&by) else { return };
            // Handoffs are taken in the order in which they were sent.
            let in_order = worker.untaken.front().is_some_and(|(sent, _)| sent == id);
            match self.leases.live.get_mut(id) {
                Some(lease) if lease.place == (Place::Sent { to: by }) => {
                    lease.place = Place::Taken { by };
                    if in_order {
                        worker.untaken.pop_front();
                    } else {
                        worker.untaken.retain(|(sent, _)| sent != id);
                        self.kill(by, Cause::Protocol);
                    }
                }
                Some(_) | None => self.kill(by, Cause::Protocol),
            }
        }
    }

    /// Who holds a lease is believed even out of turn, and killed for it: once bytes may be out, nothing may
    /// make them unsaid.
    pub(super) fn commit(&mut self, by: WorkerId, id: LeaseId, format: Format) {
        if self.speaks_of_the_past(by) {
            return;
        }
        let lease = self.leases.live.get_mut(&id).filter(|lease| lease.place.holder() == Some(by));
        let in_turn = match lease {
            Some(lease) if lease.work == Work::Serve => {
                let old = std::mem::replace(&mut lease.place, Place::Committed { by, format });
                self.actions.push_back(Action::ForgetPayload { lease: id });
                self.has_worked(by, id);
                old == Place::Taken { by }
            }
            Some(_) | None => false,
        };
        if !in_turn {
            self.kill(by, Cause::Protocol);
        }
    }

    /// As with [`Self::commit`].
    pub(super) fn release(&mut self, by: WorkerId, id: LeaseId, outcome: Outcome) {
        if self.speaks_of_the_past(by) {
            if self.leases.live.contains_key(&id) {
                // Somebody else has just said that it holds it.
                return self.kill(by, Cause::Protocol);
            }
            // An earlier supervisor's lease has ended: nobody else counts it.
            self.actions.push_back(Action::Close { lease: id, ending: LeaseEnding::Released(outcome) });
            return;
        }
        let place = match self.leases.live.entry(id) {
            Entry::Occupied(lease) if lease.get().place.holder() == Some(by) => Some(lease.remove().place),
            Entry::Occupied(_) | Entry::Vacant(_) => None,
        };
        if place.is_some() {
            if let Some(worker) = self.workers.get_mut(&by) {
                worker.load -= 1;
            }
            self.has_worked(by, id);
            self.actions.push_back(Action::Close { lease: id, ending: LeaseEnding::Released(outcome) });
        }
        if place.is_none_or(|place| place == Place::Sent { to: by }) {
            self.kill(by, Cause::Protocol);
        }
    }

    /// The worker has committed or released a lease.
    fn has_worked(&mut self, by: WorkerId, id: LeaseId) {
        self.suspects.settle(id);
        if let Some(worker) = self.workers.get_mut(&by) {
            worker.has_worked = true;
        }
    }

    /// What a dead worker held is suspect, becomes an epitaph, or ends. `written` tells, for the leases that
    /// have a witness, whether any byte went out.
    pub(super) fn recover(
        &mut self,
        now: Instant,
        dead: WorkerId,
        death: Death,
        written: &BTreeMap<LeaseId, bool>,
    ) {
        let deadline = now + self.policy.queue_timeout;
        for id in self.leases.held_by(dead) {
            match self.verdict(id, written.get(&id).copied()) {
                Verdict::Suspect => self.suspect(now, id, death),
                Verdict::Epitaph(format) => {
                    if let Some(lease) = self.leases.live.get_mut(&id) {
                        lease.work = Work::Epitaph(format);
                    }
                    self.actions.push_back(Action::ForgetPayload { lease: id });
                    self.leases.enqueue(id, deadline);
                }
                Verdict::Refuse => self.refuse(id, Refusal::WorkerCrashed),
                Verdict::Close => self.lose(id),
            }
        }
        if self.stopping.is_some() {
            self.refuse_queue(now);
        }
    }

    fn verdict(&self, id: LeaseId, written: Option<bool>) -> Verdict {
        let Some(lease) = self.leases.live.get(&id) else { return Verdict::Close };
        let committed = match lease.place {
            Place::Queued | Place::Sent { .. } | Place::Taken { .. } => None,
            Place::Committed { format, .. } => Some(format),
        };
        match (lease.work, committed, written) {
            // Its worker died too, and the kernel saw no byte of it: nothing has followed the stream yet.
            (Work::Epitaph(format), _, Some(false)) if lease.has_fd && lease.attempts < LENDS_MAX => {
                Verdict::Epitaph(format)
            }
            (Work::Epitaph(_), _, _) => Verdict::Close,
            // Announced, but the kernel never saw a byte. The payload is gone: a whole 502 is the best answer.
            (Work::Serve, Some(_), Some(false)) if lease.has_fd => Verdict::Refuse,
            (Work::Serve, Some(format), _) if lease.has_fd => Verdict::Epitaph(format),
            (Work::Serve, Some(_), _) => Verdict::Close,
            // Bytes that nobody announced: whoever wrote them, a second answer must not follow them.
            (Work::Serve, None, Some(true)) => Verdict::Epitaph(Format::default()),
            // Its fd did not come along when it was adopted: the client cannot be reached any more.
            (Work::Serve, None, _) if !lease.has_fd => Verdict::Close,
            (Work::Serve, None, _) if lease.attempts >= LENDS_MAX => Verdict::Refuse,
            (Work::Serve, None, _) => Verdict::Suspect,
        }
    }

    pub(super) fn expire_queue(&mut self, now: Instant) {
        if self.is_adopting() {
            return;
        }
        while let Some((deadline, id)) = self.leases.queue.pop_first() {
            if now < deadline {
                self.leases.queue.insert((deadline, id));
                break;
            }
            self.give_up(id, Refusal::NoWorker);
        }
    }

    /// After Stop nothing waits. A draining worker that still has streams may write an epitaph: who has none
    /// ends at once, and would not read it. When we are gone ourselves in a moment, nothing can be sent any more.
    pub(super) fn refuse_queue(&mut self, now: Instant) {
        self.refuse_suspects();
        let can_send = self.stopping.is_some();
        for (_, id) in std::mem::take(&mut self.leases.queue) {
            let is_epitaph = self.leases.live.get(&id).is_some_and(|lease| lease.work != Work::Serve);
            match self.busiest_draining().filter(|_| can_send && is_epitaph) {
                Some(worker) => self.lend(now, id, worker),
                None => self.give_up(id, Refusal::ShuttingDown),
            }
        }
    }

    fn busiest_draining(&self) -> Option<WorkerId> {
        let draining = self.workers.iter().filter(|(_, worker)| match worker.stage {
            Stage::Draining { .. } => worker.load > 0 && self.has_credit(worker),
            Stage::Starting { .. } | Stage::Adopted { .. } | Stage::Ready | Stage::Dying => false,
        });
        draining.max_by_key(|(_, worker)| worker.load).map(|(id, _)| *id)
    }

    /// Ends a queued lease.
    fn give_up(&mut self, id: LeaseId, refusal: Refusal) {
        match self.leases.live.get(&id).map(|lease| lease.work) {
            Some(Work::Serve) => self.refuse(id, refusal),
            Some(Work::Epitaph(_)) => self.lose(id),
            None => {}
        }
    }

    pub(super) fn refuse(&mut self, lease: LeaseId, refusal: Refusal) {
        self.leases.live.remove(&lease);
        self.actions.push_back(Action::Refuse { lease, refusal });
    }

    fn lose(&mut self, lease: LeaseId) {
        self.leases.live.remove(&lease);
        self.actions.push_back(Action::Close { lease, ending: LeaseEnding::EpitaphLost });
    }
}

enum Verdict {
    Suspect,
    Epitaph(Format),
    Refuse,
    Close,
}
