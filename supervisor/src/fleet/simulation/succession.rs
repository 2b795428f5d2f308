//! The supervisor's own end, and whoever comes after it: it dies in the middle of anything, or leaves when nothing
//! is in its hands any more. Its processes live on, with all that they were sent and have said; the next one
//! adopts them. The event loop's part in that is played here.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use handoff_shared::ids::{Generation, LeaseId, WorkerId};
use handoff_shared::limits::LEAVE_TIMEOUT;

use super::adoption::Heritage;
use super::judge::Stage;
use super::process::{Packet, Process};
use super::world::{Happening, World};
use crate::fleet::{Event, Fleet, HeldStage, Policy};

/// Actions that a supervisor may still perform before it dies.
const LAST_ACTIONS: u64 = 8;
/// Between two ends of supervisors at most so long is quiet.
const CALM_MS: u64 = 8_000;

/// Who comes after whom.
#[derive(Debug)]
pub(super) struct Succession {
    /// There is no supervisor now.
    pub(super) is_gone: bool,
    crash_in: Option<u64>,
    calm_until: Option<Instant>,
    leaving_since: Option<Instant>,
    /// Whatever is not in a worker's hands ends with this supervisor.
    is_lossy: bool,
    /// How many supervisors there were.
    number: u32,
    /// What workers are made of, and what is kept of it.
    recipes: BTreeMap<Generation, Policy>,
    disk: Disk,
    /// What is on disk differs from what was taken over.
    is_roll_due: bool,
}

/// What a new supervisor finds on disk.
#[derive(Clone, Debug)]
enum Disk {
    Changed(Policy),
    Same(Generation, Policy),
    /// It cannot be used: what was kept is.
    Broken(Policy),
}

impl Disk {
    fn policy(&self) -> &Policy {
        match self {
            Self::Changed(policy) | Self::Same(_, policy) | Self::Broken(policy) => policy,
        }
    }
}

impl Succession {
    pub(super) fn first(policy: Policy) -> Self {
        Self {
            is_gone: false,
            crash_in: None,
            calm_until: None,
            leaving_since: None,
            is_lossy: false,
            number: 1,
            recipes: BTreeMap::from([(Generation::FIRST, policy.clone())]),
            disk: Disk::Same(Generation::FIRST, policy),
            is_roll_due: false,
        }
    }
}

impl World {
    /// A new generation, and how well it will live.
    pub(super) fn register(&mut self, generation: Generation, policy: Policy) {
        let vigour = self.draw_vigour();
        self.vigour.insert(generation, vigour);
        self.succession.recipes.insert(generation, policy);
        self.newest = self.newest.max(generation);
    }

    fn is_calm(&self) -> bool {
        self.succession.calm_until.is_some_and(|until| self.now < until)
            || self.succession.crash_in.is_some()
            || self.judge.exited
    }

    pub(super) fn crash_soon(&mut self) {
        if !self.is_calm() {
            self.succession.crash_in = Some(self.chance.below(LAST_ACTIONS));
        }
    }

    /// Whether the supervisor dies between two actions.
    pub(super) fn dies_now(&mut self) -> bool {
        match self.succession.crash_in {
            _ if self.judge.exited => {}
            None => {}
            Some(0) => {
                self.see("Crash");
                self.end(true);
            }
            Some(left) => self.succession.crash_in = Some(left - 1),
        }
        self.succession.is_gone
    }

    fn end(&mut self, is_lossy: bool) {
        let pause = self.chance.millis(0, 3_000);
        let pause = if self.chance.one_in(2) { Duration::ZERO } else { pause };
        for (is_so, word) in [
            (self.judge.is_adopting(), "End while adopting"),
            (self.judge.rolling.is_some(), "End while rolling"),
            (self.judge.stopping.is_some(), "End while stopping"),
        ] {
            if is_so {
                self.see(word);
            }
        }
        self.succession.is_gone = true;
        self.succession.is_lossy = is_lossy;
        self.succession.crash_in = None;
        self.succession.leaving_since = None;
        self.away_until = Some(self.now + pause);
        self.after(pause, Happening::Succeed);
    }

    pub(super) fn leave(&mut self) {
        let is_leaving = self.succession.leaving_since.is_some();
        if is_leaving || self.is_calm() || self.judge.stopping.is_some() {
            return;
        }
        self.succession.leaving_since = Some(self.now);
        self.tell(Event::Leave);
        self.after(Duration::ZERO, Happening::TryToLeave);
    }

    pub(super) fn try_to_leave(&mut self) {
        let Some(since) = self.succession.leaving_since else { return };
        let is_late = self.now.duration_since(since) > LEAVE_TIMEOUT;
        if self.judge.stopping.is_some() {
            self.succession.leaving_since = None;
        } else if self.fleet.is_quiet() && !self.chance.one_in(4) {
            self.see("Leave");
            self.end(false);
        } else if is_late && self.chance.one_in(2) {
            self.see("Abandon");
            self.tell(Event::Abandon);
            if !self.succession.is_gone {
                self.end(true);
            }
        } else if is_late || self.fleet.is_quiet() {
            self.see("Stay");
            self.succession.leaving_since = None;
            self.tell(Event::Stay);
        } else {
            let pause = self.chance.millis(1, 100);
            self.after(pause, Happening::TryToLeave);
        }
    }

