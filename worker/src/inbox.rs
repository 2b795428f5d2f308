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
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use handoff_shared::channel::{Fds, ReceiveError, WorkerChannel};
use handoff_shared::fdpass;
use handoff_shared::ids::LeaseId;
use handoff_shared::limits::{BEAT_INTERVAL, CREDITS_PER_WORKER, LAST_WORDS};
use handoff_shared::log::Log;
use handoff_shared::message::{Configure, Held as HeldPage, PROTOCOL_VERSION, Phase, ToSupervisor, ToWorker};
use handoff_shared::metric::{Counts, Snapshot};
use handoff_shared::sandbox::SandboxState;
use nix::unistd::{SysconfVar, sysconf};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::spawn_local;
use tokio::time::{MissedTickBehavior, interval, sleep_until, timeout};

use crate::drain::Drain;
use crate::files::Files;
use crate::holdings::{Holding, Stage, Task};
use crate::opened::OpenError;
use crate::poller::Poller;
use crate::progress::Progress;
use crate::report::{Held, Reporter};
use crate::runner::Runner;
use crate::sandbox::Confined;
use crate::session::{self, Readers};
use crate::upstream::Upstreams;

/// What every session shares.
#[derive(Debug)]
pub(crate) struct Room {
    pub(crate) configure: Configure,
    pub(crate) reporter: Rc<Reporter>,
    pub(crate) drain: Drain,
    pub(crate) poller: Rc<Poller>,
    pub(crate) runner: Rc<Runner>,
    pub(crate) counts: Rc<RefCell<Counts>>,
    pub(crate) upstreams: Upstreams,
    pub(crate) files: Files,
    pub(crate) readers: Readers,
}

/// Why a worker cannot go on.
#[derive(Debug, thiserror::Error)]
pub enum InboxError {
    /// The supervisor broke the protocol.
    #[error("message from the supervisor cannot be received")]
    Receive(#[source] ReceiveError),
    /// Fds of a message were lost: we are at our fd limit.
    #[error("fds were lost on the way to us")]
    FdsLost,
    /// A message that may not come now, or without its fds.
    #[error("message out of turn: {0}")]
    OutOfTurn(&'static str),
    /// What was opened does not fit the configuration.
    #[error("a backend cannot be used")]
    Upstreams(#[source] Box<OpenError>),
    /// The kernel refuses what every process may have.
    #[error("the runtime cannot be set up")]
    Setup(#[source] io::Error),
}

/// Works until the supervisor says that it is enough, or is gone.
///
/// # Errors
/// When the channel is of no further use: the supervisor replaces this process.
pub async fn work(
    channel: WorkerChannel,
    configure: Configure,
    log: &Log,
    confined: Confined,
) -> Result<(), InboxError> {
    let reporter = Rc::new(Reporter::new(channel));
    let counts = Rc::default();
    let config = Rc::new(configure.config.clone());
    let upstreams = Upstreams::new(&config, &confined.opened, &counts, &reporter)
        .map_err(|error| InboxError::Upstreams(Box::new(error)))?;
    let files = Files::new(confined.opened.files);
    let (drain, readers) = (Drain::default(), Readers::default());
    let runner = Rc::<Runner>::default();
    let poller = Poller::new(Rc::clone(&runner)).map_err(InboxError::Setup)?;
    spawn_local(Rc::clone(&poller).run());
    spawn_local(Rc::clone(&runner).run());
    let room =
        Rc::new(Room { reporter, drain, poller, runner, counts, upstreams, files, readers, configure });
    let mut inbox = Inbox {
        beat: 0,
        ends_when_empty: false,
        is_channel_closed: false,
        memory: Memory::of(confined.statm),
        sandbox: confined.state,
        log,
        room,
    };
    let build = env!("CARGO_PKG_VERSION").to_owned();
    inbox.room.reporter.ready(ToSupervisor::Ready { protocol_version: PROTOCOL_VERSION, build });
    fdpass::forget_code();
    inbox.run().await?;
    inbox.beat();
    let reporter = &inbox.room.reporter;
    let last_words = async {
        while reporter.flush() {
            writable(reporter).await;
        }
        inbox.room.files.settled().await;
        inbox.room.upstreams.settled().await;
    };
    // A supervisor that does not read keeps nobody alive.
    let _ = timeout(LAST_WORDS, last_words).await;
    // Whoever is left here has this room in his hands, and it has him.
    inbox.room.runner.clear();
    Ok(())
}

struct Inbox<'a> {
    room: Rc<Room>,
    log: &'a Log,
    beat: u64,
    /// No handoff can come any more: the last session's end is ours.
    ends_when_empty: bool,
    /// The supervisor is gone. Until then it is heard also while draining: a shorter drain may follow.
    is_channel_closed: bool,
    memory: Memory,
    sandbox: SandboxState,
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
                (batch, error) = next_batch(&room.reporter), if !self.is_channel_closed => self.accept(batch, error)?,
                () = room.reporter.has_news() => {}
                _ = beats.tick() => self.beat(),
                _ = terminate.recv() => self.leave(),
                () = room.drain.deadline() => {
                    tracing::warn!(sessions = room.reporter.sessions(), "the drain's deadline has come");
                    room.drain.cut.fall();
                    room.reporter.wake_all();
                    last_moment = Some(Instant::now() + LAST_WORDS + BEAT_INTERVAL / 2);
                }
                () = room.reporter.session_left(), if self.ends_when_empty => {}
                () = wait_until(last_moment), if last_moment.is_some() => return Ok(()),
                () = writable(&room.reporter), if room.reporter.is_waiting() => {}
            }
            room.reporter.end_turn();
        }
        Ok(())
    }

