//! At the limit of open files handoffs wait in the kernel: no client's fd is destroyed, and nothing spins.

use std::os::fd::AsFd;
use std::process::Command;
use std::time::{Duration, Instant};

use handoff_e2e::apache::{Kind, client_pair, dial};
use handoff_e2e::process::{children, cpu_ticks, fds};
use handoff_e2e::{Crowd, Daemon, Door, Options, PATIENCE, eventually, throughout};
use nix::unistd::geteuid;

/// prlimit(1) from outside, while the daemon runs: the soft limit alone can be raised again.
fn limit(daemon: &Daemon, soft: usize) {
    let status = own_user(Command::new("prlimit"))
        .arg(format!("--pid={}", daemon.pid()))
        .arg(format!("--nofile={soft}:"))
        .status();
    assert!(status.is_ok_and(|status| status.success()), "prlimit(1) does not work");
}

const OWN_USER: u32 = 61_239;

/// The command, as that user where we may: not even root may always set another user's limits.
fn own_user(command: Command) -> Command {
    if !geteuid().is_root() {
        return command;
    }
    let mut as_user = Command::new("setpriv");
    as_user.args([format!("--reuid={OWN_USER}"), format!("--regid={OWN_USER}"), "--clear-groups".to_owned()]);
    as_user.arg("--").arg(command.get_program());
    as_user
}

/// As a user of its own: the kernel compares the limit with all fds that a user has under way, and other tests' do
/// not belong in that sum.
fn start(toml: &str) -> Daemon {
    let as_user = geteuid().is_root().then_some([OWN_USER; 3]);
    Daemon::with(&Options { toml: toml.to_owned(), as_user, ..Options::default() })
}

#[test]
fn handoffs_wait_until_there_is_room_again() {
    let daemon = start("queue_timeout_secs = 30\n");
    limit(&daemon, fds(daemon.pid()) + 20);
    let mut crowd = Crowd::default();
    for _ in 0..100 {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","mock":{"length":10,"token_delay_ms":100}}"#));
    }
    eventually("it has paused", || (daemon.metric("handoffd_accept_pauses_total") > 0.0).then_some(()));
    let before = cpu_ticks(daemon.pid());
    throughout(Duration::from_millis(500), || {});
    let spent = cpu_ticks(daemon.pid()) - before;
    assert!(spent <= 25, "{spent} ticks of CPU in half a second: it spins");
    limit(&daemon, 1024);
    for (number, response) in crowd.responses(PATIENCE).iter().enumerate() {
        assert!(response.is_complete() && response.heads() == 1, "client {number}: {response:?}");
    }
    assert_eq!(daemon.metric(r#"handoffd_rejections_total{reason="fd_lost""#), 0.0);
}

#[test]
fn without_more_room_they_are_served_one_after_the_other() {
    let daemon = start("queue_timeout_secs = 30\n");
    limit(&daemon, fds(daemon.pid()) + 24);
    let mut crowd = Crowd::default();
    for _ in 0..60 {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","mock":{"length":5}}"#));
    }
    for (number, response) in crowd.responses(PATIENCE).iter().enumerate() {
        assert!(response.is_complete() && response.heads() == 1, "client {number}: {response:?}");
    }
}

#[test]
fn everything_is_closed_after_a_load() {
    let daemon = Daemon::start("");
    let count = || -> Vec<usize> {
        let mut processes = children(daemon.pid());
        processes.sort_unstable();
        [daemon.pid()].into_iter().chain(processes).map(fds).collect()
    };
    // What the first client opens for good is part of the baseline; what questions open for a moment is not.
    assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response().is_complete());
    eventually("nobody is served", || daemon.holders().is_empty().then_some(()));
    let mut baseline = count();
    throughout(Duration::from_millis(300), || {
        baseline = baseline.iter().zip(count()).map(|(least, now)| now.min(*least)).collect();
    });
    let mut crowd = Crowd::default();
    for number in 0..300 {
        let client = daemon.hand_over(r#"{"prompt":"x","mock":{"length":5,"token_delay_ms":20}}"#);
        match number % 3 {
            0 => client.reset(),
            1 => drop(client),
            _ => crowd.join(client),
        }
    }
    assert!(crowd.responses(PATIENCE).iter().all(handoff_e2e::Response::is_complete));
    let mut last = Vec::new();
    let is_back =
        |last: &[usize]| last.len() == 3 && last.iter().zip(&baseline).all(|(now, before)| now <= before);
    let deadline = Instant::now() + PATIENCE;
    while !is_back(&last) {
        assert!(Instant::now() < deadline, "open files before: {baseline:?}, after: {last:?}");
        last = count();
    }
}

#[test]
fn silent_peers_that_speak_at_the_limit_lose_nothing() {
    let daemon = start("queue_timeout_secs = 30\nhandoff_timeout_secs = 10\n");
    limit(&daemon, fds(daemon.pid()) + 40);
    let peers: Vec<_> =
        (0..20).map(|_| dial(&daemon.socket(), Door::SeqPacket).expect("a connection")).collect();
    eventually("they are accepted", || (daemon.metric("daemon_connections_total") == 20.0).then_some(()));
    let mut crowd = Crowd::default();
    for peer in &peers {
        let (ours, theirs) = client_pair(Kind::Tcp);
        peer.send(br#"{"prompt":"x","mock":{"length":3}}"#, &[theirs.as_fd()]).expect("a handoff");
        crowd.join(ours);
    }
    for (number, response) in crowd.responses(PATIENCE).iter().enumerate() {
        assert!(response.is_complete() && response.heads() == 1, "client {number}: {response:?}");
    }
}

#[test]
fn max_connections_is_capped_to_what_the_limit_allows_and_logged() {
    let daemon = Daemon::with(&Options { fd_limit: Some(512), ..Options::default() });
    // Two workers, each with 512 less the reserve.
    assert_eq!(daemon.status()["max_connections"], 768);
    assert_eq!(daemon.metric("handoffd_max_connections"), 768.0);
    let line = daemon.logged("is capped");
    for fact in [r#""max_connections":768"#, r#""configured":100000"#, r#""fd_limit":512"#] {
        assert!(line.contains(fact), "{fact} is not in the log: {line:?}");
    }
}
