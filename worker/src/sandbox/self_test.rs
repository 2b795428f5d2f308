//! `handoffd-worker --self-test`: confines itself as a worker does, and then attacks. In: nothing from outside. Out:
//! one line an attack, `blocked` with what the kernel said, or `ALLOWED`.
//!
//! Each attack is harmless when it gets through; unconfined they all do, as far as the user may, which is what
//! `--self-test=unprotected` shows.
//!
//! Never: runs in a worker that has clients.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::net::{TcpListener, UdpSocket};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Command};

use handoff_config::Config;
use handoff_config::cli::SelfTest;
use handoff_shared::fdpass::{Forbidden, attempt};
use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::kill;
use nix::sys::socket::{AddressFamily, SockFlag, SockProtocol, SockType, socket};
use nix::unistd::{Pid, Uid, getppid, setuid};
use rustix::process::{PidfdFlags, pidfd_open};

use super::playground;

/// Why a test could not even begin.
#[derive(Debug, thiserror::Error)]
pub enum SelfTestError {
    /// The process could not be confined.
    #[error(transparent)]
    Sandbox(#[from] super::SandboxError),
    /// Nobody reads the result.
    #[error("standard output: {0}")]
    Output(#[from] io::Error),
    /// `--only` with a name that is none.
    #[error("no attack is called {name:?}; there are: {all}")]
    Unknown {
        /// As asked for.
        name: String,
        /// The names.
        all: String,
    },
}

type Attack = (&'static str, fn(&Target) -> io::Result<()>);

/// What is attacked, besides this process and this host.
struct Target {
    parent: Pid,
    playground: PathBuf,
}

/// Confines this process and attacks; the configuration's directory for attached files is that of the playground.
/// Returns whether every attack was blocked.
///
/// # Errors
/// When it cannot be confined as asked.
pub fn run(
    how: SelfTest,
    config: &mut Config,
    (only, playground): (Option<&str>, &Path),
    out: &mut impl Write,
) -> Result<bool, SelfTestError> {
    let attacks: Vec<Attack> =
        ATTACKS.iter().copied().filter(|(name, _)| only.is_none_or(|only| only == *name)).collect();
    if let (true, Some(name)) = (attacks.is_empty(), only) {
        let all: Vec<&str> = ATTACKS.iter().map(|(name, _)| *name).collect();
        return Err(SelfTestError::Unknown { name: name.to_owned(), all: all.join(", ") });
    }
    let target = Target { parent: getppid(), playground: playground.to_owned() };
    config.backends.files_directory = Some(playground::files(playground));
    if how == SelfTest::Confined {
        let confined = super::enter(config)?;
        writeln!(out, "sandbox  {}  landlock {}", confined.state.level, confined.state.landlock_abi)?;
        for missing in &confined.missing {
            writeln!(out, "missing  {missing}")?;
        }
    }
    let mut are_all_blocked = true;
    for (name, attack) in attacks {
        let verdict = verdict(attack(&target));
        are_all_blocked &= verdict.is_ok();
        let (Ok(verdict) | Err(verdict)) = verdict;
        writeln!(out, "{verdict:<15}  {name}")?;
        out.flush()?;
    }
    Ok(are_all_blocked)
}

/// Forbidden is what the kernel calls forbidden or unknown (clone3, whose flags no filter can see). Any other error means that the attack got past the sandbox.
fn verdict(result: io::Result<()>) -> Result<String, String> {
    match result {
        Ok(()) => Err("ALLOWED".to_owned()),
        Err(error) => match error.raw_os_error().map(Errno::from_raw) {
            Some(errno @ (Errno::EPERM | Errno::EACCES | Errno::ENOSYS)) => Ok(format!("blocked {errno:?}")),
            Some(errno) => Err(format!("ALLOWED ({errno:?})")),
            None => Err(format!("ALLOWED ({:?})", error.kind())),
        },
    }
}

/// Every attack, by name. Each is told who the parent is, as a confined process cannot even ask.
const ATTACKS: &[Attack] = &[
    ("write-a-file", |_| write_a_file()),
    ("empty-a-file", |_| empty_a_file()),
    ("read-shadow", |_| File::open("/etc/shadow").map(drop)),
    ("read-passwd", |_| File::open("/etc/passwd").map(drop)),
    ("read-parents-environment", |target| File::open(format!("/proc/{}/environ", target.parent)).map(drop)),
    ("list-parents-fds", |target| fs::read_dir(format!("/proc/{}/fd", target.parent)).map(drop)),
    ("list-run", |_| fs::read_dir("/run").map(drop)),
    // A program that does not exist: nothing is run, but only execve can find that out.
    ("exec", |_| Err(Command::new("/nonexistent/program").exec())),
    ("fork", |_| attempt(Forbidden::Fork)),
    ("fork-by-clone3", |_| attempt(Forbidden::ForkByClone3)),
    ("run-a-program", |_| Command::new("/bin/true").status().map(drop)),
    // Signal 0: only asks whether we may.
    ("kill-the-parent", |target| Ok(kill(target.parent, None)?)),
    ("ptrace", |_| attempt(Forbidden::Ptrace)),
    ("open-the-parent", |target| pidfd_of(target.parent).map(drop)),
    ("parents-limits", |target| attempt(Forbidden::LimitsOf(target.parent.as_raw()))),
    ("unix-datagram-socket", |_| open_socket(AddressFamily::Unix, SockType::Datagram, None)),
    ("unix-stream-socket", |_| open_socket(AddressFamily::Unix, SockType::Stream, None)),
    ("netlink-socket", |_| open_socket(AddressFamily::Netlink, SockType::Raw, None)),
    ("raw-socket", |_| open_socket(AddressFamily::Inet, SockType::Raw, Some(SockProtocol::Icmp))),
    ("packet-socket", |_| open_socket(AddressFamily::Packet, SockType::Datagram, None)),
    ("bind-tcp", |_| TcpListener::bind("127.0.0.1:0").map(drop)),
    ("bind-udp", |_| UdpSocket::bind("127.0.0.1:0").map(drop)),
    ("map-executable", |_| attempt(Forbidden::MapExecutable)),
    ("make-executable", |_| attempt(Forbidden::MakeExecutable)),
    ("setuid", |_| Ok(setuid(Uid::from_raw(65_533))?)),
    ("unshare", |_| Ok(unshare(CloneFlags::CLONE_NEWNS)?)),
    ("clone-into-a-namespace", |_| attempt(Forbidden::CloneIntoNamespace)),
    ("io-uring", |_| attempt(Forbidden::IoUring)),
    ("bpf", |_| attempt(Forbidden::Bpf)),
    ("keyring", |_| attempt(Forbidden::Keyring)),
    ("user-faults", |_| attempt(Forbidden::UserFaults)),
    ("memfd", |_| Ok(memfd_create(c"self-test", MFdFlags::MFD_CLOEXEC).map(drop)?)),
    ("type-into-the-terminal", |_| attempt(Forbidden::TypeIntoTerminal)),
    ("steal-an-fd", |_| attempt(Forbidden::StealFd)),
    ("read-memory-of-others", |target| attempt(Forbidden::ReadMemoryOf(target.parent.as_raw()))),
    ("leave-the-attached-files-by-dots", |target| playground::leave_by_dots(&target.playground)),
    ("leave-the-attached-files-by-a-link", |target| playground::leave_by_a_link(&target.playground)),
    ("attach-a-file", |target| playground::write_a_new_one(&target.playground)),
    ("change-an-attached-file", |target| playground::change_one(&target.playground)),
    ("list-attached-files", |target| playground::list_them(&target.playground)),
    ("remove-a-file-that-is-not-attached", |target| playground::remove_another(&target.playground)),
];

fn write_a_file() -> io::Result<()> {
    let path = std::env::temp_dir().join(format!("handoffd-self-test-{}", process::id()));
    File::create_new(&path)?;
    fs::remove_file(path)
}

/// By opening for reading a file that may be read. It is no directory: where this gets through, it fails before
/// anything is lost.
fn empty_a_file() -> io::Result<()> {
    let flags = (OFlag::O_TRUNC | OFlag::O_DIRECTORY).bits();
    OpenOptions::new().read(true).custom_flags(flags).open("/etc/hosts").map(drop)
}

fn pidfd_of(parent: Pid) -> io::Result<OwnedFd> {
    let parent = rustix::process::Pid::from_raw(parent.as_raw()).ok_or(io::ErrorKind::NotFound)?;
    Ok(pidfd_open(parent, PidfdFlags::empty())?)
}

fn open_socket(family: AddressFamily, kind: SockType, protocol: Option<SockProtocol>) -> io::Result<()> {
    Ok(socket(family, kind, SockFlag::SOCK_CLOEXEC, protocol).map(drop)?)
}
