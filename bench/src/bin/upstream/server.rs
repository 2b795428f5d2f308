//! The loop. In: connections. Out: answers at their times. Never: waits for one connection, keeps more than a connection's
//! share of output, goes on when told to end.

use std::fs;
use std::io::{self, ErrorKind};
use std::net::TcpListener;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::sync::Arc;
use std::time::{Duration, Instant};

use handoff_shared::fdpass;
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::io::Errno;
use rustls::{ServerConfig, ServerConnection};

use crate::Arguments;
use crate::http1::Http1;
use crate::http2::Http2;
use crate::link::{Inbound, Link};
use crate::schedule::Schedule;
use crate::script::Script;

/// A connection with so much to send gets nothing more until it has gone.
pub(crate) const OUTPUT_BYTES_ENOUGH: usize = 256 * 1024;
/// A client that makes us answer so much, and reads none of it, is cut off.
const OUTPUT_BYTES_MAX: usize = 8 * 1024 * 1024;
const CONNECTIONS_AT_ONCE: usize = 64;
/// How often a connection is flushed before others have their turn.
const FLUSHES_AT_ONCE: usize = 4;
const INPUT_BYTES: usize = 64 * 1024;

const LISTENER: u64 = u64::MAX;
const SIGNALS: u64 = u64::MAX - 1;
const STDIN: u64 = u64::MAX - 2;

/// A client that does not keep to the protocol.
#[derive(Debug)]
pub(crate) struct Broken {
    /// As HTTP/2 tells it (RFC 9113, section 7).
    pub(crate) code: u32,
    pub(crate) what: &'static str,
}

/// A stream that has something to do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Call {
    /// Its request is at its end, and its head is sent.
    Begin(u32),
    /// It need not wait any more.
    GoOn(u32),
}

/// What comes after what a stream has sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    AfterInterval,
    /// It waits for the client, or is over.
    Nothing,
}

enum Protocol {
    Http1(Http1),
    Http2(Http2),
}

struct Connection {
    link: Link,
    protocol: Protocol,
    input: Vec<u8>,
    generation: u32,
    is_dirty: bool,
    awaits_room: bool,
}

#[derive(Clone, Copy, Debug)]
struct StreamKey {
    connection: usize,
    /// Of connections that had this number.
    generation: u32,
    stream: u32,
}

enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener, String),
}

pub(crate) struct Server {
    script: Script,
    h1: bool,
    streams_max: Option<u32>,
    tls: Option<Arc<ServerConfig>>,
    listener: Listener,
    signals: SignalFd,
    epoll: OwnedFd,
    connections: Vec<Option<Connection>>,
    free: Vec<usize>,
    generation: u32,
    schedule: Schedule<StreamKey>,
    /// Those with output.
    dirty: Vec<usize>,
    buffer: Vec<u8>,
    calls: Vec<Call>,
}

impl Server {
    pub(crate) fn open(arguments: &Arguments, tls: Option<Arc<ServerConfig>>) -> io::Result<Self> {
        let listener = Listener::bind(&arguments.listen)?;
        let mut mask = SigSet::empty();
        mask.add(Signal::SIGTERM);
        mask.add(Signal::SIGINT);
        mask.thread_block()?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        watch(&epoll, listener.fd(), LISTENER)?;
        watch(&epoll, signals.as_fd(), SIGNALS)?;
        match watch(&epoll, io::stdin().as_fd(), STDIN) {
            // A file, /dev/null, or closed: there is no end to wait for.
            Err(Errno::PERM | Errno::BADF) => {}
            other => other?,
        }
        let [first, interval, tick] =
            [arguments.first_ms, arguments.interval_ms, arguments.tick_ms].map(Duration::from_millis);
        Ok(Self {
            script: Script::new(arguments),
            h1: arguments.h1,
            streams_max: arguments.max_concurrent_streams.map(Into::into),
            tls,
            listener,
            signals,
            epoll,
            connections: Vec::new(),
            free: Vec::new(),
            generation: 0,
            schedule: Schedule::new(first, interval, tick, Instant::now()),
            dirty: Vec::new(),
            buffer: vec![0; INPUT_BYTES],
            calls: Vec::new(),
        })
    }

    /// Where it listens.
    pub(crate) fn url(&self) -> io::Result<String> {
        let scheme = if self.tls.is_some() { "https" } else { "http" };
        Ok(match &self.listener {
            Listener::Tcp(listener) => format!("{scheme}://{}", listener.local_addr()?),
            Listener::Unix(_, path) => format!("unix:{path}"),
        })
    }

