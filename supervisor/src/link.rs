//! One worker process as the supervisor sees it: its channel, its pidfd, and what is still to be sent.
//!
//! Never: blocks on a worker, trusts a pid (only the pidfd), looks at a message's meaning.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::process::CommandExt;
use std::process::{Command, Stdio};
use std::task::{Context, Poll};

use handoff_shared::channel::{self, Fds, ReceiveError, SendError, SupervisorChannel};
use handoff_shared::fdpass::{self, Watched};
use handoff_shared::ids::{Generation, LeaseId, SlotId};
use handoff_shared::message::{Configure, Format, ToSupervisor, ToWorker};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};
use tokio::io::Interest;

use crate::dispatcher::Dispatcher;
use crate::generation::Recipe;
use crate::inherit::Kept;

/// One worker process.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) pid: u32,
    pub(crate) slot: SlotId,
    pub(crate) generation: Generation,
    channel: SupervisorChannel,
    process: Watched,
    /// Bounded by the credits, one drain, the configuration, the orders of as many operators as may connect, and what
    /// workers may say of cooldowns in the seconds that a silent one is left alive.
    outbox: VecDeque<Outgoing>,
    /// The channel has given its last message.
    silent: bool,
    /// What it is called where fds are kept for a successor.
    pub(crate) name: String,
    pub(crate) origin: Origin,
    /// It understands also what is not frozen. Of an adopted one it is known when it has said what it holds.
    pub(crate) speaks_ours: bool,
    /// It has been told of every cooldown; from then on it hears of new ones.
    pub(crate) hears_cooldowns: bool,
    /// It is Ready, but not kept for a successor yet.
    pub(crate) is_being_kept: bool,
    /// Of what it says that it holds.
    pub(crate) next_page: u32,
    /// Fds that it may still give us with it.
    pub(crate) fd_budget: usize,
    /// Bytes of payloads that we still keep of it.
    pub(crate) payload_budget: usize,
}

/// Who has started a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// This supervisor.
    Spawned,
    /// An earlier one. It may speak another version, and may be nobody's child of ours.
    Adopted,
}

/// A message and its fds, or why there is none.
pub(crate) type Heard = Result<(ToSupervisor, Fds), ReceiveError>;

/// A message that waits for room in the socket.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Message(ToWorker),
    Lend { lease: LeaseId, attempt: u8 },
    Epitaph { lease: LeaseId, format: Format },
}

impl Link {
    /// Starts a worker: its own executable, by `Command`, in its own process group, with an empty environment
    /// and its end of the channel as standard input.
    ///
    /// # Errors
    /// When the process cannot be made.
    pub(crate) fn spawn(
        recipe: &Recipe,
        name: String,
        slot: SlotId,
        generation: Generation,
    ) -> io::Result<Self> {
        let (ours, theirs) = channel::pair()?;
        // The fd is close-on-exec, but still open in the child when the kernel resolves this path.
        let path = format!("/proc/self/fd/{}", recipe.binary.as_raw_fd());
        let mut child = Command::new(path)
            .arg0("handoffd-worker")
            .env_clear()
            .stdin(Stdio::from(theirs))
            .process_group(0)
            .spawn()?;
        let pid = child.id();
        let process = watch(pid).inspect_err(|_| {
            // Nobody could ever reap it: end it here.
            let _ = child.kill();
            let _ = child.wait();
        })?;
        let outbox = VecDeque::new();
        let origin = Origin::Spawned;
        let mut link = Self {
            pid,
            slot,
            generation,
            channel: SupervisorChannel::new(ours),
            process,
            outbox,
            silent: false,
            name,
            origin,
            speaks_ours: true,
            hears_cooldowns: false,
            is_being_kept: false,
            next_page: 0,
            fd_budget: 0,
            payload_budget: 0,
        };
        let config = (*recipe.config).clone();
        link.outbox.push_back(Outgoing::Message(ToWorker::Configure(Box::new(Configure {
            slot,
            generation,
            config,
        }))));
        Ok(link)
    }

