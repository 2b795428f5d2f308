//! Messages with fds over Unix sockets, what the kernel knows of a TCP connection, and a word to malloc.
//!
//! In: a socket, bytes, borrowed fds. Out: bytes and owned fds. Never: leaks an fd that the kernel installed,
//! blocks, raises SIGPIPE. The only file with unsafe code.

use std::io::{self, IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::libc;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, accept_with, recvmsg, sendmsg,
};
use tokio::io::Interest;
use tokio::io::unix::{AsyncFd, AsyncFdRegisterError};

use crate::limits::PACKET_FDS_MAX;

/// The most fds that the kernel passes in one message (unix(7)).
const SCM_MAX_FD: usize = 253;

/// A table for so many fds takes half a megabyte of the kernel's memory.
const FD_TABLE_RESERVED_MAX: u64 = 65_536;

/// One `recvmsg`.
#[derive(Debug)]
pub struct Received {
    /// How many bytes of the buffer it filled. 0: the other end is closed, or sent nothing.
    pub bytes: usize,
    /// The fds that came along, each close-on-exec.
    pub fds: Vec<OwnedFd>,
    /// The message was longer than the buffer (`MSG_TRUNC`).
    pub truncated: bool,
    /// The kernel dropped fds: more than fit, or we are at our fd limit (`MSG_CTRUNC`).
    pub fds_lost: bool,
}

/// Sends one message with these fds in `SCM_RIGHTS`. The kernel duplicates them: the caller keeps its own.
///
/// # Errors
/// As of sendmsg(2); `WouldBlock` when the socket is full, `InvalidInput` for more fds than the kernel passes at once.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<usize> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(SCM_MAX_FD))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    Ok(sendmsg(socket, &[IoSlice::new(bytes)], &mut control, flags)?)
}

/// Receives one message and every fd that comes with it.
///
/// # Errors
/// As of recvmsg(2); `WouldBlock` when there is none.
pub fn receive(socket: BorrowedFd<'_>, buffer: &mut [u8]) -> io::Result<Received> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(PACKET_FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let message = recvmsg(socket, &mut [IoSliceMut::new(buffer)], &mut control, flags)?;
    let mut fds = Vec::new();
    // Also of a message that was cut: what the kernel has installed is ours to close.
    for entry in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = entry {
            fds.extend(received);
        }
    }
    let truncated = message.flags.contains(ReturnFlags::TRUNC);
    let fds_lost = message.flags.contains(ReturnFlags::CTRUNC);
    Ok(Received { bytes: message.bytes, fds, truncated, fds_lost })
}

/// Makes room for so many fds at once, if there may be so many. The kernel doubles a process's table when it is full,
/// and all threads of a process that has several wait for that: 15 to 40 ms, in which no client is answered. To be called
/// while there is one thread.
///
/// Source: `expand_fdtable` in linux/fs/file.c, which waits for an RCU grace period where the table is shared.
pub fn reserve_fd_table(fds: u64) {
    use nix::fcntl::{FcntlArg, fcntl};
    let highest = fds.min(FD_TABLE_RESERVED_MAX).saturating_sub(1);
    if let Ok(highest) = RawFd::try_from(highest)
        && let Ok(number) = fcntl(io::stderr(), FcntlArg::F_DUPFD_CLOEXEC(highest))
    {
        // SAFETY: the kernel has just made this fd for us, and nobody else knows of it.
        drop(unsafe { OwnedFd::from_raw_fd(number) });
    }
}

/// Accepts one connection: non-blocking, close-on-exec.
///
/// # Errors
/// As of accept(2); `WouldBlock` when there is none.
pub fn accept(listener: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    Ok(accept_with(listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK)?)
}

/// Makes reads and writes of this fd, and of all its dups, return at once.
///
/// # Errors
/// As of fcntl(2).
pub fn set_nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    use nix::fcntl::{FcntlArg, OFlag, fcntl};
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

