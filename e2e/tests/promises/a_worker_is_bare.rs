//! A worker inherits nothing but its channel and the log: no fds, no environment, no terminal's signals.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::process::Command;

use handoff_e2e::daemon::binary;
use handoff_e2e::process::transparent_workers;
use handoff_e2e::{Daemon, Options};
use nix::sys::signal::Signal;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::unistd::{Pid, getpgid};

#[test]
fn its_environment_is_empty() {
    let env = vec![("OPENAI_API_KEY".to_owned(), "sk-secret".to_owned())];
    let daemon = Daemon::with(&Options { env, toml: transparent_workers().to_owned(), ..Options::default() });
    for pid in daemon.workers("ready") {
        assert_eq!(fs::read(format!("/proc/{pid}/environ")).unwrap(), b"");
        let command_line = fs::read(format!("/proc/{pid}/cmdline")).unwrap();
        assert_eq!(command_line, b"handoffd-worker\0", "{}", String::from_utf8_lossy(&command_line));
    }
}

#[test]
fn it_says_what_it_is_and_leads_a_process_group() {
    let daemon = Daemon::start("");
    for pid in daemon.workers("ready") {
        assert_eq!(fs::read_to_string(format!("/proc/{pid}/comm")).unwrap(), "handoffd-worker\n");
        let pid = Pid::from_raw(pid.try_into().unwrap());
        assert_eq!(getpgid(Some(pid)), Ok(pid));
    }
}

#[test]
fn it_ignores_what_a_terminal_sends() {
    let daemon = Daemon::start("");
    let workers = daemon.workers("ready");
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":50,"token_delay_ms":10}}"#);
    client.read_until("\n\n");
    for pid in &workers {
        handoff_e2e::process::signal(*pid, Signal::SIGINT);
        handoff_e2e::process::signal(*pid, Signal::SIGHUP);
    }
    assert!(client.response().body.ends_with("[DONE]\n\n"));
    assert_eq!(daemon.workers("ready"), workers);
}

#[test]
fn it_shares_no_fd_with_anybody_but_the_log() {
    // The supervisor is busy with clients, silent peers and questions while a further worker starts.
    let daemon = Daemon::start(transparent_workers());
    let inherited: BTreeSet<PathBuf> = links(std::process::id()).into_iter().collect();
    let _silent = handoff_e2e::apache::dial(&daemon.socket(), handoff_e2e::Door::SeqPacket).unwrap();
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":100000,"token_delay_ms":10}}"#);
    client.read_until("\n\n");
    let [(busy, 1)] = daemon.holders()[..] else { panic!("{:?}", daemon.holders()) };
    let idle: Vec<u32> = daemon.workers("ready").into_iter().filter(|pid| *pid != busy).collect();
    handoff_e2e::process::signal(idle[0], Signal::SIGKILL);
    let fresh = handoff_e2e::eventually("a fresh worker", || {
        daemon.workers("ready").into_iter().find(|pid| *pid != busy && *pid != idle[0])
    });

    let log: BTreeSet<PathBuf> =
        [1, 2].map(|fd| fs::read_link(format!("/proc/{fresh}/fd/{fd}")).unwrap()).into();
    let own: Vec<PathBuf> = links(fresh).into_iter().filter(|link| !inherited.contains(link)).collect();
    let others: BTreeSet<PathBuf> = links(daemon.pid()).into_iter().chain(links(busy)).collect();
    for link in own.iter().filter(|link| is_socket(link)) {
        assert!(!others.contains(link), "{} of {own:?} belongs to somebody else", link.display());
    }
    for link in &own {
        let name = link.to_string_lossy();
        let is_expected = is_socket(link)
            || log.contains(link)
            || ["/dev/null", "anon_inode:[eventpoll]", "anon_inode:[eventfd]"].contains(&&*name)
            || name.ends_with("/statm");
        assert!(is_expected, "{name} of {own:?}");
    }
    // The channel twice (as standard input and as itself), and the runtime's pair for signals.
    let sockets: BTreeSet<&PathBuf> = own.iter().filter(|link| is_socket(link)).collect();
    assert_eq!(sockets.len(), 3, "{own:?}");
}

#[test]
fn what_the_supervisor_inherited_stays_with_it() {
    // The daemon takes low numbers for itself.
    let toml = transparent_workers().to_owned();
    let daemon = Daemon::with(&Options { toml, stray_fd: Some(900), ..Options::default() });
    let link = fs::canonicalize(daemon.config()).unwrap();
    assert!(links(daemon.pid()).contains(&link), "the daemon did not even inherit it");
    for pid in daemon.workers("ready") {
        assert!(!links(pid).contains(&link), "{:?}", links(pid));
    }
}

#[test]
fn started_with_more_than_it_may_have_it_says_so_and_ends() {
    let flags = SockFlag::SOCK_CLOEXEC;
    let (_ours, channel) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, flags).unwrap();
    // Opened by a shell: an fd of ours would be inherited by what other tests start meanwhile.
    let mut shell = Command::new("sh");
    shell.args(["-c", "exec 7</dev/null; exec \"$0\""]).arg(binary("handoffd-worker"));
    let worker = shell.env_clear().stdin(channel).output().unwrap();
    assert_eq!(worker.status.code(), Some(70), "{worker:?}");
    let said = String::from_utf8_lossy(&worker.stderr);
    assert!(said.contains("starts with the fds 0, 1 and 2, not with 0 (socket:"), "{said}");
    assert!(said.contains("7 (/dev/null)"), "{said}");
}

fn is_socket(link: &std::path::Path) -> bool {
    link.to_string_lossy().starts_with("socket:")
}

fn links(pid: u32) -> Vec<PathBuf> {
    let entries = fs::read_dir(format!("/proc/{pid}/fd")).expect("a process of ours");
    entries.filter_map(|entry| fs::read_link(entry.ok()?.path()).ok()).collect()
}