    /// A worker that an earlier supervisor has started. Slot and generation come with its first page.
    ///
    /// # Errors
    /// When the fds cannot be watched.
    pub(crate) fn adopt(kept: Kept) -> io::Result<Self> {
        let Kept { name, pid, channel, process } = kept;
        fdpass::set_nonblocking(channel.as_fd())?;
        Ok(Self {
            pid,
            slot: SlotId(0),
            generation: Generation(0),
            channel: SupervisorChannel::new(channel),
            process: Watched::new(process, Interest::READABLE)?,
            outbox: VecDeque::new(),
            silent: false,
            name,
            origin: Origin::Adopted,
            speaks_ours: false,
            hears_cooldowns: false,
            is_being_kept: false,
            next_page: 0,
            fd_budget: 0,
            payload_budget: 0,
        })
    }

    /// What the worker says comes in here.
    pub(crate) fn channel(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }

    /// What a successor needs: the channel and the pidfd.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.channel.as_fd(), self.process.get_ref().as_fd()]
    }

    /// Nothing waits to be sent.
    pub(crate) fn is_flushed(&self) -> bool {
        self.outbox.is_empty()
    }

    pub(crate) fn push(&mut self, outgoing: Outgoing) {
        self.outbox.push_back(outgoing);
    }

    /// Sends what waits. Returns whether the socket is full.
    pub(crate) fn flush(&mut self, dispatcher: &Dispatcher) -> bool {
        while let Some(outgoing) = self.outbox.front() {
            let sent = match outgoing {
                Outgoing::Message(message) => self.channel.try_send(message, &[]),
                Outgoing::Lend { lease, attempt } => match dispatcher.handoff(*lease, *attempt) {
                    Some((message, fds)) => self.channel.try_send(&message, &fds),
                    None => Ok(()),
                },
                Outgoing::Epitaph { lease, format } => match dispatcher.epitaph(*lease, *format) {
                    Some((message, fds)) => self.channel.try_send(&message, &fds),
                    None => Ok(()),
                },
            };
            match sent {
                Ok(()) => drop(self.outbox.pop_front()),
                Err(SendError::Full) => return true,
                // The socket would say at once that it is writable. The next turn tries again.
                Err(SendError::TooManyFdsUnderWay) => return false,
                // It is dead or dying: its pidfd says so next, and the fleet takes the leases back.
                Err(SendError::Closed) => self.outbox.clear(),
                Err(error) => {
                    tracing::error!(slot = %self.slot, pid = self.pid, %error, "message to a worker was lost");
                    self.outbox.clear();
                    self.kill();
                }
            }
        }
        false
    }

    /// It will say nothing any more.
    pub(crate) fn is_silent(&self) -> bool {
        self.silent
    }

    /// Wakes the loop when the worker reads again.
    pub(crate) fn poll_writable(&mut self, cx: &mut Context<'_>) -> bool {
        !self.outbox.is_empty() && self.channel.poll_writable(cx).is_ready()
    }

    /// The next message that is there now.
    pub(crate) fn try_message(&mut self) -> Option<Heard> {
        if self.silent {
            return None;
        }
        match self.channel.try_receive() {
            Ok(None) => None,
            Ok(Some(message)) => Some(Ok(message)),
            Err(error) => Some(self.heard(Err(error))),
        }
    }

    /// After a packet that is no message others may follow that are: the last words count.
    fn heard(&mut self, message: Heard) -> Heard {
        self.silent |= matches!(message, Err(ReceiveError::Closed | ReceiveError::Io(_)));
        message
    }

    /// Whether the process has ended; if so, how.
    pub(crate) fn poll_death(&mut self, cx: &mut Context<'_>) -> Poll<WaitStatus> {
        match self.process.poll_read_ready(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(_) => {
                let status = waitid(Id::PIDFd(self.process.get_ref().as_fd()), WaitPidFlag::WEXITED);
                Poll::Ready(status.unwrap_or(WaitStatus::StillAlive))
            }
        }
    }

    /// SIGKILL. Death is confirmed by [`Self::poll_death`].
    pub(crate) fn kill(&self) {
        match pidfd_send_signal(self.process.get_ref(), Signal::KILL) {
            Ok(()) | Err(Errno::SRCH) => {}
            Err(error) => {
                tracing::error!(slot = %self.slot, pid = self.pid, %error, "worker cannot be killed")
            }
        }
    }
}

/// A pidfd of a child that nobody has reaped yet, so the pid cannot be another's.
fn watch(pid: u32) -> io::Result<Watched> {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or(io::ErrorKind::InvalidData)?;
    Watched::new(pidfd_open(pid, PidfdFlags::NONBLOCK)?, Interest::READABLE)
}
