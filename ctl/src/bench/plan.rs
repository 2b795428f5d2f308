//! What the observer and its generators say to each other: one JSON object a line, over pipes.
//! In: the command line. Out: a part of the work for each generator. Never: does any of it.

use std::path::PathBuf;

use rustix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

use super::tally::Tally;

/// The kind of the handoff socket.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum SocketType {
    Seqpacket,
    Stream,
}

/// What clients are connected by.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(super) enum Clients {
    /// Loopback TCP connections
    Tcp,
    /// `AF_UNIX` socket pairs
    Unix,
}

/// When handoffs are made.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) enum Pace {
    /// So many in all, the k-th at (k * `processes` + `index`) / `rate` seconds.
    Held { streams: u64, rate: f64 },
    /// As fast as it goes, with so many open at most, until so many are made or so much time has passed.
    Churn { open: u64, handoffs: u64, ns: u64 },
}

/// What one generator does.
#[derive(Debug, Deserialize, Serialize)]
pub(super) struct Plan {
    pub(super) socket: PathBuf,
    pub(super) socket_type: SocketType,
    pub(super) clients: Clients,
    pub(super) payload: Vec<u8>,
    pub(super) pace: Pace,
    /// Which of `processes` generators this is, from 0.
    pub(super) index: u64,
    pub(super) processes: u64,
    pub(super) is_stamped: bool,
    pub(super) timeout_ns: u64,
}

/// What a generator says.
#[derive(Debug, Deserialize, Serialize)]
pub(super) enum Said {
    /// It could begin.
    Ready,
    /// Its last handoff is made.
    AllOpen { at_ns: u64 },
    /// The first of its streams has ended.
    FirstEnd,
    /// All of its streams have ended.
    Finished(Box<Tally>),
    /// It cannot go on, and why.
    Stopped(String),
}

/// `CLOCK_MONOTONIC` in nanoseconds: the same in all processes.
pub(super) fn now_ns() -> u64 {
    nanoseconds(ClockId::Monotonic)
}

/// The CPU time of this process in nanoseconds.
pub(super) fn cpu_ns() -> u64 {
    nanoseconds(ClockId::ProcessCPUTime)
}

fn nanoseconds(clock: ClockId) -> u64 {
    let time = clock_gettime(clock);
    u64::try_from(time.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap_or(0)
}
