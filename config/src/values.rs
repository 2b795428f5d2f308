//! The valid values: what the rest of handoffd sees of its configuration.

use std::fmt;
use std::net::SocketAddr;
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

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
    pub backend: Backend,
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
    /// From connecting to the upstream until the answer's head.
    pub backend_timeout: Duration,
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

/// `[backend]`.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Backend {
    /// Which kind of upstream.
    pub provider: Provider,
    /// The model when the request names none.
    pub default_model: String,
    /// Silence from the upstream, not the length of the stream.
    pub timeout: Duration,
    /// `[backend.mock]`.
    pub mock: Mock,
    /// `[backend.openai]`: read and checked; used when the provider is.
    pub openai: OpenAi,
}

/// Which kind of upstream answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Provider {
    /// The embedded canned answer.
    Mock,
}

/// `[backend.mock]`: what a developer needs from an answer that costs nothing.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Mock {
    /// Between two words.
    pub token_delay: Duration,
    /// Before the first word.
    pub first_token_delay: Duration,
    /// Words of the answer; none: the canned answer with the prompt echoed.
    pub length: Option<NonZeroU32>,
    /// Fail instead of sending this event, counted from 1.
    pub fail_at: Option<NonZeroU32>,
    /// The payload's `mock` object may set all of the above.
    pub allow_request_options: bool,
}

/// `[backend.openai]`, as the example daemon has it.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OpenAi {
    /// Bearer token.
    pub api_key: Option<String>,
    /// Base address.
    pub api_base: String,
    /// HTTP/1.1 over this Unix socket instead.
    pub api_socket: Option<PathBuf>,
    /// Idle connections kept per host.
    pub pool_max_idle_per_host: u32,
    /// Accept any certificate.
    pub insecure_ssl: bool,
    /// HTTP/2 allowed.
    pub http2_enabled: bool,
    /// HTTP/2 window of one stream, in KiB.
    pub initial_stream_window_kb: u32,
    /// HTTP/2 window of a connection, in KiB.
    pub initial_connection_window_kb: u32,
    /// HTTP/2 windows follow the measured bandwidth.
    pub adaptive_window: bool,
    /// Between two HTTP/2 PINGs.
    pub keep_alive_interval: Duration,
    /// Until an unanswered PING ends the connection.
    pub keep_alive_timeout: Duration,
}

/// Shows everything but the key: a configuration may appear in a log.
impl fmt::Debug for OpenAi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Taken apart by name, so that a new field must be thought of here.
        let OpenAi {
            api_key,
            api_base,
            api_socket,
            pool_max_idle_per_host,
            insecure_ssl,
            http2_enabled,
            initial_stream_window_kb,
            initial_connection_window_kb,
            adaptive_window,
            keep_alive_interval,
            keep_alive_timeout,
        } = self;
        f.debug_struct("OpenAi")
            .field("api_key", &api_key.as_ref().map(|_| "<secret>"))
            .field("api_base", api_base)
            .field("api_socket", api_socket)
            .field("pool_max_idle_per_host", pool_max_idle_per_host)
            .field("insecure_ssl", insecure_ssl)
            .field("http2_enabled", http2_enabled)
            .field("initial_stream_window_kb", initial_stream_window_kb)
            .field("initial_connection_window_kb", initial_connection_window_kb)
            .field("adaptive_window", adaptive_window)
            .field("keep_alive_interval", keep_alive_interval)
            .field("keep_alive_timeout", keep_alive_timeout)
            .finish()
    }
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
