//! A handoff socket, looked at from outside. In: its path. Out: what it is, who listens, how many wait.
//! Never: hands anything over; a connection that is closed again costs the daemon nothing.

use std::fs;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use handoff_shared::limits::LISTEN_BACKLOG;
use nix::errno::Errno;
use nix::sys::socket::{getsockopt, sockopt};

use super::finding::Finding;
use super::httpd::Build;
use crate::handover::{HandoffSocket, Kind};

/// What a connection says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Knock {
    /// Somebody listens there: who called listen(2), where the kernel tells.
    Heard { pid: Option<i32> },
    /// Not even a connection could be had.
    Failed(Errno),
}

/// What was seen of one socket.
#[derive(Clone, Debug)]
pub(super) struct Look {
    pub(super) kind: Option<Kind>,
    pub(super) knock: Knock,
    /// Connections that nobody has accepted yet; none: the kernel does not show it.
    waiting: Option<usize>,
}

/// Looks at the file, the kernel's table, and knocks.
///
/// # Errors
/// Why there is nothing to knock at.
pub(super) fn look(path: &Path) -> Result<Look, Finding> {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(facts) if facts.file_type().is_socket() => {}
        Ok(_) => {
            let found = format!("{shown} is no socket");
            Err(Finding::problem("socket.file", found, "name the daemon's server.socket_path"))?;
        }
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let found = format!("{shown} cannot be looked at: {error}");
            Err(Finding::unseen("socket.file", found, "ask again as root"))?;
        }
        Err(error) => {
            let advice = "start handoffd (systemctl start handoffd.socket handoffd.service), or name its socket by --socket";
            Err(Finding::problem("socket.file", format!("{shown}: {error}"), advice))?;
        }
    }
    let table = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let listed = listed(&table, path);
    let (kind, knock) = match knock(path, Kind::SeqPacket) {
        Knock::Failed(Errno::EPROTOTYPE) => (Some(Kind::Stream), knock(path, Kind::Stream)),
        Knock::Failed(Errno::EACCES) => (listed.map(|(kind, _)| kind), Knock::Failed(Errno::EACCES)),
        other @ (Knock::Heard { .. } | Knock::Failed(_)) => (Some(Kind::SeqPacket), other),
    };
    Ok(Look { kind, knock, waiting: listed.map(|(_, waiting)| waiting) })
}

fn knock(path: &Path, kind: Kind) -> Knock {
    match HandoffSocket::at(path, kind).knock() {
        Ok(connection) => {
            let pid = getsockopt(&connection.as_fd(), sockopt::PeerCredentials).ok().map(|peer| peer.pid());
            Knock::Heard { pid: pid.filter(|pid| *pid > 0) }
        }
        Err(errno) => Knock::Failed(errno),
    }
}

/// The listener of this name in proc(5)'s /proc/net/unix, and how many wait there.
fn listed(table: &str, path: &Path) -> Option<(Kind, usize)> {
    const LISTENS: u32 = 0x1_0000;
    let path = path.to_str()?;
    let mut kind = None;
    let mut waiting = 0;
    for line in table.lines() {
        let Some((_, rest)) = line.split_once(": ") else { continue };
        let mut fields = rest.splitn(6, ' ').map(str::trim);
        let (_, _, flags, of_kind) = (fields.next(), fields.next(), fields.next(), fields.next());
        // Between state and name is the inode, padded; whoever has none was not accepted yet.
        let Some((inode, name)) = fields.nth(1).and_then(|rest| rest.trim_start().split_once(' ')) else {
            continue;
        };
        if name != path {
            continue;
        }
        let flags = flags.and_then(|flags| u32::from_str_radix(flags, 16).ok()).unwrap_or(0);
        match of_kind {
            Some("0005") if flags & LISTENS != 0 => kind = Some(Kind::SeqPacket),
            Some("0001") if flags & LISTENS != 0 => kind = Some(Kind::Stream),
            _ if inode == "0" => waiting += 1,
            _ => {}
        }
    }
    kind.map(|kind| (kind, waiting))
}

/// What it means for handoffs.
pub(super) fn judge(path: &Path, look: &Look, build: Build, seqpacket: Option<&Path>) -> Vec<Finding> {
    let shown = path.display();
    let mut findings = vec![match look.kind {
        Some(Kind::SeqPacket) => Finding::ok("socket.kind", format!("{shown} is SOCK_SEQPACKET")),
        Some(Kind::Stream) => stream(path, build, seqpacket),
        None => Finding::unseen(
            "socket.kind",
            format!("{shown}: the kernel does not show it"),
            "ask again as root",
        ),
    }];
    findings.push(match look.knock {
        Knock::Heard { .. } => Finding::ok("socket.listener", format!("somebody listens on {shown}")),
        Knock::Failed(Errno::EACCES) => {
            let found = format!("{shown}: you may not connect");
            Finding::unseen("socket.listener", found, "ask again as root, or as Apache's user")
        }
        Knock::Failed(Errno::ECONNREFUSED) => {
            let found = format!("{shown}: nobody listens there; each handoff is a 503");
            Finding::problem("socket.listener", found, "start handoffd: systemctl start handoffd.service")
        }
        Knock::Failed(Errno::EAGAIN) => {
            let found = format!("{shown}: its backlog is full; handoffd does not accept");
            let advice = "see the daemon's log, and journalctl -u handoffd; a stopped process accepts nobody";
            Finding::problem("socket.listener", found, advice)
        }
        Knock::Failed(errno) => Finding::problem(
            "socket.listener",
            format!("{shown}: {}", errno.desc()),
            "see connect(2), unix(7)",
        ),
    });
    findings.extend(look.waiting.map(|waiting| backlog(path, waiting)));
    findings
}