/// What the kernel knows of a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tcp {
    /// It accepts connections, and is none.
    pub is_listening: bool,
    /// How many bytes were ever written into it, as the kernel counts them: sent, less retransmitted, plus not yet sent.
    pub written: u64,
}

/// How many bytes were ever written into this TCP connection. `None` for other sockets and for kernels before 4.19.
#[must_use]
pub fn tcp_written(socket: BorrowedFd<'_>) -> Option<u64> {
    tcp(socket).map(|tcp| tcp.written)
}

/// What the kernel knows of this TCP socket. `None` for other fds and for kernels before 4.19.
///
/// Source: `struct tcp_info` in linux/tcp.h; the C library's own declaration ends before the counted bytes. Its first byte is
/// the state.
#[must_use]
pub fn tcp(socket: BorrowedFd<'_>) -> Option<Tcp> {
    const BYTES: usize = 216;
    const NOT_SENT: usize = 144;
    const SENT: usize = 200;
    const RETRANSMITTED: usize = 208;
    /// `TCP_LISTEN` in net/tcp_states.h.
    const LISTENING: u8 = 10;
    let mut info = [0u8; BYTES];
    let mut length: libc::socklen_t = 216;
    // SAFETY: the kernel writes at most `length` bytes, which is the size of `info`; any bytes are a valid
    // [u8]; the fd is open for as long as it is borrowed.
    let status = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::IPPROTO_TCP,
            libc::TCP_INFO,
            info.as_mut_ptr().cast::<libc::c_void>(),
            &raw mut length,
        )
    };
    if status != 0 || (length as usize) < BYTES {
        return None;
    }
    let (not_sent, _) =
        info[NOT_SENT..].split_first_chunk::<4>().map(|(chunk, rest)| (u32::from_ne_bytes(*chunk), rest))?;
    let sent = u64::from_ne_bytes(*info[SENT..].first_chunk::<8>()?);
    let retransmitted = u64::from_ne_bytes(*info[RETRANSMITTED..].first_chunk::<8>()?);
    let written = sent.wrapping_sub(retransmitted).wrapping_add(u64::from(not_sent));
    Some(Tcp { is_listening: info[0] == LISTENING, written })
}

/// How many bytes wait in this socket's send buffer, for the network or for the other side's patience. `None`
/// when the kernel does not say.
///
/// Source: tcp(7), unix(7): SIOCOUTQ, which is TIOCOUTQ by its other name.
#[must_use]
pub fn unsent_bytes(socket: BorrowedFd<'_>) -> Option<u64> {
    let mut queued: libc::c_int = 0;
    // SAFETY: TIOCOUTQ writes one int, to where `queued` is; the fd is open for as long as it is borrowed.
    let status = unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut queued) };
    if status != 0 {
        return None;
    }
    u64::try_from(queued).ok()
}

/// An fd that the runtime watches. It cannot be exchanged for another one while it is watched.
#[derive(Debug)]
pub struct Watched(AsyncFd<OwnedFd>);

impl Watched {
    /// Watches a non-blocking fd for these events.
    ///
    /// # Errors
    /// When the kernel cannot watch it (a regular file), or is out of memory.
    pub fn new(fd: OwnedFd, interest: Interest) -> io::Result<Self> {
        Self::or_back(fd, interest).map_err(|(_, error)| error)
    }

    /// As [`Self::new`], but gives the fd back.
    ///
    /// # Errors
    /// As of [`Self::new`], with the fd.
    pub fn or_back(fd: OwnedFd, interest: Interest) -> Result<Self, (OwnedFd, io::Error)> {
        // SAFETY: an OwnedFd is open and keeps its number; we give out only shared references, so it stays
        // the same fd until the AsyncFd is dropped, which unregisters it before closing it.
        unsafe { AsyncFd::register_with_interest(fd, interest) }
            .map(Self)
            .map_err(AsyncFdRegisterError::into_parts)
    }

    /// It is not watched any more.
    #[must_use]
    pub fn into_fd(self) -> OwnedFd {
        self.0.into_inner()
    }
}

