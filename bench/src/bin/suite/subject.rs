//! Starts who is measured. In: a subject of a scenario. Out: its socket and process, ready. handoffd runs as an operator has it:
//! release binaries, metrics on, logging at info to a file, leases, confined workers.
//! Never: a key of the configuration that only a benchmark would set, but for the mock's pace.

use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use tempfile::TempDir;

use crate::error::Error;
use crate::running::{Running, Stop};
use crate::scenario::{Answers, Pace};
use crate::settings::{Binaries, Other};

/// Whoever is started is ready after this, or never.
const START_TIMEOUT: Duration = Duration::from_secs(20);
const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);

/// Somebody who takes handoffs. Gone when dropped, with all processes and files.
#[derive(Debug)]
pub(crate) struct Target {
    // In this order they end: the daemon before its upstream, the directory last.
    pub(crate) daemon: Running,
    _upstream: Option<Running>,
    pub(crate) socket: PathBuf,
    pub(crate) directory: TempDir,
}

impl Target {
    /// # Errors
    /// When it does not become ready; with its last words.
    pub(crate) fn start(answers: Answers, binaries: &Binaries, stop: &Stop) -> Result<Self, Error> {
        match answers {
            Answers::Floor(pace) => Self::floor(pace, binaries, stop),
            Answers::Mock { pace, workers, apart } => {
                Self::handoffd(&mock(pace, apart), workers, None, directory()?, binaries, stop)
            }
            Answers::Upstream { pace, tls, streams_max } => {
                let directory = directory()?;
                let upstream = upstream(pace, tls, streams_max, binaries, directory.path())?;
                let address = address_of(&upstream, stop)?;
                Self::handoffd(&address.backend(), 0, Some(upstream), directory, binaries, stop)
            }
        }
    }

    /// handoffd with this text as the end of its configuration.
    ///
    /// # Errors
    /// When it does not become ready; with its last words.
    pub(crate) fn handoffd(
        backend: &str,
        workers: u32,
        upstream: Option<Running>,
        directory: TempDir,
        binaries: &Binaries,
        stop: &Stop,
    ) -> Result<Self, Error> {
        let (socket, admin) = (directory.path().join("handoffd.sock"), free_address()?);
        let config = directory.path().join("daemon.toml");
        let text = configuration(&socket, admin, workers, backend);
        std::fs::write(&config, text).map_err(Error::io(config.display().to_string()))?;
        let mut command = Command::new(&binaries.handoffd);
        command.arg(&config).env_clear();
        let mut daemon = Running::start(command, "handoffd", directory.path())?;
        stop.until(START_TIMEOUT, "handoffd is ready, with all its workers", || {
            daemon.still_runs()?;
            Ok(is_ready(admin).then_some(()))
        })?;
        Ok(Self { daemon, _upstream: upstream, socket, directory })
    }

    fn floor(pace: Pace, binaries: &Binaries, stop: &Stop) -> Result<Self, Error> {
        let directory = directory()?;
        let socket = directory.path().join("floor.sock");
        let mut command = Command::new(&binaries.floor);
        command.arg("--socket").arg(&socket);
        command.args(["--events", &pace.events.to_string(), "--interval-ms", &pace.interval_ms.to_string()]);
        let mut daemon = Running::start(command, "floor", directory.path())?;
        stop.until(START_TIMEOUT, "the floor is ready", || {
            daemon.still_runs()?;
            Ok(daemon.output().contains("floor listens on ").then_some(()))
        })?;
        Ok(Self { daemon, _upstream: None, socket, directory })
    }

    /// # Errors
    /// When it does not make its socket.
    pub(crate) fn other(other: &Other, stop: &Stop) -> Result<Self, Error> {
        let directory = directory()?;
        let socket = directory.path().join("other.sock");
        let line = format!("exec {}", other.command.replace("{socket}", &socket.to_string_lossy()));
        let mut command = Command::new("sh");
        command.args(["-c", &line]);
        let mut daemon = Running::start(command, "other", directory.path())?;
        stop.until(START_TIMEOUT, &format!("{} makes its socket", other.name), || {
            daemon.still_runs()?;
            Ok(socket.exists().then_some(()))
        })?;
        Ok(Self { daemon, _upstream: None, socket, directory })
    }
}

fn directory() -> Result<TempDir, Error> {
    tempfile::Builder::new().prefix("handoffd-bench-").tempdir().map_err(Error::io("a private directory"))
}

/// An address of our own: every 127.x.y.z is this machine. Nobody else tries this one, so its port stays free.
fn free_address() -> Result<SocketAddr, Error> {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let address = Ipv4Addr::new(127, 64 + (high & 0x3f), middle, low);
    let listener = TcpListener::bind((address, 0)).map_err(Error::io(format!("a port on {address}")))?;
    listener.local_addr().map_err(Error::io("the port's number"))
}

fn configuration(socket: &Path, admin: SocketAddr, workers: u32, backend: &str) -> String {
    format!(
        "[server]\nsocket_path = \"{}\"\nshutdown_timeout_secs = 1\n\n[workers]\ncount = {workers}\n\n\
         [metrics]\nlisten_addr = \"{admin}\"\n\n[logging]\nlevel = \"info\"\n\n{backend}",
        socket.display()
    )
}

