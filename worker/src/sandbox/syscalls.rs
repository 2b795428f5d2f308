//! seccomp: which system calls a worker may make. In: what the configuration needs beyond the usual. Out: a process
//! to which every other call answers EPERM.
//!
//! EPERM rather than death: a path in the C library that tries something new must not end everybody's streams.
//!
//! Never: lets through a way to new privileges, programs, processes, executable memory or listening sockets.

use std::collections::BTreeMap;

use handoff_config::backend::Kind;
use handoff_config::{Config, LogFormat};
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch, apply_filter,
};

type Rules = BTreeMap<i64, Vec<SeccompRule>>;
type Result<T> = std::result::Result<T, seccompiler::Error>;

/// Without conditions: reading and writing what is open, waiting, memory, time, threads, and saying who we are.
const ALWAYS: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_getres,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_connect,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_eventfd2,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_fstat,
    libc::SYS_futex,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getpeername,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_getsockname,
    libc::SYS_getsockopt,
    libc::SYS_gettid,
    libc::SYS_gettimeofday,
    libc::SYS_getuid,
    libc::SYS_lseek,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_newfstatat,
    libc::SYS_ppoll,
    libc::SYS_pread64,
    libc::SYS_read,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_recvmmsg,
    libc::SYS_recvmsg,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sendmmsg,
    libc::SYS_sendmsg,
    libc::SYS_set_robust_list,
    libc::SYS_setsockopt,
    libc::SYS_shutdown,
    libc::SYS_sigaltstack,
    libc::SYS_statx,
    libc::SYS_sysinfo,
    libc::SYS_uname,
    libc::SYS_write,
    libc::SYS_writev,
    // Always refused by a filter of its own; see `without_clone3`.
    libc::SYS_clone3,
];

/// Calls that newer architectures do without.
#[cfg(target_arch = "x86_64")]
const OF_THIS_ARCHITECTURE: &[i64] = &[libc::SYS_epoll_wait, libc::SYS_poll];
#[cfg(not(target_arch = "x86_64"))]
const OF_THIS_ARCHITECTURE: &[i64] = &[];

/// `prctl(PR_SET_VMA, …)`: names of memory mappings, which newer C libraries set. Not in older headers.
const PR_SET_VMA: u64 = 0x5356_4d41;

/// From here on all other system calls fail.
pub(super) fn confine(config: &Config) -> Result<()> {
    let architecture = std::env::consts::ARCH.try_into().map_err(seccompiler::Error::Backend)?;
    // Both are made before either is installed.
    let (first, second) = (without_clone3(architecture)?, only_allowed(config, architecture)?);
    apply_filter(&first)?;
    apply_filter(&second)
}

/// clone3(2) hides its flags behind a pointer, where no filter can look. ENOSYS makes the C library fall back to
/// clone(2); EPERM would make it give up on threads.
fn without_clone3(architecture: TargetArch) -> Result<BpfProgram> {
    let rules = Rules::from([(libc::SYS_clone3, Vec::new())]);
    let not_there = SeccompAction::Errno(u32::try_from(libc::ENOSYS).unwrap_or_default());
    program(rules, SeccompAction::Allow, not_there, architecture)
}

fn only_allowed(config: &Config, architecture: TargetArch) -> Result<BpfProgram> {
    let mut rules = Rules::new();
    for call in ALWAYS.iter().chain(OF_THIS_ARCHITECTURE) {
        rules.insert(*call, Vec::new());
    }
    memory_and_threads(&mut rules)?;
    descriptors(&mut rules)?;
    files(&mut rules, config)?;
    sockets(&mut rules, config)?;
    let refused = SeccompAction::Errno(u32::try_from(libc::EPERM).unwrap_or_default());
    program(rules, refused, SeccompAction::Allow, architecture)
}

fn program(
    rules: Rules,
    otherwise: SeccompAction,
    matched: SeccompAction,
    architecture: TargetArch,
) -> Result<BpfProgram> {
    let filter = SeccompFilter::new(rules, otherwise, matched, architecture);
    filter.and_then(BpfProgram::try_from).map_err(seccompiler::Error::Backend)
}

/// No memory is both ours and executable; what is started is a thread and no process; signals reach ourselves only
/// (abort(3)).
fn memory_and_threads(rules: &mut Rules) -> Result<()> {
    let executable = unsigned(libc::PROT_EXEC);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![rule(&[masked(2, executable, 0)?])?]);
    }
    let thread = unsigned(libc::CLONE_THREAD);
    rules.insert(libc::SYS_clone, vec![rule(&[masked(0, thread, thread)?])?]);
    let own = u64::from(std::process::id());
    rules.insert(libc::SYS_tgkill, vec![rule(&[equal(0, own)?])?]);
    // Only to ask for our own limits.
    rules.insert(libc::SYS_prlimit64, vec![rule(&[equal(0, 0)?, null(2)?])?]);
    let names = [unsigned(libc::PR_SET_NAME), unsigned(libc::PR_GET_NAME), PR_SET_VMA];
    let names: Result<Vec<SeccompRule>> = names.into_iter().map(|what| rule(&[equal(0, what)?])).collect();
    rules.insert(libc::SYS_prctl, names?);
    Ok(())
}

