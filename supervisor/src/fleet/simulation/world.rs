//! A world around one fleet: a virtual clock, a heap of what will happen, the processes and the clients. The
//! event loop is played here: it reads channels to the end before a death and before a deadline.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::limits::DRAIN_GRACE;

use super::chance::Chance;
use super::faults::{Temper, Vigour};
use super::judge::Judge;
use super::process::{Packet, Process};
use super::rules;
use super::succession::Succession;
use crate::fleet::{Action, Event, Exit, Fleet, Intake};

/// Events and actions that a failing world shows.
const LAST_WORDS: usize = 40;
/// Everything is well again this long after the last fault: two generations drain, and the longest back-off.
const RECOVERY: Duration = Duration::from_secs(120);
/// The kernel needs this long at most to end a killed process, and the world to say so.
const BURIAL: Duration = Duration::from_secs(4);

/// Between two absences of the supervisor at least.
const AWAY_EVERY: Duration = Duration::from_secs(15);
/// Things that may happen in one world.
const TURNS_MAX: u64 = 1_000_000;

#[derive(Debug)]
pub(super) struct World {
    seed: u64,
    pub(super) chance: Chance,
    pub(super) now: Instant,
    born: Instant,
    pub(super) fleet: Fleet,
    pub(super) judge: Judge,
    pub(super) temper: Temper,
    pub(super) processes: BTreeMap<WorkerId, Process>,
    pub(super) vigour: BTreeMap<Generation, Vigour>,
    /// Leases whose client has a TCP connection.
    pub(super) witnessed: BTreeSet<LeaseId>,
    /// Leases that kill their workers, each after its time.
    pub(super) poison: BTreeMap<LeaseId, Duration>,
    pub(super) due: BinaryHeap<Reverse<(Instant, u64, Happening)>>,
    scheduled: u64,
    backlog: u64,
    /// Somebody looks at the backlog again.
    is_accepting: bool,
    pub(super) next_lease: LeaseId,
    pub(super) newest: Generation,
    tick_delay: Duration,
    /// The supervisor does nothing until then.
    pub(super) away_until: Option<Instant>,
    away_after: Instant,
    pub(super) succession: Succession,
    steps: u64,
    turns: u64,
    said: VecDeque<String>,
    /// Kinds of actions that were seen.
    pub(super) seen: BTreeSet<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Happening {
    /// A process does something.
    Ready(WorkerId),
    Turn(WorkerId),
    Die(WorkerId, bool),
    Fault,
    Burst,
    /// The supervisor notices something.
    Deliver(WorkerId),
    Bury(WorkerId),
    Accept,
    Load,
    Return,
    /// The supervisor has left everything in other hands, or still tries to.
    TryToLeave,
    /// The next one starts.
    Succeed,
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let now = Instant::now();
        let mut chance = Chance::new(seed);
        let temper = Temper::draw(&mut chance);
        let policy = temper.policy(&mut chance);
        let fleet = Fleet::new(now, policy.clone(), seed);
        let mut judge = Judge::new(now, policy.clone(), temper.is_faultless());
        judge.suspicion.only_poison = temper.is_harmless();
        Self {
            succession: Succession::first(policy),
            judge,
            fleet,
            seed,
            chance,
            now,
            born: now,
            temper,
            processes: BTreeMap::new(),
            vigour: BTreeMap::from([(Generation::FIRST, Vigour::Good)]),
            witnessed: BTreeSet::new(),
            poison: BTreeMap::new(),
            due: BinaryHeap::new(),
            scheduled: 0,
            backlog: 0,
            is_accepting: false,
            next_lease: LeaseId::first(1),
            newest: Generation::FIRST,
            tick_delay: Duration::ZERO,
            away_until: None,
            away_after: now,
            steps: 0,
            turns: 0,
            said: VecDeque::new(),
            seen: BTreeSet::new(),
        }
    }

    /// Chaos, then quiet in which everything has to heal, then Stop; or Stop in the middle of it all. Returns
    /// how many steps it took, and how long.
    pub(super) fn live(&mut self, steps: u64) -> (u64, Duration) {
        let is_cut_short = self.chance.one_in(3);
        let chaos = if is_cut_short { self.chance.below(steps) } else { steps };
        self.tell(Event::Start);
        self.after(Duration::ZERO, Happening::Fault);
        self.after(Duration::ZERO, Happening::Burst);
        while self.steps < chaos {
            self.turn();
        }
        if !is_cut_short {
            self.heal();
        }
        self.stop();
        (self.steps, self.now - self.born)
    }

