//! Connections to one origin, shared by all answers of a worker. In: requests. Out: responses, whose bodies are the
//! caller's to read.
//!
//! `places` decides who is asked where, and how many connections there are; this file performs. `dial` opens
//! connections, `connection` keeps them.
//!
//! Never: reads ahead of the caller, sends a request that may have been seen a second time, follows a redirect,
//! lets one body that is not read stop the others.

mod body;
mod connection;
mod dial;
mod error;
mod frames;
mod places;
mod probe;
mod stream;
#[cfg(test)]
mod tests;

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher, Hasher, RandomState};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use handoff_config::backend::{Connection, Timeouts};
use http::{Request, Response};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::sync::{Notify, oneshot};
use tokio::task::{AbortHandle, spawn_local};
use tokio::time::{Instant, sleep_until, timeout};

pub use body::Body;
pub use error::{BodyError, PoolError};

use connection::{Address, Fresh, Handle, Missed, Place};
use dial::Dialler;
use error::DialError;
use frames::Said;
use places::{Action, ConnectionId, DialId, Full as QueueFull, Limits, Places, Ticket};

/// A request that the server has not begun with is sent so many times more, at most.
const UNSEEN_RETRIES_MAX: u32 = 3;
/// A server that wants fewer PINGs gets them this rarely at last.
const PING_INTERVAL_MAX: Duration = Duration::from_secs(3600);
/// There is always a next look at the clock.
const TICK: Duration = Duration::from_secs(3600);

/// Connections to one origin.
pub struct Pool {
    places: RefCell<Places>,
    /// Places have changed: there may be something to do.
    changed: Rc<Notify>,
    waiters: RefCell<HashMap<Ticket, Waiter>>,
    handles: RefCell<HashMap<ConnectionId, Handle>>,
    dials: RefCell<HashMap<DialId, AbortHandle>>,
    dialler: Rc<Dialler>,
    http2: Cell<Http2Settings>,
    age_max: Duration,
    /// Of the last request: spare connections are opened with it.
    patience: Cell<Patience>,
    opened: Cell<u64>,
    performer: RefCell<Option<AbortHandle>>,
}

/// A request that waits for a place.
struct Waiter {
    sender: oneshot::Sender<Result<Place, DialError>>,
    patience: Patience,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Gauges {
    /// Since the start.
    pub opened: u64,
    /// Now.
    pub open: u64,
    /// Requests that wait for a place, now.
    pub queued: u64,
}

/// How long the parts of a request may take; see [`Timeouts`].
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Name resolution and TCP.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// Waiting for a place on a connection.
    pub queue: Duration,
    /// All of it, until the head of the answer.
    pub head: Duration,
}

/// What the next HTTP/2 connection is opened with.
#[derive(Clone, Copy, Debug)]
struct Http2Settings {
    stream_window_bytes: u32,
    connection_window_bytes: u32,
    ping_interval: Duration,
    ping_timeout: Duration,
}

impl Pool {
    /// Connections to the origin of `base`, none yet. `tls`: who is trusted, and who we are.
    #[must_use]
    pub fn new(base: &http::Uri, connection: &Connection, tls: Arc<rustls::ClientConfig>) -> Rc<Self> {
        let all_streams = connection.stream_window_bytes.saturating_mul(connection.streams_max.get());
        let http2 = Http2Settings {
            stream_window_bytes: connection.stream_window_bytes,
            connection_window_bytes: connection.connection_window_bytes.unwrap_or(all_streams),
            ping_interval: connection.keep_alive_interval,
            ping_timeout: connection.keep_alive_timeout,
        };
        let limits = Limits {
            streams_max: usize::try_from(connection.streams_max.get()).unwrap_or(usize::MAX),
            connections_max: connection.connections_max.get().into(),
            idle_max: usize::try_from(connection.idle_max).unwrap_or(usize::MAX),
        };
        let none = Duration::ZERO;
        Rc::new(Self {
            places: RefCell::new(Places::new(limits)),
            changed: Rc::default(),
            waiters: RefCell::default(),
            handles: RefCell::default(),
            dials: RefCell::default(),
            dialler: Rc::new(Dialler::new(base, connection, tls)),
            http2: Cell::new(http2),
            age_max: connection.age_max,
            patience: Cell::new(Patience { connect: none, tls: none, queue: none, head: none }),
            opened: Cell::new(0),
            performer: RefCell::default(),
        })
    }

