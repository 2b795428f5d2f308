//! What the kernel alone costs: handoffs taken and answered by one thread and one epoll loop, with nothing around them.
//!
//! In: handoffs, as Apache sends them. Out: to each client a head, N events and `[DONE]`, every one by a write of its
//! own; then its socket is closed. With an interval the first event goes out at once, and one more each interval.
//! Never: reads a payload, counts, logs, remembers who holds what, looks whether a client has left before it writes,
//! waits for a client that does not read (it is dropped), shuts a socket down, waits for the other side's end, leaves in
//! an orderly way (a signal ends it). A message that is no handoff is dropped, too.
//!
//! It does do what a server cannot leave away: whoever connects wakes it before the message is there, so it registers
//! such a connection and waits; of a stream socket it reads the payload to its end. When files run out it ends with an
//! error: a floor that loses clients would be no measure.

#![forbid(unsafe_code)]

use std::collections::VecDeque;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::{Parser, ValueEnum};
use handoff_bench::{announce, raise_file_limit};
use handoff_shared::fdpass;
use rustix::buffer::spare_capacity;
use rustix::event::{Timespec, epoll};
use rustix::net::{
    AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, bind, listen, send, socket_with,
};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
    Connection: close\r\nX-Accel-Buffering: no\r\n\r\n";
const EVENT: &[u8] = b"data: {\"content\":\" token\"}\n\n";
const DONE: &[u8] = b"data: [DONE]\n\n";

/// Connections that may wait to be accepted.
const BACKLOG: i32 = 4096;
/// Connections that are accepted before the timers are looked at again.
const ACCEPTED_AT_ONCE: usize = 64;
/// The longest message that is a handoff.
const MESSAGE_BYTES_MAX: usize = 1024 * 1024;
/// What epoll says of the listener; of connections it says their fd.
const LISTENER: u64 = u64::MAX;

/// Answers handoffs at the price of the kernel alone
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen; a socket that is there is replaced
    #[arg(long)]
    socket: PathBuf,
    /// The socket's type
    #[arg(long, value_enum, default_value_t = Kind::Seqpacket)]
    r#type: Kind,
    /// Events of an answer, without `[DONE]`
    #[arg(long, default_value_t = 19)]
    events: u32,
    /// Milliseconds from one event to the next; 0: all at once
    #[arg(long, default_value_t = 0)]
    interval_ms: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Kind {
    Seqpacket,
    Stream,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    raise_file_limit();
    match Floor::open(&arguments).and_then(|mut floor| {
        announce(&format!("floor listens on {}", arguments.socket.display()))?;
        floor.run()
    }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("floor: {}: {error}", arguments.socket.display());
            ExitCode::FAILURE
        }
    }
}

/// A connection whose message is not there yet, or not to its end.
struct Waiting {
    connection: OwnedFd,
    client: Option<OwnedFd>,
}

/// A client that is not at its end.
struct Stream {
    client: OwnedFd,
    due: Instant,
    events_left: u32,
}

enum Taken {
    Client(OwnedFd),
    Nobody,
    NotYet(Waiting),
}

struct Floor {
    kind: Kind,
    events: u32,
    interval: Duration,
    epoll: OwnedFd,
    listener: OwnedFd,
    /// By fd.
    waiting: Vec<Option<Waiting>>,
    /// By due time, as all intervals are equal.
    streams: VecDeque<Stream>,
    buffer: Vec<u8>,
}

