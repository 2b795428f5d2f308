//! The whole life of the fleet as a pure state machine. In: what happened, and when. Out: what to do.
//!
//! Never: performs anything, reads a clock, knows tokio, sockets or processes. The event loop performs, and
//! decides nothing: `handle(now, event)`, then `poll_action()` until there is none, then sleep until
//! `next_deadline()` and say [`Event::Tick`].
//!
//! Here: the events, the actions, and who handles what. `leases` places leases, `workers` follows the
//! processes, `roll` and `replace` replace them, `backoff` slows down the replacing, `adopt` takes over what is
//! there; `suspects` finds out which lease kills workers, with the help of the one process in `quarantine`.

mod adopt;
mod backoff;
mod leases;
mod quarantine;
mod replace;
mod report;
mod roll;
#[cfg(test)]
mod simulation;
mod suspects;
#[cfg(test)]
mod tests;
mod workers;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::message::{Format, Outcome};

use adopt::Adoption;
use backoff::Respawns;
use leases::Leases;
use quarantine::Quarantine;
use roll::Roll;
use suspects::Suspects;
use workers::{Slot, Worker};

pub(crate) use adopt::{HeldLease, HeldPage, HeldStage};
#[cfg(test)]
use replace::NotReplaced;
pub(crate) use report::{Outline, Report, WorkerReport};

/// What a configuration says about the fleet.
#[derive(Clone, Debug)]
pub(crate) struct Policy {
    pub(crate) slots: u16,
    /// Live leases at most.
    pub(crate) leases_max: u32,
    /// Leases that one worker may hold.
    pub(crate) leases_per_worker_max: u32,
    pub(crate) queue_timeout: Duration,
    /// Sacrificial workers that may die under one lease; 0: no second try.
    pub(crate) redispatch_max: u8,
    pub(crate) drain_timeout: Duration,
    pub(crate) age_max: Option<Duration>,
    pub(crate) streams_max: Option<u64>,
    /// Above it a worker is recycled.
    pub(crate) rss_max_bytes: Option<u64>,
    /// Above it a worker is killed.
    pub(crate) rss_hard_max_bytes: Option<u64>,
}

/// What happened.
#[derive(Clone, Debug)]
pub(crate) enum Event {
    /// Begin: fill the slots.
    Start,
    /// Begin with processes that an earlier supervisor has started. `known`: generations whose binary and
    /// configuration we have.
    Adopt { workers: Vec<WorkerId>, known: BTreeSet<Generation> },
    /// A page of what an adopted worker holds; the event loop keeps the fds and payloads of its leases.
    Held { worker: WorkerId, page: HeldPage },
    /// A successor takes our place: get everything out of our hands.
    Leave,
    /// It does not.
    Stay,
    /// It does, and what is queued cannot wait for it.
    Abandon,
    /// A handoff has come in; the event loop keeps its fd and payload under this id.
    Received { lease: LeaseId },
    /// The budget for fds is spent: this lease's dup is gone.
    FdDropped { lease: LeaseId },
    /// The worker is configured, and speaks our protocol.
    Ready { worker: WorkerId },
    /// The worker owns the fds of these leases.
    Taken { worker: WorkerId, leases: Vec<LeaseId> },
    /// Bytes may be out.
    Committed { worker: WorkerId, lease: LeaseId, format: Format },
    /// The session has ended.
    Released { worker: WorkerId, lease: LeaseId, outcome: Outcome },
    /// A snapshot came.
    Beat { worker: WorkerId, rss_bytes: u64, draining: bool },
    /// The worker said something that it may not say.
    Misbehaved { worker: WorkerId },
    /// The worker's channel has ended.
    Closed { worker: WorkerId },
    /// The process is confirmed dead (or was never born), and its channel is read to the end.
    Dead { worker: WorkerId, exit: Exit, written: BTreeMap<LeaseId, bool> },
    /// The operator wants a new generation.
    Reload,
    /// The new generation's configuration is valid.
    Loaded { generation: Generation, policy: Box<Policy> },
    /// It is not; the old generation stays.
    LoadRefused,
    /// The operator wants another worker in this slot.
    Replace { slot: SlotId },
    /// Take no more; workers end their streams by the deadline.
    Stop { deadline: Instant },
    /// End at once.
    StopNow,
    /// We were away (stopped, starved) until now: nobody is late.
    Away,
    /// Time has passed; all channels have been read.
    Tick,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Status 0.
    Clean,
    /// Any other status, a signal, or no process at all.
    Crashed,
}

