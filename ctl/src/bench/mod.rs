//! `handoffctl bench`: plays Apache and its clients, many of them, and says what the daemon makes of it.
//! In: a handoff socket. Out: counts, latencies, the daemon's CPU and memory; as a table, as JSON.
//! Never: needs anything of the daemon but its protocol, takes a stream for complete that did not say so.

mod args;
mod generator;
mod generators;
mod histogram;
mod observer;
mod pairs;
mod plan;
mod reader;
mod report;
mod schedule;
mod table;
mod tally;
mod tree;

use std::fs;
use std::io::{self, Write};
use std::path::Path;

pub(crate) use args::Args;
use args::{Mode, Target};
use observer::{MemoryAt, observe};
use plan::{Pace, Plan};
use report::{Report, Subject};
use table::Table;
use tree::Tree;

use crate::outcome::{Exit, Failure};

/// Files that a generator has open besides its clients.
const OWN_FILES: u64 = 64;
const SECOND_NS: f64 = 1e9;

/// Measures, or is a generator of a measurement.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    match &args.mode {
        Mode::Generate => generator::run().map_err(Failure::Bench).map(|()| Exit::Complete),
        Mode::Held(held) => {
            let pace = |processes, index| Pace::Held {
                streams: share(held.streams, processes, index),
                rate: held.rate,
            };
            measure(&held.target, held.streams, Some(ns(held.hold)), pace)
        }
        Mode::Churn(churn) => {
            let ns = churn.handoffs.map_or_else(|| ns(churn.seconds), |_| u64::MAX);
            let pace = |processes, index| Pace::Churn {
                open: share(churn.open, processes, index),
                handoffs: churn.handoffs.map_or(u64::MAX, |handoffs| share(handoffs, processes, index)),
                ns,
            };
            measure(&churn.target, churn.open, None, pace)
        }
    }
}

fn measure(
    target: &Target,
    streams: u64,
    hold_ns: Option<u64>,
    pace: impl Fn(u64, u64) -> Pace,
) -> Result<Exit, Failure> {
    let door = target.knock()?;
    let tree = Tree::of(door.pid).map_err(|source| Failure::Process { pid: door.pid, source })?;
    let processes = target.processes(streams)?;
    let payload = target.payload()?;
    let plan = |index| Plan {
        socket: target.path(),
        socket_type: door.socket_type,
        clients: target.clients,
        payload: payload.clone(),
        pace: pace(processes, index),
        index,
        processes,
        is_stamped: target.stamped,
        timeout_ns: ns(target.timeout),
    };
    let plans: Vec<Plan> = (0..processes).map(plan).collect();
    let memory_at = match (hold_ns, plans.first().map(|plan| plan.pace)) {
        (Some(ns), _) => MemoryAt::SinceAllOpen((ns / 2).min(1_000_000_000)),
        (None, Some(Pace::Churn { ns, .. })) if ns < u64::MAX => MemoryAt::SinceStart(ns / 2),
        (None, _) => MemoryAt::SinceStart(0),
    };
    let observed = observe(&plans, tree, memory_at).map_err(Failure::Bench)?;
    let subject = Subject {
        socket_type: door.socket_type,
        clients: target.clients,
        processes,
        streams,
        hold_ns,
        is_stamped: target.stamped,
    };
    let report =
        Report::new(subject, &observed).ok_or_else(|| Failure::Bench(io::ErrorKind::Other.into()))?;
    show(&report, target.json.as_deref())?;
    let is_complete = observed.tally.failures() == 0 && observed.tally.completed > 0;
    Ok(if is_complete { Exit::Complete } else { Exit::Incomplete })
}

/// The table, or the JSON where that goes to standard output.
fn show(report: &Report, json: Option<&Path>) -> Result<(), Failure> {
    let mut text = serde_json::to_string(report).map_err(|error| Failure::Bench(error.into()))?;
    text.push('\n');
    let to_stdout = |text: &str| io::stdout().lock().write_all(text.as_bytes()).map_err(Failure::Output);
    match json {
        Some(path) if path == Path::new("-") => return to_stdout(&text),
        Some(path) => {
            fs::write(path, text).map_err(|source| Failure::Files { path: path.to_owned(), source })?;
        }
        None => {}
    }
    to_stdout(&Table(report).to_string())
}

/// The part of `index` when so many are shared out.
fn share(total: u64, processes: u64, index: u64) -> u64 {
    total / processes + u64::from(index < total % processes)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clap admits no negative and no huge number"
)]
fn ns(seconds: f64) -> u64 {
    (seconds * SECOND_NS) as u64
}
