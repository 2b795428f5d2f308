//! The machine that the tests run in: handoffd as systemd's service. In: a configuration, and what the unit says
//! besides. Out: what systemctl, the journal and the admin endpoint say.
//!
//! Never: runs on a machine that scripts/vm did not boot.

use std::fmt::Write as _;
use std::fs;
use std::io::{Read, Write as _};
use std::net::TcpStream;
use std::path::Path;
use std::process::Command;

use handoff_e2e::apache::{self, Door, Kind};
use handoff_e2e::{Client, PATIENCE, Response, eventually};
use serde_json::Value;

const ADMIN: &str = "127.0.0.1:9090";
const SOCKET: &str = "/run/handoffd/handoffd.sock";
const DROP_IN: &str = "/run/systemd/system/handoffd.service.d/test.conf";

/// The service, freshly started.
pub(crate) struct Guest;

impl Guest {
    /// `toml` are sections of the configuration; `[backend.mock]` and `[workers]` have begun already, in this order.
    /// `unit` are lines of the unit's section `[Service]`.
    pub(crate) fn start(toml: &str, unit: &str) -> Self {
        assert!(Path::new("/vm/promises").exists(), "these tests run in a virtual machine: scripts/vm");
        let guest = Self;
        run("systemctl stop handoffd.socket handoffd.service");
        run("pkill -KILL -x handoffd-worker");
        eventually("the last test's workers are gone", || pids("handoffd-worker").is_empty().then_some(()));
        let mut text = String::from("[backend.mock]\nallow_request_options = true\ntoken_delay_ms = 100\n");
        let _ = write!(text, "[workers]\nuser = \"handoffd-worker\"\ncount = 2\n{toml}\n");
        fs::write("/etc/handoffd/daemon.toml", text).expect("a configuration");
        fs::create_dir_all(Path::new(DROP_IN).parent().expect("a directory")).expect("a directory");
        fs::write(DROP_IN, format!("[Service]\n{unit}\n")).expect("a drop-in");
        succeed("systemctl daemon-reload");
        succeed("systemctl start handoffd.socket handoffd.service");
        guest.wait_until_ready();
        guest
    }

    /// Both workers take handoffs.
    pub(crate) fn wait_until_ready(&self) {
        eventually("both workers are ready", || {
            (self.workers().len() == 2 && pids("handoffd-worker").len() == 2).then_some(())
        });
    }

    /// Plays Apache.
    pub(crate) fn hand_over(&self, payload: impl AsRef<[u8]>) -> Client {
        let (ours, theirs) = apache::client_pair(Kind::Tcp);
        apache::hand_over(Path::new(SOCKET), Door::SeqPacket, payload.as_ref(), theirs).expect("a handoff");
        ours
    }

    /// GET on the admin endpoint; none while nobody answers.
    pub(crate) fn get(&self, path: &str) -> Option<String> {
        let mut stream = TcpStream::connect(ADMIN).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        write!(stream, "GET {path} HTTP/1.1\r\nHost: {ADMIN}\r\nConnection: close\r\n\r\n").ok()?;
        let mut text = String::new();
        stream.read_to_string(&mut text).ok()?;
        Some(text.split_once("\r\n\r\n")?.1.to_owned())
    }

    /// `/status`; null while nobody answers.
    pub(crate) fn status(&self) -> Value {
        self.get("/status").and_then(|body| serde_json::from_str(&body).ok()).unwrap_or_default()
    }

    /// The ready workers: process id, and how many streams each has.
    pub(crate) fn workers(&self) -> Vec<(u32, u64)> {
        let status = self.status();
        let workers = status["workers"].as_array().map(Vec::as_slice).unwrap_or_default();
        let ready = workers.iter().filter(|worker| worker["state"] == "ready");
        ready
            .filter_map(|worker| {
                Some((u32::try_from(worker["pid"].as_u64()?).ok()?, worker["leases"].as_u64()?))
            })
            .collect()
    }

    /// The sum of a metric's samples whose line begins so.
    pub(crate) fn metric(&self, begin: &str) -> f64 {
        let text = self.get("/metrics").unwrap_or_default();
        let samples = text.lines().filter(|line| line.starts_with(begin));
        samples.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum()
    }

    /// How often a worker was replaced, whatever the reason.
    pub(crate) fn restarts(&self) -> f64 {
        self.metric("handoffd_worker_restarts_total")
    }

    /// A property of the service, as `systemctl show` has it.
    pub(crate) fn property(&self, name: &str) -> String {
        run(&format!("systemctl show --property={name} --value handoffd.service")).1
    }

    /// The supervisor.
    pub(crate) fn main_pid(&self) -> u32 {
        self.property("MainPID").parse().expect("a number")
    }
}

/// Processes of exactly this name.
pub(crate) fn pids(name: &str) -> Vec<u32> {
    run(&format!("pgrep -x {name}")).1.lines().filter_map(|pid| pid.parse().ok()).collect()
}

/// A command line of the shell: its exit code, and all that it said.
pub(crate) fn run(command: &str) -> (i32, String) {
    let output =
        Command::new("sh").args(["-c", &format!("{{ {command}; }} 2>&1")]).output().expect("a shell");
    let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.code().unwrap_or(-1), said)
}

/// As [`run`], where failing is a failure of the test.
pub(crate) fn succeed(command: &str) -> String {
    let (code, said) = run(command);
    assert_eq!(code, 0, "{command}: {said}");
    said
}

/// Everybody has had one answer, and all of it.
#[track_caller]
pub(crate) fn all_complete(responses: &[Response]) {
    let bad: Vec<&Response> =
        responses.iter().filter(|response| !response.is_complete() || response.heads() != 1).collect();
    assert!(bad.is_empty(), "{} of {} are not whole, such as {:?}", bad.len(), responses.len(), bad.first());
}
