//! A worker that lies. Started by handoffd as any worker is; the file `behaviour` beside this executable says
//! how it behaves. It speaks the channel's bytes by itself: no code of handoffd's is in it.

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

/// Bodies of messages, as the channel encodes them: the number of the variant, then its fields.
const READY: &[u8] = b"\x00\x01\x050.1.0";
const READY_OF_ANOTHER_VERSION: &[u8] = b"\x00\x02\x050.1.0";
const TAKEN_UNKNOWN: &[u8] = b"\x01\x01\x63";
const COMMITTED_UNKNOWN: &[u8] = b"\x02\x63\x00";
const RELEASED_UNKNOWN: &[u8] = b"\x03\x01\x63\x00";
const HELD: &[u8] = b"\x04\x00\x00\x01\x01\x00\x01\x00\x00";
/// No variant has this number.
const UNKNOWN_VARIANT: &[u8] = b"\x2a";
/// A list that claims to have 2⁶⁴ - 1 elements.
const ENDLESS_LIST: &[u8] = b"\x01\xfd\xff\xff\xff\xff\xff\xff\xff\xff";

fn main() -> io::Result<()> {
    let executable = std::env::current_exe()?;
    let behaviour = fs::read_to_string(executable.with_file_name("behaviour"))?;
    let mut channel = Channel(File::from(io::stdin().as_fd().try_clone_to_owned()?));
    channel.receive()?;
    match behaviour.trim() {
        "garbage" => channel.raw(b"this is no message")?,
        "cut off" => channel.raw(b"hand\x01\x00\x02\x00\xff\xff\x00\x00\x00")?,
        "wrong direction" => channel.raw(b"hand\x01\x00\x01\x00\x01\x00\x00\x00\x00")?,
        "unknown variant" => channel.say(UNKNOWN_VARIANT)?,
        "endless list" => channel.say(ENDLESS_LIST)?,
        "another version" => channel.say(READY_OF_ANOTHER_VERSION)?,
        "ready twice" => channel.say_all(&[READY, READY])?,
        "taken before ready" => channel.say(TAKEN_UNKNOWN)?,
        "taken unknown" => channel.say_all(&[READY, TAKEN_UNKNOWN])?,
        "committed unknown" => channel.say_all(&[READY, COMMITTED_UNKNOWN])?,
        "released unknown" => channel.say_all(&[READY, RELEASED_UNKNOWN])?,
        "held unasked" => channel.say_all(&[READY, HELD])?,
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
        "no beat" => channel.say(READY)?,
        "never ready" => {}
        other => return Err(io::Error::other(format!("unknown behaviour {other:?}"))),
    }
    // Whatever comes now is swallowed, until the supervisor has had enough.
    loop {
        channel.receive()?;
    }
}

struct Channel(File);

impl Channel {
    fn raw(&mut self, packet: &[u8]) -> io::Result<()> {
        self.0.write_all(packet)
    }

    /// Magic, version 1, kind 2 (to the supervisor), length, body.
    fn say(&mut self, body: &[u8]) -> io::Result<()> {
        let length = u32::try_from(body.len()).map_err(io::Error::other)?;
        self.raw(&[b"hand\x01\x00\x02\x00", &length.to_le_bytes()[..], body].concat())
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
