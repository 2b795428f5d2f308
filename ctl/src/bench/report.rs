//! What a run says. In: everything that was seen. Out: one JSON object, or a table for people.
//! Never: leaves a failure out, makes up a figure that was not measured.

use std::collections::BTreeMap;

use serde::Serialize;

use super::histogram::Quantiles;
use super::observer::Observed;
use super::plan::{Clients, SocketType};
use super::tally::BIN_NS;
use super::tree::{Memory, Sample};

/// One run. Durations are microseconds.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    pub(super) version: u32,
    pub(super) mode: &'static str,
    pub(super) socket_type: SocketType,
    pub(super) clients: Clients,
    pub(super) processes: u64,
    /// From the first handoff to the last end.
    pub(super) seconds: f64,
    pub(super) handoffs: u64,
    pub(super) handoff_retries: u64,
    pub(super) completed: u64,
    pub(super) failed: BTreeMap<String, u64>,
    pub(super) events: u64,
    pub(super) tokens: u64,
    pub(super) handoffs_per_second: f64,
    pub(super) events_per_second: f64,
    pub(super) handoff_us: Quantiles,
    pub(super) first_byte_us: Quantiles,
    pub(super) first_token_us: Quantiles,
    pub(super) token_gap_us: Quantiles,
    /// By the second in which the gap ended, from the start.
    pub(super) token_gap_max_us_by_second: Vec<f64>,
    pub(super) added_latency_us: Option<Quantiles>,
    pub(super) generator_lag_us: Quantiles,
    pub(super) generator_turn_us: Quantiles,
    pub(super) generator_cpu_us_per_handoff: Option<f64>,
    pub(super) generator_cpu_us_per_event: Option<f64>,
    pub(super) generator_busy: f64,
    pub(super) plateau: Option<Plateau>,
    pub(super) daemon: Daemon,
}

/// The time in which all streams were open. Of a run that has none the daemon's CPU per event is that of all of it.
#[derive(Debug, Serialize)]
pub(super) struct Plateau {
    pub(super) seconds: f64,
    pub(super) events: f64,
}

/// The daemon's process tree.
#[derive(Debug, Serialize)]
pub(super) struct Daemon {
    pub(super) processes: usize,
    pub(super) cpu_us_per_handoff: Option<f64>,
    pub(super) cpu_us_per_event: Option<f64>,
    pub(super) idle_pss_bytes: Option<u64>,
    pub(super) pss_bytes: Option<u64>,
    pub(super) pss_bytes_per_stream: Option<f64>,
    pub(super) rss_bytes_per_stream: Option<f64>,
    pub(super) by_process: Vec<Process>,
}

/// One of them.
#[derive(Debug, Serialize)]
pub(super) struct Process {
    pub(super) pid: u32,
    pub(super) name: String,
    pub(super) cpu_us: f64,
    pub(super) cpu_us_per_handoff: Option<f64>,
    pub(super) pss_bytes_before: Option<u64>,
    pub(super) pss_bytes: Option<u64>,
}

/// What the command line has to say about a run.
#[derive(Clone, Copy, Debug)]
pub(super) struct Subject {
    pub(super) socket_type: SocketType,
    pub(super) clients: Clients,
    pub(super) processes: u64,
    /// How many streams were to be open at a time.
    pub(super) streams: u64,
    /// Nanoseconds of the plateau at most; none: it was a churn.
    pub(super) hold_ns: Option<u64>,
    pub(super) is_stamped: bool,
}

/// The samples between which the daemon's CPU counts.
struct Windows<'a> {
    /// Of the whole run.
    all: (&'a Sample, &'a Sample),
    /// Of the handoffs.
    handoffs: (&'a Sample, &'a Sample),
    /// Of the events.
    events: Option<(&'a Sample, &'a Sample)>,
}

