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
    /// The last handoff that killed every worker that tried it; none so far.
    pub last_poison: Option<PoisonStatus>,
    /// Upstreams that are left alone now, by backend and model.
    #[serde(default)]
    pub cooldowns: Vec<CooldownStatus>,
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

/// A handoff that has killed every worker that tried it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PoisonStatus {
    /// Its lease. A session whose payload names no request id has one that is made of it.
    pub lease: String,
    /// The size of its payload.
    pub bytes: u64,
    /// 64 bits, in hexadecimal; the same payload has the same hash, until handoffd is built anew.
    pub hash: String,
    /// Seconds since then.
    pub age_secs: u64,
}

/// An upstream that workers leave alone for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CooldownStatus {
    /// The backend's name.
    pub backend: String,
    /// One model alone; none: the whole backend.
    pub model: Option<String>,
    /// It is not asked meanwhile. If not, others are asked first.
    pub must: bool,
    /// Milliseconds from now on.
    pub remaining_ms: u64,
}

/// One worker, or an empty slot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerStatus {
    /// Its place; the number 65535 is the quarantine, written `"quarantine"`.
    #[serde(with = "slot")]
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

/// A slot as people write it: its number, or the word.
mod slot {
    use serde::{Deserialize, Deserializer, Serializer};

    use crate::ids::SlotId;

    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Written {
        Number(u16),
        Word(String),
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde's signature")]
    pub(super) fn serialize<S: Serializer>(slot: &u16, serializer: S) -> Result<S::Ok, S::Error> {
        match SlotId(*slot) {
            SlotId::QUARANTINE => serializer.collect_str(&SlotId::QUARANTINE),
            SlotId(number) => serializer.serialize_u16(number),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<u16, D::Error> {
        match Written::deserialize(deserializer)? {
            Written::Number(number) => Ok(number),
            Written::Word(word) if word == SlotId::QUARANTINE.to_string() => Ok(SlotId::QUARANTINE.0),
            Written::Word(word) => {
                Err(serde::de::Error::custom(format!("slot {word:?}: must be a number or \"quarantine\"")))
            }
        }
    }
}
