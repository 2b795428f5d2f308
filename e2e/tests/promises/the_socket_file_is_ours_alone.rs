//! The socket file has the owner and the mode that were configured; it is taken from the dead, never from the
//! living, and removed at the end if it is still ours.

use std::fs;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::os::unix::net::UnixListener;
use std::path::Path;

use handoff_e2e::apache::{self, Kind};
use handoff_e2e::{Daemon, Door, Options, eventually};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, bind, socket};
use nix::unistd::{Gid, Group, Uid, User, getgid, getuid};

#[test]
fn it_has_the_mode_and_the_owner_that_were_configured() {
    // Only root gives files away.
    let nobody = User::from_name("nobody").expect("users").expect("nobody");
    let (owner, group) = if getuid().is_root() { (nobody.uid, nobody.gid) } else { (getuid(), getgid()) };
    let names = [owner_name(owner), group_name(group)];
    for [user, group_of] in [[owner.to_string(), group.to_string()], names] {
        let toml =
            format!("socket_mode = \"0o640\"\nsocket_owner = \"{user}\"\nsocket_group = \"{group_of}\"\n");
        let daemon = Daemon::with(&Options { toml, stream_socket: true, ..Options::default() });
        for path in [daemon.socket(), daemon.stream_socket()] {
            let file = fs::metadata(&path).expect("a socket file");
            assert!(file.file_type().is_socket());
            assert_eq!(
                (file.mode() & 0o7777, file.uid(), file.gid()),
                (0o640, owner.as_raw(), group.as_raw())
            );
        }
    }
}

#[test]
fn its_mode_admits_owner_and_group_by_default() {
    let daemon = Daemon::start("");
    let file = fs::metadata(daemon.socket()).expect("a socket file");
    assert_eq!((file.mode() & 0o7777, file.uid(), file.gid()), (0o660, getuid().as_raw(), getgid().as_raw()));
}

#[test]
fn a_dead_daemons_file_is_replaced() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("handoffd.sock");
    for kind in [SockType::SeqPacket, SockType::Stream] {
        leave_stale(&path, kind);
        let mut daemon = start_at(&path, false);
        serves(&path);
        // Killed, it leaves its file behind, which the next one replaces too.
        daemon.signal(Signal::SIGKILL);
        daemon.wait();
        assert!(path.exists());
        let next = start_at(&path, false);
        serves(&path);
        drop(next);
    }
}

#[test]
fn a_living_daemons_file_is_left_to_it() {
    let first = Daemon::start("");
    let second = start_at(&first.socket(), true);
    fails_and_names(second, &first.socket(), "another instance is listening there");
    serves(&first.socket());
}

#[test]
fn a_living_listener_of_another_kind_is_left_alone_too() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("handoffd.sock");
    let _listener = UnixListener::bind(&path).expect("a listener");
    fails_and_names(start_at(&path, true), &path, "another instance is listening there");
    assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
}

#[test]
fn a_file_that_is_no_socket_is_left_alone() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("handoffd.sock");
    fs::write(&path, "precious").expect("a file");
    fails_and_names(start_at(&path, true), &path, "not a socket");
    assert_eq!(fs::read_to_string(&path).expect("the file"), "precious");
    fs::remove_file(&path).expect("a file");
    std::os::unix::fs::symlink("elsewhere", &path).expect("a link");
    fails_and_names(start_at(&path, true), &path, "not a socket");
    assert_eq!(fs::read_link(&path).expect("the link"), Path::new("elsewhere"));
}

#[test]
fn a_missing_directory_is_said() {
    let directory = tempfile::tempdir().expect("a directory");
    let path = directory.path().join("missing/handoffd.sock");
    fails_and_names(start_at(&path, true), &path, "does the directory exist");
}

#[test]
fn it_is_gone_after_a_clean_end() {
    for signal in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
        assert!(daemon.socket().exists() && daemon.stream_socket().exists());
        daemon.signal(signal);
        assert!(daemon.wait().success(), "{signal}");
        assert!(!daemon.socket().exists() && !daemon.stream_socket().exists(), "{signal}");
    }
}

#[test]
fn somebody_elses_file_in_its_place_stays() {
    let mut daemon = Daemon::start("");
    let path = daemon.socket();
    fs::remove_file(&path).expect("the socket file");
    let _other = UnixListener::bind(&path).expect("a listener");
    let before = fs::metadata(&path).expect("a file").ino();
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.wait().success());
    assert_eq!(fs::metadata(&path).expect("the other's file").ino(), before);
}

/// Bound, and then deserted.
fn leave_stale(path: &Path, kind: SockType) {
    let _ = fs::remove_file(path);
    let dead = socket(AddressFamily::Unix, kind, SockFlag::SOCK_CLOEXEC, None).expect("a socket");
    bind(dead.as_raw_fd(), &UnixAddr::new(path).expect("an address")).expect("a socket file");
}

fn start_at(path: &Path, no_wait: bool) -> Daemon {
    let args = vec!["--socket".to_owned(), path.display().to_string()];
    Daemon::with(&Options { args, no_wait, ..Options::default() })
}

fn serves(path: &Path) {
    let (client, theirs) = apache::client_pair(Kind::Tcp);
    let payload = br#"{"prompt":"hi","mock":{"token_delay_ms":0}}"#;
    apache::hand_over(path, Door::SeqPacket, payload, theirs).expect("a handoff");
    assert!(client.response().is_complete());
}

fn fails_and_names(mut daemon: Daemon, path: &Path, reason: &str) {
    let status = eventually("it gives up", || daemon.exit_status());
    assert_eq!(status.code(), Some(1), "{status}");
    let said = daemon.log();
    let line = said.lines().find(|line| line.starts_with("handoffd: ")).unwrap_or_default();
    assert!(line.contains(&path.display().to_string()) && line.contains(reason), "{said}");
}

fn owner_name(uid: Uid) -> String {
    User::from_uid(uid).expect("users").map_or(uid.to_string(), |user| user.name)
}

fn group_name(gid: Gid) -> String {
    Group::from_gid(gid).expect("groups").map_or(gid.to_string(), |group| group.name)
}