    fn stop(&mut self) {
        let patience = self.chance.millis(0, 5_000);
        let is_impatient = self.chance.one_in(3);
        let second_signal = self.now + self.chance.millis(0, 4_000);
        if self.chance.one_in(8) {
            self.crash_soon();
        }
        while !self.judge.exited {
            self.assert_stops_in_time();
            // A supervisor that ends meanwhile has a successor, which must be told again.
            if self.judge.stopping.is_none() && self.away_until.is_none() {
                if self.judge.is_adopting() {
                    self.see("Stop while adopting");
                }
                self.tell(Event::Stop { deadline: self.now + patience });
                continue;
            }
            match is_impatient && second_signal <= self.now && self.away_until.is_none() {
                true => self.tell(Event::StopNow),
                false => self.turn(),
            }
        }
        // What was on its way is still told, and leads to nothing.
        for _ in 0..self.due.len().min(50) {
            self.turn();
        }
    }

    fn assert_stops_in_time(&self) {
        let deadline = self.judge.stopping.unwrap_or(self.now);
        assert!(
            self.away_until.is_some() || self.now <= deadline + DRAIN_GRACE + BURIAL,
            "Exit comes by the deadline and the grace"
        );
    }

    fn heal(&mut self) {
        self.temper = Temper::quiet();
        self.backlog = 0;
        for process in self.processes.values_mut() {
            process.hurry(self.now);
        }
        let healthy_by = self.now + RECOVERY;
        while !self.is_healthy() {
            let report = self.fleet.report(self.now);
            assert!(self.now < healthy_by, "not well again: {report:?}");
            self.turn();
        }
    }

    fn is_healthy(&self) -> bool {
        let report = self.fleet.report(self.now);
        let is_settled =
            report.outline.rolling_to.is_none() && !self.judge.reload_wanted && !self.judge.loading;
        let wanted = usize::from(self.judge.policy.slots);
        let is_there = !self.succession.is_gone && !self.judge.is_adopting() && !self.judge.leaving;
        let is_settled = is_settled && report.workers.iter().all(|worker| worker.slot != SlotId::QUARANTINE);
        is_there
            && is_settled
            && report.outline.ready == wanted
            && report.outline.slots == wanted
            && report.leases == 0
    }

    /// The next thing happens.
    fn turn(&mut self) {
        self.turns += 1;
        assert!(self.turns < TURNS_MAX, "the world stands still");
        let next = self.due.peek().map(|Reverse((at, _, _))| *at);
        let tick = self.fleet.next_deadline().map(|deadline| (deadline + self.tick_delay).max(self.now));
        if let Some(tick) =
            tick.filter(|tick| self.away_until.is_none() && next.is_none_or(|next| *tick <= next))
        {
            self.now = tick;
            self.tick_delay = if self.chance.one_in(4) { self.chance.millis(0, 400) } else { Duration::ZERO };
            self.hear_everybody();
            return self.tell(Event::Tick);
        }
        let Some(Reverse((at, _, happening))) = self.due.pop() else { panic!("nothing will ever happen") };
        self.now = self.now.max(at);
        if let Some(back) = self.away_until.filter(|_| happening.needs_the_supervisor()) {
            let order = self.chance.millis(0, 2);
            return self.at(back + order, happening);
        }
        self.happen(happening);
    }

    fn happen(&mut self, happening: Happening) {
        match happening {
            Happening::Ready(id) => self.become_ready(id),
            Happening::Turn(id) => self.turn_process(id),
            Happening::Die(id, clean) => self.die(id, if clean { Exit::Clean } else { Exit::Crashed }),
            Happening::Fault => self.fault(),
            Happening::Burst => self.burst(),
            Happening::Deliver(id) => self.deliver(id),
            Happening::Bury(id) => self.bury(id),
            Happening::Accept => self.accept(),
            Happening::Load => self.load(),
            Happening::TryToLeave => self.try_to_leave(),
            Happening::Succeed => self.succeed(),
            Happening::Return => {
                self.away_until = None;
                self.hear_everybody();
                self.tell(Event::Away);
            }
        }
    }

    pub(super) fn after(&mut self, delay: Duration, happening: Happening) {
        self.at(self.now + delay, happening);
    }

