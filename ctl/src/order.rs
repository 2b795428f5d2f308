//! What `handoffctl` orders: reload, upgrade, drain, kill, log. In: a command line. Out: one request, and what became
//! of it: a sentence and an exit code.
//! Never: asks for more than one thing.

use std::io::{self, Write};
use std::thread;
use std::time::{Duration, Instant};

use handoff_shared::control::{Reply, Request};
use handoff_shared::status::Status;

use crate::control::{Place, Refused};
use crate::outcome::{Exit, Failure};

/// Between two looks for a new image.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);

macro_rules! help_tail {
    ($example:literal) => {
        concat!(
            "Exit codes:\n",
            "  0  done\n",
            "  1  refused, or it failed; the reason is on stderr\n",
            "  2  wrong usage\n",
            "  3  the daemon could not be reached\n",
            "  4  not ended in time; it goes on\n",
            "\nExamples:\n  handoffctl ",
            $example
        )
    };
}

/// Whether to wait for the end, and how long.
#[derive(Debug, clap::Args)]
struct Wait {
    /// Wait for the end, and say how it went
    #[arg(long)]
    wait: bool,
    /// Wait at most SECS seconds, 1 to 3600
    #[arg(long, value_name = "SECS", requires = "wait", default_value = "300",
          value_parser = clap::value_parser!(u32).range(1..=3600))]
    timeout: u32,
}

/// A new generation of workers.
#[derive(Debug, clap::Args)]
#[command(after_help = help_tail!("reload --wait"))]
pub(crate) struct ReloadArgs {
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    place: Place,
}

/// A new supervisor.
#[derive(Debug, clap::Args)]
#[command(after_help = help_tail!("upgrade --wait"))]
pub(crate) struct UpgradeArgs {
    #[command(flatten)]
    wait: Wait,
    #[command(flatten)]
    place: Place,
}

/// Another worker for a slot.
#[derive(Debug, clap::Args)]
#[command(after_help = help_tail!("drain 0"))]
pub(crate) struct DrainArgs {
    /// The slot's number, as `status` shows it
    slot: u16,
    #[command(flatten)]
    place: Place,
}

/// The end of a stream.
#[derive(Debug, clap::Args)]
#[command(after_help = help_tail!("kill 0000018bcfe56800"))]
pub(crate) struct KillArgs {
    /// The stream's id, as `streams` shows it
    stream: String,
    #[command(flatten)]
    place: Place,
}

/// Another log level.
#[derive(Debug, clap::Args)]
#[command(after_help = help_tail!("log debug"))]
pub(crate) struct LogArgs {
    /// As logging.level: trace, debug, info, warn, error, off, or filter directives
    level: String,
    #[command(flatten)]
    place: Place,
}

/// Rolls to a new generation.
pub(crate) fn reload(args: &ReloadArgs) -> Result<Exit, Failure> {
    let Wait { wait, timeout } = args.wait;
    order(&args.place, &Request::Reload { wait, timeout_secs: wait.then_some(timeout) })
}

/// Replaces the supervisor's own process image.
pub(crate) fn upgrade(args: &UpgradeArgs) -> Result<Exit, Failure> {
    let Wait { wait, timeout } = args.wait;
    let request = Request::Upgrade { wait, timeout_secs: wait.then_some(timeout) };
    if !wait {
        return order(&args.place, &request);
    }
    let deadline = Instant::now() + Duration::from_secs(timeout.into());
    let before = args.place.status()?;
    match order(&args.place, &request) {
        // Its last word is that there is none: a new image does not know who has waited.
        Err(Failure::Control { .. }) => follow(&args.place, before.pid, deadline),
        answered => answered,
    }
}

/// Looks for the new image, which is ready when it has taken all workers over.
fn follow(place: &Place, pid: u32, deadline: Instant) -> Result<Exit, Failure> {
    while Instant::now() < deadline {
        match place.status() {
            Ok(status) if status.pid != pid => {
                let reason =
                    format!("handoffd (pid {pid}) has ended; another one runs now (pid {})", status.pid);
                return Err(Failure::Ordered(Refused { reason }));
            }
            Ok(Status { state, version, last_upgrade: Some(how), .. }) if state == "ready" => {
                writeln!(io::stdout().lock(), "handoffd {version} has taken over: {how}")
                    .map_err(Failure::Output)?;
                return Ok(Exit::Complete);
            }
            // Taking over, or not there yet.
            Ok(_) | Err(Failure::Control { .. }) => thread::park_timeout(LOOK_INTERVAL),
            Err(failure) => return Err(failure),
        }
    }
    Err(Failure::Late { reason: "the new handoffd is not ready in time; it goes on".to_owned() })
}

/// Replaces one worker.
pub(crate) fn drain(args: &DrainArgs) -> Result<Exit, Failure> {
    order(&args.place, &Request::Drain { slot: args.slot })
}

/// Ends one stream.
pub(crate) fn kill(args: &KillArgs) -> Result<Exit, Failure> {
    order(&args.place, &Request::Kill { stream: args.stream.clone() })
}

/// Changes the log level.
pub(crate) fn log(args: &LogArgs) -> Result<Exit, Failure> {
    order(&args.place, &Request::Log { level: args.level.clone() })
}

fn order(place: &Place, request: &Request) -> Result<Exit, Failure> {
    place.ask(request, |reply| match reply {
        Reply::Done { text } => writeln!(io::stdout().lock(), "{text}").map_err(Failure::Output),
        Reply::Status { .. } | Reply::Stream { .. } | Reply::Refused { .. } => Ok(()),
    })?;
    Ok(Exit::Complete)
}
