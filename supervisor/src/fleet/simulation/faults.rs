//! What goes wrong in a world, how often, and how well its generations can live.

use std::time::Duration;

use handoff_shared::ids::{LeaseId, SlotId, WorkerId};

use super::chance::Chance;
use super::judge::LeaseStage;
use super::process::Process;
use super::world::{Happening, World};
use crate::fleet::{Event, Exit, Policy};

/// What kind of world it is.
#[derive(Debug)]
pub(super) struct Temper {
    faults: Vec<Fault>,
    pause_ms: u64,
    slots_max: u32,
    pub(super) burst_max: u64,
    pub(super) burst_pause_ms: u64,
    /// One in so many workers has a bad start.
    bad_starts: Option<u64>,
    recycles: bool,
    limits_memory: bool,
    /// One in so many handoffs kills every worker that serves it.
    pub(super) poison: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fault {
    Kill,
    Exit,
    Freeze,
    FreezeForEver,
    Mute,
    Deaf,
    Leave,
    Lie,
    Close,
    RogueByte,
    Stubborn,
    Away,
    Reload,
    Replace,
    FdDropped,
    Grow,
    GrowHuge,
    /// The supervisor dies, or is asked to leave; the next one takes over.
    Crash,
    Handover,
}

/// Nobody is harmed by these.
const HARMLESS: [Fault; 6] =
    [Fault::Reload, Fault::Replace, Fault::FdDropped, Fault::Grow, Fault::Crash, Fault::Handover];
const HARMFUL: [Fault; 13] = [
    Fault::Kill,
    Fault::Exit,
    Fault::Freeze,
    Fault::FreezeForEver,
    Fault::Mute,
    Fault::Deaf,
    Fault::Leave,
    Fault::Lie,
    Fault::Close,
    Fault::RogueByte,
    Fault::Stubborn,
    Fault::Away,
    Fault::GrowHuge,
];

/// How workers of a generation start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Vigour {
    Good,
    /// No process at all.
    Unborn,
    DiesBeforeReady,
    NeverReady,
    /// One in two dies before Ready.
    Flaky,
    DiesAfterReady,
}

impl Temper {
    pub(super) fn draw(chance: &mut Chance) -> Self {
        let is_faultless = chance.one_in(4);
        let mut faults: Vec<Fault> = HARMLESS.into_iter().filter(|_| chance.one_in(2)).collect();
        let only_poison = is_faultless && chance.one_in(2);
        if !is_faultless {
            faults.extend(HARMFUL.into_iter().filter(|_| chance.one_in(3)));
        }
        Self {
            faults,
            pause_ms: chance.pick(&[50, 300, 1_000, 5_000]).unwrap_or(1_000),
            slots_max: chance.pick(&[2, 3, 8]).unwrap_or(2),
            burst_max: chance.pick(&[1, 5, 30, 200]).unwrap_or(1),
            burst_pause_ms: chance.pick(&[20, 200, 2_000]).unwrap_or(200),
            bad_starts: chance.pick(&[None, Some(2), Some(10)]).flatten().filter(|_| !is_faultless),
            recycles: chance.one_in(3),
            limits_memory: !is_faultless && chance.one_in(3),
            poison: chance
                .pick(&[None, Some(3), Some(20), Some(200)])
                .flatten()
                .filter(|_| !is_faultless || only_poison),
        }
    }

    /// No more faults, no more clients.
    pub(super) fn quiet() -> Self {
        let faults = Vec::new();
        let (slots_max, burst_max, burst_pause_ms) = (2, 0, 0);
        Self {
            faults,
            pause_ms: 0,
            slots_max,
            burst_max,
            burst_pause_ms,
            bad_starts: None,
            recycles: false,
            limits_memory: false,
            poison: None,
        }
    }

    pub(super) fn is_quiet(&self) -> bool {
        self.burst_max == 0
    }

    pub(super) fn is_faultless(&self) -> bool {
        self.is_harmless() && self.poison.is_none()
    }

