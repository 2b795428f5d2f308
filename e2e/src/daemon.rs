//! A private handoffd: its own directory, sockets and address. Gone when dropped, with all its workers.

use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};

use nix::sys::signal::Signal;
use serde_json::Value;
use tempfile::TempDir;

use crate::apache::{self, Door, Kind};
use crate::client::Client;
use crate::launch::{command, configuration};
use crate::manager::Manager;
use crate::{PATIENCE, eventually, own_port, process};

/// How a daemon is started.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// TOML: sections and keys beside those that the harness sets.
    pub toml: String,
    /// Further arguments.
    pub args: Vec<String>,
    /// The environment; nothing else is inherited.
    pub env: Vec<(String, String)>,
    /// A stream socket is opened too.
    pub stream_socket: bool,
    /// Do not wait until it is ready.
    pub no_wait: bool,
    /// Soft and hard limit of open files, set by prlimit(1) around the start.
    pub fd_limit: Option<u64>,
    /// Standard error goes there instead of a file of the daemon's own.
    pub log_to: Option<PathBuf>,
    /// It runs from copies of the binaries in its own directory, which a test may replace.
    pub own_binaries: bool,
    /// A service manager starts it: it holds the handoff socket, and stores this many fds.
    pub store_max: Option<usize>,
    /// The daemon is started with its configuration file open as this fd too, not close-on-exec, as a careless parent
    /// would leave something open.
    pub stray_fd: Option<u32>,
    /// The kernel has no Landlock, as far as the daemon and its workers can tell.
    pub without_landlock: bool,
    /// The daemon is started as this user, group and further group, by setpriv(1): unless the user is root, without
    /// any privilege.
    pub as_user: Option<[u32; 3]>,
    /// It sees this file as `/etc/hosts`, in a mount namespace of its own: for root alone.
    pub hosts: Option<PathBuf>,
    /// The daemon runs in a terminal of its own, made by script(1).
    pub terminal: bool,
}

/// A running handoffd.
#[derive(Debug)]
pub struct Daemon {
    child: Child,
    admin: String,
    manager: Option<Manager>,
    options: Options,
    /// Workers that are nobody's children any more when a supervisor has died.
    left_behind: Vec<u32>,
    directory: TempDir,
}