impl Report {
    /// `None`: nothing was sampled.
    pub(super) fn new(subject: Subject, observed: &Observed) -> Option<Self> {
        let tally = &observed.tally;
        let windows = Windows::of(subject, observed)?;
        let seconds = seconds(tally.last_end_ns.saturating_sub(observed.start_ns));
        let plateau =
            windows.events.filter(|_| subject.hold_ns.is_some()).map(|window| plateau(window, observed));
        let lag = if subject.hold_ns.is_some() { &tally.late } else { &tally.turn };
        Some(Self {
            version: 1,
            mode: if subject.hold_ns.is_some() { "held" } else { "churn" },
            socket_type: subject.socket_type,
            clients: subject.clients,
            processes: subject.processes,
            seconds,
            handoffs: tally.handoffs,
            handoff_retries: tally.retries,
            completed: tally.completed,
            failed: tally.failed.clone(),
            events: tally.events,
            tokens: tally.tokens,
            handoffs_per_second: ratio(tally.handoffs as f64, seconds).unwrap_or(0.0),
            events_per_second: ratio(tally.events as f64, seconds).unwrap_or(0.0),
            handoff_us: tally.handoff.quantiles(),
            first_byte_us: tally.first_byte.quantiles(),
            first_token_us: tally.first_token.quantiles(),
            token_gap_us: tally.token_gap.quantiles(),
            token_gap_max_us_by_second: tally.gap_max_ns.iter().map(|ns| *ns as f64 / 1000.0).collect(),
            added_latency_us: subject.is_stamped.then(|| tally.added.quantiles()),
            generator_lag_us: lag.quantiles(),
            generator_turn_us: tally.turn.quantiles(),
            generator_cpu_us_per_handoff: ratio(us(tally.cpu_ns), tally.handoffs as f64),
            generator_cpu_us_per_event: ratio(us(tally.cpu_ns), tally.events as f64),
            generator_busy: ratio(us(tally.cpu_ns) / 1e6, seconds * subject.processes as f64).unwrap_or(0.0),
            daemon: Daemon::new(subject, observed, &windows, plateau.as_ref()),
            plateau,
        })
    }
}

impl Daemon {
    fn new(subject: Subject, observed: &Observed, windows: &Windows<'_>, plateau: Option<&Plateau>) -> Self {
        let handoffs = observed.tally.handoffs as f64;
        let events = plateau.map_or(observed.tally.events as f64, |plateau| plateau.events);
        let per_handoff = |pid| ratio(us(cpu(windows.handoffs, pid)), handoffs);
        let of = |memory: &Option<BTreeMap<u32, Memory>>, pid| Some(memory.as_ref()?.get(&pid)?.pss);
        let by_process = observed.tree.names().map(|(pid, name)| Process {
            pid,
            name: name.to_owned(),
            cpu_us: us(cpu(windows.all, Some(pid))),
            cpu_us_per_handoff: per_handoff(Some(pid)),
            pss_bytes_before: of(&observed.idle, pid),
            pss_bytes: of(&observed.loaded, pid),
        });
        let sum = |memory: &Option<BTreeMap<u32, Memory>>, of: fn(&Memory) -> u64| {
            memory.as_ref().map(|memory| memory.values().map(of).sum::<u64>())
        };
        let grown = |of: fn(&Memory) -> u64| {
            let bytes = sum(&observed.loaded, of)? as f64 - sum(&observed.idle, of)? as f64;
            ratio(bytes, subject.streams as f64)
        };
        Self {
            processes: observed.loaded.as_ref().map_or(0, BTreeMap::len),
            cpu_us_per_handoff: per_handoff(None),
            cpu_us_per_event: windows.events.and_then(|window| ratio(us(cpu(window, None)), events)),
            idle_pss_bytes: sum(&observed.idle, |memory| memory.pss),
            pss_bytes: sum(&observed.loaded, |memory| memory.pss),
            pss_bytes_per_stream: grown(|memory| memory.pss),
            rss_bytes_per_stream: grown(|memory| memory.rss),
            by_process: by_process.collect(),
        }
    }
}

impl<'a> Windows<'a> {
    fn of(subject: Subject, observed: &'a Observed) -> Option<Self> {
        let samples = &observed.samples;
        let all = (samples.first()?, samples.last()?);
        let Some(hold_ns) = subject.hold_ns else {
            return Some(Self { all, handoffs: all, events: Some(all) });
        };
        let Some(open) = samples.iter().find(|sample| sample.at_ns >= observed.all_open_ns) else {
            return Some(Self { all, handoffs: all, events: None });
        };
        let complete_ns = observed.tally.first_end_ns.unwrap_or(u64::MAX);
        let failure = observed.tally.failure_after(open.at_ns.saturating_sub(observed.start_ns));
        let failed_ns = failure.map_or(u64::MAX, |since_start_ns| observed.start_ns + since_start_ns);
        let end_ns =
            complete_ns.min(failed_ns).min(open.at_ns.saturating_add(hold_ns).saturating_add(BIN_NS));
        let last = samples.iter().rfind(|sample| sample.at_ns <= end_ns && sample.at_ns > open.at_ns);
        Some(Self { all, handoffs: (all.0, open), events: last.map(|last| (open, last)) })
    }
}

