//! A generator: one process, one epoll loop, Apache and all of its clients. In: a plan, on standard input. Out: what it has
//! seen, on standard output. Never: looks at the daemon's process, makes a handoff before it is due, forgets a stream.

use std::collections::VecDeque;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd, OwnedFd};

use rustix::buffer::spare_capacity;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::io::Errno;
use rustix::net::{RecvFlags, recv};
use rustix::process::{Resource, Rlimit, Signal, getrlimit, set_parent_process_death_signal, setrlimit};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};

use super::pairs::{Door, Pairs};
use super::plan::{Plan, Said, cpu_ns, now_ns};
use super::reader::{Reader, Seen};
use super::schedule::Schedule;
use super::tally::{Kind, Tally};

/// Handoffs in a row before clients are read again.
const BURST_MAX: usize = 32;
/// How long a full backlog, or a daemon that is being replaced, is put up with.
const PATIENCE_NS: u64 = 1_000_000_000;
const MILLISECOND_NS: u64 = 1_000_000;
const SECOND_NS: u64 = 1_000_000_000;
const BUFFER_BYTES: usize = 64 * 1024;
const EVENTS_MAX: usize = 512;
/// Streams that there is room for from the start.
const STREAMS_AT_ONCE: usize = 100_000;
/// The timer's mark among the streams' numbers.
const TIMER: u64 = u64::MAX;

/// Runs until all streams have ended.
pub(super) fn run() -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })?;
    let mut lines = io::stdin().lock().lines();
    let plan = lines.next().transpose()?.unwrap_or_default();
    let plan: Plan = serde_json::from_str(&plan)?;
    let mut generator = match Generator::new(&plan) {
        Ok(generator) => generator,
        Err(error) => return say(&Said::Stopped(error.to_string())),
    };
    say(&Said::Ready)?;
    let start = lines.next().transpose()?.unwrap_or_default();
    let start_ns = start.trim().parse().map_err(io::Error::other)?;
    match generator.run(start_ns) {
        Ok(()) => say(&Said::Finished(Box::new(generator.tally))),
        Err(error) => say(&Said::Stopped(error.to_string())),
    }
}

fn say(said: &Said) -> io::Result<()> {
    let mut line = serde_json::to_vec(said)?;
    line.push(b'\n');
    let mut stdout = io::stdout().lock();
    stdout.write_all(&line)?;
    stdout.flush()
}

/// The loop's state.
struct Generator<'a> {
    plan: &'a Plan,
    schedule: Schedule,
    epoll: OwnedFd,
    timer: OwnedFd,
    pairs: Pairs,
    door: Door,
    streams: Vec<Option<Stream>>,
    free: Vec<usize>,
    open: u64,
    waiting: VecDeque<Waiting>,
    start_ns: u64,
    next_look_ns: u64,
    has_said_open: bool,
    has_said_end: bool,
    buffer: Vec<u8>,
    seen: Seen,
    tally: Tally,
}

/// One client.
struct Stream {
    client: OwnedFd,
    reader: Reader,
    /// Just before the message left.
    sent_ns: u64,
    has_byte: bool,
    /// 0: no token yet.
    token_ns: u64,
}

/// A handoff that met a full backlog.
struct Waiting {
    slot: usize,
    server: OwnedFd,
    since_ns: u64,
}

