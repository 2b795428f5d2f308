//! The chaos suite, run by `make chaos`. In, by the environment: CHAOS_SECONDS (60), HANDOFF_SEED (chosen by the
//! clock), CHAOS_RATE (1200 handoffs a second), CHAOS_WORKERS (4), CHAOS_TICK_MS (20: how often a worker meets
//! trouble), CHAOS_SUPERVISOR (0: workers only, and numbers that must match exactly; 1: the supervisor too; unset:
//! one after the other, half of the time each). Out: tables, and exit code 1 when a promise was broken.

#![forbid(unsafe_code)]

use std::io::{self, Write};
use std::process::ExitCode;
use std::str::FromStr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handoff_e2e::chaos::{self, Plan};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

fn main() -> io::Result<ExitCode> {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard)?;
    // Whoever loses its parent becomes our child: nobody is left unseen.
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let clock = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let (seed, seconds) = (u64::try_from(clock).unwrap_or(1), 60.0);
    let forms = match variable("CHAOS_SUPERVISOR")? {
        Some(0) => vec![false],
        Some(_) => vec![true],
        None => vec![false, true],
    };
    let parts = u32::try_from(forms.len()).unwrap_or(1);
    let mut plan = Plan {
        seed: variable("HANDOFF_SEED")?.unwrap_or(seed),
        duration: Duration::from_secs_f64(variable("CHAOS_SECONDS")?.unwrap_or(seconds)) / parts,
        per_second: variable("CHAOS_RATE")?.unwrap_or(1_200),
        workers: variable("CHAOS_WORKERS")?.unwrap_or(4),
        trouble_every: Duration::from_millis(variable("CHAOS_TICK_MS")?.unwrap_or(20)),
        with_supervisor: false,
    };
    let mut is_well = true;
    for with_supervisor in forms {
        plan.with_supervisor = with_supervisor;
        // At once: whatever happens, it can be had again.
        writeln!(io::stdout(), "chaos: {plan}")?;
        let outcome = chaos::run(plan)?;
        writeln!(io::stdout(), "{outcome}\n")?;
        is_well &= outcome.complaints().is_empty();
    }
    Ok(if is_well { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn variable<T: FromStr>(name: &str) -> io::Result<Option<T>> {
    let wrong = |text: &str| io::Error::other(format!("{name}: {text:?} is no number"));
    std::env::var(name).ok().map(|text| text.parse().map_err(|_| wrong(&text))).transpose()
}
