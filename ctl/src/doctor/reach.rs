//! Whether Apache may connect: every directory on the way must let it pass, and the socket let it write.
//! In: modes and owners. Out: findings. Never: looks at access control lists, or at what a security module forbids.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::account::{Account, group_name, user_name};
use super::finding::Finding;

const CHECK: &str = "socket.permission";
const SEARCH: u32 = 0o1;
const WRITE: u32 = 0o2;

/// A directory on the way, or the socket at its end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    pub(super) path: PathBuf,
    /// Permission bits.
    pub(super) mode: u32,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// What is on the way to the socket, and the socket last; links are followed, and their directories count too.
///
/// # Errors
/// A step that cannot be looked at, and why.
pub(super) fn steps(socket: &Path) -> Result<Vec<Step>, (PathBuf, io::Error)> {
    let real = fs::canonicalize(socket).unwrap_or_else(|_| socket.to_owned());
    let mut paths: Vec<&Path> = socket.ancestors().chain(real.ancestors()).collect();
    paths.retain(|path| *path != socket && *path != real && !path.as_os_str().is_empty());
    paths.sort_unstable();
    paths.dedup();
    paths.push(&real);
    let step = |path: &Path| {
        let facts = fs::metadata(path).map_err(|error| (path.to_owned(), error))?;
        Ok(Step { path: path.to_owned(), mode: facts.mode() & 0o7777, uid: facts.uid(), gid: facts.gid() })
    };
    paths.into_iter().map(step).collect()
}

/// Whether this account can connect, and what stops it. `next` is who it becomes when it is started again: groups that
/// it has joined since do not count before.
pub(super) fn judge(account: &Account, next: Option<&Account>, steps: &[Step]) -> Vec<Finding> {
    let obstacles = obstacles(account, steps);
    match next.filter(|next| next.uid == account.uid && *next != account) {
        Some(next) if !obstacles.is_empty() && self::obstacles(next, steps).is_empty() => {
            let found = format!("{account} has joined a group that opens the way, but runs without it");
            vec![Finding::problem(CHECK, found, "restart Apache: systemctl restart apache2")]
        }
        Some(_) | None if obstacles.is_empty() => {
            let socket = steps.last().map(ToString::to_string).unwrap_or_default();
            vec![Finding::ok(CHECK, format!("{account} may connect: {socket}"))]
        }
        Some(_) | None => obstacles,
    }
}

fn obstacles(account: &Account, steps: &[Step]) -> Vec<Finding> {
    let Some((socket, directories)) = steps.split_last() else { return Vec::new() };
    let closed = directories.iter().filter(|step| !account.may(step, SEARCH));
    let mut findings: Vec<Finding> = closed.map(|step| directory(account, step)).collect();
    if !account.may(socket, WRITE) {
        findings.push(file(account, socket));
    }
    findings
}

fn directory(account: &Account, step: &Step) -> Finding {
    let (path, name, group) = (step.path.display(), &account.name, group_name(account.gid));
    let found = format!("{account} cannot pass {step}");
    Finding::problem(
        CHECK,
        found,
        format!("chgrp {group} {path} && chmod g+x {path}, or: chmod o+x {path} (for {name})"),
    )
}

fn file(account: &Account, step: &Step) -> Finding {
    let group = group_name(account.gid);
    let found = format!("{account} may not connect: {step}");
    let advice = format!(
        "set server.socket_group = \"{group}\" and server.socket_mode = \"0o660\" in daemon.toml, and restart handoffd; \
         where systemd holds the socket: SocketGroup={group} and SocketMode=0660 in handoffd.socket"
    );
    Finding::problem(CHECK, found, advice)
}

impl Account {
    /// path_resolution(7): the first class that fits decides, the owner's even if it has less than the others.
    fn may(&self, step: &Step, need: u32) -> bool {
        let class = if step.uid == self.uid {
            6
        } else if self.groups.contains(&step.gid) {
            3
        } else {
            0
        };
        self.uid == 0 || step.mode >> class & need == need
    }
}

