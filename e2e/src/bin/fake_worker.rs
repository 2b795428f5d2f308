//! A worker that lies. Started by handoffd as any worker is; the file `behaviour` beside this executable says
//! how it behaves. It speaks the channel's bytes by itself: no code of handoffd's is in it. One behaviour is honest:
//! a worker of another version.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use handoff_e2e::manager;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::resource::{Resource, setrlimit};

/// Bodies of messages, as the channel encodes them: the number of the variant, then its fields.
const READY: &[u8] = b"\x00\x02\x050.1.0";
const READY_OF_ANOTHER_VERSION: &[u8] = b"\x00\x01\x050.1.0";
const TAKEN_UNKNOWN: &[u8] = b"\x01\x01\x63";
const COMMITTED_UNKNOWN: &[u8] = b"\x02\x63\x00";
const RELEASED_UNKNOWN: &[u8] = b"\x03\x01\x63\x00";
const HELD: &[u8] = b"\x04\x00\x00\x01\x02\x00\x01\x00\x00";
/// Backend mock, account 9, model gpt-x, which must be left alone, 30,000 ms.
const COOLDOWN: &[u8] = b"\x07\x04mock\x09\x01\x05gpt-x\x01\xfb\x30\x75";
/// A beat: whether it drains, its size, six words about its sandbox, what it counted, none of it about a backend; all 0.
const SNAPSHOT_ZEROS: [u8; 31] = [0; 31];
/// Its sign of life comes as often.
const BEAT_MS: u16 = 500;
/// No variant has this number.
const UNKNOWN_VARIANT: &[u8] = b"\x2a";
/// A list that claims to have 2⁶⁴ - 1 elements.
const ENDLESS_LIST: &[u8] = b"\x01\xfd\xff\xff\xff\xff\xff\xff\xff\xff";

/// More than any worker needs that serves small payloads.
const LITTLE_MEMORY_BYTES: u64 = 24 << 20;

fn main() -> io::Result<()> {
    let executable = std::env::current_exe()?;
    let behaviour = fs::read_to_string(executable.with_file_name("behaviour"))?;
    if let Some(real) = behaviour.strip_prefix("little memory for ") {
        // A real worker: what is too large for its memory is deadly for it.
        setrlimit(Resource::RLIMIT_DATA, LITTLE_MEMORY_BYTES, LITTLE_MEMORY_BYTES)?;
        return Err(Command::new(real.trim()).arg0("handoffd-worker").exec());
    }
    let mut channel = Channel(File::from(io::stdin().as_fd().try_clone_to_owned()?));
    if let Some(version) = behaviour.trim().strip_prefix("becomes version ") {
        return Foreigner::new(channel, version.parse().map_err(io::Error::other)?).live();
    }
    channel.receive()?;
    match behaviour.trim() {
        "garbage" => channel.raw(b"this is no message")?,
        "cut off" => channel.raw(b"hand\x02\x00\x02\x00\xff\xff\x00\x00\x00")?,
        "wrong direction" => channel.raw(b"hand\x02\x00\x01\x00\x01\x00\x00\x00\x00")?,
        "unknown variant" => channel.say(UNKNOWN_VARIANT)?,
        "endless list" => channel.say(ENDLESS_LIST)?,
        "another version" => channel.say(READY_OF_ANOTHER_VERSION)?,
        "ready twice" => channel.say_all(&[READY, READY])?,
        "taken before ready" => channel.say(TAKEN_UNKNOWN)?,
        "taken unknown" => channel.say_all(&[READY, TAKEN_UNKNOWN])?,
        "committed unknown" => channel.say_all(&[READY, COMMITTED_UNKNOWN])?,
        "released unknown" => channel.say_all(&[READY, RELEASED_UNKNOWN])?,
        "cooldown before ready" => channel.say(COOLDOWN)?,
        "cooldown of nobody" => {
            channel.say_all(&[READY, &[&COOLDOWN[..2], b"none", &COOLDOWN[6..]].concat()])?;
        }
        "cooldown of an endless model" => {
            let model = [&b"\xfb\x01\x01"[..], &[b'm'; 257]].concat();
            channel.say_all(&[READY, &[&COOLDOWN[..8], &model, &COOLDOWN[14..]].concat()])?;
        }
        "tells of cooldowns" => return tell_of_cooldowns(channel, &executable),
        "held unasked" => channel.say_all(&[READY, HELD])?,
        "an fd unasked" => {
            let packet = [&b"hand\x02\x00\x02\x00\x08\x00\x00\x00"[..], READY].concat();
            manager::send(channel.0.as_fd(), &packet, &[channel.0.as_fd()]);
        }
        "leaves the channel" => {
            channel.say(READY)?;
            drop(channel);
            nix::unistd::close(0)?;
            // Alive, but deaf: only SIGKILL ends this.
            loop {
                nix::unistd::pause();
            }
        }
        "garbage for a handoff" => {
            channel.say(READY)?;
            channel.receive()?;
            channel.raw(b"this is no message")?;
        }
        "spins" => {
            channel.say(READY)?;
            // An endless loop, but for a supervisor that never notices.
            let enough = Instant::now() + Duration::from_secs(30);
            while Instant::now() < enough {
                std::hint::spin_loop();
            }
        }
        // The first of them proves a generation that cannot go on.
        "one is ready" if File::create_new(executable.with_file_name("ready")).is_err() => return Ok(()),
        "claims a lease to come" => {
            channel.say(READY)?;
            claim(&mut channel)?;
        }
        "no beat" | "one is ready" => channel.say(READY)?,
        "never ready" => {}
        other => return Err(io::Error::other(format!("unknown behaviour {other:?}"))),
    }
    // Whatever comes now is swallowed, until the supervisor has had enough.
    loop {
        channel.receive()?;
    }
}

