//! What the supervisor is told. In: what happens to leases. Out: messages on the channel.
//!
//! Never: blocks. What does not fit the socket waits in one list, bounded by the leases held; only a stream
//! that is about to commit waits until the kernel has accepted its `Committed`.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};

use handoff_shared::channel::{Fds, ReceiveError, SendError, WorkerChannel};
use handoff_shared::ids::LeaseId;
use handoff_shared::limits::{
    COOLDOWN_MODEL_BYTES_MAX, COOLDOWNS_MAX, LEASES_PER_MESSAGE_MAX, SNAPSHOT_BACKLOG_BYTES_MAX,
};
use handoff_shared::message::{Cooldown, Ending, Format, Held as HeldPage, Outcome, ToSupervisor, ToWorker};
use handoff_shared::metric::Snapshot;
use tokio::sync::Notify;

use crate::files::Claimed;
use crate::holdings::{Holding, Holdings, Inventory};
use crate::poller::Port;

/// Operators who look at the same time; those who have waited longest look in vain.
const LOOKS_WAITING_MAX: usize = 64;

/// So many commits are a message of their own.
const COMMITS_TOGETHER: usize = 8;

/// The worker's side of the channel.
#[derive(Debug)]
pub(crate) struct Reporter {
    channel: RefCell<WorkerChannel>,
    pending: RefCell<Pending>,
    /// Something is pending.
    news: Notify,
    /// The supervisor is gone: there is nobody to tell.
    is_closed: Cell<bool>,
    /// In this turn a commit was said.
    has_committed: Cell<bool>,
    channel_full: Cell<u64>,
    holdings: RefCell<Holdings>,
    /// A session has ended.
    left: Notify,
}

/// In the order in which it must be said.
#[derive(Debug, Default)]
struct Pending {
    ready: Option<ToSupervisor>,
    taken: Vec<LeaseId>,
    commits: Vec<(LeaseId, Format)>,
    endings: Vec<Ending>,
    snapshot: Option<Box<Snapshot>>,
    /// Pages of sessions that an operator waits for.
    looks: VecDeque<(u32, Option<LeaseId>)>,
    /// A list was asked for: `about` and the budget of fds. It is made when everything older is said.
    resync: Option<(Box<HeldPage>, u32)>,
    /// What other workers have to know about upstreams.
    cooldowns: VecDeque<Cooldown>,
    /// The list that is being said. Nothing else is said meanwhile.
    inventory: Option<Inventory>,
}

impl Reporter {
    pub(crate) fn new(channel: WorkerChannel) -> Self {
        Self {
            channel: RefCell::new(channel),
            pending: RefCell::default(),
            news: Notify::new(),
            is_closed: Cell::new(false),
            has_committed: Cell::new(false),
            channel_full: Cell::new(0),
            holdings: RefCell::default(),
            left: Notify::new(),
        }
    }

    /// The next message from the supervisor.
    pub(crate) fn poll_receive(&self, cx: &mut Context<'_>) -> Poll<Result<(ToWorker, Fds), ReceiveError>> {
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

    /// A session begins; the guard's drop ends it. None: the lease is here already.
    pub(crate) fn enter(self: &Rc<Self>, lease: LeaseId, holding: Holding) -> Option<Held> {
        let port = Rc::clone(&holding.port);
        let is_new = self.holdings.borrow_mut().add(lease, holding);
        is_new.then(|| Held {
            reporter: Rc::clone(self),
            lease,
            port,
            outcome: Cell::new(Outcome::Internal),
            files: RefCell::default(),
        })
    }

    pub(crate) fn sessions(&self) -> usize {
        self.holdings.borrow().len()
    }

    /// A new supervisor wants to know what we hold. `about`: the first page, without leases. A list that an earlier
    /// one has asked for is not finished.
    pub(crate) fn resync(&self, about: HeldPage, fd_budget: u32) {
        let mut pending = self.pending.borrow_mut();
        pending.resync = Some((Box::new(about), fd_budget));
        pending.inventory = None;
        drop(pending);
        self.flush();
    }

    /// An operator ends this session.
    pub(crate) fn cancel(&self, lease: LeaseId) {
        self.holdings.borrow().cancel(lease);
    }

    /// An operator wants to see the sessions behind `after`. The page is made when there is room to say it.
    pub(crate) fn show_sessions(&self, ticket: u32, after: Option<LeaseId>) {
        let mut pending = self.pending.borrow_mut();
        if pending.looks.len() == LOOKS_WAITING_MAX {
            pending.looks.pop_front();
        }
        pending.looks.push_back((ticket, after));
        drop(pending);
        self.flush();
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

    /// An upstream wants to be left alone: all workers are told. Who does not hear of it finds out by itself.
    pub(crate) fn cooldown(&self, cooldown: Cooldown) {
        let mut pending = self.pending.borrow_mut();
        let fits = cooldown.model.as_ref().is_none_or(|model| model.len() <= COOLDOWN_MODEL_BYTES_MAX);
        if fits && pending.cooldowns.len() < COOLDOWNS_MAX && !self.is_closed.get() {
            pending.cooldowns.push_back(cooldown);
        }
        drop(pending);
        self.flush();
    }

    pub(crate) fn channel_full(&self) -> u64 {
        self.channel_full.get()
    }

    /// Nobody listens any more: what waits is forgotten, and nobody waits for it.
    pub(crate) fn close(&self) {
        self.is_closed.set(true);
        *self.pending.borrow_mut() = Pending::default();
        self.holdings.borrow().wake_all();
    }

    /// The end has come for all sessions, or for those that wait to commit: they look.
    pub(crate) fn wake_all(&self) {
        self.holdings.borrow().wake_all();
    }

    /// All sessions have had their turn.
    pub(crate) fn end_turn(&self) {
        self.has_committed.set(false);
        self.flush();
    }

    /// Says what is pending. Returns whether the socket is full.
    pub(crate) fn flush(&self) -> bool {
        let mut pending = self.pending.borrow_mut();
        let mut channel = self.channel.borrow_mut();
        let pending = &mut *pending;
        match pending.send_all(&mut channel, &mut self.holdings.borrow_mut()) {
            Ok(()) => false,
            // Without memory in the kernel it is as good as full: the next beat tries again.
            Err(SendError::Full | SendError::TooManyFdsUnderWay | SendError::Io(_)) => {
                self.channel_full.set(self.channel_full.get() + 1);
                true
            }
            Err(error @ (SendError::Closed | SendError::Encode(_))) => {
                // The end of the channel is noticed where it is read, and wakes who waits.
                tracing::debug!(%error, "report was not sent");
                *pending = Pending::default();
                false
            }
        }
    }

    /// Wakes the task when the supervisor reads again.
    pub(crate) fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.channel.borrow_mut().poll_writable(cx)
    }

    /// The first in a turn is said at once. Those that begin together with it are said together, some at a time.
    fn commit(&self, lease: LeaseId, format: Format) {
        if self.is_closed.get() {
            return;
        }
        let mut pending = self.pending.borrow_mut();
        pending.commits.push((lease, format));
        let is_first = !self.has_committed.replace(true);
        let is_enough = is_first || pending.commits.len() >= COMMITS_TOGETHER;
        drop(pending);
        if !is_enough || self.flush() {
            self.news.notify_one();
        }
    }

    fn leave(&self, ending: Ending) {
        self.holdings.borrow_mut().remove(ending.lease);
        if !self.is_closed.get() {
            self.pending.borrow_mut().endings.push(ending);
        }
        self.news.notify_one();
        self.left.notify_one();
    }
}

impl Pending {
    fn is_empty(&self) -> bool {
        let Self { ready, taken, commits, endings, snapshot, looks, resync, cooldowns, inventory } = self;
        ready.is_none()
            && taken.is_empty()
            && commits.is_empty()
            && endings.is_empty()
            && snapshot.is_none()
            && looks.is_empty()
            && cooldowns.is_empty()
            && resync.is_none()
            && inventory.is_none()
    }

