//! What the scripted server has seen: every request with its time line, every connection. In: what the protocols notice.
//! Out: answers to a test's questions. Never: decides anything.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use serde_json::Value;

/// What a connection speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spoken {
    /// HTTP/1.1.
    H1,
    /// HTTP/2.
    H2,
}

/// A request, as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// From 0, in the order in which requests were complete.
    pub number: usize,
    /// The number of its connection, from 0.
    pub connection: usize,
    /// What its connection speaks.
    pub spoken: Spoken,
    /// HTTP/2: its stream; HTTP/1.1: 0.
    pub stream: u32,
    /// Its method.
    pub method: String,
    /// Its path and query; the whole address when it was asked so of a proxy.
    pub path: String,
    /// Its headers, names in lower case; HTTP/2's `:authority` as `host`.
    pub headers: Vec<(String, String)>,
    /// Its body.
    pub body: Vec<u8>,
    /// When its last byte had come.
    pub arrived: Instant,
}

/// A request, and what has become of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seen {
    /// As it came.
    pub request: Request,
    /// When the head of its answer went out.
    pub head_sent: Option<Instant>,
    /// Bytes of the body that are written.
    pub bytes_sent: u64,
    /// Steps of the answer that are done.
    pub steps_done: usize,
    /// When and how it ended.
    pub end: Option<(Instant, End)>,
}

/// How an answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// All is sent.
    Complete,
    /// The script has broken it.
    Broken,
    /// The client has reset the stream with this code.
    Reset(u32),
    /// The client has closed the connection, or reset it.
    Closed,
}

/// A connection, and what has come over it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Connection {
    /// When it was accepted.
    pub opened: Instant,
    /// When it ended.
    pub closed: Option<Instant>,
    /// Known when the first request has come, or TLS has agreed on it.
    pub spoken: Option<Spoken>,
    /// Why TLS was not agreed on.
    pub tls_error: Option<String>,
    /// The name that the client has asked for in TLS.
    pub server_name: Option<String>,
    /// Whether TLS was resumed.
    pub is_resumed: bool,
    /// Requests so far.
    pub requests: usize,
    /// Answers under way.
    pub streams: usize,
    /// The most answers that were under way at once.
    pub streams_max: usize,
    /// HTTP/2: when PINGs came; answers to ours do not count.
    pub pings: Vec<Instant>,
    /// HTTP/2: RST_STREAM frames that came: stream and code.
    pub resets: Vec<(u32, u32)>,
    /// HTTP/2: what the client has set (RFC 9113, section 6.5.2): identifier and value.
    pub settings: Vec<(u16, u32)>,
}

/// All of it.
#[derive(Debug, Default)]
pub(super) struct Book {
    pages: Mutex<Pages>,
}

#[derive(Debug, Default)]
struct Pages {
    requests: Vec<Seen>,
    connections: Vec<Connection>,
}

impl Request {
    /// A header's value, by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str())
    }

    /// Its body as JSON; null when it is none.
    #[must_use]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or(Value::Null)
    }
}

impl Seen {
    /// When the client gave it up, and how.
    #[must_use]
    pub fn cancelled(&self) -> Option<(Instant, End)> {
        self.end.filter(|(_, end)| match end {
            End::Reset(_) | End::Closed => true,
            End::Complete | End::Broken => false,
        })
    }
}

impl Book {
    pub(super) fn requests(&self) -> Vec<Seen> {
        self.pages().requests.clone()
    }

    pub(super) fn request(&self, number: usize) -> Option<Seen> {
        self.pages().requests.get(number).cloned()
    }

    pub(super) fn request_count(&self) -> usize {
        self.pages().requests.len()
    }

    pub(super) fn connections(&self) -> Vec<Connection> {
        self.pages().connections.clone()
    }

    pub(super) fn accepted(&self) -> usize {
        let mut pages = self.pages();
        pages.connections.push(Connection {
            opened: Instant::now(),
            closed: None,
            spoken: None,
            tls_error: None,
            server_name: None,
            is_resumed: false,
            requests: 0,
            streams: 0,
            streams_max: 0,
            pings: Vec::new(),
            resets: Vec::new(),
            settings: Vec::new(),
        });
        pages.connections.len() - 1
    }

    /// Notes something about a connection.
    pub(super) fn on(&self, connection: usize, note: impl FnOnce(&mut Connection)) {
        if let Some(connection) = self.pages().connections.get_mut(connection) {
            note(connection);
        }
    }

    /// Notes a request, and gives it its number.
    pub(super) fn arrived(&self, request: &mut Request) {
        let mut pages = self.pages();
        request.number = pages.requests.len();
        if let Some(connection) = pages.connections.get_mut(request.connection) {
            connection.spoken = Some(request.spoken);
            connection.requests += 1;
            connection.streams += 1;
            connection.streams_max = connection.streams_max.max(connection.streams);
        }
        let request = request.clone();
        pages.requests.push(Seen { request, head_sent: None, bytes_sent: 0, steps_done: 0, end: None });
    }

    /// Notes something about an answer.
    pub(super) fn about(&self, number: usize, note: impl FnOnce(&mut Seen)) {
        if let Some(seen) = self.pages().requests.get_mut(number) {
            note(seen);
        }
    }

    pub(super) fn ended(&self, number: usize, end: End) {
        let mut pages = self.pages();
        let Some(seen) = pages.requests.get_mut(number).filter(|seen| seen.end.is_none()) else { return };
        seen.end = Some((Instant::now(), end));
        let connection = seen.request.connection;
        if let Some(connection) = pages.connections.get_mut(connection) {
            connection.streams -= 1;
        }
    }

    fn pages(&self) -> MutexGuard<'_, Pages> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