/// Answers `Resync` with a lease that its supervisor has still to make: its first one, whose id follows from the ticket.
fn claim(channel: &mut Channel) -> io::Result<()> {
    poll(&mut [PollFd::new(channel.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
    let (packet, _) = manager::receive_bytes(channel.0.as_fd()).ok_or(io::ErrorKind::UnexpectedEof)?;
    let ticket = packet.get(13..).map(number).ok_or(io::ErrorKind::UnexpectedEof)?;
    let mut upper = ticket.strip_prefix(&[252]).unwrap_or(ticket).to_vec();
    upper.resize(4, 0);
    let lease = [&[253, 0, 0, 0, 0], upper.as_slice()].concat();
    // One page; version, slot and generation; no drain; one lease: the first attempt, committed, without its fd.
    channel.say(&[&[4], ticket, &[0, 1, 2, 0, 1, 0, 1], &lease, &[0, 1, 0, 0]].concat())
}

/// Takes each handoff, ends it at once, and speaks of a cooldown. What it hears of one, its process id names the file of.
fn tell_of_cooldowns(mut channel: Channel, executable: &Path) -> io::Result<()> {
    let heard = executable.with_file_name(format!("heard-{}", std::process::id()));
    channel.say(READY)?;
    loop {
        channel.say(&[&[5], &SNAPSHOT_ZEROS[..]].concat())?;
        if poll(&mut [PollFd::new(channel.0.as_fd(), PollFlags::POLLIN)], BEAT_MS)? == 0 {
            continue;
        }
        let (packet, _) = manager::receive_bytes(channel.0.as_fd()).ok_or(io::ErrorKind::UnexpectedEof)?;
        match packet.get(12..).ok_or(io::ErrorKind::UnexpectedEof)? {
            [1, rest @ ..] => {
                channel.say(&[&[1, 1], number(rest)].concat())?;
                channel.say_all(&[COOLDOWN, &[&[3, 1], number(rest), &[0]].concat()])?;
            }
            [8, cooldown @ ..] => {
                let mut file = File::options().create(true).append(true).open(&heard)?;
                file.write_all(&[cooldown, b"\n"].concat())?;
            }
            // To drain is to end: it holds nothing.
            [3, ..] => return Ok(()),
            _ => {}
        }
    }
}

/// An honest worker of another version: it begins as one of ours, and after its adoption its packets bear another
/// number, and its snapshots are of a shape that nobody here knows.
struct Foreigner {
    channel: Channel,
    version: u8,
    place: [u8; 2],
    clients: Vec<(Vec<u8>, File)>,
}

impl Foreigner {
    fn new(channel: Channel, version: u8) -> Self {
        Self { channel, version, place: [0, 1], clients: Vec::new() }
    }

    fn live(mut self) -> io::Result<()> {
        loop {
            poll(&mut [PollFd::new(self.channel.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
            let (packet, fds) =
                manager::receive_bytes(self.channel.0.as_fd()).ok_or(io::ErrorKind::UnexpectedEof)?;
            let body = packet.get(12..).ok_or(io::ErrorKind::UnexpectedEof)?;
            match body[0] {
                0 => {
                    self.place = [body[1], body[2]];
                    self.channel.say(READY)?;
                }
                1 => self.take(number(&body[1..]), fds)?,
                3 => return self.drain(),
                4 => self.tell(number(&body[1..]))?,
                _ => return Err(io::Error::other("an unknown message")),
            }
        }
    }

    /// Takes a handoff, and begins the answer.
    fn take(&mut self, lease: &[u8], fds: Vec<OwnedFd>) -> io::Result<()> {
        self.channel.say(&[&[1, 1], lease].concat())?;
        self.channel.say(&[&[2, 1], lease, &[0]].concat())?;
        let mut client = File::from(fds.into_iter().next().ok_or(io::ErrorKind::NotFound)?);
        client.write_all(b"HTTP/1.1 200 OK\r\n\r\ndata: begun\n\n")?;
        self.clients.push((lease.to_vec(), client));
        Ok(())
    }

    /// Held: one page, all committed, each with its fd.
    fn tell(&mut self, ticket: &[u8]) -> io::Result<()> {
        let count = u8::try_from(self.clients.len()).map_err(io::Error::other)?;
        let mut body = [&[4], ticket, &[0, 1, self.version], &self.place, &[0, count]].concat();
        for (lease, _) in &self.clients {
            body.extend_from_slice(&[lease.as_slice(), &[0, 1, 0, 1]].concat());
        }
        let packet = self.packet(&body)?;
        let fds: Vec<_> = self.clients.iter().map(|(_, client)| client.as_fd()).collect();
        manager::send(self.channel.0.as_fd(), &packet, &fds);
        self.channel.raw(&self.packet(&[5, 99, 99, 99, 99])?)
    }

    /// Finishes what it holds.
    fn drain(&mut self) -> io::Result<()> {
        for (lease, mut client) in std::mem::take(&mut self.clients) {
            client.write_all(b"data: finished\n\ndata: [DONE]\n\n")?;
            nix::sys::socket::shutdown(client.as_raw_fd(), nix::sys::socket::Shutdown::Write)?;
            self.channel.raw(&self.packet(&[&[3, 1], lease.as_slice(), &[0]].concat())?)?;
        }
        Ok(())
    }

    fn packet(&self, body: &[u8]) -> io::Result<Vec<u8>> {
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        Ok([&b"hand"[..], &[self.version, 0, 2, 0], &length.to_le_bytes(), body].concat())
    }
}

/// The bytes of the number at the beginning, as the channel encodes it.
fn number(bytes: &[u8]) -> &[u8] {
    let length = match bytes[0] {
        251 => 3,
        252 => 5,
        253 => 9,
        _ => 1,
    };
    &bytes[..length]
}

struct Channel(File);

impl Channel {
    fn raw(&mut self, packet: &[u8]) -> io::Result<()> {
        self.0.write_all(packet)
    }

    /// Magic, version 2, kind 2 (to the supervisor), length, body.
    fn say(&mut self, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        self.raw(&[b"hand\x02\x00\x02\x00", &length.to_le_bytes()[..], body].concat())
    }

    fn say_all(&mut self, bodies: &[&[u8]]) -> io::Result<()> {
        bodies.iter().try_for_each(|body| self.say(body))
    }

    /// Waits for one message and throws it away; what fds it has are never seen.
    fn receive(&mut self) -> io::Result<()> {
        poll(&mut [PollFd::new(self.0.as_fd(), PollFlags::POLLIN)], PollTimeout::NONE)?;
        match self.0.read(&mut [0; 256 * 1024])? {
            0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            _ => Ok(()),
        }
    }
}
