//! One cell: a subject under its scenario's load, once. In: both. Out: what `handoffctl bench` reports of it.
//! Never: measures while somebody else who shares the lock does; leaves a process behind.

use std::fs::File;
use std::path::Path;
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;

use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::Signal;

use crate::error::Error;
use crate::report::{Report, Tree};
use crate::running::{Running, Stop, send};
use crate::scenario::{Happening, Load, Pace};
use crate::settings::Binaries;
use crate::subject::Target;
use crate::tree;

/// From readiness until memory is read of somebody who has nothing to do.
const IDLE: Duration = Duration::from_secs(3);
/// From the moment in which all streams should be open until something happens to the daemon.
const UNTIL_HAPPENING: Duration = Duration::from_millis(1_500);
/// A stream that is this much later than it should be has failed.
const LATE_SECS: u32 = 20;
/// Beyond what a run should take: the generator's own work before and after.
const MARGIN: Duration = Duration::from_secs(40);
/// Somebody else measures for so long at most.
const LOCK_TIMEOUT: Duration = Duration::from_secs(1_800);

/// Puts a load on a target. `json` is where the report is written.
///
/// # Errors
/// When the generator does not report, or the daemon ends.
pub(crate) fn measure(
    target: &mut Target,
    load: Load,
    pace: Pace,
    event: Happening,
    json: &Path,
    binaries: &Binaries,
    stop: &Stop,
) -> Result<Report, Error> {
    if load == Load::Idle {
        stop.pause(IDLE)?;
        return Ok(idle(target));
    }
    let mut command = Command::new(&binaries.handoffctl);
    command.arg("bench").args(arguments(load, pace)).arg("--socket").arg(&target.socket);
    command.args(["--pid", &target.daemon.pid().to_string(), "--json"]).arg(json);
    let mut generator = Running::start(command, "generator", target.directory.path())?;
    if event != Happening::Nothing {
        stop.pause(ramp(load) + UNTIL_HAPPENING)?;
        happen(target, event);
    }
    stop.until(duration(load, pace) + MARGIN, "the generator's report", || {
        target.daemon.still_runs()?;
        generator.ended()
    })?;
    let said =
        || format!("the generator wrote no report that can be read; it says:\n{}", generator.last_words());
    let text = std::fs::read_to_string(json).map_err(|_| Error::Said(said()))?;
    Report::parse(&text).map_err(|error| Error::Said(format!("{}: {error}", json.display())))
}

/// The generator's command line, but for where and whom.
fn arguments(load: Load, pace: Pace) -> Vec<String> {
    let mut arguments: Vec<String> = Vec::new();
    let mut say = |words: &[&str]| arguments.extend(words.iter().map(|word| (*word).to_owned()));
    match load {
        Load::Idle => {}
        Load::Churn { open, seconds } => {
            say(&["churn", "--open", &open.to_string(), "--seconds", &seconds.to_string()]);
            say(&["--timeout", &LATE_SECS.to_string()]);
        }
        Load::Held { streams, rate, stamped } => {
            let life_secs = pace.length_ms().div_ceil(1_000);
            say(&["held", "--streams", &streams.to_string(), "--rate", &rate.to_string()]);
            // Longer than the last stream: each is read to its end.
            say(&[
                "--hold",
                &(life_secs + LATE_SECS).to_string(),
                "--timeout",
                &(life_secs + LATE_SECS).to_string(),
            ]);
            say(&["--processes", "0"]);
            if stamped {
                say(&["--stamped"]);
            }
        }
    }
    say(&["--payload", r#"{"prompt":"How much does one handoff cost?"}"#]);
    arguments
}

fn ramp(load: Load) -> Duration {
    match load {
        Load::Idle | Load::Churn { .. } => Duration::ZERO,
        Load::Held { streams, rate, .. } => Duration::from_secs_f64(f64::from(streams) / f64::from(rate)),
    }
}

/// How long a run should take.
fn duration(load: Load, pace: Pace) -> Duration {
    let answer = Duration::from_millis(pace.length_ms().into());
    match load {
        Load::Idle => IDLE,
        Load::Churn { seconds, .. } => Duration::from_secs(seconds.into()) + answer,
        Load::Held { .. } => ramp(load) + answer + Duration::from_secs(LATE_SECS.into()),
    }
}

fn idle(target: &Target) -> Report {
    let processes = tree::of(target.daemon.pid());
    let pss: u64 = processes.iter().filter_map(tree::Process::holdings).map(|held| held.pss_bytes).sum();
    let pss = f64::from(u32::try_from(pss).unwrap_or(u32::MAX));
    let tree = Tree { processes: processes.len() as u64, idle_pss_bytes: Some(pss), ..Tree::default() };
    Report { daemon: Some(tree), ..Report::default() }
}

fn happen(target: &Target, event: Happening) {
    match event {
        Happening::Nothing => {}
        Happening::Roll => target.daemon.signal(Signal::SIGHUP),
        Happening::WorkerKilled => {
            let tree = tree::of(target.daemon.pid());
            if let Some(worker) = tree.iter().find(|process| process.pid != target.daemon.pid()) {
                send(worker.pid, Signal::SIGKILL);
            }
        }
    }
}

/// Waits until nobody else measures; they wait until this is dropped.
///
/// # Errors
/// When the file cannot be opened, or somebody measures for half an hour.
pub(crate) fn alone(lock: Option<&Path>, stop: &Stop) -> Result<Option<Flock<File>>, Error> {
    let Some(path) = lock else { return Ok(None) };
    let file = File::options().create(true).truncate(false).write(true).open(path);
    let file = file.map_err(Error::io(path.display().to_string()))?;
    // A thread stands in the kernel's queue, for that cannot be interrupted. It ends with us.
    let (sender, locked) = sync_channel(1);
    thread::spawn(move || {
        sender.send(Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| errno))
    });
    let lock =
        stop.until(LOCK_TIMEOUT, &format!("the lock {}", path.display()), || Ok(locked.try_recv().ok()))?;
    lock.map(Some).map_err(|errno| Error::io(path.display().to_string())(errno.into()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use nix::errno::Errno;

    #[test]
    fn the_generators_command_line_says_the_load() {
        let held = Load::Held { streams: 10_000, rate: 2_000, stamped: true };
        let line = arguments(held, Pace { events: 12, interval_ms: 1_000 }).join(" ");
        assert!(
            line.starts_with(
                "held --streams 10000 --rate 2000 --hold 31 --timeout 31 --processes 0 --stamped"
            ),
            "{line}"
        );
        let churn =
            arguments(Load::Churn { open: 512, seconds: 4 }, Pace { events: 19, interval_ms: 0 }).join(" ");
        assert!(churn.starts_with("churn --open 512 --seconds 4 --timeout 20 --payload {"), "{churn}");
    }

    #[test]
    fn who_measures_measures_alone() {
        let directory = tempfile::tempdir().unwrap();
        let (path, stop) = (directory.path().join("lock"), Stop::on_signals().unwrap());
        let first = alone(Some(&path), &stop).unwrap();
        let file = File::open(&path).unwrap();
        let (file, errno) = Flock::lock(file, FlockArg::LockExclusiveNonblock).unwrap_err();
        assert_eq!(errno, Errno::EWOULDBLOCK);
        drop(first);
        assert!(Flock::lock(file, FlockArg::LockExclusiveNonblock).is_ok());
        assert!(alone(None, &stop).unwrap().is_none());
    }
}
