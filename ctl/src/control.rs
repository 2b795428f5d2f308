//! The daemon's control socket, asked. In: a request. Out: its replies, or why there are none.
//! Never: waits without a deadline.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use handoff_shared::control::{Refusal, Reply, Request};
use handoff_shared::status::Status;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, setsockopt, socket, sockopt};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::outcome::Failure;

const DEFAULT_PATH: &str = "/run/handoffd/control.sock";
const CONNECT_TIMEOUT_SECS: i64 = 5;
/// Beyond what the request itself may take: the daemon has deadlines of its own, and says so.
const REPLY_TIMEOUT: Duration = Duration::from_secs(20);

/// Where the daemon listens.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Place {
    /// The daemon's control socket [env: DAEMON_CONTROL_SOCKET_PATH] [default: /run/handoffd/control.sock]
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::FilePath)]
    control: Option<PathBuf>,
}

/// Said by the daemon: it is not done, and why.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(crate) struct Refused {
    pub(crate) reason: String,
}

impl Place {
    /// This one.
    pub(crate) fn at(path: PathBuf) -> Self {
        Self { control: Some(path) }
    }

    /// What the command line or the environment says.
    pub(crate) fn chosen(&self) -> Option<PathBuf> {
        let environment = || env::var_os("DAEMON_CONTROL_SOCKET_PATH").filter(|path| !path.is_empty());
        self.control.clone().or_else(|| environment().map(PathBuf::from))
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.chosen().unwrap_or_else(|| DEFAULT_PATH.into())
    }

    /// The fleet at this moment.
    ///
    /// # Errors
    /// As of [`Self::ask`].
    pub(crate) fn status(&self) -> Result<Status, Failure> {
        self.status_within(REPLY_TIMEOUT)
    }

    /// The same, from a daemon that may be stopped.
    ///
    /// # Errors
    /// As of [`Self::ask`].
    pub(crate) fn status_within(&self, patience: Duration) -> Result<Status, Failure> {
        let mut found = None;
        self.ask_within(&Request::Status {}, patience, |reply| {
            match reply {
                Reply::Status { status } => found = Some(*status),
                Reply::Stream { .. } | Reply::Done { .. } | Reply::Refused { .. } => {}
            }
            Ok(())
        })?;
        let source = || io::Error::new(io::ErrorKind::InvalidData, "the reply is no status");
        found.ok_or_else(|| Failure::Control { path: self.path(), source: source() })
    }

    /// Asks; each reply but a refusal goes to `hear`.
    ///
    /// # Errors
    /// When the daemon cannot be reached, hangs up early, refuses, or `hear` errs.
    pub(crate) fn ask(
        &self,
        request: &Request,
        hear: impl FnMut(Reply) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let patience = request.patience().unwrap_or_default() + REPLY_TIMEOUT;
        self.ask_within(request, patience, hear)
    }

    fn ask_within(
        &self,
        request: &Request,
        patience: Duration,
        mut hear: impl FnMut(Reply) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let path = self.path();
        let fail = |source| Failure::Control { path: path.clone(), source };
        let mut stream = dial(&path).map_err(fail)?;
        stream.set_read_timeout(Some(patience)).map_err(fail)?;
        let mut line = serde_json::to_vec(request).map_err(|error| fail(error.into()))?;
        line.push(b'\n');
        // Whoever refuses at once need not have read: what it says counts.
        let written = stream.write_all(&line);
        for line in BufReader::new(stream).lines() {
            let line = line.map_err(|error| match error.kind() == io::ErrorKind::WouldBlock {
                true => Failure::Late { reason: format!("no reply in {} s", patience.as_secs()) },
                false => fail(error),
            })?;
            let reply: Reply = serde_json::from_str(&line).map_err(|error| fail(error.into()))?;
            let is_final = reply.is_final();
            match reply {
                Reply::Refused { code: Refusal::TimedOut, reason } => return Err(Failure::Late { reason }),
                Reply::Refused { reason, .. } => return Err(Refused { reason }.into()),
                Reply::Status { .. } | Reply::Stream { .. } | Reply::Done { .. } => hear(reply)?,
            }
            if is_final {
                return Ok(());
            }
        }
        written.map_err(fail)?;
        Err(fail(io::Error::new(io::ErrorKind::UnexpectedEof, "it hung up before its last word")))
    }
}

/// With a deadline: a daemon that accepts nobody would let a plain connect(2) wait for ever.
fn dial(path: &Path) -> io::Result<UnixStream> {
    let address = UnixAddr::new(path)?;
    let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
    setsockopt(&socket, sockopt::SendTimeout, &TimeVal::seconds(CONNECT_TIMEOUT_SECS))?;
    connect(socket.as_raw_fd(), &address)?;
    Ok(socket.into())
}
