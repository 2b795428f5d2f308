//! A running Apache, as /proc shows it. In: its process id file. Out: whom its workers run as, which files it sees
//! and which modules it has in its memory.
//! Never: sends it a signal or a request.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::account::{Account, user_name};
use super::finding::Finding;
use super::read;

/// What Apache's processes call themselves: on Debian, elsewhere.
const NAMES: [&str; 2] = ["apache2", "httpd"];
/// A number and a line's end.
const PID_FILE_BYTES_MAX: u64 = 64;
/// A line a mapping; the kernel allows 65,530 of them.
const MAPS_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Directories that `PrivateTmp=` of systemd.exec(5) hides.
const PRIVATE: [&str; 2] = ["/tmp", "/var/tmp"];

/// A running Apache.
#[derive(Debug)]
pub(super) struct Running {
    /// Its first process.
    pub(super) pid: u32,
    /// One of its workers; none: there is none, or /proc does not show it.
    pub(super) worker: Option<Account>,
}

impl Running {
    /// The one that the file names, if it is one.
    pub(super) fn look(pid_file: &Path) -> Option<Self> {
        let pid = read::text(pid_file, PID_FILE_BYTES_MAX).ok()?.trim().parse().ok()?;
        if !is_apache(pid) {
            return None;
        }
        let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
        let mut children = children.split_whitespace().filter_map(|child| child.parse().ok());
        // Programs that write its logs are root's.
        let worker = children
            .find(|child| is_apache(*child))
            .and_then(|child| account(&fs::read_to_string(format!("/proc/{child}/status")).ok()?));
        Some(Self { pid, worker })
    }

    /// Whether this very socket is there for it; none: that is not ours to see.
    fn sees(&self, socket: &Path) -> Option<bool> {
        let identity = |path: &Path| fs::metadata(path).map(|facts| (facts.dev(), facts.ino()));
        let real = fs::canonicalize(socket).ok()?;
        let there = PathBuf::from(format!("/proc/{}/root", self.pid)).join(real.strip_prefix("/").ok()?);
        match (identity(&real), identity(&there)) {
            (Ok(here), Ok(there)) => Some(here == there),
            (Ok(_), Err(error)) if error.kind() == io::ErrorKind::NotFound => Some(false),
            (Err(_), _) | (_, Err(_)) => None,
        }
    }
}

fn is_apache(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| NAMES.contains(&name.trim_end()))
}

/// The effective ids and the groups of proc(5)'s `status`.
fn account(status: &str) -> Option<Account> {
    let numbers = |key: &str| -> Option<Vec<u32>> {
        let line = status.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().map(|word| word.parse().ok()).collect()
    };
    let (uid, gid) = (*numbers("Uid:")?.get(1)?, *numbers("Gid:")?.get(1)?);
    let mut groups = numbers("Groups:")?;
    groups.push(gid);
    Some(Account { name: user_name(uid), uid, gid, groups })
}

/// Whether Apache sees the same files as we do.
pub(super) fn judge(running: Option<&Running>, socket: &Path) -> Option<Finding> {
    const CHECK: &str = "socket.visible";
    let shown = socket.display();
    let advice =
        "put the socket into /run: PrivateTmp= of Apache's unit, or a chroot, hides other directories";
    match running.and_then(|running| running.sees(socket)) {
        Some(true) => Some(Finding::ok(CHECK, format!("the running Apache sees {shown}"))),
        Some(false) => {
            let found = format!(
                "the running Apache does not see {shown}: it has mounts of its own; each handoff is a 503"
            );
            Some(Finding::problem(CHECK, found, advice))
        }
        None if PRIVATE.iter().any(|directory| socket.starts_with(directory)) => {
            let found = format!(
                "{shown}: where Apache is a unit with PrivateTmp=true, as on Debian, it does not see it"
            );
            Some(Finding::warning(CHECK, found, advice))
        }
        None => None,
    }
}

