//! The fleet in words: for `/status`, `/readyz` and systemd's STATUS.

use std::time::{Duration, Instant};

use handoff_shared::ids::WorkerId;
use handoff_shared::status::{CooldownStatus, PoisonStatus, RollStatus, Status, WorkerStatus};

use crate::fleet::{Outline, Report, WorkerReport};

/// Of a reload's error in systemd's line.
const LINE_CHARS_MAX: usize = 200;

/// At least one worker takes handoffs.
pub(crate) const READY: &str = "ready";

/// `stopping`, `ready`, or `degraded`: no worker takes handoffs.
pub(crate) fn state(outline: &Outline) -> &'static str {
    match (outline.stopping, outline.ready) {
        (true, _) => "stopping",
        (false, 0) => "degraded",
        (false, _) => READY,
    }
}

/// One line for systemd, with what the last reload came to when it came to nothing.
pub(crate) fn line(outline: &Outline, config_error: Option<&str>, last_reload: Option<&str>) -> String {
    let Outline { generation, rolling_to, slots, ready, .. } = outline;
    let roll = rolling_to.map_or(String::new(), |to| format!(", rolling to generation {to}"));
    let config = match config_error {
        Some(_) => ", the configuration on disk is invalid and not used",
        None => "",
    };
    let failed = last_reload.filter(|how| how.starts_with("refused") || how.ends_with("cannot_start"));
    let reload = failed.map_or(String::new(), |how| {
        let first_line: String = how.lines().next().unwrap_or("").chars().take(LINE_CHARS_MAX).collect();
        format!("; last reload: {first_line}")
    });
    let state = state(outline);
    format!("{state}: {ready} of {slots} workers ready, generation {generation}{roll}{config}{reload}")
}

/// What the operator has tried, in words, and what has happened.
pub(crate) struct History {
    pub(crate) reload: Option<String>,
    pub(crate) upgrade: Option<String>,
    pub(crate) config_error: Option<String>,
    pub(crate) poison: Option<PoisonStatus>,
    pub(crate) cooldowns: Vec<CooldownStatus>,
}

/// The whole fleet.
pub(crate) fn status(
    report: &Report,
    started_at: Instant,
    now: Instant,
    history: History,
    pid: impl Fn(WorkerId) -> Option<u32>,
) -> Status {
    let outline = &report.outline;
    Status {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        pid: std::process::id(),
        uptime_secs: now.duration_since(started_at).as_secs(),
        state: state(outline).to_owned(),
        generation: outline.generation.0,
        roll: outline.rolling_to.map(|to| RollStatus {
            to: to.0,
            done: small(outline.slots.saturating_sub(report.slots_remaining)),
            slots: small(outline.slots),
        }),
        reload_pending: report.reload_pending,
        last_reload: history.reload,
        last_upgrade: history.upgrade,
        config_error: history.config_error,
        last_poison: history.poison,
        cooldowns: history.cooldowns,
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
        // As the worker says itself: with the metrics.
        sandbox: None,
        beat_age_ms: worker.beat_age.map(millis),
    }
}

fn small(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
