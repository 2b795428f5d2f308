//! The pure fleet in a model world: a virtual clock, simulated processes, everything that can go wrong, and
//! after every step the promises. All of it follows from a seed.
//!
//! `HANDOFF_SEED=n` replays one world; `HANDOFF_STEPS=n` says how many steps all worlds together take.
//!
//! Here: the test. `world` makes things happen, `faults` what goes wrong, `process` is a simulated worker, `judge` knows what the fleet
//! was told and said and checks each step, `rules` are its rules for single actions, `suspicion` those about suspects,
//! `chance` is the dice. Supervisors end and others come in `succession`; `holdings` is what workers tell them,
//! `adoption` the judge's rules for it.

mod adoption;
mod chance;
mod faults;
mod holdings;
mod judge;
mod process;
mod rules;
mod succession;
mod suspicion;
mod world;

use std::collections::BTreeSet;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use world::World;

/// Events that one world tells the fleet while everything may go wrong.
const STEPS_PER_SEED: u64 = 2_000;
/// Of all worlds together, in a normal test run.
const STEPS: u64 = 200_000;

/// What a run without these has not tested.
const MUST_BE_SEEN: [&str; 55] = [
    "Spawn Start",
    "Spawn Crash",
    "Spawn Hang",
    "Spawn Protocol",
    "Spawn StartTimeout",
    "Spawn Roll",
    "Spawn Recycle",
    "Spawn Operator",
    "Spawn Left",
    "Spawn Memory",
    "Spawn Suspects",
    "Kill Hang",
    "Kill Protocol",
    "Kill Crash",
    "Kill StartTimeout",
    "Kill DrainTimeout",
    "Kill Roll",
    "Kill Stop",
    "Kill Memory",
    "Lend 0",
    "Lend 1",
    "Lend 2",
    "Lend 3",
    "Poison",
    "LendEpitaph",
    "ForgetPayload",
    "Refuse Full",
    "Refuse NoWorker",
    "Refuse ShuttingDown",
    "Refuse WorkerCrashed",
    "Close",
    "EpitaphLost",
    "Drain",
    "Roll Done",
    "Roll CannotStart",
    "Roll Superseded",
    "Roll Stopped",
    "Crash",
    "Leave",
    "Stay",
    "Abandon",
    "Resync",
    "Adopted",
    "Adopted nothing known",
    "Held in pages",
    "Held without fd",
    "End while adopting",
    "End while rolling",
    "End while stopping",
    "Lost queued",
    "Lost epitaph",
    "Lost on its way",
    "Stop while adopting",
    "Foreign worker",
    "Two in a slot",
];

#[test]
fn the_fleet_keeps_its_promises_in_every_world() {
    if let Some(seed) = number("HANDOFF_SEED") {
        World::new(seed).live(STEPS_PER_SEED);
        return;
    }
    let seeds = number("HANDOFF_STEPS").unwrap_or(STEPS).div_ceil(STEPS_PER_SEED);
    let next = AtomicU64::new(0);
    let failed = AtomicBool::new(false);
    let seen = Mutex::new(BTreeSet::new());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                let alarm = Alarm(&failed);
                while !alarm.0.load(Ordering::Relaxed) {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds {
                        break;
                    }
                    let mut world = World::new(seed);
                    world.live(STEPS_PER_SEED);
                    seen.lock().unwrap().append(&mut world.seen);
                }
            });
        }
    });
    let seen = seen.into_inner().unwrap();
    let missed: Vec<&str> = MUST_BE_SEEN.into_iter().filter(|kind| !seen.contains(*kind)).collect();
    assert!(
        missed.is_empty() || seeds * STEPS_PER_SEED < STEPS,
        "the worlds are too tame: nobody saw {missed:?}, only {seen:?}"
    );
}

#[test]
fn the_same_seed_gives_the_same_world() {
    assert_eq!(World::new(7).live(500), World::new(7).live(500));
}

/// One failing world is enough: the other threads stop.
struct Alarm<'a>(&'a AtomicBool);

impl Drop for Alarm<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            self.0.store(true, Ordering::Relaxed);
        }
    }
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|error| panic!("{name}={text}: {error}")))
}
