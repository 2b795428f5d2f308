//! This process becomes its own successor: execve(2) of the new binary, with everything that it needs as named
//! fds from 3 on, by the convention of sd_listen_fds(3). In: fds and names. Out: nothing, if it works.
//!
//! The numbers from 3 on are set aside at the start, so that they can be filled at the end without taking anything
//! away from a thread that still runs; and if the new binary cannot be executed, nothing has changed.
//!
//! Never: returns from a successful exec, leaves an fd open for the successor that it does not get by name.

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use handoff_shared::fdpass;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::unistd::{dup2, dup3, execve};

use crate::inherit::FIRST;

/// Places for the sockets and four generations, and how many a slot has: two fds for each of its worker, its
/// successor and those that drain.
const PLACES: usize = 12;
const PLACES_PER_SLOT: usize = 8;

/// What the new image finds in its environment: the version before it.
pub(crate) const UPGRADED_FROM: &str = "HANDOFFD_UPGRADED_FROM";

/// How this process was started.
#[derive(Clone, Debug)]
pub(crate) struct Invocation {
    pub(crate) binary: PathBuf,
    pub(crate) arguments: Vec<OsString>,
}

impl Invocation {
    /// The path is kept as it was given: after an upgrade of the package another file is there.
    pub(crate) fn new() -> io::Result<Self> {
        let mut arguments = std::env::args_os();
        let given = arguments.next().map(PathBuf::from).filter(|path| path.is_absolute());
        let binary = given.map_or_else(std::env::current_exe, Ok)?;
        Ok(Self { binary, arguments: arguments.collect() })
    }
}

/// The fds from 3 on, open on nothing until they are needed.
#[derive(Debug)]
pub(crate) struct Places {
    places: Vec<OwnedFd>,
    nothing: File,
}

impl Places {
    /// How many there should be.
    pub(crate) fn wanted(slots: u16, fd_limit: u64) -> usize {
        let wanted = PLACES + PLACES_PER_SLOT * usize::from(slots);
        wanted.min(usize::try_from(fd_limit / 8).unwrap_or(wanted))
    }

    /// Sets them aside. What is open there belongs to nobody: whoever started us has left it open.
    ///
    /// # Errors
    /// At the fd limit.
    pub(crate) fn set_aside(count: usize) -> io::Result<Self> {
        let end = FIRST + RawFd::try_from(count).map_err(io::Error::other)?;
        for number in FIRST..end {
            drop(fdpass::take_inherited(number));
        }
        let nothing = File::open("/dev/null")?;
        let moved = fcntl(&nothing, FcntlArg::F_DUPFD_CLOEXEC(end))?;
        drop(nothing);
        let nothing = fdpass::take_inherited(moved).map(File::from).ok_or(io::ErrorKind::NotFound)?;
        let mut places = Vec::new();
        for number in FIRST..end {
            let place = nothing.try_clone().map(OwnedFd::from)?;
            if place.as_raw_fd() != number {
                return Err(io::Error::other(format!("fd {number} is not free")));
            }
            places.push(place);
        }
        Ok(Self { places, nothing })
    }

    /// Replaces this process by the binary that is now where ours was. Returns only if that did not work; then
    /// everything is as before.
    pub(crate) fn exec(&mut self, invocation: &Invocation, fds: &[(String, BorrowedFd<'_>)]) -> io::Error {
        if fds.len() > self.places.len() {
            let (needed, places) = (fds.len(), self.places.len());
            return io::Error::other(format!(
                "{needed} fds must be handed on, and there are {places} places; wait until workers have drained"
            ));
        }
        let error = match self.fill(fds) {
            Ok(()) => execute(invocation, fds),
            Err(error) => error,
        };
        self.clear();
        error
    }

    fn fill(&mut self, fds: &[(String, BorrowedFd<'_>)]) -> io::Result<()> {
        for (place, (_, fd)) in self.places.iter_mut().zip(fds) {
            dup2(fd.as_fd(), place)?;
        }
        Ok(())
    }

    fn clear(&mut self) {
        for place in &mut self.places {
            let _ = dup3(&self.nothing, place, OFlag::O_CLOEXEC);
        }
    }
}

/// Not by the standard library, whose exec lets the signals through that must wait for the new image.
fn execute(invocation: &Invocation, fds: &[(String, BorrowedFd<'_>)]) -> io::Error {
    let names: Vec<&str> = fds.iter().map(|(name, _)| name.as_str()).collect();
    let own = [
        ("LISTEN_PID", std::process::id().to_string()),
        ("LISTEN_FDS", fds.len().to_string()),
        ("LISTEN_FDNAMES", names.join(":")),
        (UPGRADED_FROM, env!("CARGO_PKG_VERSION").to_owned()),
    ];
    let inherited = std::env::vars_os().filter(|(name, _)| !own.iter().any(|(own, _)| name == own));
    let variable = |name: &OsStr, value: &OsStr| c_string(&[name, OsStr::new("="), value]);
    let environment = inherited
        .map(|(name, value)| variable(&name, &value))
        .chain(own.iter().map(|(name, value)| variable(OsStr::new(name), OsStr::new(value))))
        .collect::<io::Result<Vec<CString>>>();
    let program = invocation.binary.as_os_str();
    let arguments = std::iter::once(program).chain(invocation.arguments.iter().map(OsString::as_os_str));
    let arguments = arguments.map(|argument| c_string(&[argument])).collect::<io::Result<Vec<CString>>>();
    match (c_string(&[program]), arguments, environment) {
        (Ok(program), Ok(arguments), Ok(environment)) => match execve(&program, &arguments, &environment) {
            Ok(never) => match never {},
            Err(error) => error.into(),
        },
        (Err(error), _, _) | (_, Err(error), _) | (_, _, Err(error)) => error,
    }
}

fn c_string(parts: &[&OsStr]) -> io::Result<CString> {
    let bytes: Vec<&[u8]> = parts.iter().map(|part| part.as_bytes()).collect();
    CString::new(bytes.concat()).map_err(io::Error::from)
}
