//! A machine in a container: a real systemd as PID 1, with the Debian package of this workspace in it.
//! In: files and commands for it. Out: what it says; sockets in it that a test connects to as Apache would.
//!
//! Never: changes the machine that it runs on (`scripts/container` has the namespaces), leaves anything behind,
//! passes over a missing tool where it could run: only without root there is no container, and the test says so.

use std::fs::{self, File};
use std::io::Write;
use std::net::{Ipv4Addr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns};
use serde_json::Value;
use tempfile::TempDir;

use crate::apache::{self, Door, Kind};
use crate::client::Client;
use crate::{eventually, process};

/// Where Apache connects, inside.
pub const SOCKET: &str = "/run/handoffd/handoffd.sock";
/// The configuration, inside.
pub const CONFIG: &str = "/etc/handoffd/daemon.toml";
const ENVIRONMENT: [&str; 3] = ["-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C.UTF-8"];

/// One at a time: each is a whole machine.
static ONE: Mutex<()> = Mutex::new(());

/// A machine that has not been switched on.
#[derive(Debug)]
pub struct Image {
    directory: TempDir,
    _one: MutexGuard<'static, ()>,
}

/// A running machine.
#[derive(Debug)]
pub struct Container {
    image: Image,
    boot: Child,
    /// Its PID 1, as seen from here.
    pid: u32,
}

impl Image {
    /// A bare Debian; none where this test cannot run, which it says.
    ///
    /// # Panics
    /// Where it could run, and something is missing.
    #[must_use]
    pub fn bare() -> Option<Self> {
        if let Some(reason) = unavailable() {
            let test = std::thread::current().name().unwrap_or_default().to_owned();
            // Not by `println!`, which only a failing test shows.
            let _ = writeln!(std::io::stderr(), "NOT RUN: {test}: {reason}");
            return None;
        }
        let one = ONE.lock().unwrap_or_else(PoisonError::into_inner);
        let directory = tempfile::tempdir().expect("a directory");
        let said = script(&["root", &suite()]);
        let root = said.trim();
        script(&["mount", root, path_text(directory.path())]);
        Some(Self { directory, _one: one })
    }

    /// With handoffd's package in it, and a configuration for tests: two workers, prompts may say how they want to
    /// be answered.
    #[must_use]
    pub fn with_handoffd() -> Option<Self> {
        let image = Self::bare()?;
        image.add_package(Package::Current);
        let file = image.chroot(&["dpkg", "--install", Package::Current.inside()]);
        assert!(file.status.success(), "{}", text(&file));
        image.write(CONFIG, TEST_CONFIG);
        Some(image)
    }

    /// Puts a package where `dpkg` finds it: [`Package::inside`].
    pub fn add_package(&self, package: Package) {
        fs::copy(package.file(), self.path(package.inside())).expect("a package");
    }

    /// A file of the machine, as seen from here.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        self.directory.path().join("root").join(inside.trim_start_matches('/'))
    }

    /// Writes a file of the machine; its mode stays, if it is there already.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, inside: &str, text: &str) {
        write(&self.path(inside), text);
    }

    /// Runs a command in the file system that is not booted yet.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn chroot(&self, command: &[&str]) -> Output {
        let mut chroot = Command::new("chroot");
        chroot.arg(self.path("/")).arg("env").args(ENVIRONMENT).args(command);
        chroot.stdin(Stdio::null()).output().expect("chroot")
    }

    /// Switches it on, and waits until everything that starts at boot has been started.
    ///
    /// # Panics
    /// When it does not boot.
    #[must_use]
    pub fn boot(self) -> Container {
        let log = File::create(self.directory.path().join("boot.log")).expect("a log");
        let boot = Command::new(container_script())
            .arg("boot")
            .arg(self.directory.path())
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a log"))
            .stderr(log)
            .spawn()
            .expect("scripts/container");
        let mut container = Container { image: self, boot, pid: 0 };
        container.pid = eventually("systemd starts", || {
            let log = || fs::read_to_string(container.image.directory.path().join("boot.log"));
            let ended = container.boot.try_wait().expect("a child");
            assert!(ended.is_none(), "the container ended: {}", log().unwrap_or_default());
            let pid = process::children(container.boot.id()).first().copied()?;
            // Before, it is the script that prepares the namespaces.
            fs::read_to_string(format!("/proc/{pid}/comm")).ok()?.starts_with("systemd").then_some(pid)
        });
        eventually("the machine is up", || {
            let state = container.run(&["systemctl", "is-system-running"]).0;
            matches!(state.trim(), "running" | "degraded").then_some(())
        });
        container
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        let directory = path_text(self.directory.path());
        let _ = Command::new(container_script()).args(["unmount", directory]).status();
    }
}

