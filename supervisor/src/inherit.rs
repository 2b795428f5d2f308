//! What this process was started with: named fds, by the convention of sd_listen_fds(3). In: `LISTEN_PID`,
//! `LISTEN_FDS`, `LISTEN_FDNAMES`. Out: listening sockets, running workers, generations.
//!
//! Three ways lead here, and all are the same: systemd hands over the sockets of socket units at a start, and what
//! its fd store kept when an earlier supervisor ends; an earlier image of this process hands over all it had.
//! systemd does not keep the order, so everything is known by its name and by what it is.
//!
//! Never: keeps an fd that it does not know, trusts a name alone.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd, RawFd};
use std::rc::Rc;

use handoff_shared::fdpass;
use handoff_shared::ids::Generation;
use handoff_shared::memfd;
use nix::fcntl::{FcntlArg, fcntl};
use nix::sys::socket::{SockType, getsockopt, sockopt};

use crate::listener::Kind;

/// A worker's channel and pidfd have this name, followed by what tells the workers apart.
pub(crate) const WORKER: &str = "worker-";
/// A generation's configuration and binary have this name, followed by its number.
pub(crate) const GENERATION: &str = "generation-";
/// A handoff socket that we have bound ourselves: its file is ours to remove.
pub(crate) const OWN_SOCKET: &str = "own-handoff";
/// The control socket.
pub(crate) const CONTROL: &str = "control";

/// The first fd of the convention.
pub(crate) const FIRST: RawFd = 3;

/// Everything that came along.
#[derive(Debug, Default)]
pub(crate) struct Inherited {
    pub(crate) sockets: Vec<InheritedSocket>,
    pub(crate) control: Option<OwnedFd>,
    pub(crate) workers: Vec<Kept>,
    pub(crate) generations: BTreeMap<Generation, KeptGeneration>,
    /// Names of fds that we could not use: they are closed, and need not be kept for us any longer.
    pub(crate) unknown: Vec<String>,
}

/// A listening socket.
#[derive(Debug)]
pub(crate) struct InheritedSocket {
    pub(crate) socket: OwnedFd,
    pub(crate) kind: Kind,
    /// Not systemd's.
    pub(crate) is_ours: bool,
}

/// A worker that an earlier supervisor has started.
#[derive(Debug)]
pub(crate) struct Kept {
    pub(crate) name: String,
    pub(crate) pid: u32,
    pub(crate) channel: OwnedFd,
    pub(crate) process: OwnedFd,
}

/// What workers of an earlier supervisor were made of.
#[derive(Clone, Debug)]
pub(crate) struct KeptGeneration {
    pub(crate) sealed: Rc<OwnedFd>,
    pub(crate) binary: Rc<File>,
}

impl Inherited {
    /// Takes every fd that is open, and sorts those that are meant for us. To be called once, first of all.
    pub(crate) fn take() -> Self {
        let names = names();
        let mut named: BTreeMap<String, Vec<OwnedFd>> = BTreeMap::new();
        for (number, name) in (FIRST..).zip(names) {
            if let Some(fd) = fdpass::take_inherited(number) {
                named.entry(name).or_default().push(fd);
            }
        }
        let mut inherited = Self::default();
        for (name, fds) in named {
            inherited.sort(name, fds);
        }
        inherited
    }

    fn sort(&mut self, name: String, fds: Vec<OwnedFd>) {
        if name.starts_with(WORKER) {
            match worker(&name, fds) {
                Some(worker) => self.workers.push(worker),
                None => self.unknown.push(name),
            }
        } else if let Some(number) = name.strip_prefix(GENERATION).and_then(|number| number.parse().ok()) {
            match generation(fds) {
                Some(kept) => drop(self.generations.insert(Generation(number), kept)),
                None => self.unknown.push(name),
            }
        } else {
            for socket in fds {
                match socket_kind(&socket) {
                    Some(Kind::Stream) if name == CONTROL => self.control = Some(socket),
                    Some(kind) => {
                        let is_ours = name == OWN_SOCKET;
                        self.sockets.push(InheritedSocket { socket, kind, is_ours });
                    }
                    None => self.unknown.push(name.clone()),
                }
            }
        }
    }