/// Whether the module that the configuration loads, `ours`, is the one that runs: who has changed it may not have
/// reloaded Apache yet. None: that is not ours to see.
pub(super) fn judge_module(running: &Running, ours: &Path, others: &[&Path]) -> Option<Finding> {
    const CHECK: &str = "apache.loaded";
    let maps = read::text(Path::new(&format!("/proc/{}/maps", running.pid)), MAPS_BYTES_MAX).ok()?;
    let advice = "reload Apache: systemctl reload apache2 (elsewhere httpd)";
    match loaded(&maps, ours, others)? {
        Loaded::Current => Some(Finding::ok(CHECK, format!("the running Apache has {}", ours.display()))),
        Loaded::Older => {
            let found = format!("the running Apache has another {} than is there now", ours.display());
            Some(Finding::warning(CHECK, found, advice))
        }
        Loaded::Not => {
            let found = format!(
                "the running Apache has not loaded {}: X-Handoff-Data, with the prompt, reaches the browser",
                ours.display()
            );
            Some(Finding::problem(CHECK, found, advice))
        }
    }
}

/// What a running Apache has of a file.
#[derive(Debug, PartialEq, Eq)]
enum Loaded {
    Current,
    /// A file that has been replaced or removed since.
    Older,
    Not,
}

/// Reads proc(5)'s `maps`. Files count by their names alone, for directories may be links. None: it has no module at
/// all, so its modules are not files, or it is no Apache.
fn loaded(maps: &str, ours: &Path, others: &[&Path]) -> Option<Loaded> {
    const REPLACED: &str = " (deleted)";
    let real = fs::canonicalize(ours).unwrap_or_else(|_| ours.to_owned());
    let paths: Vec<&str> =
        maps.lines().filter_map(|line| line.find('/').map(|start| &line[start..])).collect();
    let named = |path: &str, file: &Path| Path::new(path).file_name() == file.file_name();
    if paths.iter().any(|path| named(path, &real)) {
        return Some(Loaded::Current);
    }
    let is_old = |path: &&str| path.strip_suffix(REPLACED).is_some_and(|path| named(path, &real));
    if paths.iter().any(is_old) {
        return Some(Loaded::Older);
    }
    others.iter().any(|other| paths.iter().any(|path| named(path, other))).then_some(Loaded::Not)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn a_process_status_is_read() {
        let status =
            "Name:\tapache2\nUid:\t0\t4000033\t0\t0\nGid:\t0\t4000034\t0\t0\nGroups:\t7 9 \nVmRSS:\t1 kB\n";
        let account = account(status).unwrap();
        assert_eq!((account.uid, account.gid, account.name.as_str()), (4_000_033, 4_000_034, "#4000033"));
        assert_eq!(account.groups, [7, 9, 4_000_034]);
        assert!(super::account("Uid:\tx\n").is_none());
    }

    #[test]
    fn the_modules_in_its_memory_are_found() {
        let line = |path: &str| format!("7f00-7f01 r-xp 00001000 fe:01 42    {path}\n");
        let (ours, other) = (Path::new("/l/mod_us.so"), Path::new("/l/mod_mime.so"));
        let found = |paths: &[&str]| {
            let maps = paths.iter().map(|path| line(path)).collect::<String>();
            loaded(&format!("7f00-7f01 rw-p 00000000 00:00 0\n{maps}"), ours, &[other])
        };
        assert_eq!(found(&["/usr/l/mod_mime.so", "/usr/l/mod_us.so"]), Some(Loaded::Current));
        assert_eq!(found(&["/l/mod_us.so (deleted)", "/l/mod_mime.so"]), Some(Loaded::Older));
        assert_eq!(found(&["/l/mod_us.so (deleted)", "/l/mod_us.so"]), Some(Loaded::Current));
        assert_eq!(found(&["/l/mod_mime.so", "/l/not_mod_us.so"]), Some(Loaded::Not));
        assert_eq!(found(&["/bin/sleep"]), None);
    }

    #[test]
    fn what_is_no_apache_is_not_taken_for_one() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("pid");
        for text in [std::process::id().to_string(), "0".to_owned(), "x".to_owned(), String::new()] {
            fs::write(&file, text).unwrap();
            assert!(Running::look(&file).is_none());
        }
    }

    #[test]
    fn the_same_file_is_seen_by_who_has_the_same_mounts() {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("s");
        fs::write(&socket, "").unwrap();
        let running = Running { pid: std::process::id(), worker: None };
        assert_eq!(judge(Some(&running), &socket).unwrap().level, Level::Ok);
        assert_eq!(judge(None, Path::new("/tmp/x/s")).unwrap().level, Level::Warning);
        assert_eq!(judge(None, Path::new("/run/x/s")), None);
    }
}