    /// Nothing harms workers but poison.
    pub(super) fn is_harmless(&self) -> bool {
        self.bad_starts.is_none() && !self.faults.iter().any(|fault| HARMFUL.contains(fault))
    }

    pub(super) fn policy(&self, chance: &mut Chance) -> Policy {
        let mut recycled = |least: u64, most: u64| {
            let limit = least + chance.below(most - least);
            Some(limit).filter(|_| self.recycles && chance.one_in(2))
        };
        let (age_max, streams_max, rss_max_bytes) =
            (recycled(2_000, 20_000), recycled(5, 200), recycled(10, 11));
        let mut number = |choices: &[u32]| chance.pick(choices).unwrap_or(1);
        Policy {
            slots: u16::try_from(number(&[1, 2, 2, 3, 5, 8]).min(self.slots_max)).unwrap_or(1),
            leases_max: number(&[1, 5, 40, 200, 500]),
            leases_per_worker_max: number(&[1, 3, 20, 100, 300]),
            queue_timeout: Duration::from_millis(number(&[0, 100, 2_000]).into()),
            redispatch_max: u8::try_from(number(&[0, 1, 1, 3])).unwrap_or(1),
            drain_timeout: Duration::from_millis(number(&[0, 500, 5_000, 20_000]).into()),
            age_max: age_max.map(Duration::from_millis),
            streams_max,
            rss_max_bytes,
            rss_hard_max_bytes: Some(1_000).filter(|_| self.limits_memory),
        }
    }
}

impl World {
    /// A process begins, well or not.
    pub(super) fn spawn(&mut self, process: Process) {
        let id = process.id;
        let mut vigour = self.vigour[&process.generation];
        self.processes.insert(id, process);
        if self.temper.bad_starts.is_some_and(|bound| self.chance.one_in(bound)) {
            let bad = [Vigour::Unborn, Vigour::DiesBeforeReady, Vigour::NeverReady, Vigour::DiesAfterReady];
            vigour = self.chance.pick(&bad).unwrap_or(vigour);
        }
        if self.temper.is_quiet() {
            vigour = Vigour::Good;
        }
        if vigour == Vigour::Flaky {
            vigour = if self.chance.one_in(2) { Vigour::DiesBeforeReady } else { Vigour::Good };
        }
        let is_slow = self.chance.one_in(10) && !self.temper.is_quiet();
        let start = self.chance.millis(1, if is_slow { 12_000 } else { 150 });
        match vigour {
            Vigour::Good | Vigour::Flaky => self.after(start, Happening::Ready(id)),
            Vigour::Unborn => self.die(id, Exit::Crashed),
            Vigour::DiesBeforeReady => self.after(start, Happening::Die(id, false)),
            Vigour::NeverReady => {}
            Vigour::DiesAfterReady => {
                self.after(start, Happening::Ready(id));
                let life = self.chance.pick(&[0, 1, 300, 2_000]).unwrap_or(0);
                self.after(start + Duration::from_millis(life), Happening::Die(id, false));
            }
        }
    }

    pub(super) fn load(&mut self) {
        if self.chance.one_in(6) && !self.temper.is_quiet() {
            return self.tell(Event::LoadRefused);
        }
        let policy = match self.chance.one_in(2) && !self.temper.is_quiet() {
            true => self.temper.policy(&mut self.chance),
            false => self.judge.policy.clone(),
        };
        let generation = self.newest.next();
        self.register(generation, policy.clone());
        self.tell(Event::Loaded { generation, policy: Box::new(policy) });
    }

    /// How well workers of this generation will live.
    pub(super) fn draw_vigour(&mut self) -> Vigour {
        let can_die = !self.temper.is_harmless();
        let bad = [Vigour::Unborn, Vigour::DiesBeforeReady, Vigour::NeverReady, Vigour::Flaky];
        let mut vigour = if self.chance.one_in(3) { self.chance.pick(&bad) } else { None };
        if can_die && self.chance.one_in(12) {
            vigour = Some(Vigour::DiesAfterReady);
        }
        vigour.unwrap_or(Vigour::Good)
    }

