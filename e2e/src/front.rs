//! `handoffctl front`, standing in for Apache.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

use crate::daemon::{Daemon, binary};

/// A running front.
#[derive(Debug)]
pub struct Front {
    child: Child,
    url: String,
}

impl Front {
    /// On a free port of 127.0.0.1, handing over to this daemon.
    ///
    /// # Panics
    /// When it does not start.
    #[must_use]
    pub fn start(daemon: &Daemon) -> Self {
        let mut child = Command::new(binary("handoffctl"))
            .args(["front", "--listen", "127.0.0.1:0", "--socket"])
            .arg(daemon.socket())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .expect("handoffctl front starts");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("a pipe");
        BufReader::new(stdout).read_line(&mut line).expect("a line");
        let url = line.split(' ').next().unwrap_or_default().trim_end_matches('/').to_owned();
        assert!(url.starts_with("http://"), "handoffctl front says: {line}");
        Self { child, url }
    }

    /// `http://127.0.0.1:PORT`.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Front {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
