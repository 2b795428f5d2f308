//! Hands over at a steady rate, whatever happens, and reads every client to its end. In: a socket to hand over
//! to, a seed. Out: a verdict for every client. One thread, one epoll.
//!
//! Never: waits for an answer before the next handoff, gives two clients the same words.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind, IoSlice, Read};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, UnixAddr, connect, sendmsg, socket,
};
use rustix::event::{Timespec, epoll};

use super::answer::{Verdict, judge};
use super::dice::Dice;

/// What clients ask for: how often of 100, and the payload but for its words.
const WISHES: [(u64, &str); 5] = [
    // At once, all in one write.
    (45, r#""mock":{"token_delay_ms":0}"#),
    // Not begun for a while: dies uncommitted.
    (15, r#""mock":{"first_token_delay_ms":20,"token_delay_ms":0}"#),
    // A stream of some 300 ms.
    (30, r#""mock":{"token_delay_ms":15}"#),
    (5, r#""format":"events","include":["usage"],"mock":{"token_delay_ms":5}"#),
    (5, r#""format":"text","mock":{"token_delay_ms":5}"#),
];
/// Stands for the words of each client in the answers that are their models. As long as any.
const MODEL: &str = "model-model-model-mo";
/// Every 127.x.y.z is this machine: closed connections do not use up one address's ports.
const DOORS: u8 = 64;
/// More are not served at a time; what is due meanwhile is handed over late.
const WAITING_MAX: usize = 8_000;
/// Who waits longer than this waits for ever.
const PATIENCE: Duration = Duration::from_secs(40);
/// A supervisor hands a handoff on within this time.
const IN_HAND_MAX: Duration = Duration::from_millis(20);
/// Of each broken promise so many are told in full.
const TOLD_MAX: usize = 3;

/// The load: clients that wait, and what became of the others.
#[derive(Debug)]
pub struct Load {
    path: PathBuf,
    dice: Dice,
    seed: u64,
    doors: Vec<TcpListener>,
    epoll: OwnedFd,
    clients: Vec<Option<Waiting>>,
    vacant: Vec<usize>,
    /// For each wish the answer to [`MODEL`].
    models: Vec<String>,
    supervisor_killed_at: Option<Instant>,
    tally: Tally,
}

/// What became of all clients.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Handoffs that the daemon's socket took.
    pub handed_over: u64,
    /// Those that it did not take, by errno: as Apache would, the client was told at once by ourselves.
    pub not_taken: BTreeMap<String, u64>,
    /// By what is printed for them.
    pub verdicts: BTreeMap<String, u64>,
    /// Broken promises, some of them in full.
    pub broken: Vec<String>,
    /// How many there are.
    pub broken_count: u64,
    /// How often the supervisor was killed.
    pub supervisors_killed: u64,
    /// Handoffs that were in its hands then, and in nobody else's: accepted, and not with a worker yet.
    pub lost_with_supervisor: u64,
    /// The most clients at a time.
    pub peak: usize,
    /// Time from the handoff to the end of the longest answer.
    pub longest: Duration,
}

#[derive(Debug)]
struct Waiting {
    stream: TcpStream,
    number: u64,
    wish: usize,
    bytes: Vec<u8>,
    since: Instant,
}

impl Load {
    /// Learns from this daemon, in peace, what its answers look like.
    ///
    /// # Errors
    /// When the daemon does not answer, or the machine has no sockets.
    pub fn new(path: &Path, seed: u64) -> io::Result<Self> {
        let doors = (1..=DOORS).map(|door| TcpListener::bind((Ipv4Addr::new(127, 0, 2, door), 0)));
        let mut load = Self {
            path: path.to_owned(),
            dice: Dice::new(seed ^ 0x10ad),
            seed,
            doors: doors.collect::<io::Result<_>>()?,
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            clients: Vec::new(),
            vacant: Vec::new(),
            models: Vec::new(),
            supervisor_killed_at: None,
            tally: Tally::default(),
        };
        for (_, wish) in WISHES {
            let (mut ours, theirs) = load.pair(0)?;
            ours.set_nonblocking(false)?;
            ours.set_read_timeout(Some(crate::PATIENCE))?;
            hand_over(&load.path, &payload(MODEL, wish), &theirs)?;
            drop(theirs);
            let mut model = String::new();
            ours.read_to_string(&mut model)?;
            if !model.contains(MODEL) || !model.contains("event: done") {
                return Err(io::Error::other(format!("no model of an answer: {model}")));
            }
            load.models.push(model);
            load.tally.handed_over += 1;
            *load.tally.verdicts.entry(Verdict::Complete.to_string()).or_default() += 1;
        }
        Ok(load)
    }

    /// One more client, unless too many wait.
    ///
    /// # Errors
    /// When the machine has no sockets left. That the daemon does not take it is counted, and no error.
    pub fn hand_over(&mut self) -> io::Result<()> {
        if self.waiting() >= WAITING_MAX {
            return Ok(());
        }
        let number = self.tally.handed_over;
        let mut chance = self.dice.below(100);
        let wish = WISHES.iter().position(|(weight, _)| {
            let hit = chance < *weight;
            chance = chance.saturating_sub(*weight);
            hit
        });
        let wish = wish.unwrap_or(0);
        let (stream, theirs) = self.pair(number)?;
        let payload = payload(&self.words(number), WISHES[wish].1);
        if let Err(error) = hand_over(&self.path, &payload, &theirs) {
            *self.tally.not_taken.entry(error.to_string()).or_default() += 1;
            return Ok(());
        }
        self.tally.handed_over += 1;
        let place = self.vacant.pop().unwrap_or(self.clients.len());
        let waiting = Waiting { stream, number, wish, bytes: Vec::new(), since: Instant::now() };
        let data = epoll::EventData::new_u64(place as u64);
        epoll::add(&self.epoll, &waiting.stream, data, epoll::EventFlags::IN)?;
        match self.clients.get_mut(place) {
            Some(vacant) => *vacant = Some(waiting),
            None => self.clients.push(Some(waiting)),
        }
        self.tally.peak = self.tally.peak.max(self.waiting());
        Ok(())
    }

    /// How many have no whole answer yet.
    #[must_use]
    pub fn waiting(&self) -> usize {
        self.clients.len() - self.vacant.len()
    }

    /// Reads what comes, once, after waiting at most this long for anything.
    ///
    /// # Errors
    /// As of epoll_wait(2).
    pub fn listen(&mut self, patience: Duration) -> io::Result<()> {
        let timeout = Timespec::try_from(patience).map_err(io::Error::other)?;
        let mut events = Vec::with_capacity(256);
        match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        for event in events {
            let place = usize::try_from(event.data.u64()).map_err(io::Error::other)?;
            let Some(waiting) = self.clients.get_mut(place).and_then(Option::as_mut) else { continue };
            match read(waiting) {
                Ok(true) => {}
                Ok(false) => self.end(place, None),
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => self.end(place, Some(error.kind())),
            }
        }
        Ok(())
    }

    /// Who still waits after too long a time is lost.
    pub fn give_up(&mut self) {
        for place in 0..self.clients.len() {
            let late = |waiting: &Waiting| waiting.since.elapsed() > PATIENCE;
            if self.clients[place].as_ref().is_some_and(late) {
                self.end(place, Some(ErrorKind::TimedOut));
            }
        }
    }

    /// Whoever had just been accepted is gone with it: that is no promise.
    pub fn supervisor_was_killed(&mut self, at: Instant) {
        self.supervisor_killed_at = Some(at);
        self.tally.supervisors_killed += 1;
    }

    /// What became of everybody up to now.
    #[must_use]
    pub fn tally(&self) -> &Tally {
        &self.tally
    }

    fn end(&mut self, place: usize, broken: Option<ErrorKind>) {
        let Some(waiting) = self.clients[place].take() else { return };
        self.vacant.push(place);
        let words = self.words(waiting.number);
        let verdict = judge(&self.models[waiting.wish].replace(MODEL, &words), &waiting.bytes, broken);
        self.tally.longest = self.tally.longest.max(waiting.since.elapsed());
        let in_hand = |killed_at: Instant| {
            waiting.since < killed_at && killed_at.duration_since(waiting.since) < IN_HAND_MAX
        };
        if waiting.bytes.is_empty() && broken.is_none() && self.supervisor_killed_at.is_some_and(in_hand) {
            self.tally.lost_with_supervisor += 1;
        } else if verdict.is_broken() {
            self.tally.broken_count += 1;
            if self.tally.broken.len() < TOLD_MAX {
                let age = waiting.since.elapsed().as_millis();
                self.tally.broken.push(format!("{words}, after {age} ms: {verdict:?}"));
            }
        }
        *self.tally.verdicts.entry(verdict.to_string()).or_default() += 1;
    }

    /// Nobody else's, in this run and in any other.
    fn words(&self, number: u64) -> String {
        let words = format!("c{:08x}-{number:010}", self.seed & 0xffff_ffff);
        debug_assert_eq!(words.len(), MODEL.len());
        words
    }

    /// Both ends of a fresh connection, ours not blocking: the other one is the one that Apache hands over.
    fn pair(&self, number: u64) -> io::Result<(TcpStream, TcpStream)> {
        let door = &self.doors[usize::try_from(number % u64::from(DOORS)).unwrap_or(0)];
        let ours = TcpStream::connect(door.local_addr()?)?;
        let (theirs, _) = door.accept()?;
        ours.set_nonblocking(true)?;
        theirs.set_nonblocking(true)?;
        Ok((ours, theirs))
    }
}

/// Whether there may be more.
fn read(waiting: &mut Waiting) -> io::Result<bool> {
    let mut buffer = [0; 16 * 1024];
    let read = waiting.stream.read(&mut buffer)?;
    waiting.bytes.extend_from_slice(&buffer[..read]);
    Ok(read > 0)
}

fn payload(words: &str, wish: &str) -> String {
    format!(r#"{{"prompt":"{words}","request_id":"{words}",{wish}}}"#)
}

/// As Apache does it, but never waiting: a connection, one message with the client's socket, the end.
fn hand_over(path: &Path, payload: &str, client: &TcpStream) -> nix::Result<()> {
    let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
    let connection = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)?;
    connect(connection.as_raw_fd(), &UnixAddr::new(path)?)?;
    let rights = [client.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&rights)];
    let message = [IoSlice::new(payload.as_bytes())];
    sendmsg::<()>(connection.as_raw_fd(), &message, &control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
}