    /// Moves everything to fds of this number and above.
    ///
    /// # Errors
    /// At the fd limit.
    pub(crate) fn move_above(&mut self, number: RawFd) -> io::Result<()> {
        for socket in &mut self.sockets {
            lift(&mut socket.socket, number)?;
        }
        if let Some(control) = &mut self.control {
            lift(control, number)?;
        }
        for worker in &mut self.workers {
            lift(&mut worker.channel, number)?;
            lift(&mut worker.process, number)?;
        }
        for kept in self.generations.values_mut() {
            let (sealed, binary) = (duplicate(&kept.sealed, number)?, duplicate(&kept.binary, number)?);
            *kept = KeptGeneration { sealed: Rc::new(sealed), binary: Rc::new(File::from(binary)) };
        }
        Ok(())
    }
}

fn lift(fd: &mut OwnedFd, number: RawFd) -> io::Result<()> {
    *fd = duplicate(fd, number)?;
    Ok(())
}

fn duplicate(fd: &impl AsFd, number: RawFd) -> io::Result<OwnedFd> {
    let raw = fcntl(fd, FcntlArg::F_DUPFD_CLOEXEC(number))?;
    fdpass::take_inherited(raw).ok_or_else(|| io::Error::from(io::ErrorKind::NotFound))
}

/// The names of the fds from 3 on; none when they are not meant for this process.
fn names() -> Vec<String> {
    let variable = |name| std::env::var(name).ok();
    let is_for_us = variable("LISTEN_PID").and_then(|pid| pid.parse().ok()) == Some(std::process::id());
    let count = variable("LISTEN_FDS").and_then(|count| count.parse::<u16>().ok()).filter(|_| is_for_us);
    let text = variable("LISTEN_FDNAMES").unwrap_or_default();
    let given = text.split(':').map(str::to_owned);
    given.chain(std::iter::repeat("unknown".to_owned())).take(count.unwrap_or(0).into()).collect()
}

/// A channel and a pidfd make a worker.
fn worker(name: &str, fds: Vec<OwnedFd>) -> Option<Kept> {
    let (mut channel, mut process) = (None, None);
    for fd in fds {
        match (getsockopt(&fd, sockopt::SockType), pid_of(&fd)) {
            (Ok(SockType::SeqPacket), _) => channel = Some(fd),
            (_, Some(pid)) => process = Some((pid, fd)),
            _ => {}
        }
    }
    let (pid, process) = process?;
    Some(Kept { name: name.to_owned(), pid, channel: channel?, process })
}

/// The pid behind a pidfd, 0 when the process is gone; none for other fds (proc(5), fdinfo).
fn pid_of(fd: &OwnedFd) -> Option<u32> {
    let text = fs::read_to_string(format!("/proc/self/fdinfo/{}", fd.as_raw_fd())).ok()?;
    let pid = text.lines().find_map(|line| line.strip_prefix("Pid:"))?;
    Some(pid.trim().parse().unwrap_or(0))
}

fn generation(fds: Vec<OwnedFd>) -> Option<KeptGeneration> {
    let (mut sealed, mut binary) = (None, None);
    for fd in fds {
        match memfd::sealed_bytes(fd.as_fd()) {
            Some(_) => sealed = Some(Rc::new(fd)),
            None => binary = Some(Rc::new(File::from(fd))),
        }
    }
    Some(KeptGeneration { sealed: sealed?, binary: binary? })
}

fn socket_kind(fd: &OwnedFd) -> Option<Kind> {
    if !getsockopt(fd, sockopt::AcceptConn).ok()? {
        return None;
    }
    let socket_type = getsockopt(fd, sockopt::SockType).ok()?;
    let kinds = [(SockType::SeqPacket, Kind::SeqPacket), (SockType::Stream, Kind::Stream)];
    kinds.into_iter().find(|(wanted, _)| *wanted == socket_type).map(|(_, kind)| kind)
}
