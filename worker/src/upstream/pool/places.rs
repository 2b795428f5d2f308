//! Who gets a place on which connection, and when there are more connections. In: what happened, and when. Out: what
//! is to be done.
//!
//! A connection has as many places as it takes requests at once: one for HTTP/1.1; what the server allows, but not
//! more than configured, for HTTP/2. Who asks gets a place in the order of asking. A further HTTP/2 connection is
//! opened before the last place is taken, and as many at once as those who wait need. One that ages or was told to
//! go away takes nobody any more, and no longer counts: its successor is opened beside it.
//!
//! Never: knows sockets, tasks or a clock; has more requests on a connection than it takes; has more connections
//! than allowed, or twice as many with those that are on their way out.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

/// Requests that wait for a place, at most.
pub(super) const WAITING_MAX: usize = 10_000;
/// A connection without requests is kept for so long.
pub(super) const IDLE_MAX: Duration = Duration::from_secs(90);
/// After a dial that failed, or that led to a connection which ended without any use: no further dial for so long,
/// where other connections work.
pub(super) const REDIAL_PAUSE: Duration = Duration::from_secs(1);
/// A server that has not said yet how many streams it takes is believed to take as many as on its other connections,
/// for so long.
pub(super) const SETTINGS_PATIENCE: Duration = Duration::from_secs(1);
/// A connection that refused a stream is not given more than it holds, until one of them ends or for so long.
pub(super) const REFUSAL_PAUSE: Duration = Duration::from_secs(1);

/// A connection, also after its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct ConnectionId(u64);

/// A connection that is being opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DialId(u64);

/// A request that waits; smaller ones go first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket(u64);

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Protocol {
    /// One request at a time.
    Http1,
    /// Many.
    Http2,
}

/// From the configuration.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Streams on one HTTP/2 connection; at least 1.
    pub(super) streams_max: usize,
    /// HTTP/2 connections; at least 1. See [`Places::connections_max`].
    pub(super) connections_max: usize,
    /// HTTP/1.1 connections without a request.
    pub(super) idle_max: usize,
}

/// What is to be done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Action {
    /// The request goes to this connection.
    Grant(Ticket, ConnectionId),
    /// Open a connection.
    Dial(DialId),
    /// Nobody needs this one any more.
    Abort(DialId),
    /// Close this one: it has no requests.
    Close(ConnectionId),
}

/// All connections of one origin, and who waits for them.
#[derive(Debug)]
pub(super) struct Places {
    limits: Limits,
    /// What the last connection spoke; none: not known yet.
    protocol: Option<Protocol>,
    /// Places of an HTTP/2 connection, as the server last said.
    expected: usize,
    connections: BTreeMap<ConnectionId, Connection>,
    dialling: BTreeSet<DialId>,
    waiting: BTreeSet<Ticket>,
    no_dial_before: Option<Instant>,
    actions: VecDeque<Action>,
    next_id: u64,
}

#[derive(Debug)]
struct Connection {
    protocol: Protocol,
    /// What the server allows; none: it has not said.
    limit: Option<usize>,
    used: usize,
    /// It has had a request.
    useful: bool,
    /// Of HTTP/1.1: its answer has ended, and it takes the next request in a moment.
    ending: bool,
    /// After a refusal: not more than these, until then.
    refused: Option<(usize, Instant)>,
    state: State,
    opened: Instant,
    expires: Instant,
    idle_since: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Takes requests.
    Open,
    /// Takes no more; closes after the last.
    Retired,
    /// Is being closed.
    Closing,
}

/// Too many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Full;