    /// The next supervisor.
    pub(super) fn succeed(&mut self) {
        self.lose_messages();
        self.end_who_is_not_kept();
        let known = self.known();
        let heritage = self.bequeath(&known);
        self.draw_disk();
        self.draw_versions();
        let policy = self.succession.disk.policy().clone();
        let workers: Vec<WorkerId> = self.processes.keys().copied().collect();
        self.succession.number += 1;
        self.succession.is_gone = false;
        self.succession.is_roll_due = false;
        self.away_until = None;
        self.next_lease = LeaseId::first(self.succession.number);
        let calm = self.chance.millis(0, CALM_MS);
        let calm = if self.chance.one_in(3) { Duration::ZERO } else { calm };
        self.succession.calm_until = Some(self.now + calm);
        let seed = self.chance.below(u64::MAX);
        self.fleet = Fleet::new(self.now, policy.clone(), seed);
        self.judge.inherit(self.now, policy.clone(), heritage);
        if workers.is_empty() && known.is_empty() {
            self.newest = Generation::FIRST;
            self.register(Generation::FIRST, policy);
            return self.tell(Event::Start);
        }
        self.tell(Event::Adopt { workers, known });
    }

    /// What the dead supervisor had said, and what had not fitted the sockets yet.
    fn lose_messages(&mut self) {
        let is_lossy = self.succession.is_lossy;
        for process in self.processes.values_mut() {
            while is_lossy && self.chance.one_in(8) {
                process.inbox.pop_back();
            }
        }
    }

    /// Who was not Ready is not kept: its channel ends, and so does it.
    fn end_who_is_not_kept(&mut self) {
        let (chance, workers) = (&mut self.chance, &self.judge.workers);
        let mut is_kept = |process: &mut Process| {
            let has_said_so = !process.outbox.iter().any(|event| matches!(event, Event::Ready { .. }));
            let is_killed = workers.get(&process.id).is_some_and(|worker| worker.stage == Stage::Dying);
            if is_killed && process.holds().is_empty() {
                // SIGKILL is on its way, and nobody would miss it.
                return false;
            }
            if process.ready && !has_said_so && chance.one_in(2) {
                // Heard and kept, and nobody had time for more.
                process.outbox.retain(|event| !matches!(event, Event::Ready { .. }));
                return true;
            }
            // Whoever was lent anything has said so, if only in a lie.
            (process.ready && has_said_so) || !process.holds().is_empty()
        };
        self.processes.retain(|_, process| is_kept(process));
    }

    /// Generations of which the next supervisor has binary and configuration.
    fn known(&mut self) -> BTreeSet<Generation> {
        let (fleet, newest, chance) = (&self.fleet, self.newest, &mut self.chance);
        self.succession.recipes.retain(|generation, _| {
            let is_needed = fleet.is_generation_in_use(*generation) || *generation == newest;
            (is_needed || chance.one_in(8)) && !chance.one_in(20)
        });
        self.succession.recipes.keys().copied().collect()
    }

    /// Who is there, under new numbers in any order, and what they hold.
    fn bequeath(&mut self, known: &BTreeSet<Generation>) -> Heritage {
        let mut old: Vec<WorkerId> = self.processes.keys().copied().collect();
        for index in (1..old.len()).rev() {
            let bound = u64::try_from(index + 1).unwrap_or(1);
            old.swap(index, usize::try_from(self.chance.below(bound)).unwrap_or(0));
        }
        let names: BTreeMap<WorkerId, WorkerId> = old.into_iter().zip((0..).map(WorkerId)).collect();
        let due =
            std::mem::take(&mut self.due).into_iter().filter_map(|std::cmp::Reverse((at, order, due))| {
                Some(std::cmp::Reverse((at, order, due.renamed(&names)?)))
            });
        self.due = due.collect();
        let mut workers = BTreeMap::new();
        let mut holders = BTreeMap::new();
        let mut ended = BTreeSet::new();
        for (name, mut process) in std::mem::take(&mut self.processes) {
            let id = names[&name];
            process.rename(id);
            // Its end was a lie, for which the supervisor had no time to kill it.
            for lease in process.holds().into_iter().filter(|lease| !self.judge.is_live(*lease)) {
                process.forget(lease);
            }
            if process.foreign || process.exit.is_some() {
                self.after(Duration::ZERO, Happening::Deliver(id));
            }
            if process.exit.is_some() {
                self.after(Duration::ZERO, Happening::Bury(id));
            }
            workers.insert(id, (process.slot, process.generation));
            holders.extend(process.holds().into_iter().map(|lease| (lease, id)));
            for event in &process.outbox {
                if let Event::Released { lease, .. } = event {
                    ended.insert(*lease);
                }
            }
            self.processes.insert(id, process);
        }
        self.count_losses(&holders, &ended);
        Heritage { workers, holders, known: known.clone() }
    }

