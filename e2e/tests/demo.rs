//! `scripts/demo`: Debian's Apache, PHP, our module, handoffd, and nothing of them afterwards.

#![forbid(unsafe_code)]

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Output, Stdio};

use handoff_e2e::container::{target, workspace};
use handoff_e2e::{PATIENCE, daemon, eventually, own_port, process};
use nix::sys::signal::Signal;
use tempfile::TempDir;

/// Both ways to have PHP in Apache.
const WORLDS: [&str; 2] = ["mod", "fpm"];

/// A demo's address, and the one directory that it may write to.
struct Place {
    directory: TempDir,
    address: String,
    admin: String,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::Builder::new().prefix("a demo e2e-").tempdir().expect("a directory");
        // Apache's children are not root, and have to pass through.
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o711)).expect("a mode");
        Self { directory, address: own_port().to_string(), admin: own_port().to_string() }
    }

    fn command(&self, world: &str) -> Command {
        // Ctrl-C works in it, also where these tests run in a background in which it does not.
        let mut command = Command::new("env");
        command.arg("--default-signal=INT").arg(workspace().join("scripts/demo"));
        let handoffd = daemon::binary("handoffd");
        let module = target().0.join("module/libmod_socket_handoff.so");
        assert!(
            module.exists(),
            "no {}; first run: cargo build --profile module -p mod_socket_handoff",
            module.display()
        );
        command
            .env("TMPDIR", self.directory.path())
            .env("HANDOFFD_BIN", handoffd.parent().expect("a directory"))
            .env("HANDOFFD_MODULE", module)
            .env("HANDOFFD_DEMO", &self.address)
            .env("HANDOFFD_ADMIN", &self.admin)
            .env("HANDOFFD_DEMO_PHP", world)
            .env_remove("OPENAI_API_KEY")
            .env_remove("DAEMON_BACKEND_PROVIDER")
            .env_remove("HANDOFFD_CONFIG")
            .stdin(Stdio::null());
        command
    }

    /// Runs it to its end.
    fn run(&self, world: &str, once: bool) -> Output {
        let mut command = self.command(world);
        if once {
            command.env("HANDOFFD_ONCE", "1");
        }
        command.output().expect("a shell")
    }

    #[track_caller]
    fn is_as_before(&self) {
        let left: Vec<_> = fs::read_dir(self.directory.path()).expect("a directory").flatten().collect();
        assert!(left.is_empty(), "left behind: {left:?}");
        eventually("no process of it is left", || {
            processes_of(self.directory.path()).is_empty().then_some(())
        });
        TcpListener::bind(&self.address).expect("a free port");
    }
}

/// Command lines in which this directory is named.
fn processes_of(directory: &Path) -> Vec<String> {
    let entries = fs::read_dir("/proc").expect("/proc").flatten();
    let lines = entries.filter_map(|entry| fs::read_to_string(entry.path().join("cmdline")).ok());
    lines.filter(|line| line.contains(&*directory.to_string_lossy())).collect()
}

/// A demo that runs until it is stopped.
struct Running {
    child: Child,
    /// What it has said.
    said: String,
    /// Kept: who speaks to nobody is ended by SIGPIPE.
    _stdout: BufReader<ChildStdout>,
}

impl Running {
    /// Waits until it says how it is stopped.
    #[track_caller]
    fn start(place: &Place, world: &str) -> Self {
        let mut command = place.command(world);
        // A group of its own, as a terminal makes one; not that of these tests.
        let mut child = command.stdout(Stdio::piped()).process_group(0).spawn().expect("a shell");
        let mut said = String::new();
        let mut stdout = BufReader::new(child.stdout.take().expect("a pipe"));
        while !said.contains("Ctrl-C") {
            let read = stdout.read_line(&mut said).expect("text");
            assert!(read > 0, "it ended, and said: {said}");
        }
        assert!(said.contains(&format!("http://{}/", place.address)), "{said}");
        Self { child, said, _stdout: stdout }
    }

    #[track_caller]
    fn exit_code(&mut self) -> Option<i32> {
        eventually("it ends", || self.child.try_wait().expect("a child")).code()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        process::signal(self.child.id(), Signal::SIGTERM);
        let _ = self.child.wait();
    }
}

/// Asks a page of the demo with JSON.
fn post(place: &Place, page: &str, cookie: &str, body: &str) -> BufReader<TcpStream> {
    let mut stream = TcpStream::connect(&place.address).expect("Apache");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    let (address, length) = (&place.address, body.len());
    let head =
        format!("POST /{page} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\nCookie: {cookie}\r\n");
    write!(stream, "{head}Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}")
        .expect("a request");
    BufReader::new(stream)
}

