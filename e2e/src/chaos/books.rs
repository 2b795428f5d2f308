//! The reckoning. In: what became of every client, and the daemon. Out: complaints: numbers that do not add up,
//! fds and processes that were left behind.
//!
//! Never: complains before the daemon had time to come to rest.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::Plan;
use super::load::Tally;
use crate::{Daemon, PATIENCE, pause, process};

/// A fleet that has backed off comes back within this time: the longest delay of a respawn, and some.
pub(super) const RECOVERY: Duration = Duration::from_secs(45);

/// How it was before there was trouble.
#[derive(Clone, Debug)]
pub struct Books {
    plan: Plan,
    supervisor_fds: BTreeMap<String, usize>,
    worker_fds: usize,
}

impl Books {
    /// Counts what is open while nobody is served.
    #[must_use]
    pub fn open(daemon: &Daemon, plan: Plan) -> Self {
        wait(PATIENCE, || at_rest(daemon, plan.workers));
        let worker_fds = daemon.workers("ready").into_iter().map(process::fds).max().unwrap_or(0);
        Self { plan, supervisor_fds: process::open_files(daemon.pid()), worker_fds }
    }

    /// Compares, once the daemon has come to rest.
    #[must_use]
    pub fn close(&self, daemon: &Daemon, tally: &Tally) -> Vec<String> {
        let mut complaints = promises(tally);
        if !wait(RECOVERY, || at_rest(daemon, self.plan.workers)) {
            complaints.push(format!("no rest after all: {:?}", daemon.get("/status")));
            return complaints;
        }
        complaints.extend(match self.plan.with_supervisor {
            true => last_life(daemon),
            false => numbers(daemon, tally),
        });
        let mut more = Vec::new();
        wait(PATIENCE, || {
            more = self.more_open(daemon.pid());
            more.is_empty()
        });
        if !more.is_empty() {
            complaints
                .push(format!("the supervisor has more fds open than before: {more:?}; {}", daemon.status()));
        }
        let fds = || daemon.workers("ready").into_iter().map(process::fds).collect::<Vec<_>>();
        if !wait(PATIENCE, || fds().iter().all(|fds| *fds <= self.worker_fds)) {
            complaints.push(format!("idle workers have {:?} fds, {} before", fds(), self.worker_fds));
        }
        complaints
    }

    fn more_open(&self, supervisor: u32) -> Vec<(String, usize)> {
        let mut files = process::open_files(supervisor);
        files.retain(|file, count| *count > self.supervisor_fds.get(file).copied().unwrap_or(0));
        files.into_iter().collect()
    }
}

/// What the supervisor that is there now had to do, by its own numbers.
#[must_use]
pub fn deeds(daemon: &Daemon) -> Vec<(&'static str, u64)> {
    let (_, text) = daemon.get("/metrics").unwrap_or_default();
    let sum = |name: &str, label: &str| {
        let samples = text.lines().filter(|line| line.starts_with(name) && line.contains(label));
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<u64>().ok()).sum()
    };
    vec![
        ("hung workers replaced", sum("handoffd_worker_restarts_total", "reason=\"hang\"")),
        ("handoffs given to a further worker", sum("handoffd_redispatches_total", "")),
        ("last events for dead workers", sum("handoffd_epitaphs_total", "")),
        ("leases taken over", sum("handoffd_adopted_leases_total", "")),
    ]
}

/// Of a supervisor that took over: what it has received or found is what it has ended.
fn last_life(daemon: &Daemon) -> Vec<String> {
    let begun = metric(daemon, "daemon_handoffs_total") + metric(daemon, "handoffd_adopted_leases_total");
    let ended = metric(daemon, "handoffd_lease_endings_total");
    let differs = begun != ended;
    differs
        .then(|| format!("{begun} leases by the daemon's numbers, {ended} have ended"))
        .into_iter()
        .collect()
}

