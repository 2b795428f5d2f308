//! What supervisor and worker say to each other. New variants are appended, never inserted: the number of a
//! variant is its name on the wire.
//!
//! A supervisor can meet workers of another version: those that it adopts. What they must be able to say to each
//! other then is frozen ([`ToWorker::is_frozen`], [`ToSupervisor::is_frozen`]): its encoding is the same in
//! every version. A change of anything else counts [`PROTOCOL_VERSION`] up.

use handoff_config::Config;
use serde::{Deserialize, Serialize};

use crate::ids::{Generation, LeaseId, SlotId};
use crate::metric::Snapshot;

/// The version of these messages. Each packet carries it. A new worker of another version fails the roll; an
/// adopted one drains.
pub const PROTOCOL_VERSION: u16 = 2;

/// From the supervisor to a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToWorker {
    /// The first message: who you are, and the whole configuration.
    Configure(Box<Configure>),
    /// Serve this client. Fds: the client, and a sealed memfd when `memfd_bytes` says so.
    Handoff(Handoff),
    /// A worker died after it had committed this lease: write the stream's last event. Fds: the client.
    Epitaph {
        /// The lease to end.
        lease: LeaseId,
        /// How its dead worker was writing events.
        format: Format,
    },
    /// Take no more, finish what you hold. Idempotent; the earlier deadline stays.
    Drain {
        /// Milliseconds until each stream left gets its `shutting_down` error event.
        remaining_ms: u64,
    },
    /// After adoption: tell me what you hold.
    Resync {
        /// Comes back in the answer: tells it from one that an earlier supervisor has asked for.
        ticket: u32,
        /// How many fds the new supervisor can take back.
        fd_budget: u32,
    },
    /// An operator ends this stream: the client is told so. A lease that is not here has ended already.
    Cancel {
        /// The lease.
        lease: LeaseId,
    },
    /// Show the sessions with higher ids than `after`, the lowest first: as many as fit one page.
    Sessions {
        /// Comes back in the answer.
        ticket: u32,
        /// The last one of the page before; none: from the beginning.
        after: Option<LeaseId>,
    },
    /// Log by these directives from here on.
    LogLevel {
        /// As in `logging.level`.
        directives: String,
    },
    /// Another worker has met an upstream that wants to be left alone.
    Cooldown(Cooldown),
}

impl ToWorker {
    /// The same bytes in every version of the protocol.
    #[must_use]
    pub const fn is_frozen(&self) -> bool {
        match self {
            Self::Drain { .. } | Self::Resync { .. } => true,
            Self::Configure(_)
            | Self::Handoff(_)
            | Self::Epitaph { .. }
            | Self::Cancel { .. }
            | Self::Sessions { .. }
            | Self::LogLevel { .. }
            | Self::Cooldown(_) => false,
        }
    }
}

/// The first message to a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Configure {
    /// The worker's place.
    pub slot: SlotId,
    /// The worker's generation.
    pub generation: Generation,
    /// The validated configuration, secrets included.
    pub config: Config,
}

/// One client to serve.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Handoff {
    /// The lease's id.
    pub lease: LeaseId,
    /// 0 for the first worker that gets this lease.
    pub attempt: u8,
    /// The message was cut off on its way to us: answer 413.
    pub truncated: bool,
    /// The message as it came, or its beginning.
    pub inline: Payload,
    /// How many bytes of the accompanying memfd continue the message; none: there is no memfd.
    pub memfd_bytes: Option<u32>,
}

/// Opaque bytes of a handoff; encoded in one copy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Payload(pub Vec<u8>);

/// How a stream's events are written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Format {
    /// `data: {"content":"…"}`.
    #[default]
    Content,
    /// Plain text in `data:` lines.
    Text,
    /// The upstream's chunks in OpenAI's dialect.
    OpenAi,
    /// Typed events.
    Events,
    /// The upstream's bytes.
    Raw,
}

