//! Trouble, as a seed decides it: what happens when, and to whom. In: a seed, the time since the start. Out:
//! signals.
//!
//! Never: touches a worker while the supervisor is away, leaves a worker stopped for good.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::dice::Dice;
use crate::process;

/// Many that are stopped go on within this time.
const STOPPED_SHORTLY_MS: u64 = 500;
/// A worker that does not take what it is given is fenced after about this time.
const FENCED_AFTER: Duration = Duration::from_millis(1_900);
/// So long before a supervisor dies nothing happens to its workers: one fault at a time.
const CALM: Duration = Duration::from_millis(500);

/// Between two looks at a fleet that is to be whole.
const LOOKS: Duration = Duration::from_millis(10);
/// A supervisor that is to be replaced and still there after this time has given it up.
const REPLACED_WITHIN: Duration = Duration::from_secs(5);

/// What can happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Trouble {
    /// A worker gets this signal, and is gone.
    Kill(Signal),
    /// A worker is stopped for so long.
    Stop(Duration),
    /// SIGHUP.
    Reload,
    /// SIGUSR2.
    Upgrade,
    /// SIGTERM; what plays systemd starts a successor.
    Restart,
    /// SIGKILL for the supervisor.
    KillSupervisor,
    /// Nothing: all workers run.
    Calm,
}

/// One trouble: when, counted from the start, and a number that picks whom it meets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Appointment {
    /// Since the start.
    pub at: Duration,
    /// What happens.
    pub trouble: Trouble,
    /// Picks one of those who are there.
    pub lot: u64,
}

/// Endless: a worker meets trouble at every tick, the fleet now and then.
#[derive(Clone, Debug)]
pub struct Schedule {
    dice: Dice,
    tick: Duration,
    at: Duration,
    with_supervisor: bool,
    fleet: (Duration, Trouble),
}

impl Schedule {
    /// The schedule of this seed; on request the supervisor meets trouble too.
    #[must_use]
    pub fn new(seed: u64, tick: Duration, with_supervisor: bool) -> Self {
        let at = Duration::ZERO;
        let mut schedule =
            Self { dice: Dice::new(seed), tick, at, with_supervisor, fleet: (at, Trouble::Reload) };
        schedule.fleet = schedule.next_of_fleet();
        schedule
    }

    fn next_of_fleet(&mut self) -> (Duration, Trouble) {
        let at = self.fleet.0 + CALM + Duration::from_millis(500 + self.dice.below(1_500));
        let trouble = match self.dice.below(8) {
            0..2 => Trouble::Upgrade,
            2..4 => Trouble::Restart,
            4..6 => Trouble::KillSupervisor,
            _ => Trouble::Reload,
        };
        (at, if self.with_supervisor { trouble } else { Trouble::Reload })
    }
}

impl Iterator for Schedule {
    type Item = Appointment;

    fn next(&mut self) -> Option<Appointment> {
        let lot = self.dice.roll();
        let (fleet_at, of_fleet) = self.fleet;
        if fleet_at <= self.at + self.tick {
            self.fleet = self.next_of_fleet();
            return Some(Appointment { at: fleet_at, trouble: of_fleet, lot });
        }
        self.at += self.tick;
        let trouble = match self.dice.below(10) {
            _ if of_fleet == Trouble::KillSupervisor && fleet_at < self.at + CALM => Trouble::Calm,
            0..6 => Trouble::Kill(Signal::SIGKILL),
            6..8 => Trouble::Kill(Signal::SIGSEGV),
            8 if lot.is_multiple_of(2) => {
                Trouble::Stop(Duration::from_millis(5 + self.dice.below(STOPPED_SHORTLY_MS)))
            }
            // Just when it is given up: whoever comes back then may meet whoever took its place.
            _ => Trouble::Stop(FENCED_AFTER + Duration::from_millis(self.dice.below(400))),
        };
        Some(Appointment { at: self.at, trouble, lot })
    }
}

/// The supervisor that takes handoffs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Supervisor {
    /// Its process.
    pub pid: u32,
    /// How many have been ready up to now.
    pub number: usize,
}

/// Keeps the appointments.
#[derive(Debug)]
pub struct Troublemaker {
    schedule: std::iter::Peekable<Schedule>,
    /// At most one worker is stopped at a time: what is promised is promised for one fault at a time.
    stopped: Option<(u32, Instant)>,
    /// This one is on its way out, or goes on after all from then on.
    leaving: Option<(usize, Instant)>,
    /// The supervisor dies as soon as it is alone with its trouble, and was last looked at then.
    postponed: Option<(Appointment, Instant)>,
    done: BTreeMap<&'static str, u64>,
}

impl Troublemaker {
    /// Nothing has happened yet.
    #[must_use]
    pub fn new(schedule: Schedule) -> Self {
        Self {
            schedule: schedule.peekable(),
            stopped: None,
            leaving: None,
            postponed: None,
            done: BTreeMap::new(),
        }
    }

