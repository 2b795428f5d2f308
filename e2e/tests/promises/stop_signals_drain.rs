//! SIGTERM and Ctrl-C: no new handoffs, and every stream that runs may finish, up to a limit.

use std::time::{Duration, Instant};

use handoff_e2e::apache::{Kind, client_pair, dial};
use handoff_e2e::process::{is_alive, signal};
use handoff_e2e::{Client, Crowd, Daemon, Door, Options, PATIENCE, eventually};
use nix::sys::signal::Signal;
use std::os::fd::AsFd;

/// A second and a half of words.
const PAYLOAD: &str = r#"{"prompt":"x","mock":{"length":75,"token_delay_ms":20}}"#;
const ENDLESS: &str = r#"{"prompt":"x","mock":{"length":1000000,"token_delay_ms":20}}"#;

fn streaming(daemon: &Daemon, payload: &str, count: usize) -> Vec<Client> {
    let mut clients: Vec<_> = (0..count).map(|_| daemon.hand_over(payload)).collect();
    clients.iter_mut().for_each(|client| drop(client.read_until("\n\n")));
    clients
}

#[test]
fn streams_finish_the_socket_is_gone_and_the_exit_is_clean() {
    for stop in [Signal::SIGTERM, Signal::SIGINT] {
        let mut daemon = Daemon::start("");
        let clients = streaming(&daemon, PAYLOAD, 6);
        daemon.signal(stop);
        eventually("the socket file is gone", || (!daemon.socket().exists()).then_some(()));
        assert_eq!(daemon.get("/readyz"), Some((503, "stopping\n".to_owned())), "{stop}");
        assert_eq!(daemon.get("/health"), Some((200, "OK\n".to_owned())), "{stop}");
        assert!(dial(&daemon.socket(), Door::SeqPacket).is_err(), "{stop}: somebody still listens");
        for client in clients {
            let rest = client.response();
            assert!(rest.body.ends_with("[DONE]\n\n") && rest.broken.is_none(), "{stop}: {rest:?}");
        }
        assert_eq!(daemon.wait().code(), Some(0), "{stop}");
        assert!(!daemon.log().contains("worker is killed"), "{stop}: a worker that was done was killed");
    }
}

#[test]
fn at_the_limit_each_stream_left_is_told_so() {
    let mut daemon = Daemon::start("shutdown_timeout_secs = 0.5\n");
    let begun = streaming(&daemon, ENDLESS, 4);
    let waiting: Vec<_> = [Kind::Tcp, Kind::Unix]
        .map(|kind| {
            daemon.hand_over_by(
                Door::SeqPacket,
                kind,
                br#"{"prompt":"x","mock":{"first_token_delay_ms":60000}}"#,
            )
        })
        .into();
    eventually("all are served", || (daemon.metric("daemon_active_streams") == 6.0).then_some(()));
    let stopped_at = Instant::now();
    daemon.signal(Signal::SIGTERM);
    for client in begun {
        let rest = client.response();
        assert_eq!(rest.error_code().as_deref(), Some("shutting_down"), "{rest:?}");
        assert!(!rest.body.contains("[DONE]") && rest.body.matches("shutting_down").count() == 1, "{rest:?}");
    }
    for client in waiting {
        let response = client.response();
        assert_eq!((response.status, response.heads()), (503, 1), "{response:?}");
        assert_eq!(response.error_code().as_deref(), Some("shutting_down"), "{response:?}");
    }
    assert_eq!(daemon.wait().code(), Some(0));
    let took = stopped_at.elapsed();
    assert!((Duration::from_millis(500)..Duration::from_secs(6)).contains(&took), "ended after {took:?}");
}

#[test]
fn a_second_signal_ends_at_once() {
    for (first, second) in [(Signal::SIGTERM, Signal::SIGTERM), (Signal::SIGINT, Signal::SIGTERM)] {
        let mut daemon = Daemon::start("");
        let workers = daemon.workers("ready");
        let clients = streaming(&daemon, ENDLESS, 2);
        daemon.signal(first);
        eventually("it drains", || (!daemon.socket().exists()).then_some(()));
        let asked_at = Instant::now();
        daemon.signal(second);
        daemon.wait();
        let took = asked_at.elapsed();
        assert!(took < Duration::from_secs(3), "{first} {second}: ended after {took:?}");
        eventually("no worker is left", || workers.iter().all(|pid| !is_alive(*pid)).then_some(()));
        clients.into_iter().for_each(|client| drop(client.response()));
    }
}

#[test]
fn ctrl_c_in_a_terminal_drains_too() {
    let mut daemon = Daemon::with(&Options { terminal: true, ..Options::default() });
    let clients = streaming(&daemon, PAYLOAD, 4);
    // The terminal sends SIGINT to its whole foreground process group.
    daemon.type_keys(b"\x03");
    eventually("the socket file is gone", || (!daemon.socket().exists()).then_some(()));
    for client in clients {
        let rest = client.response();
        assert!(rest.body.ends_with("[DONE]\n\n"), "{rest:?}; {}", daemon.stdout());
    }
    assert_eq!(daemon.wait().code(), Some(0), "{}", daemon.stdout());
    assert!(daemon.stdout().contains("^C"), "no terminal: {}", daemon.stdout());
}

#[test]
fn whoever_was_handed_over_before_the_end_is_answered() {
    let mut daemon = Daemon::start("");
    let silent = dial(&daemon.socket(), Door::SeqPacket).expect("a connection");
    eventually("the silent peer is accepted", || {
        (daemon.metric("daemon_connections_total") == 1.0).then_some(())
    });
    // Everything below comes in while it does not look.
    daemon.signal(Signal::SIGSTOP);
    let mut crowd = Crowd::default();
    for _ in 0..200 {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#));
    }
    let (ours, theirs) = client_pair(Kind::Unix);
    silent.send(b"{}", &[theirs.as_fd()]).expect("a late handoff");
    drop(theirs);
    crowd.join(ours);
    daemon.signal(Signal::SIGTERM);
    daemon.signal(Signal::SIGCONT);
    let responses = crowd.responses(PATIENCE);
    for (number, response) in responses.iter().enumerate() {
        let is_told = response.status == 503 && response.error_code().as_deref() == Some("shutting_down");
        assert!(response.is_complete() || is_told, "client {number} of {}: {response:?}", responses.len());
    }
    assert_eq!(daemon.wait().code(), Some(0));
}

#[test]
fn a_worker_told_to_end_drains_and_is_replaced() {
    let daemon = Daemon::start("");
    let client = streaming(&daemon, PAYLOAD, 1).remove(0);
    let [(old, 1)] = daemon.holders()[..] else { panic!("{:?}", daemon.holders()) };
    signal(old, Signal::SIGTERM);
    eventually("it drains, and another one is in its place", || {
        (daemon.workers("draining") == [old] && daemon.workers("ready").len() == 2).then_some(())
    });
    let rest = client.response();
    assert!(rest.body.ends_with("[DONE]\n\n"), "{rest:?}");
    eventually("it is gone", || (!is_alive(old)).then_some(()));
    assert_eq!(daemon.metric("handoffd_lease_endings_total"), 1.0);
}