impl Container {
    /// Runs a command; what it printed, and whether it succeeded.
    ///
    /// # Panics
    /// When it cannot be started.
    #[must_use]
    pub fn run(&self, command: &[&str]) -> (String, bool) {
        let pid = self.pid.to_string();
        let mut enter = Command::new("nsenter");
        enter.args(["--target", &pid, "--all", "--root", "--wd", "env"]).args(ENVIRONMENT).args(command);
        let output = enter.stdin(Stdio::null()).output().expect("nsenter");
        (text(&output), output.status.success())
    }

    /// Runs a command that must succeed.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn done(&self, command: &[&str]) -> String {
        let (said, succeeded) = self.run(command);
        assert!(succeeded, "{command:?} failed: {said}");
        said
    }

    /// A property of a unit.
    #[must_use]
    #[track_caller]
    pub fn show(&self, unit: &str, property: &str) -> String {
        self.done(&["systemctl", "show", "--value", "--property", property, unit]).trim().to_owned()
    }

    /// The supervisor's process id, inside; none while it does not run.
    #[must_use]
    #[track_caller]
    pub fn main_pid(&self) -> Option<String> {
        Some(self.show("handoffd.service", "MainPID")).filter(|pid| pid != "0")
    }

    /// Waits until the service is up with another supervisor than this one, all of whose workers are ready.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn another_supervisor(&self, than: Option<&str>) -> String {
        eventually("another supervisor serves", || {
            let pid = self.main_pid().filter(|pid| than != Some(pid))?;
            (self.show("handoffd.service", "ActiveState") == "active" && self.status()?["state"] == "ready")
                .then_some(pid)
        })
    }

    /// The daemon's `/status`; none while nobody answers.
    #[must_use]
    pub fn status(&self) -> Option<Value> {
        serde_json::from_str(&self.run(&["handoffctl", "status", "--json"]).0).ok()
    }

    /// The process ids of all workers, inside, adopted or not.
    #[must_use]
    pub fn workers(&self) -> Vec<String> {
        let (pids, _) = self.run(&["pgrep", "-x", "handoffd-worker"]);
        pids.split_whitespace().map(str::to_owned).collect()
    }

    /// What the service has said.
    #[must_use]
    pub fn journal(&self) -> String {
        self.run(&["journalctl", "--no-pager", "--output=short-monotonic", "--unit=handoffd.service"]).0
    }

    /// A file of the machine, as seen from here: also sockets.
    #[must_use]
    pub fn path(&self, inside: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/root{inside}", self.pid))
    }

    /// Writes a file of the machine; its mode stays, if it is there already.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, inside: &str, text: &str) {
        write(&self.path(inside), text);
    }

    /// Puts a package where `dpkg` finds it: [`Package::inside`].
    ///
    /// # Panics
    /// When it cannot be copied.
    pub fn add_package(&self, package: Package) {
        fs::copy(package.file(), self.path(package.inside())).expect("a package");
    }

    /// Adds a drop-in to the service, for its next start.
    #[track_caller]
    pub fn drop_in(&self, name: &str, text: &str) {
        self.write(&format!("/etc/systemd/system/handoffd.service.d/{name}.conf"), text);
        self.done(&["systemctl", "daemon-reload"]);
    }

    /// Connects to a port of the machine's own loopback.
    ///
    /// # Panics
    /// When nobody listens there.
    #[must_use]
    #[track_caller]
    pub fn connect(&self, port: u16) -> Client {
        let network = File::open(format!("/proc/{}/ns/net", self.pid)).expect("its network");
        // The network belongs to a thread (setns(2)), and stays the socket's.
        let connect = || {
            setns(&network, CloneFlags::CLONE_NEWNET).expect("its network");
            TcpStream::connect((Ipv4Addr::LOCALHOST, port)).expect("somebody listens")
        };
        Client::tcp(thread::scope(|scope| scope.spawn(connect).join().expect("a connection")))
    }

    /// Plays Apache, from outside: the socket is the machine's own.
    ///
    /// # Panics
    /// When nobody takes it.
    #[must_use]
    #[track_caller]
    pub fn hand_over(&self, payload: &str) -> Client {
        self.hand_over_by(SOCKET, Door::SeqPacket, payload)
    }

    /// Plays Apache on another socket.
    ///
    /// # Panics
    /// When nobody takes it.
    #[must_use]
    #[track_caller]
    pub fn hand_over_by(&self, socket: &str, door: Door, payload: &str) -> Client {
        let (ours, theirs) = apache::client_pair(Kind::Tcp);
        apache::hand_over(&self.path(socket), door, payload.as_bytes(), theirs)
            .expect("systemd holds the socket");
        ours
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if std::thread::panicking() && self.pid != 0 {
            let (said, _) =
                self.run(&["journalctl", "--no-pager", "--lines=150", "--output=short-monotonic"]);
            let _ = writeln!(std::io::stderr(), "--- the end of the container's journal:\n{said}");
        }
        // All of its processes end with its PID 1.
        if self.pid != 0 {
            process::signal(self.pid, nix::sys::signal::Signal::SIGKILL);
        } else {
            let _ = self.boot.kill();
        }
        let _ = self.boot.wait();
    }
}

