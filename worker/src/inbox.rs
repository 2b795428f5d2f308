//! The worker's main task. In: messages from the supervisor. Out: a session for each lease, and beats.
//!
//! Never: parses a payload, waits for a session, takes a handoff without saying so first.

use std::cell::RefCell;
use std::fs::File;
use std::future::poll_fn;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::rc::Rc;
use std::task::Poll;
use std::time::{Duration, Instant};

use handoff_shared::channel::{ReceiveError, WorkerChannel};
use handoff_shared::ids::LeaseId;
use handoff_shared::limits::{BEAT_INTERVAL, CREDITS_PER_WORKER, DRAIN_GRACE};
use handoff_shared::log::Log;
use handoff_shared::message::{Configure, PROTOCOL_VERSION, ToSupervisor, ToWorker};
use handoff_shared::metric::{Counts, Snapshot};
use nix::unistd::{SysconfVar, sysconf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep_until};

use crate::drain::Drain;
use crate::report::Reporter;
use crate::session::{self, Task};

/// What every session shares.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) configure: Configure,
    pub(crate) reporter: Rc<Reporter>,
    pub(crate) drain: Drain,
    pub(crate) counts: RefCell<Counts>,
}

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The supervisor broke the protocol, or we are at our fd limit.
    #[error("message from the supervisor cannot be received")]
    Receive(#[source] ReceiveError),
    /// A message that may not come now, or without its fds.
    #[error("message out of turn: {0}")]
    OutOfTurn(&'static str),
    /// The kernel refuses what every process may have.
    #[error("the runtime cannot be set up")]
    Setup(#[source] io::Error),
}

/// Works until the supervisor says that it is enough, or is gone.
///
/// # Errors
/// When the channel is of no further use: the supervisor replaces this process.
pub async fn work(channel: WorkerChannel, configure: Configure, log: &Log) -> Result<(), InboxError> {
    let room = Rc::new(Room {
        reporter: Rc::new(Reporter::new(channel)),
        drain: Drain::default(),
        counts: RefCell::default(),
        configure,
    });
    let mut inbox = Inbox { beat: 0, ends_when_empty: false, memory: Memory::open(), log, room };
    let build = env!("CARGO_PKG_VERSION").to_owned();
    inbox.room.reporter.ready(ToSupervisor::Ready { protocol_version: PROTOCOL_VERSION, build });
    inbox.run().await?;
    inbox.beat();
    poll_fn(|cx| match inbox.room.reporter.flush() {
        true => inbox.room.reporter.poll_writable(cx),
        false => Poll::Ready(()),
    })
    .await;
    Ok(())
}

struct Inbox<'a> {
    room: Rc<Room>,
    log: &'a Log,
    beat: u64,
    /// Nothing can come any more: the last session's end is ours.
    ends_when_empty: bool,
    memory: Memory,
}

impl Inbox<'_> {
    async fn run(&mut self) -> Result<(), InboxError> {
        let room = Rc::clone(&self.room);
        let mut beats = interval(BEAT_INTERVAL);
        beats.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut terminate = signal(SignalKind::terminate()).map_err(InboxError::Setup)?;
        let mut last_moment = None;
        while !(self.ends_when_empty && room.reporter.sessions() == 0) {
            tokio::select! {
                biased;
                batch = next_batch(&room.reporter), if !self.ends_when_empty => self.accept(batch)?,
                () = room.reporter.has_news() => {}
                _ = beats.tick() => self.beat(),
                _ = terminate.recv() => self.leave(),
                () = room.drain.deadline() => {
                    tracing::warn!(sessions = room.reporter.sessions(), "the drain's deadline has come");
                    room.drain.cut();
                    last_moment = Some(Instant::now() + DRAIN_GRACE);
                }
                () = room.reporter.session_left(), if self.ends_when_empty => {}
                () = wait_until(last_moment), if last_moment.is_some() => return Ok(()),
                () = writable(&room.reporter), if room.reporter.is_waiting() => {}
            }
            room.reporter.flush();
        }
        Ok(())
    }

    /// Takes a batch: first say so, then serve.
    fn accept(
        &mut self,
        batch: Result<Vec<(ToWorker, Vec<OwnedFd>)>, ReceiveError>,
    ) -> Result<(), InboxError> {
        let batch = match batch {
            Ok(batch) => batch,
            Err(ReceiveError::Closed) => {
                self.abandon();
                return Ok(());
            }
            Err(error) => return Err(InboxError::Receive(error)),
        };
        let leases: Vec<LeaseId> = batch.iter().filter_map(|(message, _)| lease_of(message)).collect();
        if !leases.is_empty() {
            self.room.reporter.taken(&leases);
        }
        for (message, fds) in batch {
            self.perform(message, fds)?;
        }
        Ok(())
    }

    fn perform(&mut self, message: ToWorker, fds: Vec<OwnedFd>) -> Result<(), InboxError> {
        let mut fds = fds.into_iter();
        match message {
            ToWorker::Handoff(handoff) => {
                let client = fds.next().ok_or(InboxError::OutOfTurn("handoff without its client"))?;
                let memfd = fds.next();
                if memfd.is_some() != handoff.memfd_bytes.is_some() {
                    return Err(InboxError::OutOfTurn("handoff without its memfd, or with a surplus fd"));
                }
                let held = self.room.reporter.enter(handoff.lease);
                let task = Task { handoff, client, memfd, received_at: Instant::now() };
                spawn_local(session::serve(Rc::clone(&self.room), held, task));
            }
            ToWorker::Epitaph { lease, format } => {
                let client = fds.next().ok_or(InboxError::OutOfTurn("epitaph without its client"))?;
                let held = self.room.reporter.enter(lease);
                spawn_local(session::bury(Rc::clone(&self.room), held, client, format));
            }
            ToWorker::Drain { remaining_ms } => {
                self.room.drain.begin(Instant::now() + Duration::from_millis(remaining_ms));
                self.ends_when_empty = true;
                tracing::info!(sessions = self.room.reporter.sessions(), remaining_ms, "draining");
            }
            ToWorker::Configure(_) => return Err(InboxError::OutOfTurn("a second configuration")),
            // Adoption is not built yet: no supervisor of this version asks.
            ToWorker::Resync { .. } => return Err(InboxError::OutOfTurn("resync")),
        }
        Ok(())
    }

    /// SIGTERM: tell the supervisor, which stops sending and says `Drain`.
    fn leave(&mut self) {
        self.room.drain.begin(Instant::now() + self.room.configure.config.server.shutdown_timeout);
        self.beat();
    }

    /// The supervisor is gone for good: finish by our own deadline.
    fn abandon(&mut self) {
        tracing::warn!(sessions = self.room.reporter.sessions(), "the supervisor is gone; draining");
        self.room.drain.begin(Instant::now() + self.room.configure.config.server.shutdown_timeout);
        self.room.reporter.close();
        self.ends_when_empty = true;
    }

    fn beat(&mut self) {
        self.beat += 1;
        self.room.reporter.snapshot(Snapshot {
            beat: self.beat,
            draining: self.room.drain.is_draining(),
            rss_bytes: self.memory.rss_bytes(),
            counts: self.room.counts.borrow().clone(),
            log_lines_dropped: self.log.lines_dropped(),
            channel_full: self.room.reporter.channel_full(),
        });
    }
}

