//! Starts a program as systemd does: the fds that come over standard input are its fds from 3 on.
//!
//! `launcher NAME:NAME:… PROGRAM ARGUMENTS…`

#![forbid(unsafe_code)]

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use handoff_e2e::manager;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};

fn main() -> io::Result<()> {
    let mut arguments = std::env::args_os().skip(1);
    let names = arguments.next().unwrap_or_default();
    let program = arguments.next().unwrap_or_default();
    // What whoever runs the tests has left open goes: the fds get the numbers from 3 on, in order.
    let open: Vec<i32> = fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|number| *number > 2)
        .collect();
    for number in open {
        let _ = nix::unistd::close(number);
    }
    let (_, fds) = manager::receive(io::stdin().as_fd()).ok_or(io::ErrorKind::UnexpectedEof)?;
    for (number, fd) in (3..).zip(&fds) {
        if fd.as_raw_fd() != number {
            return Err(io::Error::other(format!("fd {number} was open before")));
        }
        fcntl(fd, FcntlArg::F_SETFD(FdFlag::empty()))?;
    }
    nix::unistd::dup2_stdin(File::open("/dev/null")?)?;
    Err(Command::new(program)
        .args(arguments)
        .env("LISTEN_PID", std::process::id().to_string())
        .env("LISTEN_FDS", fds.len().to_string())
        .env("LISTEN_FDNAMES", names)
        .exec())
}