/// A Debian package of what this workspace builds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Package {
    /// The one that tests are about.
    Current,
    /// One that is newer by its version number.
    Newer,
    /// Apache's module.
    Module,
    /// Apache's module, newer by its version number.
    NewerModule,
}

impl Package {
    /// Its path inside.
    #[must_use]
    pub fn inside(self) -> &'static str {
        match self {
            Self::Current => "/root/handoffd-1.deb",
            Self::Newer => "/root/handoffd-2.deb",
            Self::Module => "/root/module-1.deb",
            Self::NewerModule => "/root/module-2.deb",
        }
    }

    /// Built once a run of the tests, from the binaries that are there.
    fn file(self) -> PathBuf {
        static BUILT: [OnceLock<TempDir>; 2] = [const { OnceLock::new() }; 2];
        let (built, version) = match self {
            Self::Current | Self::Module => (&BUILT[0], "0.1.0-1"),
            Self::Newer | Self::NewerModule => (&BUILT[1], "0.1.0-2"),
        };
        let build = || {
            let directory = tempfile::tempdir().expect("a directory");
            let (target, profile) = target();
            let output = Command::new(workspace().join("scripts/deb"))
                .args([&profile, version, path_text(directory.path())])
                .env("CARGO_TARGET_DIR", target)
                .stdin(Stdio::null())
                .output()
                .expect("scripts/deb");
            assert!(output.status.success(), "scripts/deb failed: {}", text(&output));
            directory
        };
        let name = match self {
            Self::Current | Self::Newer => "handoffd_",
            Self::Module | Self::NewerModule => "libapache2-mod-socket-handoff_",
        };
        let directory = built.get_or_init(build).path();
        let mut files = fs::read_dir(directory).expect("a directory").flatten().map(|entry| entry.path());
        let is_it =
            |file: &PathBuf| file.file_name().is_some_and(|file| path_text(file.as_ref()).starts_with(name));
        files.find(is_it).expect("a package")
    }
}

const TEST_CONFIG: &str = "\
[server]\nshutdown_timeout_secs = 20\n\n[workers]\ncount = 2\nuser = \"handoffd-worker\"\n\n\
[backend.mock]\ntoken_delay_ms = 10\nallow_request_options = true\n\n[logging]\nlevel = \"debug\"\n";

/// Why there can be no container here.
fn unavailable() -> Option<String> {
    static REASON: OnceLock<Option<String>> = OnceLock::new();
    let ask = || {
        if !nix::unistd::geteuid().is_root() {
            return Some("needs root, for namespaces and mounts".to_owned());
        }
        let flags = ["--pid", "--fork", "--mount", "--uts", "--ipc", "--net", "--cgroup", "true"];
        let output = Command::new("unshare").args(flags).stdin(Stdio::null()).output();
        match output {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(format!("no namespaces here: {}", text(&output).trim())),
            Err(error) => Some(format!("no unshare(1) here: {error}")),
        }
    };
    REASON.get_or_init(ask).clone()
}

/// The Debian release in it: `HANDOFFD_SUITE`, or that of the oldest systemd that handoffd works with.
fn suite() -> String {
    std::env::var("HANDOFFD_SUITE").unwrap_or_else(|_| "bookworm".to_owned())
}

/// Runs a part of `scripts/container` that must succeed.
#[track_caller]
fn script(args: &[&str]) -> String {
    let output = Command::new(container_script())
        .args(args)
        .env("CARGO_TARGET_DIR", target().0)
        .output()
        .expect("bash");
    assert!(output.status.success(), "scripts/container {args:?}: {}", text(&output));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn container_script() -> PathBuf {
    workspace().join("scripts/container")
}

/// The workspace's root.
///
/// # Panics
/// Never: this crate is in it.
#[must_use]
pub fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("a workspace")
}

/// Where cargo builds, and in which profile this test was built.
///
/// # Panics
/// When cargo's layout has changed.
#[must_use]
pub fn target() -> (PathBuf, String) {
    let test = std::env::current_exe().expect("a path");
    let profile = test.parent().and_then(Path::parent).expect("target/PROFILE/deps/test");
    let name = profile.file_name().expect("a profile").to_string_lossy().into_owned();
    (profile.parent().expect("target").to_owned(), name)
}

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
    fs::write(path, text).expect("a file");
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn path_text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// As [`eventually`], for what may take this long at most.
///
/// # Panics
/// When it takes longer.
#[track_caller]
pub fn within(what: &str, limit: Duration, question: impl FnMut() -> Option<()>) {
    let began_at = std::time::Instant::now();
    eventually(what, question);
    assert!(began_at.elapsed() <= limit, "{what}: took {:?}, more than {limit:?}", began_at.elapsed());
}
