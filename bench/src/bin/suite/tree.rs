//! What /proc says about a process and its descendants. In: a process id. Out: what each has open and in memory.
//! Never: an error for a process that ends meanwhile; it is left out.

use std::fs;

/// One process, at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    /// When it was started, in clock ticks since boot: with `pid` it names a process for ever.
    pub(crate) started: u64,
    /// What it calls itself (proc_pid_comm(5)).
    pub(crate) name: String,
}

/// What it has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Holdings {
    pub(crate) rss_bytes: u64,
    /// Its share of the memory that it shares with others (proc_pid_smaps(5)).
    pub(crate) pss_bytes: u64,
    pub(crate) fds: u64,
}

/// A process and all its descendants, parents first.
pub(crate) fn of(root: u32) -> Vec<Process> {
    let mut tree: Vec<Process> = Process::read(root).into_iter().collect();
    let mut next = 0;
    while let Some(process) = tree.get(next) {
        let further: Vec<_> = children(process.pid).into_iter().filter_map(Process::read).collect();
        tree.extend(further);
        next += 1;
    }
    tree
}

impl Process {
    fn read(pid: u32) -> Option<Self> {
        let (name, started) = name_and_start(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)?;
        Some(Self { pid, started, name })
    }

    /// Whether this very process still runs.
    pub(crate) fn is_alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started)
    }

    pub(crate) fn holdings(&self) -> Option<Holdings> {
        let rollup = fs::read_to_string(format!("/proc/{}/smaps_rollup", self.pid)).ok()?;
        Some(Holdings {
            rss_bytes: bytes_of(&rollup, "Rss:")?,
            pss_bytes: bytes_of(&rollup, "Pss:")?,
            fds: fs::read_dir(format!("/proc/{}/fd", self.pid)).ok()?.count() as u64,
        })
    }
}

fn children(pid: u32) -> Vec<u32> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let texts = threads.filter_map(|thread| fs::read_to_string(thread.path().join("children")).ok());
    texts
        .flat_map(|text| text.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<_>>())
        .collect()
}

/// Of /proc/PID/stat. None for a zombie: it holds nothing any more.
fn name_and_start(stat: &str) -> Option<(String, u64)> {
    let (before, fields) = stat.rsplit_once(") ")?;
    let (_, name) = before.split_once(" (")?;
    let mut fields = fields.split(' ');
    if fields.next()? == "Z" {
        return None;
    }
    // Field 22; the third was the state.
    Some((name.to_owned(), fields.nth(18)?.parse().ok()?))
}

/// A line of /proc/PID/smaps_rollup, which is in KiB.
fn bytes_of(rollup: &str, key: &str) -> Option<u64> {
    let line = rollup.lines().find_map(|line| line.strip_prefix(key))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_known_by_its_start_whatever_it_calls_itself() {
        let fields: Vec<_> = (4..=52).map(|field| field.to_string()).collect();
        let stat = format!("7 (a ) b) S {}\n", fields.join(" "));
        assert_eq!(name_and_start(&stat), Some(("a ) b".to_owned(), 22)));
        assert_eq!(name_and_start(&stat.replace(" S ", " Z ")), None);
    }

    #[test]
    fn memory_is_read_in_bytes() {
        let rollup = "55d0-7ffe ---p 00000000 00:00 0 [rollup]\nRss:                1536 kB\nPss:   900 kB\nPss_Dirty: 1 kB\n";
        assert_eq!(bytes_of(rollup, "Rss:"), Some(1_572_864));
        assert_eq!(bytes_of(rollup, "Pss:"), Some(921_600));
        assert_eq!(bytes_of(rollup, "Swap:"), None);
    }

    #[test]
    fn a_tree_has_this_process_and_its_children() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let tree = of(std::process::id());
        assert_eq!(tree[0].pid, std::process::id());
        let found = tree.iter().find(|process| process.pid == child.id()).cloned();
        child.kill().unwrap();
        child.wait().unwrap();
        let found = found.unwrap();
        assert!(!found.is_alive());
        assert!(tree[0].holdings().unwrap().fds >= 3);
    }
}
