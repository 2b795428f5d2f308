//! The judge's rules for single actions: each is legal at the moment at which it is said.

use std::time::{Duration, Instant};

use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::limits::{START_TIMEOUT, TAKE_TIMEOUT};

use super::judge::{Judge, LeaseStage, Stage, Worker};
use crate::fleet::{Action, Cause, LeaseEnding, Refusal, RollResult};

/// Workers started in one slot within a second, whatever dies, beside the immediate respawns: every 80 ms one,
/// and a roll's or recycling's successors, which need a Ready worker each.
const SPAWNS_PER_SECOND_MAX: u16 = 20;
/// Immediate respawns of all slots together.
const fn respawns_max(slots: u16) -> u16 {
    3 * slots + 2
}

/// What kind of action it is, for the list of those that must be seen.
pub(super) fn kind(action: &Action) -> String {
    match action {
        Action::Spawn { cause, .. } => format!("Spawn {cause:?}"),
        Action::Kill { cause, .. } => format!("Kill {cause:?}"),
        Action::Resync { .. } => "Resync".to_owned(),
        Action::Adopted { .. } => "Adopted".to_owned(),
        Action::Lend { attempt, .. } => format!("Lend {attempt}"),
        Action::Refuse { refusal, .. } => format!("Refuse {refusal:?}"),
        Action::Poison { .. } => "Poison".to_owned(),
        Action::Close { ending: LeaseEnding::Released(_), .. } => "Close".to_owned(),
        Action::Close { ending: LeaseEnding::EpitaphLost, .. } => "EpitaphLost".to_owned(),
        Action::RollEnded { result, .. } => format!("Roll {result:?}"),
        Action::LendEpitaph { .. } => "LendEpitaph".to_owned(),
        Action::ForgetPayload { .. } => "ForgetPayload".to_owned(),
        Action::Drain { .. } => "Drain".to_owned(),
        Action::Load => "Load".to_owned(),
        Action::Exit => "Exit".to_owned(),
    }
}

impl Judge {
    pub(super) fn said(&mut self, now: Instant, action: &Action) {
        assert!(!self.exited, "nothing is said after Exit");
        match action {
            Action::Spawn { worker, slot, generation, cause } => {
                self.said_spawn(now, *worker, *slot, *generation, *cause);
            }
            Action::Resync { worker } => self.said_resync(*worker),
            Action::Adopted { generation } => self.said_adopted(now, *generation),
            Action::Lend { lease, worker, attempt } => self.said_lend(now, *lease, *worker, *attempt),
            Action::LendEpitaph { lease, worker, .. } => self.said_epitaph(now, *lease, *worker),
            Action::ForgetPayload { lease } => {
                let lease = &self.leases[lease];
                let rogue = lease.holder.is_none() && lease.witness == Some(true);
                assert!(
                    lease.stage == LeaseStage::Committed || rogue,
                    "the payload may be needed again: {lease:?}"
                );
            }
            Action::Poison { lease } => self.said_poison(*lease),
            Action::Refuse { lease, refusal } => self.said_refuse(now, *lease, *refusal),
            Action::Close { lease, ending } => self.said_close(*lease, *ending),
            Action::Drain { worker, remaining } => self.said_drain(now, *worker, *remaining),
            Action::Kill { worker, cause } => self.said_kill(now, *worker, *cause),
            Action::Load => {
                assert!(
                    self.stopping.is_none() && !self.loading && self.reload_wanted,
                    "nobody asked for it"
                );
                let unproven = self.rolling.is_some_and(|to| self.active != to);
                assert!(!unproven, "one roll at a time");
                assert!(!self.adopting && !self.leaving, "not now");
                self.loading = true;
                self.reload_wanted = false;
            }
            Action::RollEnded { generation, result } => self.said_roll_ended(*generation, *result),
            Action::Exit => {
                assert!(self.stopping.is_some(), "nobody said Stop");
                let is_over = self.workers.is_empty() && self.leases.is_empty();
                assert!(is_over || self.at_once, "Exit while something lives");
                self.exited = true;
            }
        }
    }

