//! The fleet's main stories, one promise each: of adoption, of leases, of processes, of rolls.

mod adopt;
mod leases;
mod processes;
mod rolls;
mod suspects;

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::limits::{
    ADOPT_TIMEOUT, BEAT_TIMEOUT, CREDITS_PER_WORKER, DRAIN_GRACE, PROBATION, QUARANTINE_IDLE,
    RECYCLE_AGE_MIN, RELOAD_INTERVAL, SLOTS_MAX, START_TIMEOUT, SUSPECT_WAIT_MAX, TAKE_TIMEOUT,
};
use handoff_shared::message::{Format, Outcome};

use super::{
    Action, Cause, Event, Exit, Fleet, HeldLease, HeldPage, HeldStage, Intake, LeaseEnding, NotReplaced,
    Policy, Refusal, RollResult,
};

const SECOND: Duration = Duration::from_secs(1);

/// A fleet with a clock, and everything that it said and nobody has looked at.
struct Stage {
    fleet: Fleet,
    now: Instant,
    said: VecDeque<Action>,
    next_lease: LeaseId,
}

impl Stage {
    fn new(policy: Policy) -> Self {
        let now = Instant::now();
        let fleet = Fleet::new(now, policy, 7);
        let mut stage = Self { fleet, now, said: VecDeque::new(), next_lease: LeaseId::first(1) };
        stage.tell(Event::Start);
        stage
    }

    /// All its first workers are Ready, and a second has passed.
    fn ready(policy: Policy) -> Self {
        let mut stage = Self::new(policy);
        for id in stage.spawned() {
            stage.tell(Event::Ready { worker: id });
        }
        stage.pass(SECOND);
        stage
    }

    fn tell(&mut self, event: Event) {
        self.fleet.handle(self.now, event);
        while let Some(action) = self.fleet.poll_action() {
            self.said.push_back(action);
        }
    }

    /// Time passes, and everybody is well: beats come, deadlines are kept.
    fn pass(&mut self, time: Duration) {
        let until = self.now + time;
        while self.now < until {
            self.now = until.min(self.now + SECOND / 4);
            for id in self.fleet.workers.keys().copied().collect::<Vec<_>>() {
                if self.fleet.workers[&id].ready_at.is_some() {
                    self.tell(Event::Beat { worker: id, rss_bytes: 0, draining: false });
                }
            }
            self.tell(Event::Tick);
        }
    }

    /// Time passes in silence.
    fn wait(&mut self, time: Duration) {
        self.now += time;
        self.tell(Event::Tick);
    }

    fn said(&mut self) -> Vec<Action> {
        self.said.drain(..).collect()
    }

    fn spawned(&mut self) -> Vec<WorkerId> {
        let spawned = |action| if let Action::Spawn { worker, .. } = action { Some(worker) } else { None };
        self.said().into_iter().filter_map(spawned).collect()
    }

    fn receive(&mut self) -> LeaseId {
        let lease = self.next_lease;
        self.next_lease = lease.next();
        self.tell(Event::Received { lease });
        lease
    }

    /// A handoff comes; who gets it.
    fn lend(&mut self) -> (LeaseId, WorkerId) {
        let lease = self.receive();
        match self.said().as_slice() {
            [Action::Lend { lease: lent, worker, attempt: 0 }] if *lent == lease => (lease, *worker),
            other => panic!("not lent: {other:?}"),
        }
    }

    fn take(&mut self, lease: LeaseId, worker: WorkerId) {
        self.tell(Event::Taken { worker, leases: vec![lease] });
    }

    fn stream(&mut self) -> (LeaseId, WorkerId) {
        let (lease, worker) = self.lend();
        self.take(lease, worker);
        self.tell(Event::Committed { worker, lease, format: Format::Text });
        assert_eq!(self.said(), [Action::ForgetPayload { lease }]);
        (lease, worker)
    }

    fn release(&mut self, lease: LeaseId, worker: WorkerId) {
        self.take(lease, worker);
        self.tell(Event::Released { worker, lease, outcome: Outcome::Complete });
        assert_eq!(self.said(), [Action::Close { lease, ending: LeaseEnding::Released(Outcome::Complete) }]);
    }

    fn die(&mut self, worker: WorkerId) -> Vec<Action> {
        self.die_with(worker, BTreeMap::new())
    }

    /// What is said, without the processes.
    fn die_with(&mut self, worker: WorkerId, written: BTreeMap<LeaseId, bool>) -> Vec<Action> {
        self.tell(Event::Dead { worker, exit: Exit::Crashed, written });
        self.said().into_iter().filter(|action| !matches!(action, Action::Spawn { .. })).collect()
    }

    fn load(&mut self, number: u32, policy: Policy) {
        self.tell(Event::Loaded { generation: Generation(number), policy: Box::new(policy) });
    }
}

fn policy(slots: u16) -> Policy {
    Policy {
        slots,
        leases_max: 1_000,
        leases_per_worker_max: 500,
        queue_timeout: 2 * SECOND,
        redispatch_max: 1,
        drain_timeout: 30 * SECOND,
        age_max: None,
        streams_max: None,
        rss_max_bytes: None,
        rss_hard_max_bytes: None,
    }
}

fn worker(id: u32) -> WorkerId {
    WorkerId(id)
}

fn spawn(id: u32, slot: u16, generation: u32, cause: Cause) -> Action {
    Action::Spawn { worker: WorkerId(id), slot: SlotId(slot), generation: Generation(generation), cause }
}

fn drain(id: u32) -> Action {
    Action::Drain { worker: WorkerId(id), remaining: 30 * SECOND }
}
