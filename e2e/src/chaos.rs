//! Chaos: a steady load, whose every byte is checked, while workers are killed and stopped without end. In: a
//! seed and a duration. Out: what became of every client, and which promises were broken.
//!
//! - [`load`] hands over and reads, [`answer`] judges each client's bytes;
//! - [`trouble`] decides from the seed what happens when, and does it;
//! - `site` starts the next supervisor when one has ended;
//! - [`books`] compares with the daemon's own numbers, and looks for what was left behind.
//!
//! Never: retries, forgives, or depends on anything but the seed and the clock.

pub mod answer;
pub mod books;
pub mod dice;
pub mod load;
mod site;
pub mod trouble;

use std::fmt;
use std::io;
use std::time::{Duration, Instant};

use crate::process;
use books::{Books, RECOVERY};
use load::{Load, Tally};
use site::Site;
use trouble::{Schedule, Troublemaker};

/// So many handoffs that are late are made up for at once.
const BURST: u64 = 50;

/// What is to happen.
#[derive(Clone, Copy, Debug)]
pub struct Plan {
    /// Decides everything that chance decides.
    pub seed: u64,
    /// How long there is trouble.
    pub duration: Duration,
    /// Handoffs a second.
    pub per_second: u32,
    /// Worker processes.
    pub workers: u16,
    /// A worker meets trouble this often.
    pub trouble_every: Duration,
    /// The supervisor meets trouble too, as a service with an fd store.
    pub with_supervisor: bool,
}

/// What has happened.
#[derive(Debug)]
pub struct Outcome {
    plan: Plan,
    tally: Tally,
    troubles: Vec<(&'static str, u64)>,
    deeds: Vec<(&'static str, u64)>,
    complaints: Vec<String>,
    took: Duration,
    /// Seconds of CPU: ours, the supervisor's.
    cpu: (f64, f64),
}

impl Outcome {
    /// Which promises were broken, each in a sentence. None: all was well.
    #[must_use]
    pub fn complaints(&self) -> &[String] {
        &self.complaints
    }
}

/// Starts a daemon, makes trouble, and looks at what is left.
///
/// # Errors
/// When the machine does not give what the load needs. Broken promises are in the outcome.
///
/// # Panics
/// When the daemon does not start.
pub fn run(plan: Plan) -> io::Result<Outcome> {
    let mut site = Site::start(plan);
    let mut load = Load::new(&site.daemon.socket(), plan.seed)?;
    let books = Books::open(&site.daemon, plan);
    let schedule = Schedule::new(plan.seed, plan.trouble_every, plan.with_supervisor);
    let mut troublemaker = Troublemaker::new(schedule);
    let (began_at, cpu_before) = (Instant::now(), cpu_seconds(&site));
    storm(plan, began_at, &mut site, &mut load, &mut troublemaker)?;
    let (took, cpu) = (began_at.elapsed(), cpu_seconds(&site));
    aftermath(&mut site, &mut load)?;
    let tally = load.tally().clone();
    let mut complaints = books.close(&site.daemon, &tally);
    let deeds = books::deeds(&site.daemon);
    site.stop();
    complaints.extend(books::end(&mut site.daemon));
    if !complaints.is_empty() {
        let log = std::env::temp_dir().join(format!("handoffd-chaos-{}.log", plan.seed));
        std::fs::write(&log, site.daemon.log())?;
        complaints.push(format!("the daemon's log is in {}", log.display()));
    }
    let troubles: Vec<_> = troublemaker.done().iter().map(|(name, count)| (*name, *count)).collect();
    let cpu = (cpu.0 - cpu_before.0, cpu.1 - cpu_before.1);
    Ok(Outcome { plan, tally, troubles, deeds, complaints, took, cpu })
}

/// Load and trouble, each at its own pace.
fn storm(
    plan: Plan,
    began_at: Instant,
    site: &mut Site,
    load: &mut Load,
    troublemaker: &mut Troublemaker,
) -> io::Result<()> {
    let mut handed_over = 0;
    while began_at.elapsed() < plan.duration {
        let now = Instant::now();
        let since_start = now - began_at;
        let due = u64::try_from(since_start.as_millis()).unwrap_or(0) * u64::from(plan.per_second) / 1_000;
        site.tend(now);
        // Before the next handoffs: trouble has no moment of its own choice.
        if troublemaker.act(now, since_start, site.supervisor(), || site.is_whole()) {
            load.supervisor_was_killed(Instant::now());
        }
        // Late handoffs do not keep trouble waiting.
        for _ in 0..due.saturating_sub(handed_over).min(BURST) {
            load.hand_over()?;
            handed_over += 1;
        }
        load.listen(Duration::from_millis(1))?;
    }
    troublemaker.go_on();
    Ok(())
}

/// Everybody has an answer, and a supervisor is there.
fn aftermath(site: &mut Site, load: &mut Load) -> io::Result<()> {
    let give_up_at = Instant::now() + RECOVERY;
    while load.waiting() > 0 || (site.supervisor().is_none() && Instant::now() < give_up_at) {
        site.tend(Instant::now());
        load.listen(Duration::from_millis(10))?;
        load.give_up();
    }
    Ok(())
}

/// What we have used, and what the supervisor of now has.
fn cpu_seconds(site: &Site) -> (f64, f64) {
    (process_seconds(std::process::id()), process_seconds(site.daemon.pid()))
}

/// A clock tick is 10 ms (proc(5)).
fn process_seconds(pid: u32) -> f64 {
    f64::from(u32::try_from(process::cpu_ticks(pid)).unwrap_or(u32::MAX)) / 100.0
}

/// The command that has the same again.
impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { seed, duration, per_second, workers, trouble_every, with_supervisor } = self;
        write!(f, "HANDOFF_SEED={seed} CHAOS_SECONDS={} CHAOS_RATE={per_second} ", duration.as_secs_f64())?;
        write!(f, "CHAOS_WORKERS={workers} CHAOS_TICK_MS={} ", trouble_every.as_millis())?;
        write!(f, "CHAOS_SUPERVISOR={} make chaos", u8::from(*with_supervisor))
    }
}

