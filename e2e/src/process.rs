//! What /proc says about processes.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;

/// Sends a signal; a process that is gone already is no error.
pub fn signal(pid: u32, signal: Signal) {
    // 0 would be this process and all of its group.
    if let Some(pid) = i32::try_from(pid).ok().filter(|pid| *pid > 0) {
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

/// The children of a process, of all its threads, in no order.
#[must_use]
pub fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let of_thread = |thread: fs::DirEntry| fs::read_to_string(thread.path().join("children"));
    let texts: Vec<String> = threads.filter_map(|thread| of_thread(thread).ok()).collect();
    texts.iter().flat_map(|text| text.split_whitespace()).filter_map(|pid| pid.parse().ok()).collect()
}

/// Whether the process exists and is no zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// A line of /proc/PID/status, such as `CapEff`: what comes behind its colon. Empty when there is none.
#[must_use]
pub fn status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mut lines = text.lines().filter_map(|line| line.strip_prefix(key)?.strip_prefix(':'));
    lines.next().map(|value| value.split_whitespace().collect::<Vec<_>>().join(" ")).unwrap_or_default()
}

/// What a process has in memory for itself, in bytes: not its program, of which pages come and go.
///
/// # Panics
/// When there is no such process.
#[must_use]
pub fn own_memory(pid: u32) -> u64 {
    let bytes = |key| {
        let value = status(pid, key);
        value.strip_suffix(" kB").and_then(|kib| kib.parse::<u64>().ok()).expect("a number of KiB") << 10
    };
    bytes("RssAnon") + bytes("RssShmem")
}

/// `[workers]` of a test that looks into workers' fds or environment: only root may look into a confined one.
#[must_use]
pub fn transparent_workers() -> &'static str {
    match nix::unistd::geteuid().is_root() {
        true => "[workers]\ncount = 2\n",
        false => "[workers]\ncount = 2\nsandbox = \"off\"\n",
    }
}

/// A program that is started with 0, 1 and 2 alone, whatever the tests' own parent has left open.
#[must_use]
pub fn bare(program: &Path) -> Command {
    const CLOSE: &str =
        "for fd in /proc/self/fd/*; do fd=${fd##*/}; ((fd > 2)) && exec {fd}>&-; done; exec \"$@\"";
    let mut command = Command::new("bash");
    command.args(["-c", CLOSE, "bash"]).arg(program);
    command
}

/// How many fds a process has open.
#[must_use]
pub fn fds(pid: u32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd")).map(Iterator::count).unwrap_or(0)
}

/// User and system time that a process has spent, in clock ticks of 10 ms (proc(5)).
#[must_use]
pub fn cpu_ticks(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    after_name.split_whitespace().skip(11).take(2).filter_map(|ticks| ticks.parse::<u64>().ok()).sum()
}

/// What the process calls itself (proc_pid_comm(5)); empty when it is gone.
#[must_use]
pub fn name(pid: u32) -> String {
    fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default().trim_end().to_owned()
}

/// What a process has open, and how often: what its fds refer to (proc_pid_fd(5)), without inodes' numbers.
#[must_use]
pub fn open_files(pid: u32) -> BTreeMap<String, usize> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let mut files = BTreeMap::new();
    for link in entries.filter_map(|entry| fs::read_link(entry.path()).ok()) {
        let link = link.to_string_lossy();
        let file = if link.starts_with('/') { &link } else { link.split('[').next().unwrap_or_default() };
        *files.entry(file.to_owned()).or_default() += 1;
    }
    files
}

/// Takes note of the end of workers whose supervisor has died, where this process has inherited them.
pub fn reap_orphans() {
    for pid in children(std::process::id()) {
        // The main process of a service is waited for elsewhere.
        if name(pid) == "handoffd-worker"
            && let Ok(pid) = i32::try_from(pid)
        {
            let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
        }
    }
}