/// From a worker to the supervisor.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum ToSupervisor {
    /// Configured, and willing to take handoffs.
    Ready {
        /// [`PROTOCOL_VERSION`] of the worker.
        protocol_version: u16,
        /// The worker's package version.
        build: String,
    },
    /// I own these fds; returns their credits. Sent before a payload is parsed.
    Taken {
        /// In the order of the handoffs.
        leases: Vec<LeaseId>,
    },
    /// Bytes may be out from now on.
    Committed {
        /// The leases, and how their events are written, should somebody else have to write the last one.
        leases: Vec<(LeaseId, Format)>,
    },
    /// The sessions of these leases have ended: each lease once.
    Released {
        /// What became of each.
        endings: Vec<Ending>,
    },
    /// Answers `Resync`. Fds: of each lease with `has_fd`, in order, the client's and then the memfd's.
    Held(Held),
    /// Periodic and cumulative; its absence is a hang.
    Snapshot(Box<Snapshot>),
    /// Answers `Sessions`.
    Sessions {
        /// As it was asked.
        ticket: u32,
        /// No session has a higher id.
        last: bool,
        /// At most [`crate::limits::SESSIONS_PER_PAGE_MAX`], by id.
        sessions: Vec<SessionView>,
    },
    /// An upstream wants to be left alone: all workers are told.
    Cooldown(Cooldown),
}

impl ToSupervisor {
    /// The same bytes in every version of the protocol.
    #[must_use]
    pub const fn is_frozen(&self) -> bool {
        match self {
            Self::Ready { .. }
            | Self::Taken { .. }
            | Self::Committed { .. }
            | Self::Released { .. }
            | Self::Held(_) => true,
            Self::Snapshot(_) | Self::Sessions { .. } | Self::Cooldown(_) => false,
        }
    }
}

/// An upstream that is left alone for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cooldown {
    /// The backend's name.
    pub backend: String,
    /// A fingerprint of its address and key: after a reload the same name may mean another account.
    pub account: u64,
    /// One model alone; none: the whole backend. At most [`crate::limits::COOLDOWN_MODEL_BYTES_MAX`].
    pub model: Option<String>,
    /// It is not asked meanwhile. If not, others are asked first.
    pub must: bool,
    /// Milliseconds from now on.
    pub remaining_ms: u64,
}

/// How one lease ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ending {
    /// The lease.
    pub lease: LeaseId,
    /// What became of it.
    pub outcome: Outcome,
}

/// What became of a session. Every session has exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Outcome {
    /// The whole answer was written.
    Complete,
    /// An answer without a stream was written whole: HEAD, or 204 for a finished stream.
    Answered,
    /// The handoff was refused with an error response (400, 413).
    Refused,
    /// The client left first.
    ClientGone,
    /// The client stopped reading.
    ClientTooSlow,
    /// The upstream could not be asked, or answered with an error.
    UpstreamFailed,
    /// The upstream was silent for too long.
    UpstreamTimeout,
    /// The upstream's stream ended early.
    StreamIncomplete,
    /// The stream was longer than allowed.
    StreamTooLong,
    /// The drain's deadline came first.
    ShuttingDown,
    /// The last event of a dead worker's stream was written.
    EpitaphWritten,
    /// A dead worker's stream had already ended: its client was gone when the epitaph came.
    UnreportedEnd,
    /// The worker's own code gave up on the session.
    Internal,
    /// An operator has ended it.
    Canceled,
}

impl Outcome {
    /// Every outcome, for tables that must have them all.
    pub const ALL: [Self; 14] = [
        Self::Complete,
        Self::Answered,
        Self::Refused,
        Self::ClientGone,
        Self::ClientTooSlow,
        Self::UpstreamFailed,
        Self::UpstreamTimeout,
        Self::StreamIncomplete,
        Self::StreamTooLong,
        Self::ShuttingDown,
        Self::EpitaphWritten,
        Self::UnreportedEnd,
        Self::Internal,
        Self::Canceled,
    ];

