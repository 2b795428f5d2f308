//! Whether the binary on disk could take our place: it is run with `--check`, apart from us. In: how we were
//! started. Out: what it says of itself, or why not. Never: lets the loop wait, waits longer than a deadline.

use std::io::Read;
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use tokio::sync::oneshot;

use crate::signals;
use crate::succession::Invocation;

/// It must have said so by then.
const PATIENCE: Duration = Duration::from_secs(10);
/// Of what it says this much is looked at.
const WORDS_MAX: u64 = 4096;

/// Asks in a thread of its own.
pub(crate) fn start(invocation: Invocation) -> oneshot::Receiver<Result<String, String>> {
    let (tell, answer) = oneshot::channel();
    let asking = thread::Builder::new().name("preflight".to_owned()).spawn(move || {
        // They are for the loop's thread.
        signals::block();
        let _ = tell.send(ask(&invocation));
    });
    if let Err(error) = asking {
        tracing::error!(%error, "no thread for the check of the new binary");
    }
    answer
}

fn ask(invocation: &Invocation) -> Result<String, String> {
    let path = invocation.binary.display();
    let mut child = Command::new(&invocation.binary)
        .args(&invocation.arguments)
        .arg("--check")
        .env_remove("NOTIFY_SOCKET")
        .env_remove("LISTEN_FDS")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("{path}: {error}"))?;
    let status = end(&mut child).map_err(|error| format!("{path} --check: {error}"))?;
    let said = words(child.stdout.take());
    if !status.success() {
        let why = words(child.stderr.take());
        return Err(format!("{path} --check: {status}: {}", why.trim()));
    }
    // A handoffd says so, with the version of its protocol; any other program does not.
    match said.split_once(", protocol ") {
        Some(_) if said.starts_with("handoffd ") => Ok(said.trim().to_owned()),
        _ => Err(format!("{path} is no handoffd that can take over")),
    }
}

fn end(child: &mut Child) -> std::io::Result<ExitStatus> {
    let pid =
        i32::try_from(child.id()).ok().and_then(Pid::from_raw).ok_or(std::io::ErrorKind::InvalidData)?;
    let watch = pidfd_open(pid, PidfdFlags::empty())?;
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    if poll(&mut [PollFd::new(watch.as_fd(), PollFlags::POLLIN)], patience)? == 0 {
        child.kill()?;
        child.wait()?;
        return Err(std::io::Error::from(std::io::ErrorKind::TimedOut));
    }
    child.wait()
}

/// What fits a pipe's buffer has been written by now.
fn words(pipe: Option<impl Read>) -> String {
    let mut text = Vec::new();
    if let Some(pipe) = pipe {
        let _ = pipe.take(WORDS_MAX).read_to_end(&mut text);
    }
    String::from_utf8_lossy(&text).into_owned()
}
