//! What a worker may have open when it starts: the channel as 0, standard output and error as 1 and 2. In:
//! /proc/self/fd. Out: nothing, or what is there beside them. Never: closes anything: it would hide the mistake.

use std::fs;
use std::io;

use nix::errno::Errno;

/// The fds of a worker at its start are not the three that it may have.
#[derive(Debug, thiserror::Error)]
pub enum FdTableError {
    /// There are fewer or more.
    #[error("a worker starts with the fds 0, 1 and 2, not with {found}")]
    Wrong {
        /// Numbers, and what is behind them.
        found: String,
    },
    /// /proc cannot be read.
    #[error("/proc/self/fd: {0}")]
    Unreadable(#[from] io::Error),
}

/// Checks that exactly 0, 1 and 2 are open.
///
/// # Errors
/// When others are, or it cannot be found out.
pub fn check() -> Result<(), FdTableError> {
    let mut numbers: Vec<i32> = Vec::new();
    for entry in fs::read_dir("/proc/self/fd")? {
        numbers.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    // The directory itself was open while it was read; by now it is not.
    let mut open: Vec<i32> = numbers.into_iter().filter(|fd| !is_closed(*fd)).collect();
    open.sort_unstable();
    if open == [0, 1, 2] {
        return Ok(());
    }
    let found: Vec<String> = open.into_iter().map(describe).collect();
    Err(FdTableError::Wrong { found: found.join(", ") })
}

fn is_closed(fd: i32) -> bool {
    matches!(fs::read_link(format!("/proc/self/fd/{fd}")), Err(error) if error.raw_os_error() == Some(Errno::ENOENT as i32))
}

fn describe(fd: i32) -> String {
    let target = fs::read_link(format!("/proc/self/fd/{fd}")).unwrap_or_default();
    format!("{fd} ({})", target.display())
}
