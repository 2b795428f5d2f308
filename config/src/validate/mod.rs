//! Every key, its default and what it may be: the only place that says so. In: settings as written. Out: a
//! valid [`Config`]. Never: touches a file or a variable, but those that hold a backend's key or a proxy's address (names
//! of users and groups are looked up).

mod api;
mod backends;
mod connection;
mod key;
mod langgraph;
mod proxy;
mod section;

use std::ffi::OsString;
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::thread::available_parallelism;
use std::time::Duration;

use crate::reader::Reader;
use crate::settings::Settings;
use crate::{
    Benchmark, Client, Config, ConfigError, HalfClose, Identity, LogFormat, Logging, Metrics, SandboxMode,
    Server, SocketMode, Workers, allowed,
};

const TIMEOUT_SECS: RangeInclusive<f64> = 0.001..=86_400.0;
const LINGER_SECS: RangeInclusive<f64> = 0.001..=60.0;
const AGE_SECS: RangeInclusive<f64> = 1.0..=31_536_000.0;
const CONNECTIONS: RangeInclusive<u32> = 1..=10_000_000;
const HANDOFF_BYTES: RangeInclusive<u32> = 4_096..=1_048_576;
const REDISPATCHES: RangeInclusive<u8> = 0..=3;
const WORKERS: RangeInclusive<u16> = 0..=1_024;
const STREAMS: RangeInclusive<u64> = 0..=1_000_000_000;
const RSS_MB: RangeInclusive<u64> = 0..=1_048_576;
const DATA_MB: RangeInclusive<u64> = 0..=1_048_576;
/// Less than this and no worker starts.
const DATA_MB_MIN: u64 = 32;

const MEBIBYTE: u64 = 1 << 20;

/// One worker alone leaves nobody to take over when it dies.
const WORKERS_BY_CORES_MIN: u16 = 2;

/// Checks everything; errs with every problem there is.
pub(crate) fn config(
    settings: Settings<'_>,
    environment: &dyn Fn(&str) -> Option<OsString>,
    benchmark: Benchmark,
) -> Result<Config, ConfigError> {
    let mut reader = Reader::new(settings, environment);
    let config = read(&mut reader, benchmark);
    reader.finish(config)
}

/// Asks for every key.
pub(crate) fn read(reader: &mut Reader<'_>, benchmark: Benchmark) -> Config {
    let server = server(reader);
    let client = client(reader);
    Config {
        backends: backends::backends(reader, &server, &client),
        server,
        client,
        workers: workers(reader),
        metrics: metrics(reader),
        logging: logging(reader),
        benchmark,
    }
}

fn server(reader: &mut Reader<'_>) -> Server {
    let max_connections = reader.value("server.max_connections", 100_000, allowed::whole(CONNECTIONS));
    let socket_path: PathBuf =
        reader.value("server.socket_path", "/run/handoffd/handoffd.sock".into(), allowed::socket_path);
    let server = Server {
        control_socket_path: control_socket_path(reader, &socket_path),
        socket_path,
        stream_socket_path: reader.optional("server.stream_socket_path", allowed::socket_path),
        socket_mode: reader.value("server.socket_mode", SocketMode(0o660), allowed::socket_mode),
        socket_owner: reader.optional("server.socket_owner", allowed::user),
        socket_group: reader.optional("server.socket_group", allowed::group),
        run_as: identity(reader, "server.user", "server.group"),
        allowed_users: reader.value("server.allowed_users", Vec::new(), allowed::list_of(allowed::user)),
        allowed_groups: reader.value("server.allowed_groups", Vec::new(), allowed::list_of(allowed::group)),
        max_connections: NonZeroU32::new(max_connections).unwrap_or(NonZeroU32::MIN),
        handoff_timeout: timeout(reader, "server.handoff_timeout_secs", 5),
        queue_timeout: timeout(reader, "server.queue_timeout_secs", 2),
        write_timeout: timeout(reader, "server.write_timeout_secs", 30),
        shutdown_timeout: timeout(reader, "server.shutdown_timeout_secs", 120),
        handoff_buffer_bytes: reader.value(
            "server.handoff_buffer_size",
            262_144,
            allowed::whole(HANDOFF_BYTES),
        ),
        redispatch_max: reader.value("server.redispatch_max", 1, allowed::whole(REDISPATCHES)),
        poison_memory: reader.value("server.poison_memory_secs", None, allowed::seconds_or_off(AGE_SECS)),
    };
    if server.stream_socket_path.as_ref() == Some(&server.socket_path) {
        reader.refuse(&["server.stream_socket_path"], "must differ from server.socket_path");
    }
    let of_handoffs = [Some(&server.socket_path), server.stream_socket_path.as_ref()];
    if server.control_socket_path.is_some() && of_handoffs.contains(&server.control_socket_path.as_ref()) {
        let keys = ["server.control_socket_path", "server.stream_socket_path", "server.socket_path"];
        reader.refuse(&keys, "server.control_socket_path must differ from the sockets for handoffs");
    }
    server
}