    pub(super) fn fault(&mut self) {
        let Some(fault) = self.temper.faults.get(..).and_then(|faults| self.chance.pick(faults)) else {
            return;
        };
        let living: Vec<WorkerId> = self
            .processes
            .values()
            .filter(|process| process.exit.is_none())
            .map(|process| process.id)
            .collect();
        match fault {
            Fault::Reload => (0..=self.chance.below(8)).for_each(|_| self.tell(Event::Reload)),
            Fault::Replace => {
                let slot = u16::try_from(self.chance.below(10)).unwrap_or(0);
                self.tell(Event::Replace { slot: SlotId(slot) });
            }
            Fault::Away => {
                let pause = self.chance.millis(1_500, 20_000);
                self.go_away(pause);
            }
            Fault::FdDropped => self.drop_fd(),
            Fault::Crash => self.crash_soon(),
            Fault::Handover => self.leave(),
            Fault::Kill
            | Fault::Exit
            | Fault::Freeze
            | Fault::FreezeForEver
            | Fault::Mute
            | Fault::Deaf
            | Fault::Leave
            | Fault::Lie
            | Fault::Close
            | Fault::RogueByte
            | Fault::Stubborn
            | Fault::Grow
            | Fault::GrowHuge => {
                if let Some(id) = self.chance.pick(&living) {
                    self.harm(fault, id);
                }
            }
        }
        let pause = self.chance.millis(1, self.temper.pause_ms);
        self.after(pause, Happening::Fault);
    }

    fn harm(&mut self, fault: Fault, id: WorkerId) {
        let frozen = self.chance.millis(100, 8_000);
        let Some(process) = self.processes.get_mut(&id) else { return };
        match fault {
            Fault::Kill => self.die(id, Exit::Crashed),
            Fault::Exit => self.die(id, Exit::Clean),
            Fault::Freeze => process.frozen_until = Some(self.now + frozen),
            Fault::FreezeForEver => process.frozen_until = Some(self.now + Duration::from_secs(1_000_000)),
            Fault::Mute => process.mute = true,
            Fault::Deaf => process.deaf = true,
            Fault::Stubborn => process.stubborn = true,
            Fault::Grow => process.rss_bytes = 100,
            Fault::GrowHuge => process.rss_bytes = 10_000,
            Fault::Leave if process.ready => process.leave(self.now),
            Fault::Lie => {
                process.lie(&mut self.chance);
                self.deliver(id);
            }
            Fault::Close => {
                self.deliver(id);
                self.tell(Event::Closed { worker: id });
                if let Some(process) = self.processes.get_mut(&id) {
                    process.sessions.clear();
                    process.deaf = true;
                    process.mute = true;
                }
                self.after(frozen, Happening::Die(id, true));
            }
            Fault::RogueByte => {
                let quiet = process.sessions.keys().find(|lease| self.witnessed.contains(lease)).copied();
                if let Some(lease) = quiet {
                    self.write(lease);
                    self.die(id, Exit::Crashed);
                }
            }
            Fault::Leave | Fault::Away | Fault::Reload | Fault::Replace | Fault::FdDropped => {}
            Fault::Crash | Fault::Handover => {}
        }
    }

    /// The budget for fds is spent: one lease whose payload is gone loses its dup. Not an epitaph on its way.
    fn drop_fd(&mut self) {
        let is_committed = |lease: &super::judge::Lease| match lease.holder {
            Some(_) => lease.stage == LeaseStage::Committed,
            None => lease.stage == LeaseStage::Committed || lease.witness == Some(true),
        };
        let droppable = self.judge.leases.iter().filter(|(_, lease)| lease.has_fd && is_committed(lease));
        let droppable: Vec<LeaseId> = droppable.map(|(id, _)| *id).collect();
        if let Some(lease) = self.chance.pick(&droppable) {
            self.tell(Event::FdDropped { lease });
        }
    }
}