impl<'a> Generator<'a> {
    fn new(plan: &'a Plan) -> io::Result<Self> {
        let epoll = epoll::create(CreateFlags::CLOEXEC)?;
        let timer =
            timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC)?;
        epoll::add(&epoll, &timer, EventData::new_u64(TIMER), EventFlags::IN | EventFlags::ET)?;
        let schedule = Schedule::new(plan.pace, plan.index, plan.processes);
        // At once, not while streams are read.
        let capacity = usize::try_from(schedule.open_max()).unwrap_or(0).min(STREAMS_AT_ONCE);
        Ok(Self {
            plan,
            epoll,
            timer,
            pairs: Pairs::new(plan.clients, schedule.open_max(), plan.index)?,
            schedule,
            door: Door::new(&plan.socket, plan.socket_type)?,
            streams: Vec::with_capacity(capacity),
            free: Vec::new(),
            open: 0,
            waiting: VecDeque::new(),
            start_ns: 0,
            next_look_ns: 0,
            has_said_open: false,
            has_said_end: false,
            buffer: vec![0; BUFFER_BYTES],
            seen: Seen::new(plan.is_stamped),
            tally: Tally::default(),
        })
    }

    fn run(&mut self, start_ns: u64) -> io::Result<()> {
        let cpu_at_start_ns = cpu_ns();
        self.start_ns = start_ns;
        self.next_look_ns = start_ns + self.plan.timeout_ns;
        let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
        let mut timeout_ns = 0;
        loop {
            let timeout = timespec(timeout_ns);
            match epoll::wait(&self.epoll, spare_capacity(&mut events), Some(&timeout)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
            let turn_ns = now_ns();
            for event in events.drain(..) {
                self.readable(event.data.u64(), event.flags);
            }
            self.retry();
            let is_more = self.hand_over_due()?;
            let now_ns = now_ns();
            self.give_up_late(now_ns);
            if self.tell(now_ns)? {
                break;
            }
            self.tally.turn.record(now_ns - turn_ns);
            timeout_ns = match (is_more, self.waiting.is_empty()) {
                (true, _) => 0,
                (false, false) => MILLISECOND_NS,
                (false, true) => SECOND_NS,
            };
        }
        self.tally.cpu_ns = cpu_ns() - cpu_at_start_ns;
        Ok(())
    }

    /// Makes the handoffs that are due, but not too many in a row; whether there are more.
    fn hand_over_due(&mut self) -> io::Result<bool> {
        for _ in 0..BURST_MAX {
            let now_ns = now_ns();
            let since_start_ns = now_ns.saturating_sub(self.start_ns);
            let Some(due_ns) = self.schedule.due_ns(since_start_ns, self.open) else { return Ok(false) };
            if now_ns < self.start_ns + due_ns {
                self.arm(self.start_ns + due_ns)?;
                return Ok(false);
            }
            match self.begin() {
                Ok(()) => {}
                // Those that wait take two files each: theirs come back.
                Err(Errno::MFILE | Errno::NFILE) if !self.waiting.is_empty() => return Ok(false),
                Err(errno) => return Err(io::Error::other(explained(errno, self.open))),
            }
            self.schedule.made();
            if self.schedule.is_paced() {
                self.tally.late.record(since_start_ns - due_ns);
            }
        }
        Ok(true)
    }

    fn begin(&mut self) -> Result<(), Errno> {
        let (client, server) = self.pairs.connect()?;
        let slot = self.free.pop().unwrap_or_else(|| {
            self.streams.push(None);
            self.streams.len() - 1
        });
        let interest = EventFlags::IN | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(&self.epoll, &client, EventData::new_u64(slot as u64), interest)?;
        let since_ns = now_ns();
        self.streams[slot] =
            Some(Stream { client, reader: Reader::new(), sent_ns: since_ns, has_byte: false, token_ns: 0 });
        self.open += 1;
        let waiting = Waiting { slot, server, since_ns };
        if self.waiting.is_empty() {
            self.hand_over(waiting);
        } else {
            self.waiting.push_back(waiting);
        }
        Ok(())
    }

    /// As Apache does: connect, one message, close. Our copy of the client's other end is closed with it. Whether it is
    /// decided; if not, it waits, first in the queue.
    fn hand_over(&mut self, waiting: Waiting) -> bool {
        let attempt = self.door.connect().and_then(|peer| {
            let sent_ns = now_ns();
            if let Some(stream) = &mut self.streams[waiting.slot] {
                stream.sent_ns = sent_ns;
            }
            self.door.send(peer, &self.plan.payload, &waiting.server)
        });
        let now_ns = now_ns();
        match attempt {
            Ok(()) => {
                self.tally.handoffs += 1;
                self.tally.handoff.record(now_ns - waiting.since_ns);
            }
            Err(error) if may_pass(&error) && now_ns < waiting.since_ns + PATIENCE_NS => {
                self.tally.retries += 1;
                self.waiting.push_front(waiting);
                return false;
            }
            Err(_) => self.end(waiting.slot, now_ns, Err(Kind::Connect)),
        }
        true
    }

    fn retry(&mut self) {
        while let Some(waiting) = self.waiting.pop_front()
            && self.hand_over(waiting)
        {}
    }

    /// Reads what has come for this stream. The timer has no stream: it has only ended the wait.
    fn readable(&mut self, number: u64, flags: EventFlags) {
        let Ok(slot) = usize::try_from(number) else { return };
        loop {
            let Some(Some(stream)) = self.streams.get_mut(slot) else { return };
            let (bytes, now_ns) = match recv(&stream.client, self.buffer.as_mut_slice(), RecvFlags::DONTWAIT)
            {
                Ok((0, _)) => {
                    let verdict = stream.reader.verdict();
                    return self.end(slot, now_ns(), verdict);
                }
                Ok((bytes, _)) => (bytes, now_ns()),
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => continue,
                Err(_) => return self.end(slot, now_ns(), Err(Kind::Reset)),
            };
            stream.reader.feed(&self.buffer[..bytes], &mut self.seen);
            stream.account(now_ns, self.start_ns, &self.seen, &mut self.tally);
            if bytes == BUFFER_BYTES {
                continue;
            }
            // All that was there is read. The end had come before it was read, or it will be told by a new event.
            if flags.contains(EventFlags::ERR) {
                continue;
            }
            if flags.contains(EventFlags::RDHUP) {
                let verdict = stream.reader.verdict();
                self.end(slot, now_ns, verdict);
            }
            return;
        }
    }

    fn end(&mut self, slot: usize, now_ns: u64, verdict: Result<(), Kind>) {
        if self.streams[slot].take().is_some() {
            self.free.push(slot);
            self.open -= 1;
            self.tally.end(self.start_ns, now_ns, verdict);
        }
    }

    /// Gives up the streams whose time is over. Looks once a second, and not before the first one can be.
    fn give_up_late(&mut self, now_ns: u64) {
        if now_ns < self.next_look_ns {
            return;
        }
        self.next_look_ns = now_ns + SECOND_NS;
        for slot in 0..self.streams.len() {
            let is_late = |stream: &Stream| now_ns > stream.sent_ns + self.plan.timeout_ns;
            if self.streams[slot].as_ref().is_some_and(is_late) {
                self.waiting.retain(|waiting| waiting.slot != slot);
                self.end(slot, now_ns, Err(Kind::Timeout));
            }
        }
    }

    /// Tells the observer what it waits for; whether all is over.
    fn tell(&mut self, now_ns: u64) -> io::Result<bool> {
        let since_start_ns = now_ns.saturating_sub(self.start_ns);
        if !self.has_said_open && self.waiting.is_empty() && self.schedule.is_over(since_start_ns) {
            self.has_said_open = true;
            say(&Said::AllOpen { at_ns: now_ns })?;
        }
        if !self.has_said_end && self.tally.first_end_ns.is_some() {
            self.has_said_end = true;
            say(&Said::FirstEnd)?;
        }
        Ok(self.has_said_open && self.open == 0)
    }

    fn arm(&self, at_ns: u64) -> io::Result<()> {
        let value = Itimerspec { it_interval: timespec(0), it_value: timespec(at_ns) };
        timerfd_settime(self.timer.as_fd(), TimerfdTimerFlags::ABSTIME, &value)?;
        Ok(())
    }
}