    /// A lease that no living process holds ends with its supervisor. One that left has none.
    fn count_losses(&mut self, holders: &BTreeMap<LeaseId, WorkerId>, ended: &BTreeSet<LeaseId>) {
        let is_lost = |lease: &LeaseId| !holders.contains_key(lease) && !ended.contains(lease);
        let leases = self.judge.leases.iter().chain(&self.judge.estate);
        let mut words = BTreeSet::new();
        for (id, lease) in leases.filter(|(id, _)| is_lost(id)) {
            words.insert(match (lease.holder, lease.is_epitaph_due()) {
                (None, true) => "Lost epitaph",
                (None, false) => "Lost queued",
                (Some(_), _) => "Lost on its way",
            });
            // Dead, or as good as dead: its channel has ended.
            let is_dead = |process: &Process| process.exit.is_some() || (process.deaf && process.mute);
            let has_dead_holder = self.processes.values().any(is_dead);
            assert!(
                self.succession.is_lossy || (lease.holder.is_some() && has_dead_holder),
                "a supervisor that left has lost {id}: {lease:?}"
            );
        }
        words.into_iter().for_each(|word| self.see(word));
    }

    fn draw_disk(&mut self) {
        let newest = self.succession.recipes.last_key_value();
        let newest = newest.map(|(generation, policy)| (*generation, policy.clone()));
        let is_changed = self.chance.one_in(3) && !self.temper.is_quiet();
        let is_broken = self.chance.one_in(3);
        self.succession.disk = match newest {
            Some((_, policy)) if !is_changed && is_broken => Disk::Broken(policy),
            Some((generation, policy)) if !is_changed => Disk::Same(generation, policy),
            Some(_) | None if !self.temper.is_quiet() => Disk::Changed(self.temper.policy(&mut self.chance)),
            Some(_) | None => Disk::Changed(self.judge.policy.clone()),
        };
    }

    /// The next supervisor may be of another version, or again of the same as before.
    fn draw_versions(&mut self) {
        let is_upgrade = self.chance.one_in(8);
        for process in self.processes.values_mut() {
            process.foreign = is_upgrade && !self.chance.one_in(4);
        }
    }

    /// Asks a worker what it holds.
    pub(super) fn ask(&mut self, worker: WorkerId) {
        let fd_budget = self.chance.pick(&[1_000, 1_000, 1_000, 20, 3, 0]).unwrap_or(0);
        self.send(worker, Packet::Resync { fd_budget });
    }

    /// Hands on what a worker says.
    pub(super) fn hear(&mut self, event: Event) {
        if let Event::Held { page, .. } = &event {
            for held in &page.leases {
                // Its counter at receipt is known only while no byte is out.
                if held.stage != HeldStage::Taken {
                    self.witnessed.remove(&held.lease);
                }
                if !held.has_fd && held.stage != HeldStage::Epitaph {
                    self.seen.insert("Held without fd".to_owned());
                }
            }
            if !page.last {
                self.see("Held in pages");
            }
        }
        self.tell(event);
    }

    /// Everybody is known. What is on disk may want another generation.
    pub(super) fn adopted(&mut self, generation: Generation) {
        self.judge.sights().into_iter().for_each(|word| self.see(word));
        let living = self.processes.values().map(|process| process.generation);
        let recipes = self.succession.recipes.keys().copied();
        self.newest = living.chain(recipes).max().unwrap_or(generation).max(generation);
        match (&self.succession.disk, self.succession.recipes.contains_key(&generation)) {
            (disk, false) => {
                let policy = disk.policy().clone();
                self.see("Adopted nothing known");
                self.register(generation, policy);
            }
            (Disk::Same(same, _), true) if *same == generation => {}
            (Disk::Broken(_), true) => {}
            (Disk::Changed(_) | Disk::Same(..), true) => self.succession.is_roll_due = true,
        }
    }

    pub(super) fn start_due_roll(&mut self) {
        if std::mem::take(&mut self.succession.is_roll_due) {
            let policy = self.succession.disk.policy().clone();
            let generation = self.newest.next();
            self.register(generation, policy.clone());
            self.tell(Event::Loaded { generation, policy: Box::new(policy) });
        }
    }

    pub(super) fn see(&mut self, word: &str) {
        self.seen.insert(word.to_owned());
    }
}

impl Happening {
    /// With the new numbers of processes; none: it concerns nobody who is still there.
    fn renamed(self, names: &BTreeMap<WorkerId, WorkerId>) -> Option<Self> {
        let name = |id: WorkerId| names.get(&id).copied();
        Some(match self {
            Self::Ready(id) => Self::Ready(name(id)?),
            Self::Turn(id) => Self::Turn(name(id)?),
            Self::Die(id, is_clean) => Self::Die(name(id)?, is_clean),
            Self::Deliver(id) => Self::Deliver(name(id)?),
            Self::Bury(id) => Self::Bury(name(id)?),
            Self::Load | Self::TryToLeave => return None,
            Self::Fault | Self::Burst | Self::Accept | Self::Return | Self::Succeed => self,
        })
    }
}