impl AsFd for Watched {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.get_ref().as_fd()
    }
}

impl std::ops::Deref for Watched {
    type Target = AsyncFd<OwnedFd>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

/// Takes our end of the channel: the socket that we were started with as standard input.
///
/// # Errors
/// When fd 0 is not an open `AF_UNIX` `SOCK_SEQPACKET` socket: nobody but a supervisor starts us so.
pub fn take_stdin_channel() -> io::Result<OwnedFd> {
    use nix::sys::socket::{SockType, getsockopt, sockopt};
    let stdin = io::stdin();
    let kind = getsockopt(&stdin, sockopt::SockType)?;
    if kind != SockType::SeqPacket {
        return Err(io::Error::from(io::ErrorKind::InvalidInput));
    }
    // SAFETY: fd 0 is open (its type was just asked) and ours: `main` calls this once, before anything else,
    // and nothing in this process reads standard input.
    Ok(unsafe { OwnedFd::from_raw_fd(0) })
}

/// Takes an fd that this process was started with, and makes it close-on-exec. None: it is not open.
///
/// The caller is `main`, before anything else has opened or taken an fd: what is open then belongs to nobody in
/// this process. Numbers below 3 are never given out.
#[must_use]
pub fn take_inherited(number: RawFd) -> Option<OwnedFd> {
    if number < 3 {
        return None;
    }
    // SAFETY: only looks whether the number is open.
    let is_open = unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) } == 0;
    // SAFETY: it is open, and nobody here owns it (see above).
    is_open.then(|| unsafe { OwnedFd::from_raw_fd(number) })
}

/// Marks every fd from 3 on close-on-exec, whoever opened it: a process that we start gets 0, 1 and 2.
///
/// # Errors
/// As of close_range(2): none on Linux 5.11 and newer.
pub fn close_on_exec_above_stderr() -> io::Result<()> {
    // SAFETY: CLOSE_RANGE_CLOEXEC closes nothing; it sets a flag that no safe code relies on being unset.
    let status = unsafe {
        libc::syscall(libc::SYS_close_range, 3 as libc::c_uint, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC)
    };
    if status == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Memory of 1 MiB and more goes back to the kernel when it is freed, for as long as this process lives. glibc by itself
/// raises that bound to whatever was freed last, up to 32 MiB: after one large payload all that follow would stay in a
/// heap that is never given back. Other C libraries are left as they are.
///
/// Source: mallopt(3), `M_MMAP_THRESHOLD`.
pub fn give_large_memory_back() {
    #[cfg(target_env = "gnu")]
    {
        const LARGE_BYTES: libc::c_int = 1024 * 1024;
        // SAFETY: sets a number that only malloc reads, by its own lock; no memory is touched.
        let _ = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE_BYTES) };
    }
}

/// Code that only the start has needed takes no memory of this process from here on: half of an idle process's memory.
/// What runs again comes back from the page cache, some pages at a time.
///
/// Source: madvise(2), `MADV_DONTNEED` on a private mapping of a file; end(3), `etext`. Other C libraries' linkers may
/// have no such symbols: there nothing happens.
pub fn forget_code() {
    #[cfg(target_env = "gnu")]
    {
        unsafe extern "C" {
            static __executable_start: u8;
            static etext: u8;
        }
        let Ok(Some(page_bytes)) = nix::unistd::sysconf(nix::unistd::SysconfVar::PAGE_SIZE) else { return };
        let page_bytes = usize::try_from(page_bytes).unwrap_or(usize::MAX);
        let (start, end) = (&raw const __executable_start, &raw const etext);
        let bytes = (end as usize).saturating_sub(start as usize) / page_bytes * page_bytes;
        // SAFETY: from the executable's first byte to the end of its code nothing is ever written, so that what is
        // dropped is the same when it is read from the file again. Whole pages only; the result does not matter.
        let _ = unsafe { libc::madvise(start.cast_mut().cast(), bytes, libc::MADV_DONTNEED) };
    }
}