    /// Takes a batch: first say so, then serve. What was received counts, whatever comes behind it.
    fn accept(&mut self, batch: Vec<(ToWorker, Fds)>, error: Option<ReceiveError>) -> Result<(), InboxError> {
        let leases: Vec<LeaseId> = batch.iter().filter_map(|(message, _)| lease_of(message)).collect();
        if !leases.is_empty() {
            self.room.reporter.taken(&leases);
        }
        for (message, fds) in batch {
            self.perform(message, fds)?;
        }
        match error {
            None => Ok(()),
            Some(ReceiveError::Closed) => {
                self.abandon();
                Ok(())
            }
            Some(error) => Err(InboxError::Receive(error)),
        }
    }

    fn perform(&mut self, message: ToWorker, fds: Fds) -> Result<(), InboxError> {
        if fds.lost {
            return Err(InboxError::FdsLost);
        }
        let mut fds = fds.received.into_iter();
        match message {
            ToWorker::Handoff(handoff) => {
                let client = fds.next().ok_or(InboxError::OutOfTurn("handoff without its client"))?;
                let memfd = fds.next().map(Arc::new);
                if memfd.is_some() != handoff.memfd_bytes.is_some() {
                    return Err(InboxError::OutOfTurn("handoff without its memfd, or with a surplus fd"));
                }
                let lease = handoff.lease;
                let task = Rc::new(Task { handoff, memfd });
                let held = self.enter(lease, Stage::Taken(Rc::clone(&task)), client)?;
                let place = held.port.place();
                let session = session::serve(Rc::clone(&self.room), held, task, Instant::now());
                self.room.runner.start(place, session);
            }
            ToWorker::Epitaph { lease, format } => {
                let client = fds.next().ok_or(InboxError::OutOfTurn("epitaph without its client"))?;
                let held = self.enter(lease, Stage::Epitaph, client)?;
                let place = held.port.place();
                self.room.runner.start(place, session::bury(Rc::clone(&self.room), held, format));
            }
            ToWorker::Drain { remaining_ms } => {
                self.room.drain.begin(Instant::now() + Duration::from_millis(remaining_ms));
                self.ends_when_empty = true;
                tracing::info!(sessions = self.room.reporter.sessions(), remaining_ms, "draining");
            }
            ToWorker::Configure(_) => return Err(InboxError::OutOfTurn("a second configuration")),
            ToWorker::Resync { ticket, fd_budget } => self.resync(ticket, fd_budget),
            ToWorker::Cancel { lease } => self.room.reporter.cancel(lease),
            ToWorker::Sessions { ticket, after } => self.room.reporter.show_sessions(ticket, after),
            ToWorker::Cooldown(cooldown) => self.room.upstreams.told(&cooldown),
            ToWorker::LogLevel { directives } => match self.log.set_level(&directives) {
                Ok(()) => tracing::info!(level = directives, "log level changed"),
                Err(error) => tracing::warn!(%error, "log level stays"),
            },
        }
        Ok(())
    }

