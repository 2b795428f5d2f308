//! A private Apache with PHP and our module, from a root of its own. In: pages, directives, how many workers, a daemon
//! to hand over to. Out: connections, what Apache logs, its processes. Never: touches the system's Apache or its
//! configuration; leaves a process behind. A failing test prints what Apache and php-fpm have logged, and no test passes
//! in which one of Apache's processes has crashed.

mod config;
mod http2;
mod setup;
mod taker;
mod tls;
mod wire;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::Write as _;
use std::net::TcpStream;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::{Pid, geteuid};
use tempfile::TempDir;

use crate::client::{Client, Response};
use crate::daemon::Daemon;
use crate::{eventually, own_port, process};

pub use http2::{Http2Client, Http2Stream};
pub use setup::{Setup, World};
pub use taker::{Taken, Taker};
pub use tls::TlsClient;
pub use wire::{read_one, unchunked};

/// Whom Apache's children and php-fpm's workers are, where the tests are root.
pub const USER: &str = "www-data";

/// A daemon of confined workers whose socket Apache's user may use, as a site has it: by its group.
///
/// # Panics
/// When it does not become ready.
#[must_use]
pub fn daemon(toml: &str) -> Daemon {
    let (server, run_as) = match geteuid().is_root() {
        true => (format!("socket_group = \"{USER}\"\n"), "user = 61234\ngroup = 61235\n"),
        false => (String::new(), ""),
    };
    let workers = match toml.contains("[workers]") {
        true => String::new(),
        false => format!("[workers]\ncount = 2\nsandbox = \"require\"\n{run_as}"),
    };
    Daemon::start(&format!("{server}\n{workers}\n{toml}"))
}

/// A running Apache, and its php-fpm.
#[derive(Debug)]
pub struct Httpd {
    child: Child,
    php: Option<Child>,
    setup: Setup,
    place: Place,
    directory: TempDir,
}

/// Where it listens.
#[derive(Clone, Debug)]
struct Place {
    address: String,
    port: u16,
    tls_port: u16,
}

impl Httpd {
    /// Eight workers, these pages, and nothing special.
    ///
    /// # Panics
    /// As [`Httpd::with`].
    #[must_use]
    pub fn start(world: World, daemon: &Daemon, pages: &[(&str, &str)]) -> Self {
        let setup = Setup::new(world, daemon);
        pages.iter().fold(setup, |setup, (path, content)| setup.file(path, content)).start()
    }

    /// Starts Apache, and php-fpm before it in its world.
    ///
    /// # Panics
    /// When a program or the module is missing, or Apache does not come up; its error log is printed.
    #[must_use]
    pub fn with(setup: Setup) -> Self {
        let directory = tempfile::Builder::new().prefix("handoffd-httpd-").tempdir().expect("a directory");
        let place = Place::next();
        let root = directory.path();
        lay_out(root, &setup, &place);
        let php = (setup.world == World::Event).then(|| {
            let arguments = ["--nodaemonize", "--fpm-config", "fpm.conf", "--php-ini", "php.ini"];
            let child = spawn(Command::new(config::php_fpm()).args(arguments), root, "fpm.out");
            eventually("php-fpm listens", || UnixStream::connect(root.join("fpm.sock")).ok());
            child
        });
        let arguments = ["-d", ".", "-f", "httpd.conf", "-DFOREGROUND"];
        let child = spawn(Command::new("apache2").args(arguments), root, "httpd.out");
        let mut httpd = Self { child, php, setup, place, directory };
        eventually("Apache listens", || {
            assert!(httpd.exit_status().is_none(), "Apache ended at its start");
            httpd.try_connect()
        });
        httpd.wait_for_start(1);
        httpd
    }

    /// How it was started.
    #[must_use]
    pub fn setup(&self) -> &Setup {
        &self.setup
    }