fn stream(path: &Path, build: Build, seqpacket: Option<&Path>) -> Finding {
    let found = match build {
        Build::Ours => "the module tries SOCK_SEQPACKET first, and connects twice for each handoff",
        Build::Theirs | Build::Unknown => {
            "a C module of March 2026 or newer gets EPROTOTYPE there, and each handoff is a 503; an older one needs it"
        }
    };
    let advice = match seqpacket.filter(|other| *other != path) {
        Some(other) => format!("let PHP say X-Socket-Handoff: {} (server.socket_path)", other.display()),
        None => "let PHP name the daemon's server.socket_path in X-Socket-Handoff".to_owned(),
    };
    Finding::warning("socket.kind", format!("{} is SOCK_STREAM: {found}", path.display()), advice)
}

fn backlog(path: &Path, waiting: usize) -> Finding {
    let found = format!("{}: {waiting} handoffs wait in the backlog", path.display());
    match waiting * 2 > usize::try_from(LISTEN_BACKLOG).unwrap_or(usize::MAX) {
        true => {
            Finding::warning("socket.backlog", found, "the daemon is stopped or too slow: handoffctl status")
        }
        false => Finding::ok("socket.backlog", found),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    const TABLE: &str = "\
Num       RefCount Protocol Flags    Type St Inode Path
0000000000000000: 00000002 00000000 00010000 0005 01 7153390 /run/h/s.sock
0000000000000000: 00000002 00000000 00000000 0005 02     0 /run/h/s.sock
0000000000000000: 00000002 00000000 00000000 0005 02     0 /run/h/s.sock
0000000000000000: 00000003 00000000 00000000 0005 03 7153399 /run/h/s.sock
0000000000000000: 00000002 00000000 00010000 0001 01  3390 /run/h/a name
0000000000000000: 00000003 00000000 00000000 0001 03 15714
";

    #[test]
    fn the_kernels_table_is_read() {
        assert_eq!(listed(TABLE, Path::new("/run/h/s.sock")), Some((Kind::SeqPacket, 2)));
        assert_eq!(listed(TABLE, Path::new("/run/h/a name")), Some((Kind::Stream, 0)));
        assert_eq!(listed(TABLE, Path::new("/run/h")), None);
    }

    #[test]
    fn what_a_socket_is_decides() {
        let look = |kind, errno: Option<Errno>, waiting| Look {
            kind,
            knock: errno.map_or(Knock::Heard { pid: None }, Knock::Failed),
            waiting: Some(waiting),
        };
        let (packet, stream) = (Some(Kind::SeqPacket), Some(Kind::Stream));
        let levels = |look: &Look, build| -> Vec<Level> {
            judge(Path::new("/s"), look, build, None).iter().map(|finding| finding.level).collect()
        };
        use Level::{Ok, Problem, Unseen, Warning};
        for (look, build, expected) in [
            (look(packet, None, 0), Build::Ours, [Ok, Ok, Ok]),
            (look(stream, None, 0), Build::Ours, [Warning, Ok, Ok]),
            (look(stream, None, 0), Build::Theirs, [Warning, Ok, Ok]),
            (look(packet, Some(Errno::ECONNREFUSED), 0), Build::Ours, [Ok, Problem, Ok]),
            (look(packet, Some(Errno::EAGAIN), 4096), Build::Ours, [Ok, Problem, Warning]),
            (look(None, Some(Errno::EACCES), 0), Build::Ours, [Unseen, Unseen, Ok]),
        ] {
            assert_eq!(levels(&look, build), expected, "{look:?}");
        }
        let told = judge(Path::new("/s"), &look(stream, None, 0), Build::Ours, Some(Path::new("/right")));
        assert!(told[0].advice.as_deref().unwrap().contains("X-Socket-Handoff: /right"), "{told:?}");
    }

    #[test]
    fn a_real_listener_is_seen() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("s");
        assert_eq!(look(&path).unwrap_err().level, Level::Problem);
        fs::write(&path, "").unwrap();
        assert!(look(&path).unwrap_err().found.contains("is no socket"));
        fs::remove_file(&path).unwrap();
        let listener = std::os::unix::net::UnixListener::bind(&path).unwrap();
        let seen = look(&path).unwrap();
        assert_eq!(seen.kind, Some(Kind::Stream));
        assert_eq!(seen.knock, Knock::Heard { pid: i32::try_from(std::process::id()).ok() });
        drop(listener);
        let seen = look(&path).unwrap();
        assert_eq!(seen.knock, Knock::Failed(Errno::ECONNREFUSED), "{seen:?}");
    }
}