/// Questions about fds: flags, what is unread and unsent, whether it is a terminal.
fn descriptors(rules: &mut Rules) -> Result<()> {
    let commands = [
        libc::F_GETFD,
        libc::F_SETFD,
        libc::F_GETFL,
        libc::F_SETFL,
        libc::F_DUPFD_CLOEXEC,
        libc::F_GET_SEALS,
    ];
    let commands: Result<Vec<SeccompRule>> =
        commands.into_iter().map(|command| rule(&[equal(1, unsigned(command))?])).collect();
    rules.insert(libc::SYS_fcntl, commands?);
    let requests = [libc::TIOCOUTQ, libc::FIONREAD, libc::FIONBIO, libc::TCGETS];
    let requests: Result<Vec<SeccompRule>> =
        requests.into_iter().map(|request| rule(&[equal(1, request)?])).collect();
    rules.insert(libc::SYS_ioctl, requests?);
    Ok(())
}

/// Files, to read: Landlock says which, and knows nothing of O_TRUNC before its ABI 3.
///
/// What sites attach is opened beneath a directory (openat2(2), whose flags no filter can see: there Landlock alone says
/// that it is to read) and removed. Recordings are new files, which are renamed, or removed when they cannot be written.
fn files(rules: &mut Rules, config: &Config) -> Result<()> {
    let changing = unsigned(libc::O_ACCMODE | libc::O_TRUNC | libc::O_CREAT | libc::O_EXCL);
    let mut open = vec![rule(&[masked(2, changing, 0)?])?];
    let reads_attached = config.backends.files_directory.is_some();
    let records = config.backends.all.iter().any(|backend| backend.record.is_some());
    if records {
        let new = unsigned(libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL);
        open.push(rule(&[masked(2, changing, new)?])?);
        rules.insert(libc::SYS_renameat, Vec::new());
    }
    if reads_attached {
        rules.insert(libc::SYS_openat2, Vec::new());
    }
    if reads_attached || records {
        rules.insert(libc::SYS_unlinkat, vec![rule(&[equal(2, 0)?])?]);
    }
    rules.insert(libc::SYS_openat, open);
    Ok(())
}

/// TCP and UDP over IP, to connect; no raw packets, no netlink. Unix sockets only where an upstream is one.
fn sockets(rules: &mut Rules, config: &Config) -> Result<()> {
    const TYPE_MASK: u64 = 0xf;
    let (stream, datagram) = (unsigned(libc::SOCK_STREAM), unsigned(libc::SOCK_DGRAM));
    let (unix, internet) = (unsigned(libc::AF_UNIX), [unsigned(libc::AF_INET), unsigned(libc::AF_INET6)]);
    let mut allowed = Vec::new();
    for family in internet {
        for kind in [stream, datagram] {
            allowed.push(rule(&[equal(0, family)?, masked(1, TYPE_MASK, kind)?])?);
        }
    }
    if reaches_unix_socket(config) {
        allowed.push(rule(&[equal(0, unix)?, masked(1, TYPE_MASK, stream)?])?);
    }
    rules.insert(libc::SYS_socket, allowed);
    // The runtime's own pair, for signals.
    rules.insert(libc::SYS_socketpair, vec![rule(&[equal(0, unix)?])?]);
    // The journal's socket is not connected: it is named in each call.
    let to_anybody = config.logging.format == LogFormat::Journald;
    let send = if to_anybody { Vec::new() } else { vec![rule(&[null(4)?])?] };
    rules.insert(libc::SYS_sendto, send);
    Ok(())
}

/// An upstream is a Unix socket.
fn reaches_unix_socket(config: &Config) -> bool {
    config.backends.all.iter().any(|backend| match &backend.kind {
        Kind::Api(api) => api.connection.socket.is_some(),
        Kind::Mock(_) | Kind::Replay(_) => false,
    })
}

fn rule(conditions: &[SeccompCondition]) -> Result<SeccompRule> {
    SeccompRule::new(conditions.to_vec()).map_err(seccompiler::Error::Backend)
}

/// An argument of 32 bits that is this.
fn equal(argument: u8, value: u64) -> Result<SeccompCondition> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value);
    condition.map_err(seccompiler::Error::Backend)
}

/// An argument of 64 bits, of which these bits are so.
fn masked(argument: u8, mask: u64, value: u64) -> Result<SeccompCondition> {
    let operator = SeccompCmpOp::MaskedEq(mask);
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value);
    condition.map_err(seccompiler::Error::Backend)
}

/// A pointer to nothing.
fn null(argument: u8) -> Result<SeccompCondition> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, SeccompCmpOp::Eq, 0);
    condition.map_err(seccompiler::Error::Backend)
}

/// The C library's constants are signed, and none of ours is negative.
const fn unsigned(constant: libc::c_int) -> u64 {
    constant.unsigned_abs() as u64
}