/// The daemon's own numbers against what the clients saw.
fn numbers(daemon: &Daemon, tally: &Tally) -> Vec<String> {
    let ended = |outcome| metric(daemon, &format!("handoffd_lease_endings_total{{outcome=\"{outcome}\""));
    let saw = |verdict: &str| tally.verdicts.get(verdict).copied().unwrap_or(0);
    let compare = |what: &str, theirs: u64, ours: u64| {
        (theirs != ours).then(|| format!("{what}: {theirs} by the daemon's numbers, {ours} by the clients'"))
    };
    // A worker that dies between its last write and its report takes along how the stream ended, never that.
    let begun = ["complete", "unreported_end", "epitaph_written", "epitaph_lost"];
    let saw_begun = ["complete", "begun, ended by worker_crashed", "complete, then worker_crashed", "LOST"];
    [
        compare("handoffs received", metric(daemon, "daemon_handoffs_total"), tally.handed_over),
        compare("handoffs ended", metric(daemon, "handoffd_lease_endings_total"), tally.handed_over),
        compare("streams begun", begun.map(ended).iter().sum(), saw_begun.map(saw).iter().sum()),
        compare("502", ended("refused_worker_crashed"), saw("502 worker_crashed")),
        compare("503", ended("refused_no_worker") + ended("refused_full"), saw("503 overloaded")),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// What the clients alone can tell.
fn promises(tally: &Tally) -> Vec<String> {
    let mut complaints = tally.broken.clone();
    if tally.broken_count > 0 {
        complaints.push(format!("{} of {} clients in all", tally.broken_count, tally.handed_over));
    }
    // Accepting one and giving it to a worker are two system calls: no more than one is between them.
    if tally.lost_with_supervisor > tally.supervisors_killed {
        let (lost, kills) = (tally.lost_with_supervisor, tally.supervisors_killed);
        complaints.push(format!("{lost} handoffs were in the hands of {kills} killed supervisors"));
    }
    let refused: u64 =
        tally.verdicts.iter().filter(|(name, _)| name.starts_with("503 ")).map(|(_, count)| count).sum();
    if refused > 0 {
        complaints.push(format!("{refused} clients were answered 503, though the load is light"));
    }
    let not_taken: u64 = tally.not_taken.values().sum();
    if not_taken > 0 {
        complaints.push(format!("{not_taken} handoffs were not taken"));
    }
    let judged: u64 = tally.verdicts.values().sum();
    if judged != tally.handed_over {
        complaints.push(format!("{} handoffs, {judged} answers", tally.handed_over));
    }
    complaints
}

/// After SIGTERM: the exit status, and what is left of it.
pub fn end(daemon: &mut Daemon) -> Vec<String> {
    let mut status = None;
    wait(PATIENCE, || {
        status = daemon.exit_status();
        status.is_some()
    });
    let mut complaints = Vec::new();
    match status {
        Some(status) if status.success() => {}
        Some(status) => complaints.push(format!("the daemon ended with {status}")),
        None => complaints.push("the daemon does not end".to_owned()),
    }
    // Whoever has lost its parent is our child now.
    let left = || {
        process::reap_orphans();
        process::children(std::process::id()).into_iter().filter(|pid| process::is_alive(*pid))
    };
    if !wait(PATIENCE, || left().next().is_none()) {
        let left: Vec<_> = left().map(|pid| format!("{pid} ({})", process::name(pid))).collect();
        complaints.push(format!("processes are left: {left:?}"));
    }
    complaints
}

/// All workers ready, nobody served.
fn at_rest(daemon: &Daemon, workers: u16) -> bool {
    daemon.get("/metrics").is_some()
        && daemon.workers("ready").len() == usize::from(workers)
        && daemon.status()["workers"].as_array().map(Vec::len) == Some(usize::from(workers))
        && metric(daemon, "daemon_active_connections") == 0
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "counts are whole and small")]
fn metric(daemon: &Daemon, name: &str) -> u64 {
    daemon.metric(name) as u64
}

fn wait(patience: Duration, mut fact: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    while !fact() {
        if Instant::now() > deadline {
            return false;
        }
        pause();
    }
    true
}