/// A visitor's answer of 600 words, when it has begun.
#[track_caller]
fn an_answer_that_goes_on(place: &Place) -> BufReader<TcpStream> {
    let mut response = String::new();
    post(place, "session.php", "", r#"{"user":"Ada"}"#).read_to_string(&mut response).expect("a response");
    // Signing in changes the session's name: the last one counts.
    let cookie = response.lines().rev().find_map(|line| line.strip_prefix("Set-Cookie: ")?.split(';').next());
    let question = r#"{"messages":[{"role":"user","content":"hi"}],"mock":{"length":600}}"#;
    let mut answer = post(place, "chat.php", cookie.expect("a session"), question);
    let mut said = String::new();
    while !said.contains("data: ") {
        assert!(answer.read_line(&mut said).expect("text") > 0, "no answer: {said}");
    }
    answer
}

#[test]
fn a_demo_streams_an_answer_and_leaves_nothing_behind() {
    for world in WORLDS {
        let place = Place::new();
        let output = place.run(world, true);
        let said = String::from_utf8_lossy(&output.stdout);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{world}: {:?} {said}\n{complained}", output.status);
        assert!(said.contains("data: {\"content\":\"Hello\"}"), "{world}: {said}\n{complained}");
        assert!(said.ends_with("event: done\ndata: [DONE]\n\n"), "{world}: {said}\n{complained}");
        place.is_as_before();
    }
}

#[test]
fn a_demo_that_is_stopped_leaves_nothing_behind() {
    for (world, signal, code) in [("mod", Signal::SIGINT, 0), ("fpm", Signal::SIGTERM, 143)] {
        let place = Place::new();
        let mut demo = Running::start(&place, world);
        let mut answer = an_answer_that_goes_on(&place);
        process::signal(demo.child.id(), signal);
        assert_eq!(demo.exit_code(), Some(code), "{world}");
        place.is_as_before();
        let mut rest = String::new();
        answer.read_to_string(&mut rest).expect("an end");
        assert!(rest.contains(r#""code":"shutting_down""#), "{world}: {rest}");
    }
}

#[test]
fn what_a_demo_says_to_try_works() {
    for world in WORLDS {
        let place = Place::new();
        let demo = Running::start(&place, world);
        let said = |beginning: &str| {
            let line = demo
                .said
                .lines()
                .find_map(|line| line.strip_prefix("  ").filter(|line| line.contains(beginning)));
            let line = line.unwrap_or_else(|| panic!("no {beginning}: {}", demo.said));
            // What would not end by itself.
            let line = line.replace(" --watch", "").replace("tail -f", "cat");
            let output =
                Command::new("bash").args(["-c", &line]).current_dir(workspace()).output().expect("bash");
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            assert!(output.status.success(), "{line}: {text}{}", String::from_utf8_lossy(&output.stderr));
            text
        };
        let doctor = said("handoffctl doctor ");
        assert!(doctor.contains("0 problems, 0 warnings"), "{world}: {doctor}");
        for command in ["kill -HUP ", "kill -9 "] {
            said(command);
            let answer = said("curl -N ");
            assert!(answer.ends_with("event: done\ndata: [DONE]\n\n"), "{world}, {command}: {answer}");
        }
        assert!(said("handoffctl status ").contains("ready"), "{world}");
        assert!(said("access.log").contains(" handoff=sent "), "{world}");
        assert!(said("handoffd.log").contains("worker died"), "{world}");
    }
}

#[test]
fn a_demo_whose_apache_dies_says_so_and_leaves_nothing_behind() {
    let place = Place::new();
    let mut demo = Running::start(&place, "mod");
    let pids = process::children(demo.child.id());
    let apache = pids.into_iter().find(|pid| process::name(*pid).contains("apache")).expect("an Apache");
    process::signal(apache, Signal::SIGKILL);
    assert_eq!(demo.exit_code(), Some(1));
    place.is_as_before();
}

#[test]
fn a_demo_that_cannot_start_says_why() {
    let place = Place::new();
    for (address, variable) in [(&place.address, "HANDOFFD_DEMO="), (&place.admin, "HANDOFFD_ADMIN=")] {
        let taken = TcpListener::bind(address).expect("a port");
        let output = place.run("mod", true);
        let complained = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(1), "{complained}");
        assert!(complained.contains(&format!("something listens on {address} already")), "{complained}");
        assert!(complained.contains(variable), "{complained}");
        drop(taken);
        place.is_as_before();
    }
    let unknown = place.run("cgi", true);
    let complained = String::from_utf8_lossy(&unknown.stderr);
    assert_eq!(complained, "demo: HANDOFFD_DEMO_PHP is mod or fpm, not cgi\n");
}
