//! The generator processes. In: a plan for each. Out: what they say, as they say it.
//! Never: does a generator's work, outlives one.

use std::env;
use std::io::{self, BufRead, BufReader, Write};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::Duration;

use super::plan::{Plan, Said};

/// All of them; dropping it ends those that still run.
#[derive(Debug)]
pub(super) struct Generators {
    children: Vec<Child>,
    inputs: Vec<ChildStdin>,
    said: Receiver<Said>,
    /// Keeps the channel open, so that waiting on it waits also when all have ended.
    _sender: SyncSender<Said>,
}

impl Generators {
    /// Starts this program again, once for each plan.
    pub(super) fn start(plans: &[Plan]) -> io::Result<Self> {
        let (sender, said) = sync_channel(16);
        let mut this = Self { children: Vec::new(), inputs: Vec::new(), said, _sender: sender.clone() };
        for plan in plans {
            this.start_one(plan, sender.clone())?;
        }
        Ok(this)
    }

    fn start_one(&mut self, plan: &Plan, sender: SyncSender<Said>) -> io::Result<()> {
        let mut command = Command::new(env::current_exe()?);
        command.args(["bench", "generate"]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn()?;
        let (input, output) = (child.stdin.take(), child.stdout.take());
        self.children.push(child);
        let (Some(mut input), Some(output)) = (input, output) else {
            return Err(io::ErrorKind::Other.into());
        };
        let mut line = serde_json::to_vec(plan)?;
        line.push(b'\n');
        input.write_all(&line)?;
        self.inputs.push(input);
        thread::spawn(move || listen(BufReader::new(output), &sender));
        Ok(())
    }

    /// All of them begin at this moment of `CLOCK_MONOTONIC`.
    pub(super) fn begin(&mut self, start_ns: u64) -> io::Result<()> {
        self.inputs.iter_mut().try_for_each(|input| writeln!(input, "{start_ns}"))
    }

    /// What is said next; nothing when nobody says anything for so long.
    pub(super) fn wait(&self, time_max: Duration) -> Option<Said> {
        self.said.recv_timeout(time_max).ok()
    }
}

impl Drop for Generators {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill(); // it has ended by itself, most often
            let _ = child.wait();
        }
    }
}

/// Passes on what one generator says. One that ends without its last word has died.
fn listen(output: impl BufRead, sender: &SyncSender<Said>) {
    for line in output.lines() {
        let said = line.ok().and_then(|line| serde_json::from_str(&line).ok());
        let said = said.unwrap_or_else(|| Said::Stopped("a generator speaks in riddles".into()));
        let is_last = matches!(said, Said::Finished(_) | Said::Stopped(_));
        if sender.send(said).is_err() || is_last {
            return;
        }
    }
    let _ = sender.send(Said::Stopped("a generator has died".into()));
}