    /// `ADDRESS:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        format!("{}:{}", self.place.address, self.place.port)
    }

    /// `http://ADDRESS:PORT` and this path.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address())
    }

    /// `https://ADDRESS:PORT` and this path.
    #[must_use]
    pub fn tls_url(&self, path: &str) -> String {
        format!("https://{}:{}{path}", self.place.address, self.place.tls_port)
    }

    /// The root: configuration, logs, `htdocs`.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// The certificate of the TLS virtual host, which is its own authority.
    #[must_use]
    pub fn ca_file(&self) -> PathBuf {
        self.directory.path().join("tls.pem")
    }

    /// A connection, for bytes of a test's own.
    ///
    /// # Panics
    /// When Apache does not take it.
    #[must_use]
    pub fn connect(&self) -> Client {
        self.try_connect().expect("Apache takes the connection")
    }

    /// A TLS connection, that wants no protocol in particular.
    ///
    /// # Panics
    /// When Apache does not take it.
    #[must_use]
    pub fn tls_connect(&self) -> TlsClient {
        TlsClient::connect(&self.place.address, self.place.tls_port, &self.ca_file())
    }

    /// An HTTP/2 connection; mod_http2 must be among the modules.
    ///
    /// # Panics
    /// When Apache does not take it, or speaks no HTTP/2.
    #[must_use]
    pub fn http2_connect(&self) -> Http2Client {
        Http2Client::connect(&self.place.address, self.place.tls_port, &self.ca_file())
    }

    /// Sends a GET of HTTP/1.1.
    ///
    /// # Panics
    /// When Apache does not take it.
    #[must_use]
    pub fn ask(&self, path: &str) -> Client {
        let mut client = self.connect();
        client.write_all(self.request("GET", path, "").as_bytes()).expect("a request");
        client
    }

    /// A GET, and what comes until the end of the connection; without chunks.
    ///
    /// # Panics
    /// When Apache does not take it.
    #[must_use]
    pub fn get(&self, path: &str) -> Response {
        wire::unchunked(self.ask(path).response())
    }

    /// A request's head: these further lines (each with its CRLF), and the connection ends with its answer.
    #[must_use]
    pub fn request(&self, method: &str, path: &str, lines: &str) -> String {
        format!("{method} {path} HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n{lines}\r\n", self.address())
    }

    fn try_connect(&self) -> Option<Client> {
        TcpStream::connect(self.address()).ok().map(Client::tcp)
    }

    /// Whole lines of the access log: status, bytes, the two notes of the module, the request in quotation marks.
    #[must_use]
    pub fn access_log(&self) -> Vec<String> {
        lines(&self.directory.path().join("access.log"))
    }

    /// The first line of the access log with this text; waits for it: Apache logs when it is done.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn accessed(&self, text: &str) -> String {
        eventually(&format!("the access log has {text:?}"), || {
            self.access_log().into_iter().find(|line| line.contains(text))
        })
    }

    /// The error log, of Apache and PHP.
    #[must_use]
    pub fn error_log(&self) -> Vec<String> {
        lines(&self.directory.path().join("error.log"))
    }

    /// The first line of the error log with this text; waits for it.
    ///
    /// # Panics
    /// When there is none in time.
    #[track_caller]
    pub fn complained(&self, text: &str) -> String {
        eventually(&format!("the error log has {text:?}"), || {
            self.error_log().into_iter().find(|line| line.contains(text))
        })
    }

    /// Apache's first process.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Those that serve requests.
    #[must_use]
    pub fn children(&self) -> Vec<u32> {
        process::children(self.pid())
    }

    /// Of each child, by process id: its open fds, and its memory in KiB (VmRSS).
    #[must_use]
    pub fn usage(&self) -> BTreeMap<u32, (usize, u64)> {
        let of = |pid: u32| {
            let rss = process::status(pid, "VmRSS");
            (pid, (process::fds(pid), rss.split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0)))
        };
        self.children().into_iter().map(of).collect()
    }

    /// `apache2 -k graceful`: requests that run are finished, new ones meet the new configuration. Waits for that.
    ///
    /// # Panics
    /// When it does not come in time.
    pub fn graceful(&mut self) {
        let starts = self.starts();
        process::signal(self.pid(), Signal::SIGUSR1);
        self.wait_for_start(starts + 1);
    }

    /// `apache2 -k graceful-stop`: running requests are finished first.
    ///
    /// # Panics
    /// When Apache does not end in time.
    pub fn graceful_stop(&mut self) -> ExitStatus {
        self.end(Signal::SIGWINCH)
    }

    /// `apache2 -k stop`.
    ///
    /// # Panics
    /// When Apache does not end in time.
    pub fn stop(&mut self) -> ExitStatus {
        self.end(Signal::SIGTERM)
    }

    fn end(&mut self, signal: Signal) -> ExitStatus {
        process::signal(self.pid(), signal);
        eventually("Apache ends", || self.exit_status())
    }

    fn exit_status(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child")
    }

    fn starts(&self) -> usize {
        self.error_log().iter().filter(|line| line.contains("resuming normal operations")).count()
    }

    fn wait_for_start(&mut self, number: usize) {
        eventually("Apache says that it is there", || {
            assert!(self.exit_status().is_none(), "Apache ended");
            (self.starts() >= number).then_some(())
        });
    }

    fn logs(&self) -> String {
        let mut text = String::new();
        for name in ["httpd.out", "error.log", "access.log", "fpm.out", "fpm.log"] {
            let lines = lines(&self.directory.path().join(name));
            if lines.is_empty() {
                continue;
            }
            let _ = writeln!(text, "--- the last lines of Apache's {name} ({:?}):", self.setup.world);
            for line in &lines[lines.len().saturating_sub(60)..] {
                let _ = writeln!(text, "{line}");
            }
        }
        text
    }
}