    fn at(&mut self, at: Instant, happening: Happening) {
        self.scheduled += 1;
        self.due.push(Reverse((at, self.scheduled, happening)));
    }

    pub(super) fn go_away(&mut self, pause: Duration) {
        // A supervisor that is nearly always away would never miss anybody.
        if self.away_until.is_none() && self.away_after <= self.now {
            self.away_after = self.now + pause + AWAY_EVERY;
            self.away_until = Some(self.now + pause);
            self.after(pause + Duration::from_millis(1), Happening::Return);
        }
    }

    /// One step.
    pub(super) fn tell(&mut self, event: Event) {
        if self.succession.is_gone {
            return;
        }
        self.steps += 1;
        self.note(&event);
        self.judge.told(self.now, &event);
        self.fleet.handle(self.now, event);
        while let Some(action) = self.fleet.poll_action() {
            self.note(&action);
            self.seen.insert(rules::kind(&action));
            self.judge.said(self.now, &action);
            self.perform(action);
            if self.dies_now() {
                return;
            }
        }
        self.judge.check(self.now, &self.fleet);
        self.start_due_roll();
    }

    fn note(&mut self, word: &dyn std::fmt::Debug) {
        if self.said.len() == LAST_WORDS {
            self.said.pop_front();
        }
        self.said.push_back(format!("{:?} {word:?}", self.now - self.born));
    }

    fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, slot, generation, .. } => {
                self.spawn(Process::new(worker, slot, generation, self.now));
            }
            Action::Lend { lease, worker, attempt } => {
                let kills_after = self.poison.get(&lease).copied();
                self.send(worker, Packet::Handoff { lease, attempt, kills_after });
            }
            Action::LendEpitaph { lease, worker, .. } => self.send(worker, Packet::Epitaph(lease)),
            Action::Drain { worker, remaining } => self.send(worker, Packet::Drain(self.now + remaining)),
            Action::Kill { worker, .. } => {
                let is_slow = self.chance.one_in(20);
                let delay = self.chance.millis(0, if is_slow { 2_000 } else { 50 });
                self.after(delay, Happening::Die(worker, false));
            }
            Action::Load => {
                let is_slow = self.chance.one_in(3);
                let delay = self.chance.millis(0, if is_slow { 3_000 } else { 0 });
                self.after(delay, Happening::Load);
            }
            Action::Refuse { lease, .. } | Action::Close { lease, .. } => {
                self.witnessed.remove(&lease);
                self.poison.remove(&lease);
            }
            Action::Resync { worker } => self.ask(worker),
            Action::Adopted { generation } => self.adopted(generation),
            Action::Poison { .. }
            | Action::ForgetPayload { .. }
            | Action::RollEnded { .. }
            | Action::Exit => {}
        }
    }

    pub(super) fn send(&mut self, worker: WorkerId, packet: Packet) {
        if let Some(process) = self.processes.get_mut(&worker).filter(|process| process.exit.is_none()) {
            process.inbox.push_back(packet);
        }
    }

    fn become_ready(&mut self, id: WorkerId) {
        let now = self.now;
        let Some(process) = self.living(id) else { return };
        if let Some(until) = process.frozen_until {
            return self.at(until, Happening::Ready(id));
        }
        process.become_ready(now);
        self.after(Duration::ZERO, Happening::Deliver(id));
        self.after(Duration::ZERO, Happening::Turn(id));
    }

    /// A process that lives; one that was frozen long enough goes on.
    fn living(&mut self, id: WorkerId) -> Option<&mut Process> {
        let now = self.now;
        let process = self.processes.get_mut(&id).filter(|process| process.exit.is_none())?;
        process.frozen_until = process.frozen_until.filter(|until| now < *until);
        Some(process)
    }

    fn turn_process(&mut self, id: WorkerId) {
        let (now, hurry) = (self.now, self.temper.is_quiet());
        let mut chance = Chance::new(self.chance.below(u64::MAX));
        let Some(process) = self.living(id) else { return };
        if let Some(until) = process.frozen_until {
            return self.at(until, Happening::Turn(id));
        }
        let written = process.turn(now, &mut chance, hurry);
        let (has_ended, has_words) = (process.exit.is_some(), !process.outbox.is_empty());
        for lease in written {
            self.write(lease);
        }
        if has_words {
            let delay = self.chance.millis(0, 30);
            self.after(delay, Happening::Deliver(id));
        }
        match has_ended {
            true => self.after(chance.millis(0, 50), Happening::Bury(id)),
            false => self.after(chance.millis(1, 250), Happening::Turn(id)),
        }
    }

    /// A byte goes out to the client.
    pub(super) fn write(&mut self, lease: LeaseId) {
        self.judge.wrote(lease);
    }

    pub(super) fn die(&mut self, id: WorkerId, exit: Exit) {
        let Some(process) = self.living(id) else { return };
        process.die(exit);
        let delay = self.chance.millis(0, 50);
        self.after(delay, Happening::Bury(id));
    }

    pub(super) fn deliver(&mut self, id: WorkerId) {
        while !self.succession.is_gone
            && let Some(event) = self.processes.get_mut(&id).and_then(|process| process.outbox.pop_front())
        {
            self.hear(event);
        }
    }

    fn hear_everybody(&mut self) {
        for id in self.processes.keys().copied().collect::<Vec<_>>() {
            self.deliver(id);
        }
    }

    fn bury(&mut self, worker: WorkerId) {
        self.deliver(worker);
        let Some(exit) = self.processes.get(&worker).and_then(|process| process.exit) else { return };
        if self.chance.one_in(2) {
            self.tell(Event::Closed { worker });
        }
        if self.succession.is_gone {
            return self.after(Duration::ZERO, Happening::Bury(worker));
        }
        let process = self.processes.remove(&worker);
        self.judge.suspicion.culprit = process.and_then(|process| process.culprit);
        let witness = |lease: LeaseId| {
            let known = self.judge.leases.get(&lease).filter(|lease| lease.has_fd)?;
            self.witnessed.contains(&lease).then_some((lease, known.bytes_out))
        };
        let written = self.fleet.held_by(worker).into_iter().filter_map(witness).collect();
        self.tell(Event::Dead { worker, exit, written });
    }

    fn burst(&mut self) {
        if self.temper.is_quiet() {
            return;
        }
        let (size, pause) = (self.temper.burst_max, self.temper.burst_pause_ms);
        self.backlog += self.chance.below(size) + 1;
        if !std::mem::replace(&mut self.is_accepting, true) {
            self.after(Duration::ZERO, Happening::Accept);
        }
        let pause = self.chance.millis(1, pause);
        self.after(pause, Happening::Burst);
    }

    fn accept(&mut self) {
        for _ in 0..16 {
            // A peer that was accepted in time may say what it wants much later.
            let was_silent = self.chance.one_in(40) && !self.judge.is_adopting();
            match self.fleet.intake(self.now) {
                Intake::Closed => self.backlog = 0,
                Intake::Hold if !was_silent => break,
                Intake::Hold | Intake::Shed | Intake::Open => {}
            }
            if self.backlog == 0 {
                self.is_accepting = false;
                return;
            }
            if self.succession.is_gone {
                break;
            }
            self.backlog -= 1;
            let lease = self.next_lease;
            self.next_lease = lease.next();
            if self.chance.one_in(2) {
                self.witnessed.insert(lease);
            }
            if self.temper.poison.is_some_and(|bound| self.chance.one_in(bound)) {
                let is_slow = self.chance.one_in(3);
                self.poison.insert(lease, self.chance.millis(0, if is_slow { 500 } else { 3 }));
                self.judge.suspicion.poison.insert(lease);
            }
            self.tell(Event::Received { lease });
        }
        let delay = self.chance.millis(1, 50);
        self.after(delay, Happening::Accept);
    }
}

impl Happening {
    fn needs_the_supervisor(self) -> bool {
        match self {
            Self::Ready(_) | Self::Turn(_) | Self::Die(..) | Self::Burst => false,
            Self::Return | Self::Succeed => false,
            Self::Fault | Self::Deliver(_) | Self::Bury(_) | Self::Accept => true,
            Self::Load | Self::TryToLeave => true,
        }
    }
}

/// A world that ends in a panic says how, and how to see it again.
impl Drop for World {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let said = Vec::from(std::mem::take(&mut self.said)).join("\n");
            let (seed, steps) = (self.seed, self.steps);
            eprintln!("{said}\n\nseed {seed}, step {steps}, {:?}", self.temper);
            eprintln!("replay: HANDOFF_SEED={seed} cargo test -p handoff-supervisor simulation");
        }
    }
}
