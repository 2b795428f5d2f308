//! How a command ends. In: what went wrong. Out: an exit code for the shell, one sentence for the person.
//! Never: prints, decides anything else.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use crate::answer::{BadAnswer, ErrorMessage, Head};
use crate::control;
use crate::handover::HandoverError;

/// The exit codes, as each command's `--help` tells them. 2, wrong usage, is also clap's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// The answer is complete; the fleet is ready; the files are written.
    Complete = 0,
    /// The answer is incomplete; the fleet is not ready.
    Incomplete = 1,
    /// The command line, or a file that it names, is wrong.
    Usage = 2,
    /// Nobody could be reached.
    Unreachable = 3,
    /// The answer is an HTTP error; or what was ordered did not end in time.
    Refused = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// Why a command did not do what it was asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    #[error(transparent)]
    Handover(#[from] HandoverError),
    #[error("the answer is incomplete")]
    Incomplete(#[from] Cut),
    #[error("HTTP {} {}: {message}{}", head.status, head.reason, retry_hint(head))]
    Refused { head: Head, message: String },
    #[error("cannot read {}", path.display())]
    Input { path: PathBuf, source: io::Error },
    #[error("cannot write {}", path.display())]
    Files { path: PathBuf, source: io::Error },
    #[error("cannot write to stdout")]
    Output(#[source] io::Error),
    #[error("cannot make a loopback connection")]
    Loopback(#[source] io::Error),
    #[error("cannot measure")]
    Bench(#[source] io::Error),
    #[error("cannot look at process {pid}, the root of the daemon's (--pid names another)")]
    Process { pid: u32, source: io::Error },
    #[error("cannot listen on {address}")]
    Listen { address: String, source: io::Error },
    #[error("{}: handoffd cannot be asked there (is it running, with its server.control_socket_path there?)", path.display())]
    Control { path: PathBuf, source: io::Error },
    #[error(transparent)]
    Ordered(#[from] control::Refused),
    #[error("{reason}")]
    Late { reason: String },
    #[error("no status from {address} (is handoffd running, with its metrics.listen_addr there?)")]
    Status { address: String, source: io::Error },
}

/// What an incomplete answer lacks.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Cut {
    #[error("the connection was closed without any answer")]
    NoAnswer,
    #[error("the connection was closed before the end of the stream")]
    NoEnd,
    #[error("nothing came for {} s", .0.as_secs())]
    Silence(Duration),
    #[error("the stream ended with an error: {0}")]
    ErrorEvent(ErrorMessage),
    #[error(transparent)]
    BadAnswer(#[from] BadAnswer),
    #[error("the connection broke")]
    Broken(#[source] io::Error),
}

impl Failure {
    /// What the shell is told. A closed pipe is how `| head` says that it has seen enough.
    pub(crate) fn exit(&self) -> Exit {
        match self {
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => Exit::Complete,
            Self::Incomplete(_) | Self::Output(_) | Self::Files { .. } | Self::Ordered(_) => Exit::Incomplete,
            Self::Input { .. } => Exit::Usage,
            Self::Handover(_)
            | Self::Loopback(_)
            | Self::Bench(_)
            | Self::Process { .. }
            | Self::Listen { .. }
            | Self::Status { .. }
            | Self::Control { .. } => Exit::Unreachable,
            Self::Refused { .. } | Self::Late { .. } => Exit::Refused,
        }
    }

    /// The whole chain in one line; nothing where nothing went wrong.
    pub(crate) fn sentence(&self) -> Option<String> {
        if self.exit() == Exit::Complete {
            return None;
        }
        let mut sentence = self.to_string();
        let mut source = self.source();
        while let Some(error) = source {
            sentence.push_str(&format!(": {error}"));
            source = error.source();
        }
        Some(sentence)
    }
}

fn retry_hint(head: &Head) -> String {
    head.header("retry-after").map(|after| format!("; Retry-After: {after}")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_pipe_is_no_failure() {
        let failure = Failure::Output(io::ErrorKind::BrokenPipe.into());
        assert_eq!(failure.exit(), Exit::Complete);
        assert_eq!(failure.sentence(), None);
    }

    #[test]
    fn an_incomplete_answer_says_so_and_why() {
        let failure = Failure::from(Cut::Silence(Duration::from_secs(60)));
        assert_eq!(failure.exit(), Exit::Incomplete);
        assert_eq!(failure.sentence().as_deref(), Some("the answer is incomplete: nothing came for 60 s"));
    }
}
