//! The daemon's processes, as the kernel accounts for them. In: the pid of their root. Out: CPU and memory, by process.
//! Never: disturbs them, forgets the CPU of one that has gone, takes a reused pid for the process that had it.

use std::collections::BTreeMap;
use std::fs;
use std::io;

use super::plan::now_ns;

/// `USER_HZ`, in which proc_pid_stat(5) counts: 100 on every architecture that this runs on.
const TICK_NS: u64 = 10_000_000;

/// The root and all of its descendants, those that have ended too.
#[derive(Debug)]
pub(super) struct Tree {
    processes: BTreeMap<u32, Process>,
}

/// One process.
#[derive(Debug)]
struct Process {
    name: String,
    start_time: String,
    /// CPU of each thread that was ever seen.
    threads_ns: BTreeMap<u32, u64>,
    is_gone: bool,
}

/// CPU in nanoseconds by pid, at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Sample {
    pub(super) at_ns: u64,
    pub(super) cpu_ns: BTreeMap<u32, u64>,
}

/// Memory in bytes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Memory {
    pub(super) pss: u64,
    pub(super) rss: u64,
}

impl Tree {
    /// The tree below this process.
    ///
    /// # Errors
    /// There is no such process.
    pub(super) fn of(root: u32) -> io::Result<Self> {
        let mut tree = Self { processes: BTreeMap::new() };
        tree.admit(root)?;
        Ok(tree)
    }

    /// Looks at all of them, and for new ones.
    pub(super) fn sample(&mut self) -> Sample {
        let mut found: Vec<u32> = self.processes.keys().copied().collect();
        while let Some(pid) = found.pop() {
            if !self.processes.contains_key(&pid) && self.admit(pid).is_err() {
                continue;
            }
            let Some(process) = self.processes.get_mut(&pid) else { continue };
            if process.is_gone || !process.look(pid) {
                process.is_gone = true;
                continue;
            }
            found.extend(children(pid).into_iter().filter(|child| !self.processes.contains_key(child)));
        }
        let total = |process: &Process| process.threads_ns.values().sum();
        let cpu_ns = self.processes.iter().map(|(pid, process)| (*pid, total(process))).collect();
        Sample { at_ns: now_ns(), cpu_ns }
    }

    /// What each of them that lives has; none where we may not look.
    pub(super) fn memory(&self) -> Option<BTreeMap<u32, Memory>> {
        let living = self.processes.iter().filter(|(_, process)| !process.is_gone);
        let memory: BTreeMap<_, _> =
            living.filter_map(|(pid, _)| memory(*pid).ok().map(|memory| (*pid, memory))).collect();
        (!memory.is_empty()).then_some(memory)
    }

    /// Every process that was ever seen, and its name.
    pub(super) fn names(&self) -> impl Iterator<Item = (u32, &str)> {
        self.processes.iter().map(|(pid, process)| (*pid, process.name.as_str()))
    }

    fn admit(&mut self, pid: u32) -> io::Result<()> {
        let (name, start_time) = (name(pid)?, start_time(pid)?);
        self.processes.insert(pid, Process { name, start_time, threads_ns: BTreeMap::new(), is_gone: false });
        Ok(())
    }
}

impl Process {
    /// Whether it still lives.
    fn look(&mut self, pid: u32) -> bool {
        if start_time(pid).ok().as_ref() != Some(&self.start_time) {
            return false;
        }
        // Between fork and exec it has another one.
        if let Ok(name) = name(pid) {
            self.name = name;
        }
        for thread in numbers(&format!("/proc/{pid}/task")) {
            if let Ok(ns) = thread_cpu_ns(pid, thread) {
                let seen = self.threads_ns.entry(thread).or_default();
                *seen = ns.max(*seen);
            }
        }
        true
    }
}

/// The first number of schedstat, which counts nanoseconds; where the kernel has none, the ticks of stat.
fn thread_cpu_ns(pid: u32, thread: u32) -> io::Result<u64> {
    let number = |text: &str| text.parse::<u64>().map_err(io::Error::other);
    if let Ok(text) = fs::read_to_string(format!("/proc/{pid}/task/{thread}/schedstat")) {
        return number(text.split(' ').next().unwrap_or_default());
    }
    let stat = stat(&format!("/proc/{pid}/task/{thread}/stat"))?;
    let field = |index: usize| number(stat.get(index).map_or("", String::as_str));
    Ok((field(11)? + field(12)?) * TICK_NS)
}