    /// Serves until it is told to end.
    pub(crate) fn run(&mut self) -> io::Result<()> {
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(1024);
        loop {
            match epoll::wait(&self.epoll, spare_capacity(&mut ready), self.patience().as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            let now = Instant::now();
            // What is due goes first, so that the schedule stays in order.
            while let Some((due, key)) = self.schedule.pop(now) {
                let current = self.connections.get(key.connection).and_then(Option::as_ref);
                if current.is_some_and(|connection| connection.generation == key.generation) {
                    self.go_on(key.connection, key.stream, due);
                }
            }
            for event in ready.drain(..) {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    SIGNALS => {
                        if self.signals.read_signal()?.is_some() {
                            return Ok(());
                        }
                    }
                    STDIN => {
                        if rustix::io::read(io::stdin(), &mut [0u8; 1024]).unwrap_or(0) == 0 {
                            return Ok(());
                        }
                    }
                    number => self.attend(usize::try_from(number).unwrap_or(usize::MAX), event.flags, now),
                }
            }
            for number in std::mem::take(&mut self.dirty) {
                self.flush(number, now);
            }
        }
    }

    /// How long to wait for anything.
    fn patience(&self) -> Option<Timespec> {
        if !self.dirty.is_empty() {
            return Some(Timespec { tv_sec: 0, tv_nsec: 0 });
        }
        let wait = self.schedule.next_due()?.saturating_duration_since(Instant::now());
        Timespec::try_from(wait).ok()
    }