    /// The word for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Complete => "complete",
            Self::Answered => "answered",
            Self::Refused => "refused",
            Self::ClientGone => "client_gone",
            Self::ClientTooSlow => "client_too_slow",
            Self::UpstreamFailed => "upstream_failed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::StreamIncomplete => "stream_incomplete",
            Self::StreamTooLong => "stream_too_long",
            Self::ShuttingDown => "shutting_down",
            Self::EpitaphWritten => "epitaph_written",
            Self::UnreportedEnd => "unreported_end",
            Self::Internal => "internal",
            Self::Canceled => "canceled",
        }
    }
}

/// A session as an operator sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionView {
    /// The lease.
    pub lease: LeaseId,
    /// How far it is.
    pub phase: Phase,
    /// Milliseconds since it came to this worker.
    pub age_ms: u64,
    /// Bytes written to the client.
    pub bytes: u64,
    /// As the site says; at most [`crate::limits::SHOWN_CHARS_MAX`] characters.
    pub user_id: Option<String>,
    /// As the site says; at most [`crate::limits::SHOWN_CHARS_MAX`] characters.
    pub request_id: Option<String>,
}

/// How far a session is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// The answer has not begun.
    #[default]
    Waiting,
    /// Bytes go out.
    Streaming,
    /// All is said; the client has not hung up.
    Ending,
    /// A dead worker's stream is being ended.
    Epitaph,
}

impl Phase {
    /// The word for people and programs.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Streaming => "streaming",
            Self::Ending => "ending",
            Self::Epitaph => "epitaph",
        }
    }
}

/// One page of what a worker holds. The list is made at one instant, and nothing is said between its pages.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Held {
    /// Of the `Resync` that this answers.
    pub ticket: u32,
    /// Pages count from 0.
    pub page: u32,
    /// No page follows.
    pub last: bool,
    /// [`PROTOCOL_VERSION`] of the worker.
    pub protocol_version: u16,
    /// The worker's place.
    pub slot: SlotId,
    /// The worker's generation.
    pub generation: Generation,
    /// Milliseconds until the drain's deadline, when draining.
    pub drain_remaining_ms: Option<u64>,
    /// At most [`crate::limits::HELD_LEASES_PER_PAGE_MAX`].
    pub leases: Vec<HeldLease>,
}

/// One lease in a [`Held`] page.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct HeldLease {
    /// The lease.
    pub lease: LeaseId,
    /// The attempt that this worker was given.
    pub attempt: u8,
    /// How far it is.
    pub stage: HeldStage,
    /// Its fd is among those of the page.
    pub has_fd: bool,
}

/// How far a held lease is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum HeldStage {
    /// No byte can be out; the payload comes along for a re-dispatch.
    Taken {
        /// As in [`Handoff::truncated`].
        truncated: bool,
        /// As in [`Handoff::inline`].
        inline: Payload,
        /// As in [`Handoff::memfd_bytes`]; the memfd follows the client's fd.
        memfd_bytes: Option<u32>,
        /// The witness when the list was made, while no byte was out; none: no TCP connection.
        written: Option<u64>,
    },
    /// Bytes may be out.
    Committed {
        /// How its events are written.
        format: Format,
    },
    /// The lease is an epitaph.
    Epitaph,
}

impl Serialize for Payload {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Payload {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Bytes;
        impl serde::de::Visitor<'_> for Bytes {
            type Value = Payload;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("bytes")
            }
            fn visit_byte_buf<E: serde::de::Error>(self, bytes: Vec<u8>) -> Result<Payload, E> {
                Ok(Payload(bytes))
            }
            fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Payload, E> {
                Ok(Payload(bytes.to_vec()))
            }
        }
        deserializer.deserialize_byte_buf(Bytes)
    }
}