impl Floor {
    fn open(arguments: &Arguments) -> io::Result<Self> {
        if let Err(error) = fs::remove_file(&arguments.socket)
            && error.kind() != io::ErrorKind::NotFound
        {
            return Err(error);
        }
        let kind = match arguments.r#type {
            Kind::Seqpacket => SocketType::SEQPACKET,
            Kind::Stream => SocketType::STREAM,
        };
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let listener = socket_with(AddressFamily::UNIX, kind, flags, None)?;
        bind(&listener, &SocketAddrUnix::new(&arguments.socket)?)?;
        listen(&listener, BACKLOG)?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        Ok(Self {
            kind: arguments.r#type,
            events: arguments.events,
            interval: Duration::from_millis(arguments.interval_ms),
            epoll,
            listener,
            waiting: Vec::new(),
            streams: VecDeque::new(),
            buffer: vec![0; MESSAGE_BYTES_MAX],
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut ready: Vec<epoll::Event> = Vec::with_capacity(1024);
        loop {
            let timeout = self.streams.front().map(|stream| until(stream.due));
            match epoll::wait(&self.epoll, spare_capacity(&mut ready), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            // One look at the clock for all: the queue stays in order, as what is due goes first.
            let now = Instant::now();
            self.write_due(now);
            for event in ready.drain(..) {
                match event.data.u64() {
                    LISTENER => self.accept(now)?,
                    tag => self.go_on(tag, now)?,
                }
            }
        }
    }

    fn accept(&mut self, now: Instant) -> io::Result<()> {
        for _ in 0..ACCEPTED_AT_ONCE {
            let connection = match fdpass::accept(self.listener.as_fd()) {
                Ok(connection) => connection,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(error) => return Err(error),
            };
            match self.take(Waiting { connection, client: None })? {
                Taken::Client(client) => self.begin(client, now),
                Taken::Nobody => {}
                Taken::NotYet(waiting) => self.wait(waiting)?,
            }
        }
        Ok(())
    }

    /// Registers a connection whose message has not come.
    fn wait(&mut self, waiting: Waiting) -> io::Result<()> {
        let number = number(&waiting);
        let tag = epoll::EventData::new_u64(number as u64);
        epoll::add(&self.epoll, &waiting.connection, tag, epoll::EventFlags::IN)?;
        if self.waiting.len() <= number {
            self.waiting.resize_with(number + 1, || None);
        }
        self.waiting[number] = Some(waiting);
        Ok(())
    }

    fn go_on(&mut self, tag: u64, now: Instant) -> io::Result<()> {
        let slot = usize::try_from(tag).ok().and_then(|number| self.waiting.get_mut(number));
        let Some(waiting) = slot.and_then(Option::take) else { return Ok(()) };
        match self.take(waiting)? {
            Taken::Client(client) => self.begin(client, now),
            Taken::Nobody => {}
            Taken::NotYet(waiting) => {
                // Still registered.
                let number = number(&waiting);
                self.waiting[number] = Some(waiting);
            }
        }
        Ok(())
    }

    /// Receives a handoff, as far as it is there.
    fn take(&mut self, mut waiting: Waiting) -> io::Result<Taken> {
        loop {
            let received = match fdpass::receive(waiting.connection.as_fd(), &mut self.buffer) {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(Taken::NotYet(waiting)),
                Err(_) => return Ok(Taken::Nobody),
            };
            if received.fds_lost {
                return Err(io::Error::other("a client was lost: too many open files"));
            }
            let at_end = received.bytes == 0;
            if waiting.client.is_none() {
                waiting.client = received.fds.into_iter().next();
            }
            if self.kind == Kind::Seqpacket || at_end {
                return Ok(waiting.client.map_or(Taken::Nobody, Taken::Client));
            }
        }
    }

    fn begin(&mut self, client: OwnedFd, now: Instant) {
        if !write(&client, HEAD) {
            return;
        }
        let stream = Stream { client, due: now, events_left: self.events };
        self.write_event(stream, now);
    }

    fn write_due(&mut self, now: Instant) {
        while let Some(stream) = self.streams.pop_front_if(|stream| stream.due <= now) {
            let due = stream.due;
            self.write_event(stream, due);
        }
    }

    /// Writes the stream's next event, due at `due`, or all that are left where there is no interval.
    fn write_event(&mut self, mut stream: Stream, due: Instant) {
        while stream.events_left > 0 {
            if !write(&stream.client, EVENT) {
                return;
            }
            stream.events_left -= 1;
            if stream.events_left > 0 && !self.interval.is_zero() {
                stream.due = due + self.interval;
                self.streams.push_back(stream);
                return;
            }
        }
        write(&stream.client, DONE);
    }
}

/// Whether all of it went out: a client that has left or does not read is dropped.
fn write(client: &OwnedFd, bytes: &[u8]) -> bool {
    send(client, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT) == Ok(bytes.len())
}

/// To the next whole millisecond, as epoll's timeouts are: what comes due meanwhile needs no wake-up of its own.
fn until(due: Instant) -> Timespec {
    let milliseconds = due.saturating_duration_since(Instant::now()).as_nanos().div_ceil(1_000_000);
    let milliseconds = i64::try_from(milliseconds).unwrap_or(i64::MAX);
    Timespec { tv_sec: milliseconds / 1000, tv_nsec: milliseconds % 1000 * 1_000_000 }
}

fn number(waiting: &Waiting) -> usize {
    usize::try_from(waiting.connection.as_raw_fd()).unwrap_or_default()
}