/// What to do.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Action {
    /// Start a worker process.
    Spawn { worker: WorkerId, slot: SlotId, generation: Generation, cause: Cause },
    /// Ask the worker what it holds.
    Resync { worker: WorkerId },
    /// Everybody who was there is known. New workers are of this generation from here on; where nothing is known of
    /// it, it is of what is on disk.
    Adopted { generation: Generation },
    /// Send the handoff.
    Lend { lease: LeaseId, worker: WorkerId, attempt: u8 },
    /// Send the fd for the last event of a dead worker's stream.
    LendEpitaph { lease: LeaseId, worker: WorkerId, format: Format },
    /// The payload is not needed any more.
    ForgetPayload { lease: LeaseId },
    /// This lease has killed its workers. `Refuse` follows.
    Poison { lease: LeaseId },
    /// Write the constant answer, and forget the lease.
    Refuse { lease: LeaseId, refusal: Refusal },
    /// Drop the dup, and forget the lease.
    Close { lease: LeaseId, ending: LeaseEnding },
    /// Tell the worker to take no more.
    Drain { worker: WorkerId, remaining: Duration },
    /// SIGKILL. `Dead` follows when it is confirmed.
    Kill { worker: WorkerId, cause: Cause },
    /// Read and check the configuration and the worker's binary: `Loaded` or `LoadRefused` follows.
    Load,
    /// A roll has ended.
    RollEnded { generation: Generation, result: RollResult },
    /// Everything is over.
    Exit,
}

/// Why a worker is started, or ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Cause {
    /// The first worker of a slot.
    Start,
    /// The worker before died by itself.
    Crash,
    /// No beat, or a handoff that was not taken.
    Hang,
    /// It broke the protocol.
    Protocol,
    /// Not ready in time.
    StartTimeout,
    /// Not gone in time.
    DrainTimeout,
    /// A new generation.
    Roll,
    /// Age, number of streams, memory; a sacrificial worker without work.
    Recycle,
    /// An operator wants another worker.
    Operator,
    /// More memory than a worker may ever have.
    Memory,
    /// Suspects wait for a sacrificial worker.
    Suspects,
    /// It drains by its own decision (SIGTERM from outside).
    Left,
    /// The supervisor ends.
    Stop,
}

/// The constant answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// 503: `max_connections` live leases.
    Full,
    /// 503: no worker had a free place for `queue_timeout`.
    NoWorker,
    /// 503: the supervisor ends.
    ShuttingDown,
    /// 502: its worker died, as often as we try.
    WorkerCrashed,
}

/// How a lease ended that got no constant answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeaseEnding {
    /// By its worker.
    Released(Outcome),
    /// Its worker died after it had committed, and nobody could write the last event.
    EpitaphLost,
}

/// How a roll ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RollResult {
    /// Every slot has the new generation.
    Done,
    /// No worker of the new generation could start; the old one stays.
    CannotStart,
    /// A newer generation takes its place.
    Superseded,
    /// The supervisor stops.
    Stopped,
}

/// What the listener may do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Intake {
    /// Accept.
    Open,
    /// Leave handoffs in the kernel's backlog.
    Hold,
    /// Accept at a bounded rate; each is refused.
    Shed,
    /// Accept nothing any more.
    Closed,
}

/// The state machine.
#[derive(Debug)]
pub(crate) struct Fleet {
    policy: Policy,
    slots: Vec<Slot>,
    /// Every process that is not confirmed dead: current, successors and departing.
    workers: BTreeMap<WorkerId, Worker>,
    leases: Leases,
    suspects: Suspects,
    quarantine: Quarantine,
    /// What new workers are of.
    generation: Generation,
    roll: Option<Roll>,
    reload_pending: bool,
    /// A configuration is being read.
    loading: bool,
    /// When the last one was.
    loaded_at: Option<Instant>,
    born_at: Instant,
    stopping: Option<Instant>,
    exited: bool,
    adoption: Option<Adoption>,
    /// A successor is about to take our place.
    leaving: bool,
    /// Since when no worker has had a free place.
    no_credit_since: Option<Instant>,
    respawns: Respawns,
    next_worker: WorkerId,
    actions: VecDeque<Action>,
}

impl Fleet {
    /// A fleet without workers. `seed` spreads the back-off delays.
    pub(crate) fn new(now: Instant, policy: Policy, seed: u64) -> Self {
        let slots = (0..policy.slots).map(|slot| Slot::new(SlotId(slot))).collect();
        Self {
            respawns: Respawns::new(now, policy.slots, seed),
            policy,
            slots,
            workers: BTreeMap::new(),
            leases: Leases::default(),
            suspects: Suspects::default(),
            quarantine: Quarantine::new(now, seed),
            generation: Generation::FIRST,
            roll: None,
            reload_pending: false,
            loading: false,
            loaded_at: None,
            born_at: now,
            stopping: None,
            exited: false,
            adoption: None,
            leaving: false,
            no_credit_since: Some(now),
            next_worker: WorkerId(0),
            actions: VecDeque::new(),
        }
    }