    fn send_all(&mut self, channel: &mut WorkerChannel, holdings: &mut Holdings) -> Result<(), SendError> {
        loop {
            if let Some(inventory) = &mut self.inventory {
                while let Some((page, fds)) = inventory.page() {
                    let leases = page.leases.len();
                    channel.try_send(&ToSupervisor::Held(page), &fds)?;
                    inventory.turn(leases);
                }
                self.inventory = None;
            }
            self.send_news(channel, holdings)?;
            let Some((about, fd_budget)) = self.resync.take() else { return Ok(()) };
            self.inventory = Some(holdings.list(*about, fd_budget));
        }
    }

    fn send_news(&mut self, channel: &mut WorkerChannel, holdings: &mut Holdings) -> Result<(), SendError> {
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
        while !self.commits.is_empty() {
            let batch = self.commits.len().min(LEASES_PER_MESSAGE_MAX);
            let leases = self.commits[..batch].to_vec();
            channel.try_send(&ToSupervisor::Committed { leases }, &[])?;
            for (lease, format) in self.commits.drain(..batch) {
                holdings.commit(lease, format);
            }
        }
        while !self.endings.is_empty() {
            let batch = self.endings.len().min(LEASES_PER_MESSAGE_MAX);
            let endings = self.endings[..batch].to_vec();
            channel.try_send(&ToSupervisor::Released { endings }, &[])?;
            self.endings.drain(..batch);
        }
        // One that does not fit is dropped: the next one says it all again.
        if let Some(snapshot) = self.snapshot.take()
            && channel.unread_bytes() <= SNAPSHOT_BACKLOG_BYTES_MAX
        {
            channel.try_send(&ToSupervisor::Snapshot(snapshot), &[])?;
        }
        while let Some((ticket, after)) = self.looks.front().copied() {
            let (sessions, last) = holdings.show(after);
            channel.try_send(&ToSupervisor::Sessions { ticket, last, sessions }, &[])?;
            self.looks.pop_front();
        }
        while let Some(cooldown) = self.cooldowns.front() {
            channel.try_send(&ToSupervisor::Cooldown(cooldown.clone()), &[])?;
            self.cooldowns.pop_front();
        }
        Ok(())
    }
}

/// A lease in this worker's hands. Dropped, it says `Released`, once, whatever happened.
#[derive(Debug)]
pub(crate) struct Held {
    reporter: Rc<Reporter>,
    pub(crate) lease: LeaseId,
    pub(crate) port: Rc<Port>,
    outcome: Cell<Outcome>,
    /// Few have any.
    files: RefCell<Option<Box<Claimed>>>,
}

impl Held {
    /// Bytes may be out from here on. Resolves when the kernel has this in its hands.
    pub(crate) fn commit(&self, format: Format) -> impl Future<Output = ()> {
        self.reporter.commit(self.lease, format);
        poll_fn(|_| {
            // Without a supervisor nobody else can answer this client.
            if !self.port.progress.is_committed.get() && !self.reporter.is_closed.get() {
                return Poll::Pending;
            }
            // From here on no other worker can need them.
            if let Some(files) = self.files.take() {
                files.remove();
            }
            Poll::Ready(())
        })
    }

    /// These files are removed when this is committed, and stay if it never is.
    pub(crate) fn remove_at_commit(&self, files: Claimed) {
        self.files.replace(Some(Box::new(files)));
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