    /// Somebody waits, and there is nobody in a slot who could take him.
    fn is_deserted(&self) -> bool {
        let is_there = |worker: &Worker| match worker.stage {
            Stage::Starting { .. } | Stage::Adopted { .. } | Stage::Ready => {
                worker.slot != SlotId::QUARANTINE
            }
            Stage::Draining { .. } | Stage::Dying => false,
        };
        self.leases.values().any(|lease| lease.holder.is_none()) && !self.workers.values().any(is_there)
    }

    fn said_spawn(&mut self, now: Instant, id: WorkerId, slot: SlotId, generation: Generation, cause: Cause) {
        assert!(self.stopping.is_none(), "after Stop nothing is spawned");
        assert!(!self.adopting, "it is not known yet who is there");
        let may_start = !self.leaving || cause == Cause::Suspects || self.is_deserted();
        assert!(may_start, "a supervisor that leaves starts nobody who is not needed");
        if cause == Cause::Roll {
            self.assert_room_for_drain(slot, generation);
        }
        let is_first = self.rolling == Some(generation) && generation != self.active;
        let missing = self.workers.values().any(|worker| match worker.stage {
            Stage::Starting { .. } => worker.generation == generation && worker.slot != SlotId::QUARANTINE,
            Stage::Adopted { .. } | Stage::Ready | Stage::Draining { .. } | Stage::Dying => false,
        });
        if is_first {
            assert_eq!(cause, Cause::Roll);
            assert!(!missing, "one worker proves a generation");
        } else {
            assert_eq!(generation, self.active, "a slot gets the active generation");
            assert!(cause != Cause::Roll || !missing, "the roll goes on while a new worker is missing");
        }
        let beside = self.workers.values().filter(|worker| {
            worker.slot == slot && matches!(worker.stage, Stage::Starting { .. } | Stage::Ready)
        });
        assert!(beside.count() < 2, "a slot has one worker and one successor");
        if cause == Cause::Operator {
            assert_eq!(self.expected.replaced.take(), Some(slot), "nobody asked for it");
            assert!(self.rolling.is_none(), "a roll is running");
        }
        assert_eq!(slot == SlotId::QUARANTINE, cause == Cause::Suspects, "suspects need no slot");
        match cause {
            Cause::Suspects => self.assert_wanted(),
            Cause::Start
            | Cause::Crash
            | Cause::Hang
            | Cause::Protocol
            | Cause::StartTimeout
            | Cause::DrainTimeout
            | Cause::Roll
            | Cause::Recycle
            | Cause::Memory
            | Cause::Operator
            | Cause::Left
            | Cause::Stop => assert!(slot.0 < self.policy.slots, "{slot} is surplus"),
        }
        let slots = self.policies.values().map(|policy| policy.slots).max().unwrap_or(1);
        let most = usize::from(SPAWNS_PER_SECOND_MAX + respawns_max(slots));
        let spawns = self.spawns.entry(slot).or_default();
        spawns.push_back(now);
        spawns.retain(|at| now.duration_since(*at) < Duration::from_secs(1));
        assert!(spawns.len() <= most, "slot {slot}: {} spawns in a second", spawns.len());
        let worker = Worker {
            slot,
            generation,
            stage: Stage::Starting { deadline: now + START_TIMEOUT },
            beat_at: now,
            untaken: std::collections::VecDeque::new(),
            load: 0,
            replaced: false,
            is_foreign: false,
            is_heard: true,
        };
        assert!(self.workers.insert(id, worker).is_none(), "a worker id is used once");
    }

    fn said_lend(&mut self, now: Instant, id: LeaseId, to: WorkerId, attempt: u8) {
        let Some(lease) = self.leases.get_mut(&id) else { panic!("{id} has ended") };
        assert_ne!(lease.stage, LeaseStage::Committed, "bytes of {id} may be out");
        assert!(!lease.bytes_out, "bytes of {id} are out");
        assert!(!lease.epitaph, "{id} had its epitaph");
        assert!(lease.has_fd, "there is nobody to answer to");
        assert_eq!(lease.lends, attempt, "attempts are counted");
        lease.lends += 1;
        match attempt {
            0 => self.lend_to_best(now, id, to),
            _ => {
                self.said_lend_suspect(now, id, to);
                self.lend(now, id, to);
            }
        }
    }