/// A user and a group; the group is by default the user's own.
fn identity(reader: &mut Reader<'_>, user: &str, group: &str) -> Option<Identity> {
    let uid = reader.optional(user, allowed::user);
    let gid = reader.optional(group, allowed::group);
    match (uid, gid) {
        (None, None) => None,
        (Some(uid), Some(gid)) => Some(Identity { uid, gid }),
        (None, Some(_)) => {
            reader.refuse(&[group], &format!("goes with {user} only"));
            None
        }
        (Some(uid), None) => {
            let gid = allowed::primary_group(uid);
            if gid.is_none() {
                reader.refuse(&[user], &format!("has no group of its own on this host; set {group} too"));
            }
            gid.map(|gid| Identity { uid, gid })
        }
    }
}

/// Beside the socket for handoffs, unless the site wants it elsewhere, or nowhere.
fn control_socket_path(reader: &mut Reader<'_>, socket_path: &Path) -> Option<PathBuf> {
    let beside = socket_path.with_file_name("control.sock");
    let fits = allowed::is_socket_path(&beside);
    let path = reader.value("server.control_socket_path", Some(beside.clone()), |value| match value.text() {
        Some("") => Ok(None),
        Some(_) | None => allowed::socket_path(value).map(Some),
    });
    if path.as_ref() == Some(&beside) && !fits {
        let allowed = "leaves no room for control.sock beside it: set server.control_socket_path";
        reader.refuse(&["server.control_socket_path", "server.socket_path"], allowed);
    }
    path
}

fn client(reader: &mut Reader<'_>) -> Client {
    let half_close = [("gone", HalfClose::Gone), ("serve", HalfClose::Serve)];
    Client {
        half_close: reader.value("client.half_close", HalfClose::Gone, allowed::one_of(&half_close)),
        heartbeat: timeout(reader, "client.heartbeat_secs", 15),
        commit_after: timeout(reader, "client.commit_after_secs", 10),
        linger: reader.value("client.linger_secs", Duration::from_secs(2), allowed::seconds(LINGER_SECS)),
        stream_max: reader.value("client.stream_max_secs", None, allowed::seconds_or_off(TIMEOUT_SECS)),
    }
}

fn workers(reader: &mut Reader<'_>) -> Workers {
    let count = reader.value("workers.count", 0, allowed::whole(WORKERS));
    let streams_max = reader.value("workers.streams_max", 0, allowed::whole(STREAMS));
    let rss_max_mb = reader.value("workers.rss_max_mb", 0, allowed::whole(RSS_MB));
    let rss_hard_max_mb = reader.value("workers.rss_hard_max_mb", 0, allowed::whole(RSS_MB));
    if (1..rss_max_mb).contains(&rss_hard_max_mb) {
        reader.refuse(&["workers.rss_hard_max_mb"], "must be at least workers.rss_max_mb, or 0");
    }
    let data_max_mb = reader.value("workers.data_max_mb", 0, allowed::whole(DATA_MB));
    if (1..DATA_MB_MIN).contains(&data_max_mb) {
        reader.refuse(&["workers.data_max_mb"], "must be 0 (no limit) or at least 32");
    }
    let sandbox = [
        ("require", SandboxMode::Require),
        ("best-effort", SandboxMode::BestEffort),
        ("off", SandboxMode::Off),
    ];
    Workers {
        count: NonZeroU16::new(count).unwrap_or_else(one_per_core),
        binary: reader.optional("workers.binary", allowed::path),
        run_as: identity(reader, "workers.user", "workers.group"),
        sandbox: reader.value("workers.sandbox", SandboxMode::BestEffort, allowed::one_of(&sandbox)),
        data_max_bytes: NonZeroU64::new(data_max_mb * MEBIBYTE),
        drain_timeout: timeout(reader, "workers.drain_timeout_secs", 600),
        age_max: reader.value("workers.age_max_secs", None, allowed::seconds_or_off(AGE_SECS)),
        streams_max: NonZeroU64::new(streams_max),
        rss_max_bytes: NonZeroU64::new(rss_max_mb * MEBIBYTE),
        rss_hard_max_bytes: NonZeroU64::new(rss_hard_max_mb * MEBIBYTE),
    }
}

/// [`WORKERS_BY_CORES_MIN`] also where the number of cores cannot be found out.
fn one_per_core() -> NonZeroU16 {
    let cores = available_parallelism().map_or(1, usize::from);
    let count = u16::try_from(cores).unwrap_or(u16::MAX).clamp(WORKERS_BY_CORES_MIN, *WORKERS.end());
    NonZeroU16::new(count).unwrap_or(NonZeroU16::MIN)
}

fn metrics(reader: &mut Reader<'_>) -> Metrics {
    let enabled = reader.value("metrics.enabled", true, allowed::flag);
    let address = reader.value("metrics.listen_addr", ([127, 0, 0, 1], 9090).into(), allowed::listen_addr);
    Metrics { listen_addr: enabled.then_some(address) }
}

fn logging(reader: &mut Reader<'_>) -> Logging {
    let formats =
        [("pretty", LogFormat::Pretty), ("json", LogFormat::Json), ("journald", LogFormat::Journald)];
    Logging {
        level: reader.value("logging.level", "info".into(), allowed::log_level),
        format: reader.value("logging.format", LogFormat::Pretty, allowed::one_of(&formats)),
        prompts: reader.value("logging.prompts", false, allowed::flag),
        request_headers: reader.value("logging.request_headers", Vec::new(), allowed::logged_headers),
    }
}

fn timeout(reader: &mut Reader<'_>, key: &str, default_secs: u64) -> Duration {
    reader.value(key, Duration::from_secs(default_secs), allowed::seconds(TIMEOUT_SECS))
}
