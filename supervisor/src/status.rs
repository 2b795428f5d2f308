//! The fleet in words: for `/status`, `/readyz` and systemd's STATUS.

use std::time::{Duration, Instant};

use handoff_shared::ids::WorkerId;
use handoff_shared::status::{RollStatus, Status, WorkerStatus};

use crate::fleet::{Report, WorkerReport};

/// At least one worker takes handoffs.
pub(crate) const READY: &str = "ready";

/// `stopping`, `ready`, or `degraded`: no worker takes handoffs.
pub(crate) fn state(report: &Report) -> &'static str {
    match (report.stopping, report.ready) {
        (true, _) => "stopping",
        (false, 0) => "degraded",
        (false, _) => READY,
    }
}

/// One line for systemd. It changes only when something does.
pub(crate) fn line(report: &Report) -> String {
    let roll = report.roll.map_or(String::new(), |(to, _)| format!(", rolling to generation {to}"));
    format!(
        "{}: {} of {} workers ready, generation {}{roll}",
        state(report),
        report.ready,
        report.slots,
        report.generation
    )
}

/// The whole fleet.
pub(crate) fn status(
    report: &Report,
    started_at: Instant,
    now: Instant,
    last_reload: Option<String>,
    pid: impl Fn(WorkerId) -> Option<u32>,
) -> Status {
    let slots = report.slots;
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_secs: now.duration_since(started_at).as_secs(),
        state: state(report).to_owned(),
        generation: report.generation.0,
        roll: report.roll.map(|(to, remaining)| RollStatus {
            to: to.0,
            done: small(slots.saturating_sub(remaining)),
            slots: small(slots),
        }),
        reload_pending: report.reload_pending,
        last_reload,
        leases: small(report.leases),
        leases_queued: small(report.leases_queued),
        max_connections: report.leases_max,
        workers: report.workers.iter().map(|worker| worker_status(worker, &pid)).collect(),
    }
}

fn worker_status(worker: &WorkerReport, pid: impl Fn(WorkerId) -> Option<u32>) -> WorkerStatus {
    WorkerStatus {
        slot: worker.slot.0,
        generation: worker.generation.0,
        pid: worker.worker.and_then(pid),
        state: worker.state.to_owned(),
        deadline_ms: worker.remaining.map(millis),
        age_secs: worker.age.as_secs(),
        leases: worker.leases,
        leases_total: worker.leases_total,
        restarts: worker.restarts,
        rss_bytes: worker.rss_bytes,
        beat_age_ms: worker.beat_age.map(millis),
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