/// The mock that answers at this pace.
pub(crate) fn mock(pace: Pace, apart: bool) -> String {
    let mut text =
        format!("[backend.mock]\ntoken_delay_ms = {}\nlength = {}\n", pace.interval_ms, pace.events);
    if apart {
        text.push_str("burst = 1\n");
    }
    text
}

fn upstream(
    pace: Pace,
    tls: bool,
    streams_max: Option<u32>,
    binaries: &Binaries,
    directory: &Path,
) -> Result<Running, Error> {
    let mut command = Command::new(&binaries.upstream);
    command.args(["--listen", "127.0.0.1:0", "--stamp"]);
    command.args(["--events", &pace.events.to_string(), "--interval-ms", &pace.interval_ms.to_string()]);
    if tls {
        command.arg("--tls");
    }
    if let Some(max) = streams_max {
        command.args(["--max-concurrent-streams", &max.to_string()]);
    }
    command.current_dir(directory);
    let name = if tls { "upstream-tls" } else { "upstream" };
    Running::start(command, name, directory)
}

/// What the upstream says when it is ready.
#[derive(Debug, PartialEq, Eq)]
struct Address {
    /// `http://127.0.0.1:1234`
    base: String,
    ca_file: Option<String>,
}

fn address_of(upstream: &Running, stop: &Stop) -> Result<Address, Error> {
    stop.until(START_TIMEOUT, "the upstream is ready", || Ok(Address::parse(&upstream.output())))
        .map_err(|error| Error::Said(format!("{error}; the upstream says: {}", upstream.last_words())))
}

impl Address {
    /// None until the line is whole.
    fn parse(output: &str) -> Option<Self> {
        let line = output
            .split_inclusive('\n')
            .find(|line| line.starts_with("upstream listens on ") && line.ends_with('\n'))?;
        let mut words = line.split_whitespace().map(|word| word.trim_matches([',', '(', ')', ';']));
        let base = words.clone().find(|word| word.starts_with("http"))?.to_owned();
        Some(Self { base, ca_file: words.find(|word| word.starts_with('/')).map(str::to_owned) })
    }

    fn backend(&self) -> String {
        let mut text = format!(
            "[backend]\nprovider = \"llm\"\n\n[backends.llm]\nkind = \"openai\"\napi_base = \"{}/v1\"\napi_key = \"benchmark\"\nproxy = \"\"\n",
            self.base
        );
        if let Some(file) = &self.ca_file {
            let _ = writeln!(text, "ca_file = \"{file}\"");
        }
        text
    }
}

/// Whether all workers take handoffs.
fn is_ready(admin: SocketAddr) -> bool {
    let Some(status) = get(admin, "/readyz").and_then(|_| get(admin, "/status")) else { return false };
    let Ok(status) = serde_json::from_str::<serde_json::Value>(&status) else { return false };
    let workers = status["workers"].as_array().map_or(&[][..], Vec::as_slice);
    !workers.is_empty() && workers.iter().all(|worker| worker["state"] == "ready")
}

/// The body of a 200.
fn get(admin: SocketAddr, path: &str) -> Option<String> {
    let mut connection = TcpStream::connect_timeout(&admin, ADMIN_TIMEOUT).ok()?;
    connection.set_read_timeout(Some(ADMIN_TIMEOUT)).ok()?;
    write!(connection, "GET {path} HTTP/1.1\r\nHost: {admin}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    connection.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.split(' ').nth(1).filter(|status| *status == "200")?;
    Some(body.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const PACE: Pace = Pace { events: 12, interval_ms: 1_000 };

    #[test]
    fn metrics_are_on_and_the_log_is_at_info() {
        let address = "127.64.1.2:3".parse().unwrap();
        let text = configuration(Path::new("/d/s"), address, 6, &mock(PACE, false));
        assert!(text.contains("[metrics]\nlisten_addr = \"127.64.1.2:3\"\n"), "{text}");
        assert!(text.contains("level = \"info\"\n") && text.contains("count = 6\n"), "{text}");
        assert!(text.ends_with("[backend.mock]\ntoken_delay_ms = 1000\nlength = 12\n"), "{text}");
        assert!(mock(PACE, true).ends_with("burst = 1\n"));
    }

    #[test]
    fn the_upstreams_word_is_read_when_it_is_whole() {
        assert_eq!(Address::parse("upstream listens on http://127.0.0.1:12"), None);
        let plain = Address::parse("upstream listens on http://127.0.0.1:1234\n").unwrap();
        assert_eq!(plain, Address { base: "http://127.0.0.1:1234".to_owned(), ca_file: None });
        let tls = Address::parse("x\nupstream listens on https://localhost:1 (CA: /tmp/a/ca.pem)\n").unwrap();
        assert_eq!(tls.ca_file.as_deref(), Some("/tmp/a/ca.pem"));
        assert!(tls.backend().contains("api_base = \"https://localhost:1/v1\"\n"));
        assert!(tls.backend().ends_with("ca_file = \"/tmp/a/ca.pem\"\n"));
    }
}
