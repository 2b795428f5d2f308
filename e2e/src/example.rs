//! A program of `examples/`, running: somebody else's server, which hands its clients over to a daemon.

use std::fs::{self, File};
use std::io::Write;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use nix::sys::signal::Signal;
use tempfile::TempDir;

use crate::client::{Client, Response};
use crate::{eventually, process};

/// A server from `examples/`; ended when dropped.
#[derive(Debug)]
pub struct Example {
    child: Child,
    address: String,
    log: PathBuf,
    _directory: TempDir,
}

/// A directory in `examples/`.
#[must_use]
pub fn directory(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

impl Example {
    /// Starts a server that says its own `http://ADDRESS:PORT`.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    #[track_caller]
    pub fn start(command: &mut Command) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let log = directory.path().join("log");
        let file = File::options().create(true).append(true).open(&log).expect("a log");
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("an fd"))
            .stderr(file)
            .spawn()
            .expect("scripts/test-packages installs what the examples need");
        let mut example = Self { child, address: String::new(), log, _directory: directory };
        example.address = eventually("the server says its address", || {
            assert!(example.child.try_wait().expect("a child").is_none(), "it ended at its start");
            let log = example.log();
            let (_, rest) = log.split_once("http://")?;
            // The line is complete.
            let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.' && c != ':')?;
            Some(rest[..end].to_owned())
        });
        example
    }

    /// A connection to it.
    ///
    /// # Panics
    /// When it does not listen.
    #[must_use]
    pub fn dial(&self) -> Client {
        // It may say its address before it listens.
        let connect = || TcpStream::connect(&self.address).ok();
        Client::tcp(eventually("the server listens", connect))
    }

    /// `http://ADDRESS:PORT`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Sends this request, head and body, on a connection of its own.
    ///
    /// # Panics
    /// When it does not take it.
    #[must_use]
    pub fn ask(&self, request: &str) -> Client {
        let mut client = self.dial();
        client.write_all(request.as_bytes()).expect("a request");
        client
    }

    /// The answer to a request.
    #[must_use]
    pub fn answer(&self, request: &str) -> Response {
        self.ask(request).response()
    }

    /// What it has printed.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Open fds of the server and its children.
    #[must_use]
    pub fn fds(&self) -> usize {
        let children = process::children(self.child.id());
        process::fds(self.child.id()) + children.into_iter().map(process::fds).sum::<usize>()
    }
}

impl Drop for Example {
    fn drop(&mut self) {
        for child in process::children(self.child.id()) {
            process::signal(child, Signal::SIGKILL);
        }
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let text = format!("--- what the example has printed:\n{}\n", self.log());
            let _ = std::io::stderr().write_all(text.as_bytes());
        }
    }
}
