//! With `allowed_users` or `allowed_groups` a handoff counts only from those whom the kernel knows as such.

use std::io::ErrorKind;

use handoff_e2e::apache::{self, Kind};
use handoff_e2e::{Daemon, Door, eventually};
use nix::unistd::{getgid, getuid};

const PAYLOAD: &[u8] = br#"{"prompt":"hi","mock":{"token_delay_ms":0}}"#;

#[test]
fn others_are_turned_away_with_nothing() {
    let (uid, gid) = (getuid().as_raw() + 1, getgid().as_raw() + 1);
    for rules in [
        format!("allowed_users = [{uid}]\n"),
        format!("allowed_groups = [{gid}]\n"),
        format!("allowed_users = [{uid}]\nallowed_groups = [{gid}]\n"),
    ] {
        let daemon = Daemon::start(&rules);
        let (client, theirs) = apache::client_pair(Kind::Tcp);
        // The daemon may have hung up before the message was sent.
        let sent = apache::hand_over(&daemon.socket(), Door::SeqPacket, PAYLOAD, theirs);
        assert!(sent.is_ok() || sent.is_err_and(|error| error.kind() == ErrorKind::BrokenPipe), "{rules}");
        let response = client.response();
        assert_eq!((response.status, response.body.as_str()), (0, ""), "{rules}");
        eventually("it is counted", || {
            (daemon.metric("handoffd_rejections_total{reason=\"forbidden\"") == 1.0).then_some(())
        });
        assert_eq!(daemon.metric("daemon_handoffs_total"), 0.0, "{rules}");
        let says = format!("uid {}, gid {}", getuid(), getgid());
        eventually("the log says who it was", || daemon.log().contains(&says).then_some(()));
    }
}

#[test]
fn the_allowed_user_or_group_hands_over() {
    let (uid, gid) = (getuid().as_raw(), getgid().as_raw());
    for rules in [
        format!("allowed_users = [{}, {uid}]\n", uid + 1),
        format!("allowed_groups = [{gid}]\n"),
        format!("allowed_users = [{uid}]\nallowed_groups = [{}]\n", gid + 1),
        format!("allowed_users = [{}]\nallowed_groups = [{gid}]\n", uid + 1),
    ] {
        let daemon = Daemon::start(&rules);
        let response = daemon.hand_over(PAYLOAD).response();
        assert!(response.is_complete(), "{rules}: {response:?}");
    }
}

#[test]
fn users_and_groups_may_be_named() {
    // Everywhere the name of 0, so this holds for root alone, and turns everybody else away.
    let daemon = Daemon::start("allowed_users = [\"root\"]\nallowed_groups = [\"root\"]\n");
    let response = daemon.hand_over(PAYLOAD).response();
    let is_root = getuid().is_root() || getgid().as_raw() == 0;
    assert_eq!(response.is_complete(), is_root, "{response:?}");
}