impl Places {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            protocol: None,
            expected: limits.streams_max,
            connections: BTreeMap::new(),
            dialling: BTreeSet::new(),
            waiting: BTreeSet::new(),
            no_dial_before: None,
            actions: VecDeque::new(),
            next_id: 0,
        }
    }

    /// What is to be done next.
    pub(super) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// A request wants a place.
    pub(super) fn ask(&mut self, now: Instant) -> Result<Ticket, Full> {
        if self.waiting.len() >= WAITING_MAX {
            return Err(Full);
        }
        let ticket = Ticket(self.id());
        self.ask_again(now, ticket);
        Ok(ticket)
    }

    /// A request that had a place in vain wants another one, before all who asked later.
    pub(super) fn ask_again(&mut self, now: Instant, ticket: Ticket) {
        self.waiting.insert(ticket);
        self.settle(now);
    }

    /// Who waits does so no longer. A place that was granted is given back by [`Self::release`].
    pub(super) fn give_up(&mut self, now: Instant, ticket: Ticket) {
        if !self.waiting.remove(&ticket) {
            return;
        }
        let wanted = self.dials_wanted(now);
        while self.dialling.len() > wanted {
            let Some(dial) = self.dialling.pop_last() else { break };
            self.actions.push_back(Action::Abort(dial));
        }
    }

    /// Whether a connection that is being opened will have a place for this request.
    pub(super) fn is_dialled_for(&self, ticket: Ticket) -> bool {
        let before = self.waiting.range(..ticket).count();
        before < self.coming()
    }

    /// A connection is open; it takes requests for `lifetime`.
    pub(super) fn opened(
        &mut self,
        now: Instant,
        dial: DialId,
        protocol: Protocol,
        lifetime: Duration,
    ) -> ConnectionId {
        self.dialling.remove(&dial);
        self.protocol = Some(protocol);
        self.no_dial_before = None;
        let id = ConnectionId(self.id());
        let limit = match protocol {
            Protocol::Http1 => Some(1),
            Protocol::Http2 => None,
        };
        let connection = Connection {
            protocol,
            limit,
            used: 0,
            useful: false,
            ending: false,
            refused: None,
            state: State::Open,
            opened: now,
            expires: now + lifetime,
            idle_since: now,
        };
        self.connections.insert(id, connection);
        self.settle(now);
        id
    }

    /// A connection could not be opened. Those who waited for it alone are told so; the others go on waiting.
    pub(super) fn dial_failed(&mut self, now: Instant, dial: DialId) -> Vec<Ticket> {
        self.dialling.remove(&dial);
        let open = |protocol| {
            let mut all = self.connections.values();
            all.any(|connection| connection.state == State::Open && connection.protocol == protocol)
        };
        let failing = match self.protocol {
            _ if self.dialling.is_empty() && !open(Protocol::Http1) && !open(Protocol::Http2) => {
                self.waiting.len()
            }
            _ if open(Protocol::Http2) => 0,
            Some(Protocol::Http1) => 1,
            Some(Protocol::Http2) | None => self.waiting.len().saturating_sub(self.coming()),
        };
        let failing = self.waiting.iter().copied().take(failing).collect::<Vec<_>>();
        for ticket in &failing {
            self.waiting.remove(ticket);
        }
        self.no_dial_before = failing.is_empty().then_some(now + REDIAL_PAUSE);
        self.settle(now);
        failing
    }

    /// The server sent its settings: how many streams it takes; none: as many as it said before, or as we like.
    pub(super) fn allowed(&mut self, now: Instant, id: ConnectionId, streams: Option<u32>) {
        let max = self.limits.streams_max;
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let limit = match streams {
            Some(streams) => usize::try_from(streams).map_or(max, |streams| max.min(streams)),
            None => connection.limit.unwrap_or(max),
        };
        connection.limit = Some(limit);
        connection.refused = None;
        self.expected = limit.max(1);
        self.settle(now);
    }

    /// An answer of HTTP/1.1 has ended: its place is free in a moment, or the connection is closed.
    pub(super) fn ending(&mut self, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id) {
            connection.ending = true;
        }
    }

    /// A request has left its place.
    pub(super) fn release(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.used = connection.used.saturating_sub(1);
        connection.ending = false;
        if connection.used == 0 {
            connection.idle_since = now;
        }
        self.settle(now);
    }

    /// The server refused a stream: it takes fewer than it said. The stream itself is released apart.
    pub(super) fn refused(&mut self, now: Instant, id: ConnectionId) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        let held = connection.used.saturating_sub(1);
        if held == 0 {
            self.retire(now, id);
        } else {
            connection.refused = Some((held, now + REFUSAL_PAUSE));
        }
    }

    /// A connection takes no more requests: the server says so, or it is of no use any more.
    pub(super) fn retire(&mut self, now: Instant, id: ConnectionId) {
        if let Some(connection) = self.connections.get_mut(&id)
            && connection.state == State::Open
        {
            connection.state = State::Retired;
            if !connection.useful {
                self.no_dial_before = Some(now + REDIAL_PAUSE);
            }
        }
        self.settle(now);
    }

    /// An idle HTTP/1.1 connection was found closed by the server: the other idle ones are not to be trusted either.
    pub(super) fn stale(&mut self, now: Instant, id: ConnectionId) {
        for (other, connection) in &mut self.connections {
            let idle = connection.used == 0 && connection.protocol == Protocol::Http1;
            if (*other == id || idle) && connection.state == State::Open {
                connection.state = State::Retired;
            }
        }
        self.settle(now);
    }

    /// A connection has ended, for whatever reason. Whether the server had not even sent its settings.
    pub(super) fn closed(&mut self, now: Instant, id: ConnectionId) -> bool {
        let ended = self.connections.remove(&id);
        if ended.as_ref().is_some_and(|connection| connection.state == State::Open && !connection.useful) {
            self.no_dial_before = Some(now + REDIAL_PAUSE);
        }
        self.settle(now);
        ended.is_some_and(|connection| connection.limit.is_none())
    }

    /// Time has passed.
    pub(super) fn tick(&mut self, now: Instant) {
        self.settle(now);
    }

    /// When [`Self::tick`] is due.
    pub(super) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let connections = self.connections.values().filter(|connection| connection.state == State::Open);
        let of_connections = connections.flat_map(|connection| {
            let age = (connection.protocol == Protocol::Http2).then_some(connection.expires);
            let idle =
                (connection.used == 0).then(|| connection.expires.min(connection.idle_since + IDLE_MAX));
            let settings = connection.limit.is_none().then_some(connection.opened + SETTINGS_PATIENCE);
            let refused = connection.refused.map(|(_, until)| until);
            let waited_for = [settings, refused].map(|at| at.filter(|_| !self.waiting.is_empty()));
            [age, idle].into_iter().chain(waited_for).flatten()
        });
        let next = of_connections.chain(self.no_dial_before.filter(|_| !self.waiting.is_empty())).min()?;
        // What is overdue waits for room: looked at again and again, but not in a circle.
        Some(if next > now { next } else { now + REDIAL_PAUSE })
    }

    /// Connections that are open.
    pub(super) fn open(&self) -> usize {
        self.connections.len()
    }

    /// Requests that wait.
    pub(super) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Over HTTP/1.1, where each request has a connection to itself, as many as would be requests over HTTP/2.
    fn connections_max(&self) -> usize {
        match self.protocol {
            Some(Protocol::Http1) => self.limits.connections_max.saturating_mul(self.limits.streams_max),
            Some(Protocol::Http2) | None => self.limits.connections_max,
        }
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }

    /// Grants what can be granted, dials what is missing, closes what nobody needs.
    fn settle(&mut self, now: Instant) {
        self.retire_aged(now);
        self.close_unneeded(now);
        while let Some(id) = self.best(now)
            && let Some(ticket) = self.waiting.pop_first()
        {
            if let Some(connection) = self.connections.get_mut(&id) {
                connection.used += 1;
                connection.useful = true;
            }
            self.actions.push_back(Action::Grant(ticket, id));
        }
        let open = self.connections.values().filter(|connection| connection.state == State::Open).count();
        let room = self.connections_max().saturating_sub(open);
        let room = room.min((2 * self.connections_max()).saturating_sub(self.connections.len()));
        let wanted = self.dials_wanted(now).min(room);
        while self.dialling.len() < wanted {
            let dial = DialId(self.id());
            self.dialling.insert(dial);
            self.actions.push_back(Action::Dial(dial));
        }
    }

    /// With each event, not only when time has passed: where questions come all the time, an overdue tick may not.
    fn retire_aged(&mut self, now: Instant) {
        let room = (2 * self.limits.connections_max).saturating_sub(self.connections.len());
        let aged = |connection: &&mut Connection| {
            connection.state == State::Open
                && connection.protocol == Protocol::Http2
                && connection.expires <= now
        };
        for connection in self.connections.values_mut().filter(aged).take(room) {
            connection.state = State::Retired;
        }
    }

    fn close_unneeded(&mut self, now: Instant) {
        let idle = |connection: &Connection| {
            connection.used == 0 && connection.protocol == Protocol::Http1 && connection.state == State::Open
        };
        // Those who wait take idle connections first.
        let idle_now = self.connections.values().filter(|connection| idle(connection)).count();
        let mut spare = idle_now.saturating_sub(self.limits.idle_max.saturating_add(self.waiting.len()));
        for (id, connection) in &mut self.connections {
            let unused = connection.used == 0 && connection.state != State::Closing;
            let over = unused && spare > 0 && idle(connection);
            let old = connection.idle_since + IDLE_MAX <= now || connection.expires <= now;
            if over {
                spare -= 1;
            }
            if unused && (over || old || connection.state == State::Retired) {
                connection.state = State::Closing;
                self.actions.push_back(Action::Close(*id));
            }
        }
    }

    /// The connection that takes the next request: the least loaded; among idle ones of HTTP/1.1 the one used last,
    /// which the server has the least reason to have closed.
    fn best(&self, now: Instant) -> Option<ConnectionId> {
        let free = self.connections.iter().filter(|(_, connection)| connection.free(now) > 0);
        let load = |connection: &Connection| connection.used * 1000 / connection.places(now).max(1);
        let best = free.min_by_key(|(id, connection)| {
            let unused_for = match connection.protocol {
                Protocol::Http1 => now.saturating_duration_since(connection.idle_since),
                Protocol::Http2 => Duration::ZERO,
            };
            (load(connection), unused_for, **id)
        });
        best.map(|(id, _)| *id)
    }

    /// Dials that should be under way.
    fn dials_wanted(&self, now: Instant) -> usize {
        let any_open = self.connections.values().any(|connection| connection.state == State::Open);
        if any_open && self.no_dial_before.is_some_and(|at| now < at) {
            return self.dialling.len();
        }
        match self.protocol {
            None => self.waiting.len().min(1),
            Some(Protocol::Http1) => {
                let ending = self.connections.values().filter(|connection| connection.ending).count();
                self.waiting.len().saturating_sub(ending)
            }
            Some(Protocol::Http2) => {
                let open = self.connections.values();
                let open = open.filter(|connection| connection.state == State::Open);
                let (mut free, mut used) = (0, 0);
                for connection in open {
                    free += match connection.limit {
                        None if now < connection.opened + SETTINGS_PATIENCE => {
                            self.expected.saturating_sub(connection.used)
                        }
                        None | Some(_) => connection.free(now),
                    };
                    used += connection.used;
                }
                let active = used > 0 || !self.waiting.is_empty();
                let spare = if active { self.expected.min(self.expected / 8 + 1) } else { 0 };
                (self.waiting.len() + spare).saturating_sub(free).div_ceil(self.expected)
            }
        }
    }

    /// Places on connections that are being opened.
    fn coming(&self) -> usize {
        match self.protocol {
            None if self.dialling.is_empty() => 0,
            None => usize::MAX,
            Some(Protocol::Http1) => self.dialling.len(),
            Some(Protocol::Http2) => self.dialling.len() * self.expected,
        }
    }
}

impl Connection {
    fn places(&self, now: Instant) -> usize {
        // Before the server has said anything, one stream is what every server takes.
        let limit = self.limit.unwrap_or(1);
        match self.refused {
            Some((held, until)) if now < until => limit.min(held),
            Some(_) | None => limit,
        }
    }

    fn free(&self, now: Instant) -> usize {
        if self.state == State::Open { self.places(now).saturating_sub(self.used) } else { 0 }
    }
}