    /// Does what is due; says whether it has killed the supervisor. From the end of one supervisor until the next is
    /// ready, appointments are missed. A supervisor is killed when what its workers' deaths have left behind is in
    /// living hands again, as `is_whole` says: one fault at a time. Until then everybody else is left alone.
    pub fn act(
        &mut self,
        now: Instant,
        since_start: Duration,
        supervisor: Option<Supervisor>,
        is_whole: impl Fn() -> bool,
    ) -> bool {
        let mut killed = false;
        if let Some((due, looked_at)) = self.postponed {
            match supervisor {
                Some(_) if now < looked_at + LOOKS => {}
                Some(supervisor) if is_whole() => {
                    self.postponed = None;
                    self.keep(now, due, supervisor);
                    killed = true;
                }
                Some(_) => self.postponed = Some((due, now)),
                None => self.postponed = None,
            }
        }
        if self.stopped.is_some_and(|(_, until)| until <= now) {
            self.go_on();
        }
        while let Some(due) = self.schedule.next_if(|next| next.at <= since_start) {
            let leaves = |supervisor: &Supervisor| {
                self.leaving.is_some_and(|(number, until)| number == supervisor.number && now < until)
            };
            match supervisor.filter(|supervisor| !leaves(supervisor)) {
                Some(_) if self.postponed.is_some() => {}
                Some(_) if due.trouble == Trouble::KillSupervisor => {
                    self.go_on();
                    self.postponed = Some((due, now));
                }
                Some(supervisor) => self.keep(now, due, supervisor),
                None => *self.done.entry("missed").or_default() += 1,
            }
        }
        killed
    }

    /// No worker stays stopped.
    pub fn go_on(&mut self) {
        if let Some((pid, _)) = self.stopped.take() {
            process::signal(pid, Signal::SIGCONT);
        }
    }

    /// What happened how often.
    #[must_use]
    pub fn done(&self) -> &BTreeMap<&'static str, u64> {
        &self.done
    }

    fn keep(&mut self, now: Instant, due: Appointment, supervisor: Supervisor) {
        let name = match due.trouble {
            Trouble::Calm => return self.go_on(),
            Trouble::Stop(_) if self.stopped.is_some() => return,
            Trouble::Kill(signal) => {
                let Some(pid) = self.victim(supervisor, due.lot) else { return };
                process::signal(pid, signal);
                signal.as_str()
            }
            Trouble::Stop(duration) => {
                let Some(pid) = self.victim(supervisor, due.lot) else { return };
                process::signal(pid, Signal::SIGSTOP);
                self.stopped = Some((pid, now + duration));
                "SIGSTOP"
            }
            Trouble::Reload => {
                process::signal(supervisor.pid, Signal::SIGHUP);
                "reload"
            }
            Trouble::Upgrade => self.replace(now, supervisor, Signal::SIGUSR2, "upgrade"),
            Trouble::Restart => self.replace(now, supervisor, Signal::SIGTERM, "restart"),
            Trouble::KillSupervisor => {
                self.replace(now, supervisor, Signal::SIGKILL, "SIGKILL of the supervisor")
            }
        };
        *self.done.entry(name).or_default() += 1;
    }

    /// Until there is another supervisor its workers are left alone.
    fn replace(
        &mut self,
        now: Instant,
        supervisor: Supervisor,
        signal: Signal,
        name: &'static str,
    ) -> &'static str {
        self.go_on();
        self.leaving = Some((supervisor.number, now + REPLACED_WITHIN));
        process::signal(supervisor.pid, signal);
        name
    }

    /// A worker that runs; none when there is no other. Those whose supervisor has died are our own children.
    fn victim(&self, supervisor: Supervisor, lot: u64) -> Option<u32> {
        let mut workers = process::children(supervisor.pid);
        workers.extend(process::children(std::process::id()));
        workers.retain(|pid| process::name(*pid) == "handoffd-worker" && process::is_alive(*pid));
        workers.retain(|pid| self.stopped.is_none_or(|(stopped, _)| stopped != *pid));
        let lot = usize::try_from(lot % u64::try_from(workers.len()).ok()?.max(1)).ok()?;
        workers.get(lot).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_seed_decides_everything() {
        let tick = Duration::from_millis(20);
        let appointments = |seed| Schedule::new(seed, tick, true).take(5_000).collect::<Vec<_>>();
        assert_eq!(appointments(7), appointments(7));
        assert_ne!(appointments(7), appointments(8));
        let of_seven = appointments(7);
        assert!(of_seven.windows(2).all(|pair| pair[0].at <= pair[1].at));
        for trouble in [Trouble::Reload, Trouble::Upgrade, Trouble::Restart, Trouble::KillSupervisor] {
            assert!(of_seven.iter().any(|appointment| appointment.trouble == trouble), "{trouble:?}");
        }
    }

    #[test]
    fn before_a_supervisor_dies_nothing_happens_to_its_workers() {
        let appointments: Vec<_> = Schedule::new(7, Duration::from_millis(20), true).take(50_000).collect();
        let deaths = appointments.iter().filter(|appointment| appointment.trouble == Trouble::KillSupervisor);
        for death in deaths {
            let before = |appointment: &&Appointment| {
                appointment.at < death.at && appointment.at + CALM > death.at + Duration::from_millis(20)
            };
            let troubles: Vec<_> = appointments.iter().filter(before).map(|before| before.trouble).collect();
            assert!(
                troubles.len() > 20 && troubles.iter().all(|trouble| *trouble == Trouble::Calm),
                "{troubles:?}"
            );
        }
    }
}