/// System calls that a confined worker must not get through with, and that no safe function offers. Each is made
/// so that it harms nobody when it does succeed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forbidden {
    /// ptrace(2): be traced by the parent.
    Ptrace,
    /// mmap(2): memory to execute code from.
    MapExecutable,
    /// mprotect(2): make memory executable.
    MakeExecutable,
    /// `io_uring_setup`(2): a second way into the kernel.
    IoUring,
    /// bpf(2): make a map, with no attributes.
    Bpf,
    /// keyctl(2): find the session's keyring.
    Keyring,
    /// prlimit(2): look at the limits of this process.
    LimitsOf(libc::pid_t),
    /// `pidfd_getfd`(2), with a pidfd that is none.
    StealFd,
    /// `process_vm_readv`(2): nothing, from this process.
    ReadMemoryOf(libc::pid_t),
    /// userfaultfd(2).
    UserFaults,
    /// ioctl(2) TIOCSTI: type into the terminal of standard error.
    TypeIntoTerminal,
    /// clone(2): a process. It ends at once, as those of the next two.
    Fork,
    /// clone3(2), whose flags no filter can look at: a process.
    ForkByClone3,
    /// clone(2): a process in a user namespace of its own.
    CloneIntoNamespace,
}

/// Tries it.
///
/// # Errors
/// What the kernel says.
pub fn attempt(forbidden: Forbidden) -> io::Result<()> {
    use libc::{MAP_ANONYMOUS, MAP_PRIVATE, PROT_EXEC, PROT_READ, syscall};
    const PAGE: usize = 4096;
    const GET_KEYRING_ID: libc::c_int = 0;
    const SESSION_KEYRING: libc::c_int = -3;
    let null = std::ptr::null_mut::<libc::c_void>();
    // SAFETY: the child shares no memory with us, and nothing runs in it but this.
    let end_child = |pid| if pid == 0 { unsafe { libc::_exit(0) } } else { pid };
    // SAFETY: every pointer is null, or to a local that outlives the call and is as large as the call says; the
    // mappings are new and nobody else's; a cloned process makes no call but `_exit`.
    let status = unsafe {
        match forbidden {
            Forbidden::Ptrace => syscall(libc::SYS_ptrace, libc::PTRACE_TRACEME, 0, null, null),
            Forbidden::MapExecutable => {
                syscall(libc::SYS_mmap, null, PAGE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
            }
            Forbidden::MakeExecutable => {
                match syscall(libc::SYS_mmap, null, PAGE, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0) {
                    -1 => -1,
                    mapped => syscall(libc::SYS_mprotect, mapped, PAGE, PROT_READ | PROT_EXEC),
                }
            }
            Forbidden::IoUring => {
                let mut parameters = [0u64; 32];
                syscall(libc::SYS_io_uring_setup, 1, parameters.as_mut_ptr())
            }
            Forbidden::Bpf => syscall(libc::SYS_bpf, 0, null, 0),
            Forbidden::Keyring => syscall(libc::SYS_keyctl, GET_KEYRING_ID, SESSION_KEYRING, 0),
            Forbidden::LimitsOf(pid) => {
                let mut limits = [0u64; 2];
                syscall(libc::SYS_prlimit64, pid, libc::RLIMIT_CORE, null, limits.as_mut_ptr())
            }
            Forbidden::StealFd => syscall(libc::SYS_pidfd_getfd, -1, 0, 0),
            Forbidden::ReadMemoryOf(pid) => syscall(libc::SYS_process_vm_readv, pid, null, 0, null, 0, 0),
            Forbidden::UserFaults => syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC),
            Forbidden::TypeIntoTerminal => syscall(libc::SYS_ioctl, 2, libc::TIOCSTI, c" ".as_ptr()),
            Forbidden::Fork => end_child(syscall(libc::SYS_clone, libc::SIGCHLD, null, null, null, null)),
            Forbidden::ForkByClone3 => {
                // struct clone_args: flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls.
                let arguments: [u64; 8] = [0, 0, 0, 0, u64::from(libc::SIGCHLD.unsigned_abs()), 0, 0, 0];
                end_child(syscall(libc::SYS_clone3, arguments.as_ptr(), size_of_val(&arguments)))
            }
            Forbidden::CloneIntoNamespace => {
                let flags = libc::CLONE_NEWUSER | libc::SIGCHLD;
                end_child(syscall(libc::SYS_clone, flags, null, null, null, null))
            }
        }
    };
    if status == -1 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::net::{TcpListener, TcpStream};
    use std::os::fd::AsFd;

    use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};

    fn pair() -> (OwnedFd, OwnedFd) {
        socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC).unwrap()
    }

    #[test]
    fn every_fd_that_arrives_is_owned_and_closed() {
        let (ours, theirs) = pair();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        send(ours.as_fd(), b"two", &[writer.as_fd(), writer.as_fd()]).unwrap();
        drop(writer);
        let received = receive(theirs.as_fd(), &mut [0; 16]).unwrap();
        assert_eq!((received.bytes, received.fds.len()), (3, 2));
        drop(received);
        // The last writers are gone: the pipe is at its end.
        assert_eq!(nix::unistd::read(&reader, &mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn of_more_fds_than_fit_none_is_leaked() {
        let (ours, theirs) = pair();
        let (reader, writer) = nix::unistd::pipe().unwrap();
        send(ours.as_fd(), b"many", &vec![writer.as_fd(); 253]).unwrap();
        drop(writer);
        let received = receive(theirs.as_fd(), &mut [0; 16]).unwrap();
        assert!(received.fds_lost);
        // Alignment may leave room for a few more.
        let owned = received.fds.len();
        assert!(received.bytes == 4 && (PACKET_FDS_MAX..253).contains(&owned), "{owned} fds");
        drop(received);
        assert_eq!(nix::unistd::read(&reader, &mut [0; 1]).unwrap(), 0);
    }

    #[test]
    fn what_the_other_side_has_not_taken_is_known() {
        let (ours, mut theirs) = std::os::unix::net::UnixStream::pair().unwrap();
        (&ours).write_all(&[7; 1000]).unwrap();
        assert!(unsent_bytes(ours.as_fd()).unwrap() >= 1000);
        std::io::Read::read_exact(&mut theirs, &mut [0; 1000]).unwrap();
        assert_eq!(unsent_bytes(ours.as_fd()), Some(0));
    }

    #[test]
    fn a_message_longer_than_the_buffer_says_so_and_brings_its_fd() {
        let (ours, theirs) = pair();
        send(ours.as_fd(), b"0123456789", &[ours.as_fd()]).unwrap();
        let received = receive(theirs.as_fd(), &mut [0; 4]).unwrap();
        assert!(received.truncated && !received.fds_lost);
        assert_eq!(received.fds.len(), 1);
    }

    #[test]
    fn the_witness_counts_exactly_what_was_written_to_a_stalled_client() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let _client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (mut server, _) = listener.accept().unwrap();
        server.set_nonblocking(true).unwrap();
        let baseline = tcp_written(server.as_fd()).unwrap();
        let mut written = 0;
        while let Ok(bytes) = server.write(&[7; 65536]) {
            written += bytes as u64;
        }
        assert_eq!(tcp_written(server.as_fd()).unwrap() - baseline, written);
    }

    #[test]
    fn a_unix_socket_has_no_witness() {
        let (ours, _theirs) = pair();
        assert_eq!(tcp_written(ours.as_fd()), None);
    }

    #[test]
    fn a_connection_is_told_from_a_socket_that_accepts_them() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let is_listening = |socket: BorrowedFd<'_>| tcp(socket).unwrap().is_listening;
        assert!(is_listening(listener.as_fd()) && !is_listening(client.as_fd()));
    }
}