/// How large this process is: the second number of /proc/self/statm, in pages (proc(5)).
struct Memory {
    statm: Option<File>,
    page_bytes: u64,
}

impl Memory {
    fn open() -> Self {
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        let page_bytes = page_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096);
        Self { statm: File::open("/proc/self/statm").ok(), page_bytes }
    }

    fn rss_bytes(&self) -> u64 {
        let mut text = [0; 128];
        let read = self.statm.as_ref().and_then(|statm| statm.read_at(&mut text, 0).ok()).unwrap_or(0);
        let text = std::str::from_utf8(&text[..read]).unwrap_or("");
        let pages = text.split(' ').nth(1).and_then(|pages| pages.parse::<u64>().ok());
        pages.unwrap_or(0) * self.page_bytes
    }
}

fn lease_of(message: &ToWorker) -> Option<LeaseId> {
    match message {
        ToWorker::Handoff(handoff) => Some(handoff.lease),
        ToWorker::Epitaph { lease, .. } => Some(*lease),
        ToWorker::Configure(_) | ToWorker::Drain { .. } | ToWorker::Resync { .. } => None,
    }
}

/// All messages that are there, at least one.
async fn next_batch(reporter: &Reporter) -> Result<Vec<(ToWorker, Vec<OwnedFd>)>, ReceiveError> {
    let mut batch = Vec::new();
    poll_fn(|cx| {
        while batch.len() < CREDITS_PER_WORKER as usize {
            match reporter.poll_receive(cx) {
                Poll::Ready(Ok(message)) => batch.push(message),
                Poll::Ready(Err(error)) if batch.is_empty() => return Poll::Ready(Err(error)),
                // What was received counts; the error comes again.
                Poll::Ready(Err(_)) => break,
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready(Ok(std::mem::take(&mut batch)))
    })
    .await
}

async fn writable(reporter: &Reporter) {
    poll_fn(|cx| reporter.poll_writable(cx)).await;
}

async fn wait_until(moment: Option<Instant>) {
    if let Some(moment) = moment {
        sleep_until(moment.into()).await;
    }
}
