//! Processes that end with us. In: a command. Out: a guard, which ends the process and all that it has started.
//! Never: leaves one behind, when something fails or Ctrl-C is pressed either; ends a process that is not ours.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::signal::unix::{SignalKind, signal};

use crate::error::Error;
use crate::tree;

/// Between two looks at a fact.
const PAUSE: Duration = Duration::from_millis(20);
/// A process may take so long to end when it is asked to; then it is made to.
const END_TIMEOUT: Duration = Duration::from_secs(4);

/// Whether somebody wants all this to stop.
#[derive(Debug)]
pub(crate) struct Stop(Receiver<()>);

impl Stop {
    /// From now on SIGINT, SIGTERM and SIGHUP end no process of ours in the middle of something: they are an error of the next
    /// wait, and everything is cleaned up on the way out.
    ///
    /// # Errors
    /// As of sigaction(2) and clone(2).
    pub(crate) fn on_signals() -> io::Result<Self> {
        let (stopped, stop) = sync_channel(0);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_io().build()?;
        let (mut interrupt, mut terminate, mut hang_up) = {
            let _entered = runtime.enter();
            (
                signal(SignalKind::interrupt())?,
                signal(SignalKind::terminate())?,
                signal(SignalKind::hangup())?,
            )
        };
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            runtime.block_on(async {
                tokio::select! {
                    _ = interrupt.recv() => {}
                    _ = terminate.recv() => {}
                    _ = hang_up.recv() => {}
                }
            });
            // Whoever waits sees that this end is gone.
            drop(stopped);
        })?;
        Ok(Self(stop))
    }

    /// Waits so long.
    ///
    /// # Errors
    /// [`Error::Interrupted`]
    pub(crate) fn pause(&self, duration: Duration) -> Result<(), Error> {
        match self.0.recv_timeout(duration) {
            Err(RecvTimeoutError::Timeout) => Ok(()),
            Ok(()) | Err(RecvTimeoutError::Disconnected) => Err(Error::Interrupted),
        }
    }

    /// Asks until there is an answer.
    ///
    /// # Errors
    /// [`Error::Interrupted`], that of `question`, or that there was none in time: `what` was waited for.
    pub(crate) fn until<T>(
        &self,
        timeout: Duration,
        what: &str,
        mut question: impl FnMut() -> Result<Option<T>, Error>,
    ) -> Result<T, Error> {
        let deadline = Instant::now() + timeout;
        loop {
            if let Some(answer) = question()? {
                return Ok(answer);
            }
            if Instant::now() >= deadline {
                return Err(Error::Said(format!("not within {} s: {what}", timeout.as_secs())));
            }
            self.pause(PAUSE)?;
        }
    }
}

/// A process of ours, in a process group of its own, so that Ctrl-C reaches us alone.
#[derive(Debug)]
pub(crate) struct Running {
    child: Child,
    name: String,
    output: PathBuf,
}

impl Running {
    /// Both of its outputs go to `NAME.log` in this directory.
    ///
    /// # Errors
    /// When it cannot be started.
    pub(crate) fn start(mut command: Command, name: &str, directory: &Path) -> Result<Self, Error> {
        let output = directory.join(format!("{name}.log"));
        let file = File::create(&output).map_err(Error::io(output.display().to_string()))?;
        let errors = file.try_clone().map_err(Error::io("a second reference to a log"))?;
        command.stdin(Stdio::null()).stdout(file).stderr(errors).process_group(0);
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(Error::io(format!("{program} cannot be started")))?;
        Ok(Self { child, name: name.to_owned(), output })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written.
    pub(crate) fn output(&self) -> String {
        fs::read_to_string(&self.output).unwrap_or_default()
    }

    /// # Errors
    /// As of waitpid(2).
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, Error> {
        self.child.try_wait().map_err(Error::io(format!("waiting for {}", self.name)))
    }

    /// # Errors
    /// When it has ended; its last words are in it.
    pub(crate) fn still_runs(&mut self) -> Result<(), Error> {
        match self.ended()? {
            None => Ok(()),
            Some(status) => Err(Error::Said(format!(
                "{} ended, {status}; its last words:\n{}",
                self.name,
                self.last_words()
            ))),
        }
    }

    /// The last lines that it has written.
    pub(crate) fn last_words(&self) -> String {
        let output = self.output();
        let lines: Vec<_> = output.lines().collect();
        lines[lines.len().saturating_sub(12)..].join("\n")
    }

    /// Sends it, and it alone, a signal.
    pub(crate) fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if !matches!(self.child.try_wait(), Ok(None)) {
            return;
        }
        // Workers have groups of their own, and outlive a supervisor that does not end by itself.
        let tree = tree::of(self.child.id());
        self.signal(Signal::SIGTERM);
        let deadline = Instant::now() + END_TIMEOUT;
        while matches!(self.child.try_wait(), Ok(None)) && Instant::now() < deadline {
            breathe();
        }
        for process in tree.iter().filter(|process| process.is_alive()) {
            send(process.pid, Signal::SIGKILL);
        }
        let _ = self.child.wait();
    }
}

/// When nothing is running any more: ends who is still there.
pub(crate) fn end_orphans() {
    for process in tree::of(std::process::id()).iter().skip(1) {
        send(process.pid, Signal::SIGKILL);
    }
}

/// Sends a signal; a process that is gone already is no error.
pub(crate) fn send(pid: u32, signal: Signal) {
    // 0 would be this process and all of its group.
    if let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// Where nothing may interrupt any more.
#[expect(
    clippy::disallowed_methods,
    reason = "a process is waited for, under a deadline, where there may be no error"
)]
fn breathe() {
    thread::sleep(PAUSE);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bash(script: &str, directory: &Path) -> Running {
        let mut command = Command::new("bash");
        command.args(["-c", script]);
        Running::start(command, "script", directory).unwrap()
    }

    #[test]
    fn dropped_it_ends_with_its_children_though_they_have_groups_of_their_own_and_ignore_being_asked() {
        let directory = tempfile::tempdir().unwrap();
        let stop = Stop::on_signals().unwrap();
        let script = "set -m; bash -c 'trap \"\" TERM; echo ready; while :; do sleep 0.1; done' & wait";
        let process = bash(script, directory.path());
        stop.until(END_TIMEOUT, "its word", || Ok(process.output().contains("ready").then_some(()))).unwrap();
        let tree = tree::of(process.pid());
        assert!(tree.len() >= 2, "{tree:?}");
        drop(process);
        let is_gone = || Ok((!tree.iter().any(tree::Process::is_alive)).then_some(()));
        stop.until(END_TIMEOUT, "nobody is left", is_gone).unwrap();
    }

    #[test]
    fn who_ended_too_early_is_quoted() {
        let directory = tempfile::tempdir().unwrap();
        let stop = Stop::on_signals().unwrap();
        let mut process = bash("echo the reason >&2; exit 3", directory.path());
        let ended =
            stop.until(END_TIMEOUT, "its end", || Ok(process.still_runs().err())).unwrap().to_string();
        assert!(ended.contains("exit status: 3") && ended.contains("the reason"), "{ended}");
    }

    #[test]
    fn what_does_not_come_in_time_is_named() {
        let stop = Stop::on_signals().unwrap();
        let late = stop.until::<()>(Duration::ZERO, "a sign", || Ok(None)).unwrap_err();
        assert_eq!(late.to_string(), "not within 0 s: a sign");
    }
}
