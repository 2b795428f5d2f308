//! What the supervisor is told. In: what happens to leases. Out: messages on the channel.
//!
//! Never: blocks. What does not fit the socket waits in one list, bounded by the leases held; only a stream
//! that is about to commit waits until the kernel has accepted its `Committed`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::task::{Context, Poll};

use handoff_shared::channel::{ReceiveError, SendError, WorkerChannel};
use handoff_shared::ids::LeaseId;
use handoff_shared::limits::LEASES_PER_MESSAGE_MAX;
use handoff_shared::message::{Ending, Format, Outcome, ToSupervisor, ToWorker};
use handoff_shared::metric::Snapshot;
use tokio::sync::{Notify, oneshot};

/// The worker's side of the channel.
#[derive(Debug)]
pub(crate) struct Reporter {
    channel: RefCell<WorkerChannel>,
    pending: RefCell<Pending>,
    /// Something is pending.
    news: Notify,
    /// The supervisor is gone: there is nobody to tell.
    is_closed: Cell<bool>,
    channel_full: Cell<u64>,
    sessions: Cell<usize>,
    /// A session has ended.
    left: Notify,
}

/// In the order in which it must be said.
#[derive(Debug, Default)]
struct Pending {
    ready: Option<ToSupervisor>,
    taken: Vec<LeaseId>,
    commits: VecDeque<(LeaseId, Format, oneshot::Sender<()>)>,
    endings: Vec<Ending>,
    snapshot: Option<Box<Snapshot>>,
}

impl Reporter {
    pub(crate) fn new(channel: WorkerChannel) -> Self {
        Self {
            channel: RefCell::new(channel),
            pending: RefCell::default(),
            news: Notify::new(),
            is_closed: Cell::new(false),
            channel_full: Cell::new(0),
            sessions: Cell::new(0),
            left: Notify::new(),
        }
    }

    /// The next message from the supervisor.
    pub(crate) fn poll_receive(
        &self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(ToWorker, Vec<OwnedFd>), ReceiveError>> {
        self.channel.borrow_mut().poll_receive(cx)
    }

    /// The first message of all.
    pub(crate) fn ready(&self, ready: ToSupervisor) {
        self.pending.borrow_mut().ready = Some(ready);
        self.flush();
    }

    /// Something did not fit the socket.
    pub(crate) fn is_waiting(&self) -> bool {
        !self.pending.borrow().is_empty()
    }

    /// We own these fds. Said at once, before any payload is parsed.
    pub(crate) fn taken(&self, leases: &[LeaseId]) {
        self.pending.borrow_mut().taken.extend_from_slice(leases);
        self.flush();
    }

    /// A session begins; the guard's drop ends it.
    pub(crate) fn enter(self: &Rc<Self>, lease: LeaseId) -> Held {
        self.sessions.set(self.sessions.get() + 1);
        Held { reporter: Rc::clone(self), lease, outcome: Cell::new(Outcome::Internal) }
    }

    pub(crate) fn sessions(&self) -> usize {
        self.sessions.get()
    }

    /// Resolves when a session has ended.
    pub(crate) async fn session_left(&self) {
        self.left.notified().await;
    }

    /// Resolves when something is waiting to be said.
    pub(crate) async fn has_news(&self) {
        self.news.notified().await;
    }

    /// A worker's newest numbers; an older snapshot that still waits is replaced.
    pub(crate) fn snapshot(&self, snapshot: Snapshot) {
        self.pending.borrow_mut().snapshot = Some(Box::new(snapshot));
        self.flush();
    }

    pub(crate) fn channel_full(&self) -> u64 {
        self.channel_full.get()
    }

    /// Nobody listens any more: what waits is forgotten, and nobody waits for it.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        *self.pending.borrow_mut() = Pending::default();
    }

    /// Says what is pending. Returns whether the socket is full.
    pub(crate) fn flush(&self) -> bool {
        let mut pending = self.pending.borrow_mut();
        let mut channel = self.channel.borrow_mut();
        let pending = &mut *pending;
        match pending.send_all(&mut channel) {
            Ok(()) => false,
            // Without memory in the kernel it is as good as full: the next beat tries again.
            Err(SendError::Full | SendError::Io(_)) => {
                self.channel_full.set(self.channel_full.get() + 1);
                true
            }
            Err(error @ (SendError::Closed | SendError::Encode(_))) => {
                // The end of the channel is noticed where it is read.
                tracing::debug!(%error, "report was not sent");
                *pending = Pending::default();
                false
            }
        }
    }

    /// Wakes the task when the supervisor reads again.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.channel.borrow().poll_writable(cx).map(|_| ())
    }

    async fn commit(&self, lease: LeaseId, format: Format) {
        if self.is_closed.get() {
            return;
        }
        let (told, accepted) = oneshot::channel();
        self.pending.borrow_mut().commits.push_back((lease, format, told));
        if self.flush() {
            self.news.notify_one();
        }
        // An error means that nobody is there to be told: nobody else can answer this client then.
        let _ = accepted.await;
    }

    fn leave(&self, ending: Ending) {
        self.sessions.set(self.sessions.get() - 1);
        if !self.is_closed.get() {
            self.pending.borrow_mut().endings.push(ending);
        }
        self.news.notify_one();
        self.left.notify_one();
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        let Self { ready, taken, commits, endings, snapshot } = self;
        ready.is_none() && taken.is_empty() && commits.is_empty() && endings.is_empty() && snapshot.is_none()
    }

    fn send_all(&mut self, channel: &mut WorkerChannel) -> Result<(), SendError> {
        if let Some(ready) = &self.ready {
            channel.try_send(ready, &[])?;
            self.ready = None;
        }
        while !self.taken.is_empty() {
            let batch = self.taken.len().min(LEASES_PER_MESSAGE_MAX);
            let leases = self.taken[..batch].to_vec();
            channel.try_send(&ToSupervisor::Taken { leases }, &[])?;
            self.taken.drain(..batch);
        }
        while let Some((lease, format, _)) = self.commits.front() {
            channel.try_send(&ToSupervisor::Committed { lease: *lease, format: *format }, &[])?;
            if let Some((_, _, told)) = self.commits.pop_front() {
                let _ = told.send(());
            }
        }
        while !self.endings.is_empty() {
            let batch = self.endings.len().min(LEASES_PER_MESSAGE_MAX);
            let endings = self.endings[..batch].to_vec();
            channel.try_send(&ToSupervisor::Released { endings }, &[])?;
            self.endings.drain(..batch);
        }
        // One that does not fit is dropped: the next one says it all again.
        if let Some(snapshot) = self.snapshot.take() {
            channel.try_send(&ToSupervisor::Snapshot(snapshot), &[])?;
        }
        Ok(())
    }
}

/// A lease in this worker's hands. Dropped, it says `Released`, once, whatever happened.
#[derive(Debug)]
pub(crate) struct Held {
    reporter: Rc<Reporter>,
    pub(crate) lease: LeaseId,
    outcome: Cell<Outcome>,
}

impl Held {
    /// Bytes may be out from here on. Returns when the kernel has this in its hands.
    pub(crate) async fn commit(&self, format: Format) {
        self.reporter.commit(self.lease, format).await;
    }

    /// What the session came to.
    pub(crate) fn end(&self, outcome: Outcome) {
        self.outcome.set(outcome);
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.reporter.leave(Ending { lease: self.lease, outcome: self.outcome.get() });
    }
}
