//! The control socket's words: what `handoffctl` asks and the supervisor answers. One JSON object a line: one
//! request, then replies, the last of which is final.
//!
//! Never: crosses to a worker.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::status::Status;

/// A request is at most this long, its newline included.
pub const REQUEST_BYTES_MAX: u64 = 8 * 1024;
/// How long a connection may take to say its request.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// How long the other side may take to read one reply.
pub const REPLY_TIMEOUT: Duration = Duration::from_secs(5);
/// The longest that a request may wait for what it has asked for.
pub const WAIT_MAX: Duration = Duration::from_secs(3600);

/// What an operator asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// The fleet at this moment.
    Status {},
    /// Every session that a worker has.
    Streams {},
    /// A new generation.
    Reload {
        /// Answer when its roll has ended; otherwise at once.
        #[serde(default)]
        wait: bool,
        /// Seconds to wait at most; [`WAIT_MAX`] when absent.
        #[serde(default)]
        timeout_secs: Option<u32>,
    },
    /// The supervisor's own executable anew.
    Upgrade {
        /// Answer when it has ended; otherwise at once.
        #[serde(default)]
        wait: bool,
        /// As in `Reload`.
        #[serde(default)]
        timeout_secs: Option<u32>,
    },
    /// A successor for the worker in this slot, which then drains.
    Drain {
        /// The slot's number.
        slot: u16,
    },
    /// The end of one stream.
    Kill {
        /// A lease as `Streams` shows it: 16 hexadecimal digits.
        stream: String,
    },
    /// Another log level, until the next roll or restart.
    Log {
        /// As in `logging.level`.
        level: String,
    },
}

/// What the supervisor says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "reply", rename_all = "snake_case")]
pub enum Reply {
    /// Answers `Status`. Final.
    Status {
        /// The fleet.
        status: Box<Status>,
    },
    /// One of those that `Streams` asks for. Others follow, and a final one.
    Stream {
        /// The session.
        stream: StreamStatus,
    },
    /// It is done, or has begun when nobody waits for its end. Final.
    Done {
        /// What was done, for a person.
        text: String,
    },
    /// It is not done. Final.
    Refused {
        /// For programs.
        code: Refusal,
        /// Why, for a person.
        reason: String,
    },
}

/// Why something was not done.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Refusal {
    /// The request makes no sense.
    BadRequest,
    /// The other side may not ask.
    Forbidden,
    /// There is no such slot, or no such stream.
    NotFound,
    /// Not now: something else must end first.
    Busy,
    /// The supervisor stops.
    Stopping,
    /// The new configuration, or its worker's executable, cannot be used.
    Refused,
    /// No worker of the new generation could start.
    CannotStart,
    /// A newer generation has taken its place.
    Superseded,
    /// Only a part of the answer was given.
    Incomplete,
    /// It did not end in time; it may still.
    TimedOut,
    /// This version cannot do it.
    Unsupported,
}

/// One session.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StreamStatus {
    /// The lease: 16 hexadecimal digits.
    pub id: String,
    /// Its worker's slot.
    pub slot: u16,
    /// Its worker's generation.
    pub generation: u32,
    /// Its worker's process id.
    pub pid: u32,
    /// `waiting` (for the answer to begin), `streaming`, `ending` (until the client hangs up), `epitaph`.
    pub phase: String,
    /// Milliseconds since the worker has it.
    pub age_ms: u64,
    /// Bytes written to the client.
    pub bytes: u64,
    /// As the site says, cut to 64 characters.
    pub user_id: Option<String>,
    /// As the site says, cut to 64 characters.
    pub request_id: Option<String>,
}

impl Reply {
    /// Nothing follows it.
    #[must_use]
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Stream { .. } => false,
            Self::Status { .. } | Self::Done { .. } | Self::Refused { .. } => true,
        }
    }
}

impl Request {
    /// How long the answer may take.
    #[must_use]
    pub fn patience(&self) -> Option<Duration> {
        match self {
            Self::Reload { wait: true, timeout_secs } | Self::Upgrade { wait: true, timeout_secs } => {
                Some(timeout_secs.map_or(WAIT_MAX, |secs| Duration::from_secs(secs.into()).min(WAIT_MAX)))
            }
            Self::Reload { wait: false, .. } | Self::Upgrade { wait: false, .. } => None,
            Self::Status {}
            | Self::Streams {}
            | Self::Drain { .. }
            | Self::Kill { .. }
            | Self::Log { .. } => None,
        }
    }
}