    fn accept(&mut self) -> io::Result<()> {
        for _ in 0..CONNECTIONS_AT_ONCE {
            let socket = match fdpass::accept(self.listener.fd()) {
                Ok(socket) => socket,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            if matches!(self.listener, Listener::Tcp(_)) {
                rustix::net::sockopt::set_tcp_nodelay(&socket, true)?;
            }
            let tls = self.tls.clone().map(ServerConnection::new).transpose().map_err(io::Error::other)?;
            let number = self.free.pop().unwrap_or_else(|| {
                self.connections.push(None);
                self.connections.len() - 1
            });
            self.generation = self.generation.wrapping_add(1);
            watch(&self.epoll, socket.as_fd(), number as u64)?;
            let protocol = if self.h1 {
                Protocol::Http1(Http1::new())
            } else {
                Protocol::Http2(Http2::new(self.streams_max))
            };
            self.connections[number] = Some(Connection {
                link: Link::new(socket, tls),
                protocol,
                input: Vec::new(),
                generation: self.generation,
                is_dirty: false,
                awaits_room: false,
            });
        }
        Ok(())
    }

    /// Something has happened on a connection.
    fn attend(&mut self, number: usize, flags: epoll::EventFlags, now: Instant) {
        let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) else { return };
        if flags.contains(epoll::EventFlags::OUT) {
            mark_dirty(&mut self.dirty, connection, number);
        }
        if !flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            return;
        }
        match connection.link.receive(&mut self.buffer, &mut connection.input) {
            // Whoever has closed its half has closed all of it: no client of an API does otherwise.
            Ok(Inbound::AtEnd) | Err(_) => self.close(number),
            Ok(Inbound::Open) => self.read(number, now),
        }
    }

    /// Takes what has come on a connection.
    fn read(&mut self, number: usize, now: Instant) {
        let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) else { return };
        let (input, out) = (&mut connection.input, &mut connection.link.out);
        let mut calls = std::mem::take(&mut self.calls);
        let read = match &mut connection.protocol {
            Protocol::Http1(http) => http.read(input, out, &mut calls),
            Protocol::Http2(http) => http.read(input, out, &mut calls),
        };
        match read {
            Ok(used) => {
                input.drain(..used);
            }
            Err(broken) => {
                eprintln!("upstream: a client is cut off: {}", broken.what);
                if let Protocol::Http2(http) = &connection.protocol {
                    http.farewell(broken.code, out);
                }
                let _ = connection.link.flush();
                self.close(number);
                calls.clear();
            }
        }
        for call in calls.drain(..) {
            self.answer(number, call, now);
        }
        self.calls = calls;
        if let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) {
            // Also a window that has grown is a reason to look at it again.
            mark_dirty(&mut self.dirty, connection, number);
        }
    }

    fn answer(&mut self, number: usize, call: Call, now: Instant) {
        match call {
            Call::GoOn(stream) => self.go_on(number, stream, now),
            Call::Begin(stream) => {
                let Some(Some(connection)) = self.connections.get(number) else { return };
                let key = StreamKey { connection: number, generation: connection.generation, stream };
                if !self.schedule.begin(now, key) {
                    self.go_on(number, stream, now);
                }
            }
        }
    }

    /// A stream's time has come; it was due at `due`.
    fn go_on(&mut self, number: usize, stream: u32, due: Instant) {
        let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) else { return };
        let out = &mut connection.link.out;
        let next = match &mut connection.protocol {
            Protocol::Http1(http) => http.go_on(&self.script, out),
            Protocol::Http2(http) => http.go_on(stream, &self.script, out),
        };
        let generation = connection.generation;
        mark_dirty(&mut self.dirty, connection, number);
        match next {
            Next::AfterInterval => {
                self.schedule.go_on(due, StreamKey { connection: number, generation, stream });
            }
            Next::Nothing => {}
        }
    }

    /// Sends what a connection has, and what has waited for it to have gone.
    fn flush(&mut self, number: usize, now: Instant) {
        let mut is_blocked = false;
        for _ in 0..FLUSHES_AT_ONCE {
            let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) else { return };
            if connection.link.flush().is_err() || connection.link.out.len() > OUTPUT_BYTES_MAX {
                return self.close(number);
            }
            is_blocked = connection.link.has_output();
            self.unstall(number, now);
            let connection = self.connections.get(number).and_then(Option::as_ref);
            if is_blocked || !connection.is_some_and(|connection| connection.link.has_output()) {
                break;
            }
        }
        let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) else { return };
        connection.is_dirty = false;
        if connection.awaits_room != is_blocked {
            connection.awaits_room = is_blocked;
            let out = if is_blocked { epoll::EventFlags::OUT } else { epoll::EventFlags::empty() };
            let tag = epoll::EventData::new_u64(number as u64);
            if epoll::modify(&self.epoll, connection.link.fd(), tag, epoll::EventFlags::IN | out).is_err() {
                return self.close(number);
            }
        }
        if !is_blocked && connection.link.has_output() {
            mark_dirty(&mut self.dirty, connection, number);
        }
    }

    /// Lets go on whatever has waited for a connection's output to go.
    fn unstall(&mut self, number: usize, now: Instant) {
        while let Some(connection) = self.connections.get_mut(number).and_then(Option::as_mut) {
            let unsent_bytes = connection.link.out.len();
            let stalled = match &mut connection.protocol {
                Protocol::Http1(http) => http.unstall(unsent_bytes),
                Protocol::Http2(http) => http.unstall(unsent_bytes),
            };
            match stalled {
                Some(stream) => self.go_on(number, stream, now),
                // A request that has come while another one was answered.
                None if self.h1 && !connection.input.is_empty() => return self.read(number, now),
                None => return,
            }
        }
    }

    fn close(&mut self, number: usize) {
        if self.connections[number].take().is_some() {
            self.free.push(number);
        }
    }
}

impl Listener {
    fn bind(address: &str) -> io::Result<Self> {
        const BACKLOG: i32 = 4096;
        let listener = if address.starts_with('/') {
            if let Err(error) = fs::remove_file(address)
                && error.kind() != ErrorKind::NotFound
            {
                return Err(error);
            }
            Self::Unix(UnixListener::bind(address)?, address.to_owned())
        } else {
            Self::Tcp(TcpListener::bind(address)?)
        };
        fdpass::set_nonblocking(listener.fd())?;
        rustix::net::listen(listener.fd(), BACKLOG)?;
        Ok(listener)
    }

    fn fd(&self) -> BorrowedFd<'_> {
        match self {
            Self::Tcp(listener) => listener.as_fd(),
            Self::Unix(listener, _) => listener.as_fd(),
        }
    }
}

fn watch(epoll: &OwnedFd, fd: BorrowedFd<'_>, tag: u64) -> Result<(), Errno> {
    epoll::add(epoll, fd, epoll::EventData::new_u64(tag), epoll::EventFlags::IN)
}

fn mark_dirty(dirty: &mut Vec<usize>, connection: &mut Connection, number: usize) {
    if !connection.is_dirty {
        connection.is_dirty = true;
        dirty.push(number);
    }
}