impl Drop for Httpd {
    fn drop(&mut self) {
        for child in std::iter::once(&mut self.child).chain(&mut self.php) {
            // Whatever ends of its own is gone by now, but its children may not be: they are of its group.
            if let Ok(pid) = i32::try_from(child.id()) {
                let _ = killpg(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let _ = child.wait();
        }
        if std::thread::panicking() {
            let _ = std::io::stderr().write_all(self.logs().as_bytes());
            return;
        }
        let crashes: Vec<String> = self
            .error_log()
            .into_iter()
            .filter(|line| line.contains("AH00052") || line.contains("AH00051"))
            .collect();
        assert!(crashes.is_empty(), "a process of Apache has crashed: {crashes:#?}\n{}", self.logs());
    }
}

impl Place {
    /// Two ports that nobody else has.
    fn next() -> Self {
        let (port, tls_port) = (own_port(), own_port());
        Self { address: port.ip().to_string(), port: port.port(), tls_port: tls_port.port() }
    }
}

/// Files and directories, for Apache's user to read where it must.
fn lay_out(root: &Path, setup: &Setup, place: &Place) {
    open_directory(root);
    for (directory, mode) in [("htdocs", 0o755), ("run", 0o755), ("state", 0o700)] {
        fs::create_dir(root.join(directory)).expect("a directory");
        fs::set_permissions(root.join(directory), fs::Permissions::from_mode(mode)).expect("a mode");
    }
    if geteuid().is_root() {
        let user = nix::unistd::User::from_name(USER).expect("users").expect("the user of Apache");
        let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
        std::os::unix::fs::chown(root.join("state"), Some(uid), Some(gid)).expect("an owner");
    }
    for (path, content) in &setup.files {
        let path = root.join("htdocs").join(path);
        fs::create_dir_all(path.parent().expect("a directory")).expect("a directory");
        fs::write(path, content).expect("a file");
    }
    if setup.tls.is_some() {
        tls::write_certificate(root, &place.address);
    }
    fs::write(root.join("httpd.conf"), config::httpd(root, setup, place)).expect("a configuration");
    fs::write(root.join("php.ini"), config::php_ini(root, setup)).expect("a configuration");
    fs::write(root.join("fpm.conf"), config::fpm(root, setup)).expect("a configuration");
}

/// Others may pass through, and list nothing.
fn open_directory(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o711)).expect("a mode");
}

/// In a process group of its own, so that all of it can be ended.
fn spawn(command: &mut Command, root: &Path, output: &str) -> Child {
    let output = File::create(root.join(output)).expect("a file");
    command
        .current_dir(root)
        .env_clear()
        .env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin")
        // Nothing of the system's own configuration of PHP.
        .env("PHP_INI_SCAN_DIR", "")
        .process_group(0)
        .stdin(Stdio::null())
        .stdout(output.try_clone().expect("an fd"))
        .stderr(output);
    let program = command.get_program().to_owned();
    command
        .spawn()
        .unwrap_or_else(|error| panic!("{}: {error}; run scripts/test-packages", program.display()))
}

/// Without a last one that is not whole yet.
fn lines(path: &Path) -> Vec<String> {
    let bytes = fs::read(path).unwrap_or_default();
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    String::from_utf8_lossy(&bytes[..whole]).lines().map(str::to_owned).collect()
}