fn name(pid: u32) -> io::Result<String> {
    Ok(fs::read_to_string(format!("/proc/{pid}/comm"))?.trim_end().to_owned())
}

/// When the process began, which tells it from a later one of the same pid.
fn start_time(pid: u32) -> io::Result<String> {
    let stat = stat(&format!("/proc/{pid}/stat"))?;
    if stat.first().is_none_or(|state| state == "Z") {
        return Err(io::ErrorKind::NotFound.into());
    }
    stat.get(19).cloned().ok_or_else(|| io::ErrorKind::InvalidData.into())
}

/// The fields of proc_pid_stat(5) from the third, the state, on: a name may have blanks and brackets.
fn stat(path: &str) -> io::Result<Vec<String>> {
    let text = fs::read_to_string(path)?;
    let fields = text.rsplit_once(')').map(|(_, fields)| fields).unwrap_or_default();
    Ok(fields.split_whitespace().map(str::to_owned).collect())
}

/// By `children` of each thread; where the kernel does not have that (CONFIG_PROC_CHILDREN), by everybody's parent.
fn children(pid: u32) -> Vec<u32> {
    if fs::exists(format!("/proc/{pid}/task/{pid}/children")).unwrap_or(false) {
        let of =
            |thread| fs::read_to_string(format!("/proc/{pid}/task/{thread}/children")).unwrap_or_default();
        let lists = numbers(&format!("/proc/{pid}/task")).into_iter().map(of).collect::<String>();
        return lists.split_whitespace().filter_map(|pid| pid.parse().ok()).collect();
    }
    children_by_parent(pid)
}

fn children_by_parent(parent: u32) -> Vec<u32> {
    let parent = parent.to_string();
    let is_child =
        |pid: &u32| stat(&format!("/proc/{pid}/stat")).is_ok_and(|stat| stat.get(1) == Some(&parent));
    numbers("/proc").into_iter().filter(is_child).collect()
}

/// The entries of a directory that are numbers.
fn numbers(directory: &str) -> Vec<u32> {
    let Ok(entries) = fs::read_dir(directory) else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// Of smaps_rollup, see proc_pid_smaps(5).
fn memory(pid: u32) -> io::Result<Memory> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
    let bytes = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key));
        line.and_then(|rest| rest.trim().strip_suffix(" kB")?.trim().parse::<u64>().ok()).map(|kb| kb * 1024)
    };
    let missing = || io::Error::from(io::ErrorKind::InvalidData);
    Ok(Memory { pss: bytes("Pss:").ok_or_else(missing)?, rss: bytes("Rss:").ok_or_else(missing)? })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};

    fn own(sample: &Sample) -> u64 {
        sample.cpu_ns[&std::process::id()]
    }

    #[test]
    fn what_a_process_and_its_children_use_is_seen_also_when_they_have_gone() {
        let mut tree = Tree::of(std::process::id()).unwrap();
        let before = tree.sample();
        let mut child = Command::new("cat").stdin(Stdio::piped()).spawn().unwrap();
        let since_ns = now_ns();
        while now_ns() - since_ns < 30_000_000 {
            std::hint::black_box(0);
        }
        let with_child = tree.sample();
        // The kernel accounts at its ticks; others may have used the core meanwhile.
        assert!(own(&with_child) > own(&before), "{before:?} {with_child:?}");
        assert!(with_child.cpu_ns.contains_key(&child.id()), "{with_child:?}");
        let memory = tree.memory().unwrap();
        assert!(
            memory[&child.id()].rss >= memory[&child.id()].pss && memory[&child.id()].pss > 0,
            "{memory:?}"
        );
        assert!(children_by_parent(std::process::id()).contains(&child.id()));
        child.kill().unwrap();
        child.wait().unwrap();
        let without = tree.sample();
        assert_eq!(without.cpu_ns[&child.id()], with_child.cpu_ns[&child.id()]);
        assert!(!tree.memory().unwrap().contains_key(&child.id()));
        assert!(tree.names().any(|(pid, name)| pid == child.id() && !name.is_empty()));
    }

    #[test]
    fn a_root_that_is_not_there_is_an_error() {
        assert!(Tree::of(u32::MAX).is_err());
    }
}