    /// From here on the lease is among what we hold.
    fn enter(&self, lease: LeaseId, stage: Stage, client: OwnedFd) -> Result<Held, InboxError> {
        let phase = match stage {
            Stage::Taken(_) | Stage::Committed { .. } => Phase::Waiting,
            Stage::Epitaph => Phase::Epitaph,
        };
        let port = self.room.poller.port(client, Progress::new(phase));
        let held = self.room.reporter.enter(lease, Holding { stage, port });
        held.ok_or(InboxError::OutOfTurn("a lease that is here already"))
    }

    /// A new supervisor has adopted us.
    fn resync(&self, ticket: u32, fd_budget: u32) {
        let Configure { slot, generation, .. } = self.room.configure;
        tracing::info!(sessions = self.room.reporter.sessions(), "a new supervisor asks what is here");
        let about = HeldPage {
            ticket,
            page: 0,
            last: false,
            protocol_version: PROTOCOL_VERSION,
            slot,
            generation,
            drain_remaining_ms: self.room.drain.remaining().map(millis),
            leases: Vec::new(),
        };
        self.room.reporter.resync(about, fd_budget);
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
        self.is_channel_closed = true;
        self.ends_when_empty = true;
    }

    fn beat(&mut self) {
        self.beat += 1;
        self.room.upstreams.count_connections(&mut self.room.counts.borrow_mut());
        self.room.reporter.snapshot(Snapshot {
            beat: self.beat,
            draining: self.room.drain.is_draining(),
            rss_bytes: self.memory.rss_bytes(),
            sandbox: self.sandbox,
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
    /// By then it is too late to open it.
    fn of(statm: Option<File>) -> Self {
        let page_bytes = sysconf(SysconfVar::PAGE_SIZE).ok().flatten();
        let page_bytes = page_bytes.and_then(|bytes| u64::try_from(bytes).ok()).unwrap_or(4096);
        Self { statm, page_bytes }
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
        ToWorker::Configure(_)
        | ToWorker::Drain { .. }
        | ToWorker::Resync { .. }
        | ToWorker::Cancel { .. }
        | ToWorker::Sessions { .. }
        | ToWorker::LogLevel { .. }
        | ToWorker::Cooldown(_) => None,
    }
}

/// All messages that are there, and the error behind them; at least one of the two.
async fn next_batch(reporter: &Reporter) -> (Vec<(ToWorker, Fds)>, Option<ReceiveError>) {
    let mut batch = Vec::new();
    poll_fn(|cx| {
        while batch.len() < CREDITS_PER_WORKER as usize {
            match reporter.poll_receive(cx) {
                Poll::Ready(Ok(message)) => batch.push(message),
                Poll::Ready(Err(error)) => return Poll::Ready((std::mem::take(&mut batch), Some(error))),
                Poll::Pending if batch.is_empty() => return Poll::Pending,
                Poll::Pending => break,
            }
        }
        Poll::Ready((std::mem::take(&mut batch), None))
    })
    .await
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

async fn writable(reporter: &Reporter) {
    poll_fn(|cx| reporter.poll_writable(cx)).await;
}

async fn wait_until(moment: Option<Instant>) {
    if let Some(moment) = moment {
        sleep_until(moment.into()).await;
    }
}