    /// Asks. Of the address in `request` path and query count: the rest is the pool's origin. Dropping the future
    /// cancels the request wherever it is. To be called within a [`tokio::task::LocalSet`].
    ///
    /// # Errors
    /// As in [`PoolError`].
    pub async fn send(
        self: &Rc<Self>,
        request: Request<Full<Bytes>>,
        patience: Patience,
    ) -> Result<Response<Body>, PoolError> {
        self.patience.set(patience);
        self.start();
        match timeout(patience.head, Box::pin(self.ask(request, patience))).await {
            Ok(result) => result,
            Err(_) => Err(PoolError::HeadTimeout(patience.head)),
        }
    }

    /// For metrics.
    #[must_use]
    pub fn gauges(&self) -> Gauges {
        let places = self.places.borrow();
        Gauges { opened: self.opened.get(), open: places.open() as u64, queued: places.waiting() as u64 }
    }

    async fn ask(
        self: &Rc<Self>,
        request: Request<Full<Bytes>>,
        patience: Patience,
    ) -> Result<Response<Body>, PoolError> {
        let asked = Instant::now();
        let ask = self.places.borrow_mut().ask(asked);
        let ticket = ask.map_err(|QueueFull| PoolError::QueueTimeout(Duration::ZERO))?;
        let mut retries = UNSEEN_RETRIES_MAX;
        loop {
            let place = self.place(ticket, asked, patience).await?;
            let address = Address { origin: self.dialler.origin(), forwarded: self.dialler.forwarded() };
            match place.ask(request.clone(), address).await {
                Ok(response) => return Ok(response),
                Err(Missed::Broken(error)) => return Err(PoolError::Broken(error)),
                Err(Missed::Unseen(error)) if retries == 0 => return Err(PoolError::Unseen(error)),
                Err(Missed::Unseen(_)) => retries -= 1,
            }
            self.places.borrow_mut().ask_again(Instant::now(), ticket);
        }
    }

    /// Waits for a place. The time of a connection that is being opened for this request does not count as waiting:
    /// it has its own limits.
    async fn place(
        self: &Rc<Self>,
        ticket: Ticket,
        asked: Instant,
        patience: Patience,
    ) -> Result<Place, PoolError> {
        let (sender, receiver) = oneshot::channel();
        self.waiters.borrow_mut().insert(ticket, Waiter { sender, patience });
        self.changed.notify_one();
        let mut waiting = Waiting { pool: self, ticket, receiver };
        let queue = patience.queue.saturating_sub(asked.elapsed());
        let mut granted = timeout(queue, &mut waiting.receiver).await;
        if granted.is_err() && self.places.borrow().is_dialled_for(ticket) {
            granted = timeout(patience.connect.saturating_add(patience.tls), &mut waiting.receiver).await;
        }
        match granted {
            Ok(Ok(Ok(place))) => Ok(place),
            Ok(Ok(Err(error))) => Err(error.into()),
            Ok(Err(_)) | Err(_) => Err(PoolError::QueueTimeout(patience.queue)),
        }
    }

    /// How long a connection may take to be opened: as long as the most patient of those who wait for one.
    fn dial_patience(&self) -> Patience {
        let waiters = self.waiters.borrow();
        let all = waiters.values().map(|waiter| waiter.patience);
        let longest = |one: Patience, other: Patience| Patience {
            connect: one.connect.max(other.connect),
            tls: one.tls.max(other.tls),
            ..one
        };
        all.reduce(longest).unwrap_or_else(|| self.patience.get())
    }

    /// Changes the places; what follows from it is done soon.
    fn decide<T>(&self, change: impl FnOnce(&mut Places, Instant) -> T) -> T {
        let result = change(&mut self.places.borrow_mut(), Instant::now());
        self.changed.notify_one();
        result
    }

    /// One task performs: what changes the places may be called within hyper, or while everything ends.
    fn start(self: &Rc<Self>) {
        let mut performer = self.performer.borrow_mut();
        if performer.as_ref().is_none_or(AbortHandle::is_finished) {
            let task = spawn_local(perform(Rc::downgrade(self), Rc::clone(&self.changed)));
            *performer = Some(task.abort_handle());
        }
    }

    fn perform(self: &Rc<Self>, action: Action) {
        match action {
            Action::Grant(ticket, id) => {
                let waiter = self.waiters.borrow_mut().remove(&ticket);
                let handle = self.handles.borrow().get(&id).cloned();
                match (waiter, handle) {
                    (Some(waiter), Some(handle)) => {
                        // Nobody there any more: the place is dropped, and so given back.
                        let _ = waiter.sender.send(Ok(Place::new(Rc::downgrade(self), id, handle)));
                    }
                    // The connection has ended since.
                    (Some(waiter), None) => {
                        self.waiters.borrow_mut().insert(ticket, waiter);
                        self.decide(|places, now| places.ask_again(now, ticket));
                    }
                    (None, _) => self.decide(|places, now| places.release(now, id)),
                }
            }
            Action::Dial(id) => {
                let task = spawn_local(dial(Rc::downgrade(self), Rc::clone(&self.dialler), id));
                self.dials.borrow_mut().insert(id, task.abort_handle());
            }
            Action::Abort(id) => {
                if let Some(dial) = self.dials.borrow_mut().remove(&id) {
                    dial.abort();
                }
            }
            Action::Close(id) => {
                let handle = self.handles.borrow_mut().remove(&id);
                if let Some(handle) = handle {
                    handle.close();
                }
            }
        }
    }