impl Daemon {
    /// With two workers and a mock that waits 10 ms between two words. `toml` is appended to
    /// the configuration; it may open sections of its own.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start(toml: &str) -> Self {
        Self::with(&Options { toml: toml.to_owned(), ..Options::default() })
    }

    /// With so many workers, confined, as another user where we may.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn confined(workers: u16, toml: &str) -> Self {
        let run_as = if nix::unistd::geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
        Self::start(&format!("[workers]\ncount = {workers}\nsandbox = \"require\"\n{run_as}\n{toml}"))
    }

    /// Starts a daemon.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn with(options: &Options) -> Self {
        let directory = tempfile::Builder::new().prefix("handoffd-e2e-").tempdir().expect("a directory");
        let admin = own_port().to_string();
        let config = directory.path().join("daemon.toml");
        fs::write(&config, configuration(directory.path(), &admin, options)).expect("a configuration");
        let manager = options
            .store_max
            .map(|max| Manager::new(directory.path(), &directory.path().join("handoffd.sock"), max));
        if options.own_binaries {
            for name in ["handoffd", "handoffd-worker"] {
                fs::copy(binary(name), directory.path().join(name)).expect("a copy");
            }
        }
        if let Some([uid, gid, _]) = options.as_user {
            std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid))
                .expect("a directory for another user");
        }
        let child = spawn(options, directory.path(), manager.as_ref());
        let mut daemon =
            Self { child, admin, manager, options: options.clone(), left_behind: Vec::new(), directory };
        if !options.no_wait {
            daemon.wait_until_ready();
        }
        daemon
    }

    /// All its workers take handoffs.
    ///
    /// # Panics
    /// When they do not in time.
    #[track_caller]
    pub fn wait_until_ready(&mut self) {
        eventually("handoffd is ready, with all its workers", || {
            assert!(self.exit_status().is_none(), "handoffd ended at its start");
            (self.is_ready() && self.workers("starting").is_empty() && self.workers("adopted").is_empty())
                .then_some(())
        });
    }

    /// Who has started it.
    ///
    /// # Panics
    /// When no manager has.
    #[must_use]
    pub fn manager(&self) -> &Manager {
        self.manager.as_ref().expect("a daemon with a manager")
    }

    /// Ends the supervisor by this signal, and has the manager start another one. Returns how the first one ended.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn succeed_after(&mut self, signal: Signal) -> ExitStatus {
        let status = self.end_supervisor(signal);
        self.start_again();
        status
    }

    /// Ends the supervisor alone.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn end_supervisor(&mut self, signal: Signal) -> ExitStatus {
        self.left_behind.extend(process::children(self.pid()));
        self.signal(signal);
        self.wait()
    }

    /// The manager starts the next supervisor.
    pub fn start_again(&mut self) {
        self.child = spawn(&self.options, self.directory.path(), self.manager.as_ref());
    }

    /// How the next supervisor is started.
    pub fn options(&mut self) -> &mut Options {
        &mut self.options
    }

    /// Where Apache connects.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("handoffd.sock")
    }

    /// Where older modules connect.
    #[must_use]
    pub fn stream_socket(&self) -> PathBuf {
        self.directory.path().join("stream.sock")
    }

    /// Where `handoffctl` asks and orders.
    #[must_use]
    pub fn control_socket(&self) -> PathBuf {
        self.directory.path().join("control.sock")
    }

    /// The configuration file, for a test that changes it.
    #[must_use]
    pub fn config(&self) -> PathBuf {
        self.directory.path().join("daemon.toml")
    }

    /// Puts something else where one of its own binaries was, as a package does: by a new file in its place.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn replace_binary(&self, name: &str, content: &[u8]) {
        let (new, path) = (self.directory.path().join("new"), self.directory.path().join(name));
        fs::write(&new, content).expect("a file");
        fs::set_permissions(&new, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("a mode");
        fs::rename(new, path).expect("a name");
    }

    /// Replaces a text in the configuration file, for the next reload.
    ///
    /// # Panics
    /// When the text is not there.
    pub fn change_config(&self, from: &str, to: &str) {
        let text = fs::read_to_string(self.config()).expect("a configuration");
        assert!(text.contains(from), "{from:?} is not in the configuration: {text}");
        fs::write(self.config(), text.replacen(from, to, 1)).expect("a configuration");
    }

    /// A place of the daemon's own.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// `ADDRESS:PORT` of the admin endpoint.
    #[must_use]
    pub fn admin(&self) -> &str {
        &self.admin
    }

    /// The supervisor's process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Plays Apache with a loopback TCP connection.
    ///
    /// # Panics
    /// When the daemon does not take it.
    #[must_use]
    pub fn hand_over(&self, payload: impl AsRef<[u8]>) -> Client {
        self.hand_over_by(Door::SeqPacket, Kind::Tcp, payload.as_ref())
    }

    /// Plays Apache.
    ///
    /// # Panics
    /// When the daemon does not take it.
    #[must_use]
    pub fn hand_over_by(&self, door: Door, kind: Kind, payload: &[u8]) -> Client {
        let (ours, theirs) = apache::client_pair(kind);
        let path = match door {
            Door::SeqPacket => self.socket(),
            Door::Stream => self.stream_socket(),
        };
        apache::hand_over(&path, door, payload, theirs).expect("the daemon takes the handoff");
        ours
    }

    /// Sends the supervisor a signal.
    pub fn signal(&self, signal: Signal) {
        process::signal(self.pid(), signal);
    }

    /// Types into the daemon's terminal.
    ///
    /// # Panics
    /// When it has none.
    pub fn type_keys(&mut self, keys: &[u8]) {
        let terminal = self.child.stdin.as_mut().expect("a daemon in a terminal");
        terminal.write_all(keys).and_then(|()| terminal.flush()).expect("an open terminal");
    }

    /// How it ended; none while it runs.
    pub fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    /// Waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn wait(&mut self) -> ExitStatus {
        eventually("handoffd ends", || self.exit_status())
    }

    /// GET on the admin endpoint: status and body; none while nobody answers.
    #[must_use]
    pub fn get(&self, path: &str) -> Option<(u16, String)> {
        let mut stream = TcpStream::connect(&self.admin).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n", self.admin).ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        let (head, body) = text.split_once("\r\n\r\n")?;
        Some((head.split(' ').nth(1)?.parse().ok()?, body.to_owned()))
    }

    /// Whether `/readyz` says so.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.get("/readyz").is_some_and(|(status, _)| status == 200)
    }

    /// `/status`.
    ///
    /// # Panics
    /// When nobody answers.
    #[must_use]
    pub fn status(&self) -> Value {
        let (_, body) = self.get("/status").expect("/status");
        serde_json::from_str(&body).expect("JSON")
    }

    /// The workers of the slots in this state, by process id; the sacrificial one is none of them.
    #[must_use]
    pub fn workers(&self, state: &str) -> Vec<u32> {
        let status = self.status();
        let workers = status["workers"].as_array().cloned().unwrap_or_default();
        let of_state = workers.iter().filter(|worker| worker["state"] == state && worker["slot"].is_number());
        of_state.filter_map(|worker| u32::try_from(worker["pid"].as_u64()?).ok()).collect()
    }

    /// The workers that hold leases, by process id, and how many.
    #[must_use]
    pub fn holders(&self) -> Vec<(u32, u64)> {
        let status = self.status();
        let workers = status["workers"].as_array().cloned().unwrap_or_default();
        let holder = |worker: &Value| {
            let leases = worker["leases"].as_u64().filter(|leases| *leases > 0)?;
            Some((u32::try_from(worker["pid"].as_u64()?).ok()?, leases))
        };
        workers.iter().filter_map(holder).collect()
    }

    /// The sum of all samples of a metric whose line begins so (`name` or `name{label="x"`).
    ///
    /// # Panics
    /// When nobody answers.
    #[must_use]
    pub fn metric(&self, prefix: &str) -> f64 {
        let (_, body) = self.get("/metrics").expect("/metrics");
        let samples = body.lines().filter(|line| {
            line.strip_prefix(prefix).is_some_and(|rest| rest.starts_with([' ', '{', ',', '}']))
        });
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// Everything that the daemon and its workers have logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.directory.path().join("log")).unwrap_or_default()
    }

    /// The first line of the log that has these words; waits for it: what is said is written a moment later.
    ///
    /// # Panics
    /// When it does not come in time.
    #[must_use]
    #[track_caller]
    pub fn logged(&self, words: &str) -> String {
        eventually(&format!("the log says {words:?}"), || {
            self.log().lines().find(|line| line.contains(words)).map(str::to_owned)
        })
    }

    /// What the workers' log says about each session that has ended, in the order of their ends.
    #[must_use]
    pub fn sessions(&self) -> Vec<Value> {
        let log = self.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["message"] == "session ended").collect()
    }

    /// What the log says about the session with this request id; waits for its end.
    ///
    /// # Panics
    /// When it does not end in time.
    #[must_use]
    #[track_caller]
    pub fn session(&self, request_id: &str) -> Value {
        eventually(&format!("the session {request_id} ends"), || {
            self.sessions().into_iter().find(|session| session["request_id"] == request_id)
        })
    }

    /// Fds that are open in the supervisor and in its children.
    #[must_use]
    pub fn fds(&self) -> usize {
        let workers = process::children(self.pid());
        process::fds(self.pid()) + workers.into_iter().map(process::fds).sum::<usize>()
    }

    /// What was printed on standard output.
    #[must_use]
    pub fn stdout(&self) -> String {
        fs::read_to_string(self.directory.path().join("stdout")).unwrap_or_default()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let mut workers = process::children(self.pid());
        workers.append(&mut self.left_behind);
        let _ = self.child.kill();
        let _ = self.child.wait();
        for worker in workers {
            process::signal(worker, Signal::SIGKILL);
        }
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(200).collect();
            let mut text = format!("--- the last lines of handoffd's log ({}):\n", self.config().display());
            for line in tail.into_iter().rev() {
                let _ = writeln!(text, "{line}");
            }
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}

fn spawn(options: &Options, directory: &Path, manager: Option<&Manager>) -> Child {
    let log = options.log_to.clone().unwrap_or_else(|| directory.join("log"));
    let log = File::options().create(true).append(true).open(log).expect("a log");
    let mut command = command(options, &directory.join("daemon.toml"), manager);
    command
        .env_clear()
        .envs(options.env.iter().cloned())
        .stdin(if options.terminal { Stdio::piped() } else { Stdio::null() })
        .stdout(File::create(directory.join("stdout")).expect("a file"))
        .stderr(log);
    if let Some(manager) = manager {
        manager.hand_on(&mut command);
    }
    command.spawn().expect("handoffd starts")
}

/// A binary of this workspace.
///
/// # Panics
/// When it has not been built.
#[must_use]
pub fn binary(name: &str) -> PathBuf {
    let tests = std::env::current_exe().expect("a path");
    let mut directory = tests.parent().expect("target/PROFILE/program, or target/PROFILE/deps/test");
    if directory.ends_with("deps") {
        directory = directory.parent().expect("target/PROFILE");
    }
    let path = directory.join(name);
    assert!(path.exists(), "{} is missing; first run: cargo build --workspace --bins", path.display());
    path
}
