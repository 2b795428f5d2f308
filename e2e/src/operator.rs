//! The operator: `handoffctl`, run to its end, with what it printed.

use std::os::unix::net::UnixStream;
use std::process::{Command, Output, Stdio};
use std::thread::{self, JoinHandle};

use serde_json::Value;

use crate::daemon::binary;
use crate::{Daemon, PATIENCE};

/// What came of a command.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// The exit code; -1 when a signal ended it.
    pub code: i32,
    /// Standard output.
    pub out: String,
    /// Standard error.
    pub err: String,
}

/// `handoffctl ARGUMENTS --control …`, to its end.
///
/// # Panics
/// When it cannot be run.
#[must_use]
pub fn ctl(daemon: &Daemon, arguments: &[&str]) -> Said {
    command(daemon, arguments).output().expect("handoffctl runs").into()
}

/// The same, beside the test.
pub fn ctl_beside(daemon: &Daemon, arguments: &[&str]) -> JoinHandle<Said> {
    let mut command = command(daemon, arguments);
    thread::spawn(move || command.output().expect("handoffctl runs").into())
}

/// Every stream, as `handoffctl streams --json` shows it.
///
/// # Panics
/// When it fails.
#[must_use]
pub fn streams(daemon: &Daemon) -> Vec<Value> {
    let said = ctl(daemon, &["streams", "--json"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
}

/// A bare connection to the control socket.
///
/// # Panics
/// When there is none.
#[must_use]
pub fn dial(daemon: &Daemon) -> UnixStream {
    let stream = UnixStream::connect(daemon.control_socket()).expect("a connection");
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
    stream
}

fn command(daemon: &Daemon, arguments: &[&str]) -> Command {
    let mut command = Command::new(binary("handoffctl"));
    command.args(arguments).arg("--control").arg(daemon.control_socket()).env_clear().stdin(Stdio::null());
    command
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
        Self { code: output.status.code().unwrap_or(-1), out: text(output.stdout), err: text(output.stderr) }
    }
}
