//! A handoff whose workers keep dying is not passed on for ever: it gets the constant 502.

use handoff_e2e::process::signal;
use handoff_e2e::{Client, Daemon, eventually};
use nix::sys::signal::Signal;

const SLOW_TO_BEGIN: &str = r#"{"prompt":"x","mock":{"first_token_delay_ms":3000}}"#;

#[test]
fn by_default_once() {
    let daemon = Daemon::start("");
    assert_refused(kill_holders(&daemon, 2));
    assert_eq!(daemon.metric("handoffd_redispatches_total"), 1.0);
}

#[test]
fn not_at_all_when_so_configured() {
    let daemon = Daemon::start("redispatch_max = 0\n");
    assert_refused(kill_holders(&daemon, 1));
    assert_eq!(daemon.metric("handoffd_redispatches_total"), 0.0);
}

#[test]
fn the_last_try_still_answers() {
    let daemon = Daemon::start("redispatch_max = 3\nqueue_timeout_secs = 10\n");
    let response = kill_holders(&daemon, 3).response();
    assert!(response.is_complete() && response.heads() == 1, "{response:?}");
    assert_eq!(daemon.metric("handoffd_redispatches_total"), 3.0);
}

/// Hands over one client, and kills whoever holds it, so many times.
fn kill_holders(daemon: &Daemon, times: usize) -> Client {
    let client = daemon.hand_over(SLOW_TO_BEGIN);
    let mut killed = Vec::new();
    for _ in 0..times {
        let holder = eventually("a further worker holds the lease", || match daemon.holders()[..] {
            [(pid, 1)] if !killed.contains(&pid) => Some(pid),
            _ => None,
        });
        signal(holder, Signal::SIGKILL);
        killed.push(holder);
    }
    client
}

fn assert_refused(client: Client) {
    let response = client.response();
    assert_eq!((response.status, response.heads()), (502, 1), "{response:?}");
    assert_eq!(response.error_code().as_deref(), Some("worker_crashed"), "{response:?}");
    assert_eq!(response.broken, None, "{response:?}");
}
