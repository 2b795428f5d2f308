//! The command line of `handoffctl bench`. In: words. Out: a target that was knocked at, numbers within their bounds.
//! Never: hands over.

use std::env;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::net::sockopt::socket_peercred;
use rustix::process::{Resource, getrlimit};

use super::OWN_FILES;
use super::pairs::Door;
use super::plan::{Clients, SocketType};
use crate::handover::{DEFAULT_PATH, HandoverError, Kind};
use crate::outcome::Failure;

const HELP_TAIL: &str = "\
Exit codes:
  0  every stream is complete
  1  a stream failed: the table and the JSON say how many, and why
  2  wrong usage
  3  nobody could be measured: no socket, no permission, not enough files or ports

Examples:
  handoffctl bench churn --open 512 --seconds 10
  handoffctl bench held --streams 10000 --rate 2000 --hold 10 --json result.json";

const NOBODY: &str =
    "the socket does not tell which process is the daemon (systemd listens on it): --pid tells it";

/// What to measure, and how.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP_TAIL)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(super) mode: Mode,
}

#[derive(Debug, clap::Subcommand)]
pub(super) enum Mode {
    /// Open many streams at a rate and hold them: CPU per event, memory per stream, latencies
    Held(Held),
    /// Hand over as fast as it goes: handoffs per second, CPU per handoff
    Churn(Churn),
    /// Be one of the processes of a measurement
    #[command(hide = true)]
    Generate,
}

#[derive(Debug, clap::Args)]
pub(super) struct Held {
    /// How many streams are open at once
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(super) streams: u64,
    /// Handoffs per second
    #[arg(long, value_name = "HANDOFFS_PER_S", default_value_t = 1000.0, value_parser = positive)]
    pub(super) rate: f64,
    /// How long the daemon's CPU per event is measured, in seconds, from the moment all are open; until the first stream
    /// ends at most
    #[arg(long, value_name = "SECS", default_value_t = 10.0, value_parser = positive)]
    pub(super) hold: f64,
    #[command(flatten)]
    pub(super) target: Target,
}

#[derive(Debug, clap::Args)]
pub(super) struct Churn {
    /// How many streams are open at most
    #[arg(long, value_name = "C", default_value_t = 64, value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub(super) open: u64,
    /// For how long
    #[arg(long, value_name = "S", default_value_t = 5.0, value_parser = positive)]
    pub(super) seconds: f64,
    /// How many handoffs, instead of for how long
    #[arg(long, value_name = "N", conflicts_with = "seconds", value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) handoffs: Option<u64>,
    #[command(flatten)]
    pub(super) target: Target,
}

/// Whom to measure, and as whom.
#[derive(Debug, clap::Args)]
pub(super) struct Target {
    /// The daemon's socket [env: DAEMON_SOCKET_PATH] [default: /run/handoffd/handoffd.sock]
    #[arg(short, long, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    socket: Option<PathBuf>,
    /// The socket's type
    #[arg(long = "type", value_enum, default_value = "auto")]
    kind: Type,
    /// What the clients are connected by
    #[arg(long, value_enum, default_value = "tcp")]
    pub(super) clients: Clients,
    /// How many processes play Apache and its clients; 0: as many as their limit on open files requires
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u64).range(..=1000))]
    processes: u64,
    /// What is handed over: JSON, or the file that it is in
    #[arg(long, value_name = "JSON|@FILE", default_value = r#"{"prompt":"bench"}"#)]
    payload: String,
    /// The root of the daemon's process tree; by default who listens on the socket
    #[arg(long, value_name = "PID", value_parser = clap::value_parser!(u32).range(1..))]
    pid: Option<u32>,
    /// Write the results there as JSON; - is standard output, instead of the table
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub(super) json: Option<PathBuf>,
    /// A stream that is not at its end after so many seconds has failed
    #[arg(long, value_name = "SECS", default_value_t = 120.0, value_parser = positive)]
    pub(super) timeout: f64,
    /// Events carry @ and the nanoseconds of CLOCK_MONOTONIC at which their upstream wrote them
    #[arg(long)]
    pub(super) stamped: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Type {
    /// Whatever it is
    Auto,
    /// `SOCK_SEQPACKET`
    Seqpacket,
    /// `SOCK_STREAM`
    Stream,
}

/// A daemon that listens.
#[derive(Clone, Copy, Debug)]
pub(super) struct Knocked {
    pub(super) socket_type: SocketType,
    pub(super) pid: u32,
}

impl Target {
    /// The command line's path, else the environment's, else the default.
    pub(super) fn path(&self) -> PathBuf {
        let environment = || env::var_os("DAEMON_SOCKET_PATH").map(PathBuf::from);
        self.socket.clone().or_else(environment).unwrap_or_else(|| DEFAULT_PATH.into())
    }

    /// Finds out who listens there, by a connection that brings nothing.
    pub(super) fn knock(&self) -> Result<Knocked, Failure> {
        let path = self.path();
        match self.kind {
            Type::Seqpacket => self.knock_as(&path, SocketType::Seqpacket),
            Type::Stream => self.knock_as(&path, SocketType::Stream),
            Type::Auto => match self.knock_as(&path, SocketType::Seqpacket) {
                Err(Failure::Handover(error)) if error.is_wrong_kind() => {
                    self.knock_as(&path, SocketType::Stream)
                }
                knocked => knocked,
            },
        }
    }

    fn knock_as(&self, path: &Path, socket_type: SocketType) -> Result<Knocked, Failure> {
        let kind = match socket_type {
            SocketType::Seqpacket => Kind::SeqPacket,
            SocketType::Stream => Kind::Stream,
        };
        let door = Door::new(path, socket_type).and_then(|door| door.connect());
        let errno = |error: io::Error| nix::errno::Errno::from_raw(error.raw_os_error().unwrap_or(0));
        let peer = door.map_err(|error| HandoverError::new(path, kind, errno(error)))?;
        let listener = socket_peercred(&peer).map_err(|errno: Errno| Failure::Bench(errno.into()))?;
        let pid = match (self.pid, u32::try_from(listener.pid.as_raw_nonzero().get())) {
            (Some(pid), _) => pid,
            (None, Ok(pid)) if pid > 1 => pid,
            // systemd, which has handed its socket on; its tree is everything.
            (None, _) => return Err(Failure::Bench(io::Error::other(NOBODY))),
        };
        Ok(Knocked { socket_type, pid })
    }

    /// How many generators so many streams take.
    pub(super) fn processes(&self, streams: u64) -> Result<u64, Failure> {
        let limit = getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX);
        let each = limit.saturating_sub(OWN_FILES).max(1);
        let needed = streams.div_ceil(each);
        if self.processes == 0 || self.processes >= needed {
            return Ok(self.processes.max(needed).min(streams).max(1));
        }
        Err(Failure::Bench(io::Error::other(format!(
            "{streams} streams take {needed} processes: each may open {limit} files (ulimit -Hn)"
        ))))
    }

    /// The bytes to hand over.
    pub(super) fn payload(&self) -> Result<Vec<u8>, Failure> {
        let Some(path) = self.payload.strip_prefix('@') else { return Ok(self.payload.clone().into_bytes()) };
        fs::read(path).map_err(|source| Failure::Input { path: path.into(), source })
    }
}

fn positive(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "it is no number".to_owned())?;
    if value > 0.0 && value <= 1e6 { Ok(value) } else { Err("it must be above 0 and at most 1000000".into()) }
}