/// As `ls -l` shows it, in numbers and names: `/run/x (0750, root:www-data)`.
impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { path, mode, uid, gid } = self;
        write!(f, "{} ({mode:04o}, {}:{})", path.display(), user_name(*uid), group_name(*gid))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    fn account(uid: u32, groups: &[u32]) -> Account {
        Account { name: format!("#{uid}"), uid, gid: groups[0], groups: groups.to_vec() }
    }

    fn step(path: &str, mode: u32, uid: u32, gid: u32) -> Step {
        Step { path: path.into(), mode, uid, gid }
    }

    #[test]
    fn the_first_class_that_fits_decides() {
        for (mode, uid, gid, may) in [
            (0o660, 0, 4_000_033, true),
            (0o640, 0, 4_000_033, false),
            (0o606, 0, 4_000_033, false), // the group's bits, not the others'
            (0o660, 0, 4_000_044, true),  // a further group
            (0o660, 0, 0, false),
            (0o666, 0, 0, true),
            (0o200, 4_000_001, 0, true),
            (0o066, 4_000_001, 4_000_033, false), // the owner's bits, not the group's
        ] {
            let apache = account(4_000_001, &[4_000_033, 4_000_044]);
            assert_eq!(apache.may(&step("/s", mode, uid, gid), WRITE), may, "{mode:o} {uid} {gid}");
        }
        assert!(account(0, &[0]).may(&step("/s", 0, 1, 1), WRITE), "root may all");
    }

    #[test]
    fn each_obstacle_is_named() {
        let apache = account(4_000_001, &[4_000_033]);
        let way = [step("/", 0o755, 0, 0), step("/run", 0o755, 0, 0), step("/run/h", 0o750, 0, 4_000_033)];
        let with = |last: &Step| [&way[..], std::slice::from_ref(last)].concat();
        let open = judge(&apache, None, &with(&step("/run/h/s", 0o660, 0, 4_000_033)));
        assert_eq!((open.len(), open[0].level), (1, Level::Ok), "{open:?}");
        let closed =
            judge(&account(4_000_001, &[4_000_044]), None, &with(&step("/run/h/s", 0o660, 0, 4_000_033)));
        assert_eq!(closed.len(), 2, "{closed:?}");
        assert!(closed[0].found.contains("cannot pass /run/h (0750, root:#4000033)"), "{closed:?}");
        assert!(closed[0].advice.as_deref().unwrap().contains("chmod g+x /run/h"), "{closed:?}");
        assert!(closed[1].found.contains("may not connect: /run/h/s (0660"), "{closed:?}");
        assert!(closed[1].advice.as_deref().unwrap().contains("socket_group = \"#4000044\""), "{closed:?}");
    }

    #[test]
    fn a_group_that_was_joined_later_needs_a_restart() {
        let way = [step("/", 0o755, 0, 0), step("/s", 0o660, 0, 4_000_033)];
        let (old, new) = (account(4_000_001, &[4_000_044]), account(4_000_001, &[4_000_044, 4_000_033]));
        let told = judge(&old, Some(&new), &way);
        assert_eq!((told.len(), told[0].level), (1, Level::Problem));
        assert!(told[0].advice.as_deref().unwrap().contains("restart Apache"), "{told:?}");
        assert_eq!(judge(&new, Some(&new), &way)[0].level, Level::Ok);
        assert!(judge(&old, Some(&old), &way)[0].found.contains("may not connect"));
    }

    #[test]
    fn a_way_through_a_link_counts_twice() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        fs::create_dir(&real).unwrap();
        fs::write(real.join("s"), "").unwrap();
        std::os::unix::fs::symlink(&real, directory.path().join("link")).unwrap();
        let paths: Vec<PathBuf> =
            steps(&directory.path().join("link/s")).unwrap().into_iter().map(|step| step.path).collect();
        assert_eq!(paths.last(), Some(&fs::canonicalize(real.join("s")).unwrap()));
        assert!(paths.contains(&directory.path().join("link")) && paths.contains(&real), "{paths:?}");
        assert!(steps(&directory.path().join("gone")).is_err());
    }
}