/// A table, and how to have the same again.
impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { plan, tally, troubles, deeds, complaints, took, cpu } = self;
        let seconds = took.as_secs_f64();
        let rate = |count: u64| f64::from(u32::try_from(count).unwrap_or(u32::MAX)) / seconds;
        writeln!(
            f,
            "{:>8}  handed over: {:.0} a second, {} at a time",
            tally.handed_over,
            rate(tally.handed_over),
            tally.peak
        )?;
        for (verdict, count) in &tally.verdicts {
            writeln!(f, "{count:>8}    {verdict}")?;
        }
        for (errno, count) in &tally.not_taken {
            writeln!(f, "{count:>8}  not taken: {errno}")?;
        }
        if tally.lost_with_supervisor > 0 {
            writeln!(f, "{:>8}    in the hands of a supervisor that was killed", tally.lost_with_supervisor)?;
        }
        for (trouble, count) in troubles {
            writeln!(f, "{count:>8}  {trouble}")?;
        }
        for (deed, count) in deeds {
            writeln!(f, "{count:>8}  {deed}, by the supervisor's numbers")?;
        }
        let (longest, percent) = (tally.longest.as_millis(), 100.0 / seconds);
        write!(f, "the longest answer took {longest} ms; CPU: load {:.0} %", percent * cpu.0)?;
        if !plan.with_supervisor {
            write!(f, ", supervisor {:.0} %", percent * cpu.1)?;
        }
        writeln!(f, " of a core")?;
        for complaint in complaints {
            writeln!(f, "BROKEN: {complaint}")?;
        }
        let verdict = if complaints.is_empty() { "all promises kept" } else { "promises broken" };
        write!(f, "{verdict}; replay: {plan}")
    }
}
