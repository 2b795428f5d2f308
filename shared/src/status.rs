//! `/status`: the fleet as JSON, written by the supervisor and read by `handoffctl status`.

use serde::{Deserialize, Serialize};

use crate::sandbox::SandboxState;

/// The whole fleet at one moment.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    /// The supervisor's package version.
    pub version: String,
    /// The supervisor's process id.
    pub pid: u32,
    /// Seconds since its start.
    pub uptime_secs: u64,
    /// `ready`, `degraded` (no worker is ready), `stopping`.
    pub state: String,
    /// The generation that new workers are of.
    pub generation: u32,
    /// What a roll is doing; none: no roll is running.
    pub roll: Option<RollStatus>,
    /// A further reload waits for this one.
    pub reload_pending: bool,
    /// How the last reload ended, in words; none before the first.
    pub last_reload: Option<String>,
    /// How the last upgrade in place ended, in words; none before the first.
    pub last_upgrade: Option<String>,
    /// Why the configuration on disk is not the one that runs; none: it is, or nobody has looked since.
    pub config_error: Option<String>,
    /// Live leases, draining workers' included.
    pub leases: u32,
    /// Leases that wait for a worker.
    pub leases_queued: u32,
    /// Live leases at most.
    pub max_connections: u32,
    /// The workers: current ones by slot, then those on their way out.
    pub workers: Vec<WorkerStatus>,
}

/// A running roll.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RollStatus {
    /// The generation being rolled out.
    pub to: u32,
    /// Slots that have it.
    pub done: u32,
    /// All slots.
    pub slots: u32,
}

/// One worker, or an empty slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its place.
    pub slot: u16,
    /// Its generation.
    pub generation: u32,
    /// Its process id; none for an empty slot.
    pub pid: Option<u32>,
    /// `starting`, `ready`, `draining`, `dying`; for a slot without a worker `backoff` or `empty`.
    pub state: String,
    /// Milliseconds until the state's deadline, where it has one.
    pub deadline_ms: Option<u64>,
    /// Seconds since it was spawned.
    pub age_secs: u64,
    /// Leases it holds.
    pub leases: u32,
    /// Leases it was ever lent.
    pub leases_total: u64,
    /// Times the slot's worker was started again.
    pub restarts: u64,
    /// Resident memory in bytes, as of the last beat.
    pub rss_bytes: u64,
    /// What confines it; none before its first beat.
    pub sandbox: Option<SandboxState>,
    /// Milliseconds since the last beat.
    pub beat_age_ms: Option<u64>,
}