    fn said_epitaph(&mut self, now: Instant, id: LeaseId, to: WorkerId) {
        let Some(lease) = self.leases.get_mut(&id) else { panic!("{id} has ended") };
        let may_be_out = lease.stage == LeaseStage::Committed || lease.witness == Some(true);
        assert!(may_be_out && lease.witness != Some(false), "no byte can be out: {lease:?}");
        assert!(lease.has_fd, "there is nothing to write to");
        assert!(!std::mem::replace(&mut lease.epitaph, true), "never a second epitaph");
        match self.stopping.is_some() || self.expected.abandon {
            true => {
                let worker = &self.workers[&to];
                assert!(self.may_write_epitaph(worker), "it would not read it: {worker:?}");
                self.lend(now, id, to);
            }
            false => self.lend_to_best(now, id, to),
        }
    }

    /// While stopping: a worker that has streams is still there for a while.
    fn may_write_epitaph(&self, worker: &Worker) -> bool {
        matches!(worker.stage, Stage::Draining { .. }) && worker.load > 0 && self.has_credit(worker)
    }

    fn lend_to_best(&mut self, now: Instant, id: LeaseId, to: WorkerId) {
        let best = self.candidates().min().map(|(_, _, worker)| worker);
        assert_eq!(best, Some(to), "the least loaded, then the least recently used");
        self.lend(now, id, to);
    }

    fn lend(&mut self, now: Instant, id: LeaseId, to: WorkerId) {
        let Some(worker) = self.workers.get_mut(&to) else { panic!("{to} is dead") };
        worker.load += 1;
        worker.untaken.push_back((id, now + TAKE_TIMEOUT));
        self.uses += 1;
        self.last_used.insert(worker.slot, self.uses);
        let Some(lease) = self.leases.get_mut(&id) else { return };
        assert_eq!(lease.holder, None, "never from a worker that is not confirmed dead");
        lease.holder = Some(to);
        lease.stage = LeaseStage::Sent;
    }

    fn said_refuse(&mut self, now: Instant, id: LeaseId, refusal: Refusal) {
        let Some(lease) = self.leases.remove(&id) else { panic!("{id} ends once") };
        let is_new = self.expected.received == Some(id);
        assert_eq!(lease.holder, None, "its worker may still answer");
        assert!(!lease.bytes_out && !lease.epitaph, "a second answer: {lease:?}");
        assert!(lease.stage != LeaseStage::Committed || lease.witness == Some(false), "{lease:?}");
        let may = match refusal {
            Refusal::Full => is_new && self.leases.len() >= self.policy.leases_max as usize,
            Refusal::NoWorker if is_new => {
                self.no_credit_since.is_some_and(|since| since + self.policy.queue_timeout <= now)
            }
            Refusal::NoWorker if lease.is_suspect() => self.expected.tick && self.is_late(now, &lease),
            Refusal::NoWorker => self.expected.tick && lease.deadline <= now,
            Refusal::ShuttingDown => self.stopping.is_some() || self.expected.abandon,
            Refusal::WorkerCrashed => lease.stage == LeaseStage::Committed || self.may_be_refused(id, &lease),
        };
        assert!(may, "{id}: {refusal:?} without a reason: {lease:?}");
    }

    fn said_close(&mut self, id: LeaseId, ending: LeaseEnding) {
        let Some(lease) = self.leases.remove(&id) else {
            // A word to an earlier supervisor.
            assert_eq!(self.expected.close.take().map(|(id, _)| id), Some(id), "{id} ends once");
            return;
        };
        match ending {
            LeaseEnding::Released(outcome) => {
                assert_eq!(self.expected.close.take(), Some((id, outcome)), "nobody released it");
                let holder = lease.holder.and_then(|id| self.workers.get_mut(&id));
                holder.expect("a live worker released it").load -= 1;
            }
            LeaseEnding::EpitaphLost => {
                assert_eq!(lease.holder, None, "its worker may still answer");
                let may_be_out = lease.stage == LeaseStage::Committed || lease.witness == Some(true);
                assert!(
                    may_be_out || lease.epitaph || !lease.has_fd,
                    "it could have been answered: {lease:?}"
                );
                let could = self.workers.values().any(|worker| self.may_write_epitaph(worker));
                let too_late = self.expected.abandon || (self.stopping.is_some() && !could);
                let nobody = lease.epitaph || !lease.has_fd || too_late || self.expected.tick;
                assert!(nobody, "it could have had its epitaph: {lease:?}");
            }
        }
    }