    /// Takes in one event. What follows from it is fetched by [`Self::poll_action`].
    pub(crate) fn handle(&mut self, now: Instant, event: Event) {
        if self.exited {
            return;
        }
        match event {
            Event::Start => self.fill_slots(now),
            Event::Adopt { workers, known } => self.adopt(now, workers, known),
            Event::Held { worker, page } => self.held(now, worker, &page),
            Event::Leave => self.leave_everything(),
            Event::Stay => self.stay(now),
            Event::Abandon => self.refuse_queue(now),
            Event::Received { lease } => self.receive(now, lease),
            Event::FdDropped { lease } => self.drop_fd(lease),
            Event::Ready { worker } => self.worker_ready(now, worker),
            Event::Taken { worker, leases } => self.take(worker, &leases),
            Event::Committed { worker, lease, format } => self.commit(worker, lease, format),
            Event::Released { worker, lease, outcome } => self.release(worker, lease, outcome),
            Event::Beat { worker, rss_bytes, draining } => self.beat(now, worker, rss_bytes, draining),
            Event::Misbehaved { worker } => self.kill(worker, Cause::Protocol),
            Event::Closed { worker } => self.closed(worker),
            Event::Dead { worker, exit, written } => self.bury(now, worker, exit, &written),
            Event::Reload => self.reload(now),
            Event::Loaded { generation, policy } => self.start_roll(now, generation, *policy),
            Event::LoadRefused => self.refuse_roll(now),
            Event::Replace { slot } => self.replace_worker(now, slot),
            Event::Stop { deadline } => self.stop(now, deadline),
            Event::StopNow => self.stop_now(now),
            Event::Away => self.forgive(now),
            Event::Tick => self.tick(now),
        }
        self.place(now);
        self.place_suspects(now);
        self.finish_stop();
    }

    /// The next thing to do.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// When [`Event::Tick`] is due, unless something happens before.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let workers = self.workers.values().filter_map(Worker::next_deadline);
        let slots = self.slots.iter().filter_map(Slot::next_deadline);
        let queue = self.leases.next_deadline().filter(|_| !self.is_adopting());
        let suspects = self.suspects.next_late(self.policy.queue_timeout, self.quarantine.absent_since());
        let suspects = suspects.filter(|_| !self.is_adopting());
        let turn = self.sacrificial().and_then(|_| self.suspects.next_turn());
        let quarantine = suspects.into_iter().chain(turn).chain(self.quarantine.next_deadline());
        let others = queue.into_iter().chain(self.reload_at());
        workers.chain(slots).chain(quarantine).chain(others).min()
    }

    /// Nobody more can be taken in until a worker says something.
    pub(crate) fn is_short(&self) -> bool {
        self.no_credit_since.is_some() || self.is_full()
    }

    /// Somebody waits for what a worker says next: for a place, for a further worker, for a suspect's turn, for the end.
    pub(crate) fn awaits_words(&self) -> bool {
        self.no_credit_since.is_some()
            || self.workers.values().any(Worker::is_starting)
            || !self.suspects.is_empty()
            || self.is_adopting()
            || self.leaving
            || self.stopping.is_some()
    }

    /// What the listener may do now.
    pub(crate) fn intake(&self, now: Instant) -> Intake {
        if self.stopping.is_some() {
            return Intake::Closed;
        }
        if self.is_adopting() || self.leaving {
            return Intake::Hold;
        }
        match self.no_credit_since {
            _ if self.is_full() => Intake::Open,
            None => Intake::Open,
            Some(since) if now.duration_since(since) >= self.policy.queue_timeout => Intake::Shed,
            Some(_) => Intake::Hold,
        }
    }

    /// When [`Self::intake`] turns from `Hold` to `Shed`.
    pub(crate) fn shed_at(&self) -> Option<Instant> {
        let is_held = self.stopping.is_some() || self.is_adopting() || self.leaving;
        let since = self.no_credit_since.filter(|_| !is_held);
        since.map(|since| since + self.policy.queue_timeout)
    }

    fn tick(&mut self, now: Instant) {
        self.expire_queue(now);
        self.expire_workers(now);
        self.expire_backoffs(now);
        self.advance_roll(now);
        self.start_pending_reload(now);
        self.recycle(now);
        self.settle_quarantine(now);
        self.expire_suspects(now);
    }

    /// Nobody is late when it was us who was away.
    fn forgive(&mut self, now: Instant) {
        for worker in self.workers.values_mut() {
            worker.forgive(now);
        }
        self.leases.forgive(now + self.policy.queue_timeout);
        self.forgive_suspects(now);
        self.no_credit_since = self.no_credit_since.map(|_| now);
    }

    fn stop(&mut self, now: Instant, deadline: Instant) {
        if self.stopping.is_some() {
            return;
        }
        self.stopping = Some(deadline);
        if let Some(roll) = self.roll.take() {
            self.actions.push_back(Action::RollEnded { generation: roll.to, result: RollResult::Stopped });
        }
        self.reload_pending = false;
        for slot in &mut self.slots {
            slot.vacate();
        }
        self.quarantine.vacate();
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker in workers {
            self.depart(now, worker, deadline, Cause::Stop);
        }
        self.refuse_queue(now);
    }

    fn stop_now(&mut self, now: Instant) {
        self.stop(now, now);
        let workers: Vec<WorkerId> = self.workers.keys().copied().collect();
        for worker in workers {
            self.kill(worker, Cause::Stop);
        }
        self.exited = true;
        self.actions.push_back(Action::Exit);
    }

    fn finish_stop(&mut self) {
        if self.stopping.is_some() && !self.exited && self.workers.is_empty() && self.leases.is_empty() {
            self.exited = true;
            self.actions.push_back(Action::Exit);
        }
    }
}