    fn dialled(&self, dial: DialId, result: Result<Fresh, DialError>) {
        self.dials.borrow_mut().remove(&dial);
        match result {
            Ok(fresh) => {
                self.opened.set(self.opened.get() + 1);
                let (protocol, lifetime) = (fresh.protocol(), lifetime(self.age_max));
                let id = self.decide(|places, now| places.opened(now, dial, protocol, lifetime));
                let handle = fresh.start(id);
                self.handles.borrow_mut().insert(id, handle);
            }
            Err(error) => {
                let failed = self.decide(|places, now| places.dial_failed(now, dial));
                let mut waiters = self.waiters.borrow_mut();
                for waiter in failed.iter().filter_map(|ticket| waiters.remove(ticket)) {
                    let _ = waiter.sender.send(Err(error.clone()));
                }
            }
        }
    }

    /// The server said something about a connection as a whole.
    fn heard(&self, id: ConnectionId, said: Said) {
        match said {
            Said::Settings { streams } => self.decide(|places, now| places.allowed(now, id, streams)),
            Said::GoAway { calm } => {
                if calm {
                    let mut http2 = self.http2.get();
                    http2.ping_interval = http2.ping_interval.saturating_mul(2).min(PING_INTERVAL_MAX);
                    self.http2.set(http2);
                }
                self.decide(|places, now| places.retire(now, id));
            }
        }
    }

    fn closed(&self, id: ConnectionId) {
        self.handles.borrow_mut().remove(&id);
        let unsettled = self.decide(|places, now| places.closed(now, id));
        if unsettled {
            self.dialler.forget();
        }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        let dials = self.dials.get_mut().values();
        for task in dials.chain(self.performer.get_mut().as_ref()) {
            task.abort();
        }
    }
}

impl fmt::Debug for Pool {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool").field("gauges", &self.gauges()).finish_non_exhaustive()
    }
}

/// A request in the queue. Dropped, it leaves it.
struct Waiting<'a> {
    pool: &'a Pool,
    ticket: Ticket,
    receiver: oneshot::Receiver<Result<Place, DialError>>,
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.pool.waiters.borrow_mut().remove(&self.ticket);
        self.pool.decide(|places, now| places.give_up(now, self.ticket));
    }
}

async fn perform(pool: Weak<Pool>, changed: Rc<Notify>) {
    loop {
        let next = {
            let Some(pool) = pool.upgrade() else { return };
            loop {
                let action = pool.places.borrow_mut().poll_action();
                let Some(action) = action else { break };
                pool.perform(action);
            }
            let now = Instant::now();
            pool.places.borrow().next_deadline(now).unwrap_or(now + TICK)
        };
        tokio::select! {
            () = changed.notified() => {}
            () = sleep_until(next) => {
                let Some(pool) = pool.upgrade() else { return };
                pool.decide(|places, now| places.tick(now));
            }
        }
    }
}

async fn dial(pool: Weak<Pool>, dialler: Rc<Dialler>, id: DialId) {
    let Some((patience, http2)) = pool.upgrade().map(|pool| (pool.dial_patience(), pool.http2.get())) else {
        return;
    };
    let result = match dialler.dial(patience).await {
        Ok((stream, protocol)) => connection::open(stream, protocol, http2, Weak::clone(&pool)).await,
        Err(error) => Err(error),
    };
    if result.is_err() {
        dialler.forget();
    }
    if let Some(pool) = pool.upgrade() {
        pool.dialled(id, result);
    }
}

/// ± 20 %: connections that were opened together do not end together.
fn lifetime(age_max: Duration) -> Duration {
    let random = RandomState::new().build_hasher().finish() % 401;
    age_max.saturating_mul(800 + u32::try_from(random).unwrap_or(200)) / 1000
}

impl From<&Timeouts> for Patience {
    fn from(timeouts: &Timeouts) -> Self {
        let Timeouts { connect, tls, queue, head, .. } = *timeouts;
        Self { connect, tls, queue, head }
    }
}