    fn said_drain(&mut self, now: Instant, id: WorkerId, remaining: Duration) {
        let is_inherited = self.expected.drains.remove(&id);
        let worker = &self.workers[&id];
        let deadline = now + remaining;
        let is_leaving = self.expected.leaving == Some(id);
        let has_successor = self.workers.iter().any(|(other, successor)| {
            let is_newer = (successor.generation, *other) > (worker.generation, id)
                // Nothing was known of a newer one that was adopted.
                || (successor.generation == self.active && worker.generation != self.active);
            is_newer && successor.slot == worker.slot && successor.stage == Stage::Ready
        });
        let is_surplus = worker.slot.0 >= self.policy.slots;
        let may = match worker.stage {
            Stage::Ready if worker.slot == SlotId::QUARANTINE => {
                self.stopping.is_some()
                    || is_leaving
                    || is_inherited
                    || self.may_leave_quarantine(now, worker)
            }
            Stage::Ready => {
                self.stopping.is_some() || is_leaving || has_successor || is_surplus || is_inherited
            }
            Stage::Draining { deadline: earlier } if is_inherited => deadline == earlier.max(now),
            Stage::Draining { deadline: earlier } => self.stopping.is_some() && deadline <= earlier.max(now),
            Stage::Adopted { .. } => self.stopping.is_some(),
            Stage::Starting { .. } | Stage::Dying => false,
        };
        assert!(may, "{id} is sent away without a reason: {worker:?}");
        let longest = self.policies.values().map(|policy| policy.drain_timeout).max();
        assert!(self.stopping.is_some() || is_inherited || Some(remaining) <= longest, "{remaining:?}");
        let replaced = !is_leaving && self.stopping.is_none() && !self.expected.adopted;
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.replaced |= replaced;
            let earlier = match worker.stage {
                Stage::Draining { deadline: earlier } => deadline.min(earlier),
                Stage::Adopted { .. } => return,
                Stage::Starting { .. } | Stage::Ready | Stage::Dying => deadline,
            };
            worker.stage = Stage::Draining { deadline: earlier };
        }
    }

    fn said_kill(&mut self, now: Instant, id: WorkerId, cause: Cause) {
        let worker = &self.workers[&id];
        assert_ne!(worker.stage, Stage::Dying, "killed once");
        let is_starting = matches!(worker.stage, Stage::Starting { .. });
        let may = match cause {
            Cause::Hang | Cause::StartTimeout | Cause::DrainTimeout => {
                self.expected.tick && self.overdue(now, worker) == Some(cause)
            }
            Cause::Protocol | Cause::Crash | Cause::Memory => self.expected.kill.take() == Some((id, cause)),
            Cause::Roll | Cause::Recycle => is_starting && self.was_ready.contains(&self.active),
            Cause::Stop => {
                let is_over = self.stopping.is_some() && (is_starting || self.at_once);
                is_over || (self.leaving && is_starting)
            }
            Cause::Start | Cause::Left | Cause::Operator | Cause::Suspects => false,
        };
        assert!(may, "{id} is killed without a reason ({cause:?}): {worker:?}");
        if let Some(worker) = self.workers.get_mut(&id) {
            worker.stage = Stage::Dying;
        }
    }

    fn said_roll_ended(&mut self, generation: Generation, result: RollResult) {
        let is_whole = || {
            let mut in_slots = self.workers.values().filter(|worker| worker.slot != SlotId::QUARANTINE);
            in_slots.all(|worker| match worker.stage {
                Stage::Starting { .. } | Stage::Ready => worker.generation == generation,
                Stage::Adopted { .. } => false,
                Stage::Draining { .. } | Stage::Dying => true,
            })
        };
        let may = match result {
            RollResult::Done => self.active == generation && is_whole(),
            RollResult::CannotStart => !self.was_ready.contains(&generation),
            RollResult::Superseded => self.expected.superseded.take() == Some(generation),
            RollResult::Stopped => self.stopping.is_some(),
        };
        assert!(may, "{generation}: {result:?} without a reason");
        if result != RollResult::Superseded {
            assert_eq!(self.rolling.take(), Some(generation), "a roll ends once");
        }
    }
}