fn plateau((from, to): (&Sample, &Sample), observed: &Observed) -> Plateau {
    let since_start_ns = |sample: &Sample| sample.at_ns.saturating_sub(observed.start_ns);
    let events = observed.tally.events_between(since_start_ns(from), since_start_ns(to));
    Plateau { seconds: seconds(to.at_ns - from.at_ns), events }
}

/// What one process, or all of them, used between two samples.
fn cpu((from, to): (&Sample, &Sample), pid: Option<u32>) -> u64 {
    let of = |pid: &u32| to.cpu_ns.get(pid).unwrap_or(&0) - from.cpu_ns.get(pid).unwrap_or(&0);
    match pid {
        Some(pid) => of(&pid),
        None => to.cpu_ns.keys().map(of).sum(),
    }
}

fn ratio(of: f64, by: f64) -> Option<f64> {
    (by > 0.0).then(|| of / by)
}

fn us(ns: u64) -> f64 {
    ns as f64 / 1000.0
}

fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::tally::{Kind, Tally};
    use crate::bench::tree::Tree;

    const MS: u64 = 1_000_000;

    fn sample(at_ms: u64, cpu_ms: &[(u32, u64)]) -> Sample {
        Sample { at_ns: at_ms * MS, cpu_ns: cpu_ms.iter().map(|(pid, ms)| (*pid, ms * MS)).collect() }
    }

    /// Ten streams from 100 ms on, all open at 190 ms, the first complete at 510 ms; an event of each every 10 ms.
    fn observed() -> Observed {
        let mut tally = Tally { handoffs: 10, first_end_ns: Some(510 * MS), ..Tally::default() };
        (0..50).for_each(|bin| tally.events(bin * BIN_NS, 10, 10));
        let pid = std::process::id();
        let samples = vec![
            sample(90, &[(pid, 5)]),
            sample(200, &[(pid, 25)]),
            sample(300, &[(pid, 45), (7, 1)]),
            sample(500, &[(pid, 85), (7, 3)]),
            sample(600, &[(pid, 99), (7, 3)]),
        ];
        let tree = Tree::of(pid).unwrap();
        let (start_ns, all_open_ns) = (100 * MS, 190 * MS);
        Observed { tally, tree, start_ns, all_open_ns, samples, idle: None, loaded: None }
    }

    fn subject(hold_ms: Option<u64>) -> Subject {
        Subject {
            socket_type: SocketType::Seqpacket,
            clients: Clients::Tcp,
            processes: 1,
            streams: 10,
            hold_ns: hold_ms.map(|ms| ms * MS),
            is_stamped: false,
        }
    }

    #[test]
    fn of_held_streams_the_ramp_pays_for_handoffs_and_the_plateau_for_events() {
        let report = Report::new(subject(Some(10_000)), &observed()).unwrap();
        let plateau = report.plateau.unwrap();
        assert_eq!((plateau.seconds, plateau.events), (0.3, 300.0));
        assert_eq!(report.daemon.cpu_us_per_handoff, Some(2000.0));
        assert_eq!(
            report.daemon.cpu_us_per_event,
            Some(210.0),
            "63 ms, also those of a process that came later"
        );
    }

    #[test]
    fn a_plateau_is_no_longer_than_it_was_to_be_held() {
        let report = Report::new(subject(Some(150)), &observed()).unwrap();
        assert_eq!(report.plateau.unwrap().seconds, 0.1);
    }

    #[test]
    fn a_stream_that_fails_ends_the_plateau_but_not_one_that_was_never_open() {
        let mut observed = observed();
        observed.tally.end(100 * MS, 150 * MS, Err(Kind::Status(503)));
        observed.tally.end(100 * MS, 450 * MS, Err(Kind::Cut));
        let report = Report::new(subject(Some(10_000)), &observed).unwrap();
        assert_eq!(report.plateau.unwrap().seconds, 0.1);
    }

    #[test]
    fn without_a_plateau_nothing_is_said_of_events() {
        let mut observed = observed();
        observed.tally.first_end_ns = Some(195 * MS);
        let report = Report::new(subject(Some(150)), &observed).unwrap();
        assert!(report.plateau.is_none() && report.daemon.cpu_us_per_event.is_none());
        assert_eq!(report.daemon.cpu_us_per_handoff, Some(2000.0));
    }

    #[test]
    fn a_churn_pays_for_everything_from_first_to_last() {
        let report = Report::new(subject(None), &observed()).unwrap();
        assert_eq!(report.daemon.cpu_us_per_handoff, Some(9700.0));
        assert_eq!(report.daemon.cpu_us_per_event, Some(194.0));
        assert_eq!(report.daemon.pss_bytes_per_stream, None, "what was not measured is not made up");
    }
}
