//! The valid values: what the rest of handoffd sees of its configuration.

use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::backend::Backends;

/// Everything, valid. It crosses the channel to a worker as a whole, as the first message.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Config {
    /// Where handoffs come in, and how long things may take.
    pub server: Server,
    /// How a client's socket is treated.
    pub client: Client,
    /// The worker processes.
    pub workers: Workers,
    /// Where answers come from.
    pub backends: Backends,
    /// The metrics endpoint.
    pub metrics: Metrics,
    /// Log level and format.
    pub logging: Logging,
    /// `--benchmark`: no Prometheus updates, a summary at shutdown.
    pub benchmark: Benchmark,
}

/// Whether `--benchmark` was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Benchmark {
    /// Normal operation.
    Off,
    /// No Prometheus updates; a summary is printed at shutdown.
    On,
}

/// `[server]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Server {
    /// The SEQPACKET socket that Apache's module connects to.
    pub socket_path: PathBuf,
    /// A second, STREAM socket for older modules; none by default.
    pub stream_socket_path: Option<PathBuf>,
    /// Where `handoffctl` asks and orders; none: nowhere.
    pub control_socket_path: Option<PathBuf>,
    /// Permission bits of both sockets.
    pub socket_mode: SocketMode,
    /// Owner (uid) of both sockets; unchanged when absent.
    pub socket_owner: Option<u32>,
    /// Group (gid) of both sockets; unchanged when absent.
    pub socket_group: Option<u32>,
    /// Whom a supervisor that is started with privileges becomes; none: it stays who it is.
    pub run_as: Option<Identity>,
    /// Peers with one of these uids may hand over. Both lists empty: whoever the file mode admits.
    pub allowed_users: Vec<u32>,
    /// Peers with one of these (primary) gids may hand over.
    pub allowed_groups: Vec<u32>,
    /// Live leases at most; capped to what the fd limits allow.
    pub max_connections: NonZeroU32,
    /// How long a connected peer may stay silent.
    pub handoff_timeout: Duration,
    /// How long a handoff may wait for a worker before it is answered 503.
    pub queue_timeout: Duration,
    /// How long a client may accept no byte while there is something to write.
    pub write_timeout: Duration,
    /// The drain at SIGTERM.
    pub shutdown_timeout: Duration,
    /// Largest handoff message, in bytes.
    pub handoff_buffer_bytes: u32,
    /// How many sacrificial workers may die under a lease whose first worker died before committing.
    pub redispatch_max: u8,
    /// For how long a payload that killed its workers is refused at once; none by default.
    pub poison_memory: Option<Duration>,
}

/// Permission bits of a socket file: at most 0o777.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SocketMode(pub u32);

/// A user and a primary group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user's id.
    pub uid: u32,
    /// The primary group's id.
    pub gid: u32,
}

/// `[client]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Client {
    /// What a FIN from the client means.
    pub half_close: HalfClose,
    /// A heartbeat is sent after this much silence towards the client.
    pub heartbeat: Duration,
    /// The head goes out after this long, also when there is no event yet.
    pub commit_after: Duration,
    /// How long a finished stream waits for the client to hang up.
    pub linger: Duration,
    /// A stream may take this long altogether; none by default.
    pub stream_max: Option<Duration>,
}

/// What a FIN from the client means.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum HalfClose {
    /// `gone`: the client has left; the answer is cancelled.
    Gone,
    /// `serve`: only a reset or a failed write counts.
    Serve,
}

/// `[workers]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Workers {
    /// Number of slots.
    pub count: NonZeroU16,
    /// The worker executable; none: `handoffd-worker` beside the supervisor's own.
    pub binary: Option<PathBuf>,
    /// Whom workers become; none: who the supervisor is.
    pub run_as: Option<Identity>,
    /// How much of their confinement workers insist on.
    pub sandbox: SandboxMode,
    /// Private memory that a worker may have at most (RLIMIT_DATA), in bytes.
    pub data_max_bytes: Option<NonZeroU64>,
    /// How long a replaced worker may go on with its streams.
    pub drain_timeout: Duration,
    /// Recycle a worker that is older than this.
    pub age_max: Option<Duration>,
    /// Recycle a worker that has been lent this many leases.
    pub streams_max: Option<NonZeroU64>,
    /// Recycle a worker whose resident memory is larger, in bytes.
    pub rss_max_bytes: Option<NonZeroU64>,
    /// Kill a worker whose resident memory is larger, in bytes.
    pub rss_hard_max_bytes: Option<NonZeroU64>,
}

/// How much of their confinement workers insist on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum SandboxMode {
    /// All of it, or the worker does not start.
    Require,
    /// What the kernel has; the rest is logged and counted.
    BestEffort,
    /// None: a debugger may attach, a crash may leave a core. Privileges are given up all the same.
    Off,
}

/// `[metrics]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metrics {
    /// Where `/metrics`, `/health`, `/healthz`, `/readyz` and `/status` are served; none: nowhere.
    pub listen_addr: Option<SocketAddr>,
}

/// `[logging]`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Logging {
    /// A level or `tracing` filter directives, as in `RUST_LOG`.
    pub level: String,
    /// How a line looks.
    pub format: LogFormat,
    /// Prompts may appear in the log.
    pub prompts: bool,
    /// Headers of the client's request that a session's line tells, where Apache passes them on; lower case.
    pub request_headers: Vec<String>,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LogFormat {
    /// For people.
    Pretty,
    /// One JSON object a line.
    Json,
    /// To systemd's journal, with fields.
    Journald,
}
