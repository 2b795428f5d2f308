//! Sets generators going and watches the daemon meanwhile. In: plans, the daemon's processes. Out: everything that a report
//! is made of. Never: makes a handoff, reads the daemon's memory more than twice.

use std::collections::BTreeMap;
use std::io;
use std::time::Duration;

use super::generators::Generators;
use super::plan::{Plan, Said, now_ns};
use super::tally::Tally;
use super::tree::{Memory, Sample, Tree};

/// How often the processes' CPU is read.
const LOOK_NS: u64 = 100_000_000;
/// From the word to all generators until the first handoff.
const LEAD_NS: u64 = 20_000_000;
/// How long generators may take to begin.
const BEGIN_TIMEOUT: Duration = Duration::from_secs(10);
/// The daemon has finished when it has used next to no CPU for this long, or all of the second.
const QUIET_NS: u64 = 50_000_000;
const QUIET_MAX_NS: u64 = 1_000_000_000;

/// What was seen of a run. Moments are nanoseconds of `CLOCK_MONOTONIC`.
#[derive(Debug)]
pub(super) struct Observed {
    pub(super) tally: Tally,
    pub(super) tree: Tree,
    pub(super) start_ns: u64,
    /// When the last generator had made its last handoff.
    pub(super) all_open_ns: u64,
    /// The daemon's CPU: before the first handoff, then about every 100 ms, then after the last end.
    pub(super) samples: Vec<Sample>,
    pub(super) idle: Option<BTreeMap<u32, Memory>>,
    pub(super) loaded: Option<BTreeMap<u32, Memory>>,
}

/// When the memory of a daemon at work is read.
#[derive(Clone, Copy, Debug)]
pub(super) enum MemoryAt {
    /// This long after the start.
    SinceStart(u64),
    /// This long after all streams are open, or at the first stream's end, whatever comes first.
    SinceAllOpen(u64),
}

/// Runs it from the first handoff to the last end.
///
/// # Errors
/// A generator cannot go on.
pub(super) fn observe(plans: &[Plan], mut tree: Tree, memory_at: MemoryAt) -> io::Result<Observed> {
    let why = |error| io::Error::other(format!("{} generators cannot be started: {error}", plans.len()));
    let mut generators = Generators::start(plans).map_err(why)?;
    for _ in plans {
        match generators.wait(BEGIN_TIMEOUT) {
            Some(Said::Ready) => {}
            Some(Said::Stopped(why)) => return Err(io::Error::other(why)),
            said => return Err(io::Error::other(format!("a generator does not begin: {said:?}"))),
        }
    }
    let baseline = tree.sample();
    let idle = tree.memory();
    let start_ns = now_ns() + LEAD_NS;
    generators.begin(start_ns)?;
    let observed = Observed {
        tally: Tally::default(),
        tree,
        start_ns,
        all_open_ns: 0,
        samples: vec![baseline],
        idle,
        loaded: None,
    };
    let mut run = Run { observed, memory_at, opening: plans.len(), running: plans.len(), has_end: false };
    while run.running > 0 {
        let next_ns = run.last_look_ns() + LOOK_NS;
        let said = generators.wait(Duration::from_nanos(next_ns.saturating_sub(now_ns())));
        run.hear(said)?;
    }
    run.until_quiet(&generators);
    Ok(run.observed)
}

struct Run {
    observed: Observed,
    memory_at: MemoryAt,
    /// Generators that still make handoffs, and that still have streams.
    opening: usize,
    running: usize,
    has_end: bool,
}

impl Run {
    fn hear(&mut self, said: Option<Said>) -> io::Result<()> {
        match said {
            None => self.look(),
            Some(Said::Ready) => {}
            Some(Said::AllOpen { at_ns }) => {
                self.observed.all_open_ns = self.observed.all_open_ns.max(at_ns);
                self.opening -= 1;
                if self.opening == 0 {
                    self.look();
                }
            }
            Some(Said::FirstEnd) => {
                self.has_end = true;
                self.read_memory_if_due();
            }
            Some(Said::Finished(tally)) => {
                self.observed.tally.merge(&tally);
                self.running -= 1;
            }
            Some(Said::Stopped(why)) => return Err(io::Error::other(why)),
        }
        Ok(())
    }

    fn look(&mut self) {
        let sample = self.observed.tree.sample();
        self.observed.samples.push(sample);
        self.read_memory_if_due();
    }

    fn last_look_ns(&self) -> u64 {
        self.observed.samples.last().map_or(0, |sample| sample.at_ns)
    }

    fn read_memory_if_due(&mut self) {
        let now_ns = now_ns();
        let is_due = match self.memory_at {
            MemoryAt::SinceStart(ns) => now_ns >= self.observed.start_ns + ns,
            MemoryAt::SinceAllOpen(ns) => {
                self.opening == 0 && (self.has_end || now_ns >= self.observed.all_open_ns + ns)
            }
        };
        if is_due && self.observed.loaded.is_none() {
            self.observed.loaded = self.observed.tree.memory();
        }
    }

    /// What the daemon still does after its clients' last byte is a part of the work.
    fn until_quiet(&mut self, generators: &Generators) {
        let end_ns = now_ns();
        loop {
            let before: u64 = self.observed.samples.last().map_or(0, |sample| sample.cpu_ns.values().sum());
            let _ = generators.wait(Duration::from_nanos(QUIET_NS)); // they have ended: this waits
            self.look();
            let after: u64 = self.observed.samples.last().map_or(0, |sample| sample.cpu_ns.values().sum());
            if after - before < QUIET_NS / 100 || now_ns() > end_ns + QUIET_MAX_NS {
                return;
            }
        }
    }
}