impl Stream {
    fn account(&mut self, now_ns: u64, start_ns: u64, seen: &Seen, tally: &mut Tally) {
        if !self.has_byte {
            self.has_byte = true;
            tally.first_byte.record(now_ns - self.sent_ns);
        }
        if seen.events == 0 {
            return;
        }
        let since_start_ns = now_ns - start_ns;
        tally.events(since_start_ns, seen.events, seen.tokens);
        seen.stamps.iter().for_each(|stamp| tally.added.record(now_ns.saturating_sub(*stamp)));
        if seen.tokens == 0 {
            return;
        }
        if self.token_ns == 0 {
            tally.first_token.record(now_ns - self.sent_ns);
        } else {
            tally.gap(since_start_ns, now_ns - self.token_ns);
        }
        tally.token_gap.record_many(0, u64::from(seen.tokens - 1));
        self.token_ns = now_ns;
    }
}

/// Whether it may be otherwise in a moment: the backlog is full, or the daemon is being replaced.
fn may_pass(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::ConnectionRefused | io::ErrorKind::NotFound
    )
}

/// Why no further client can be made, and what allows it.
fn explained(errno: Errno, open: u64) -> String {
    match errno {
        Errno::MFILE => format!(
            "{open} streams are open, and no more files may be: ulimit -Hn, or more --processes, which have {} each",
            getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX)
        ),
        Errno::NFILE => {
            format!("{open} streams are open, and the machine has no more files: sysctl fs.file-max")
        }
        Errno::ADDRNOTAVAIL => {
            format!("{open} streams are open, and no port is left: sysctl net.ipv4.ip_local_port_range")
        }
        errno => format!("after {open} streams: {}", io::Error::from(errno)),
    }
}

fn timespec(ns: u64) -> Timespec {
    let part = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
    Timespec { tv_sec: part(ns / SECOND_NS), tv_nsec: part(ns % SECOND_NS) }
}
