//! Runs a program as on a kernel without Landlock: `without_landlock PROGRAM ARGUMENTS…`.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::libc;
use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

fn main() -> io::Result<()> {
    let mut words = std::env::args_os().skip(1);
    let program = words.next().ok_or_else(|| io::Error::other("which program?"))?;
    let architecture = std::env::consts::ARCH.try_into().map_err(io::Error::other)?;
    let calls =
        [libc::SYS_landlock_create_ruleset, libc::SYS_landlock_add_rule, libc::SYS_landlock_restrict_self];
    let rules: BTreeMap<i64, _> = calls.into_iter().map(|call| (call, Vec::new())).collect();
    let unknown = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, unknown, architecture);
    let filter: BpfProgram = filter.and_then(BpfProgram::try_from).map_err(io::Error::other)?;
    apply_filter(&filter).map_err(io::Error::other)?;
    Err(Command::new(program).args(words).exec())
}
