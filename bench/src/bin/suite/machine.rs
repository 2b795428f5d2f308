//! Where and when it was measured: figures without this mean nothing. Never: fails; what is not known is left out.

use std::fs;
use std::process::Command;

use nix::sys::resource::{Resource, getrlimit};

/// One line: processor, cores, memory, kernel, limit of open files.
pub(crate) fn place() -> String {
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let processor =
        value_of("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let memory = value_of("/proc/meminfo", "MemTotal").and_then(|text| {
        let kibibytes: u64 = text.split(' ').next()?.parse().ok()?;
        Some(format!(", {} GiB", kibibytes.div_ceil(1 << 20)))
    });
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let files = getrlimit(Resource::RLIMIT_NOFILE).map_or(0, |(_, hard)| hard);
    format!(
        "{cores} cores ({processor}){}, Linux {}, at most {files} open files a process, loopback",
        memory.unwrap_or_default(),
        kernel.trim()
    )
}

/// `2026-03-01, commit 0123abc`.
pub(crate) fn time() -> String {
    let date = output("date", &["-u", "+%Y-%m-%d"]);
    let commit = output("git", &["describe", "--always", "--dirty", "--abbrev=10"]);
    match (date, commit) {
        (Some(date), Some(commit)) => format!("{date}, commit {commit}"),
        (date, commit) => date.or(commit).unwrap_or_default(),
    }
}

fn output(program: &str, arguments: &[&str]) -> Option<String> {
    let output =
        Command::new(program).args(arguments).output().ok().filter(|output| output.status.success())?;
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}

fn value_of(path: &str, key: &str) -> Option<String> {
    let text = fs::read_to_string(path).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_has_cores_and_a_kernel() {
        let place = place();
        assert!(
            !place.starts_with('0') && place.contains(" cores (") && place.contains(", Linux "),
            "{place}"
        );
    }
}
