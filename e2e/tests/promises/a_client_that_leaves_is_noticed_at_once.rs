//! A client that leaves is noticed within 100 ms, whatever its session is doing, and its session ends.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handoff_e2e::apache::{self, Kind};
use handoff_e2e::{Client, Daemon, Door, eventually};
use serde_json::Value;

const NOTICED_WITHIN: Duration = Duration::from_millis(100);
/// What a busy machine may add before it runs the worker, and before it ran us.
const SLACK: Duration = Duration::from_millis(200);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Close,
    Reset,
    HalfClose,
}

/// Every way to leave, on every kind of socket: a Unix socket has no reset.
const LEAVINGS: [(Way, Kind); 5] = [
    (Way::Close, Kind::Tcp),
    (Way::Reset, Kind::Tcp),
    (Way::HalfClose, Kind::Tcp),
    (Way::Close, Kind::Unix),
    (Way::HalfClose, Kind::Unix),
];

#[test]
fn while_it_waits_for_the_head() {
    let daemon = Daemon::start("");
    let clients = waiting(&daemon, r#""first_token_delay_ms":3600000"#);
    eventually("all have a worker", || (daemon.metric("daemon_active_streams") == 5.0).then_some(()));
    leave_and_be_noticed(&daemon, clients);
}

#[test]
fn while_the_upstream_is_silent_between_two_words() {
    let daemon = Daemon::start("");
    let mut clients = waiting(&daemon, r#""token_delay_ms":3600000"#);
    for (_, client) in &mut clients {
        client.read_until("data: {\"content\":\"Hello\"}\n\n");
    }
    leave_and_be_noticed(&daemon, clients);
}

#[test]
fn while_the_worker_waits_for_it_to_read() {
    let daemon = Daemon::start("");
    let clients = waiting(&daemon, r#""token_delay_ms":0,"length":10000000"#);
    writers_are_blocked(&daemon);
    leave_and_be_noticed(&daemon, clients);
}

#[test]
fn when_it_had_left_before_its_socket_was_handed_over() {
    let daemon = Daemon::start("");
    for (number, (way, kind)) in LEAVINGS.into_iter().enumerate() {
        let (ours, theirs) = apache::client_pair(kind);
        let _kept = leave(ours, way);
        let payload = payload(&number.to_string(), r#""first_token_delay_ms":3600000"#);
        apache::hand_over(&daemon.socket(), Door::SeqPacket, payload.as_bytes(), theirs).expect("a handoff");
        let session = daemon.session(&number.to_string());
        assert_eq!(session["outcome"], "client_gone", "{way:?} {kind:?}: {session}");
        assert_eq!(session["bytes"], 0, "nothing is written to nobody: {session}");
    }
}

#[test]
fn when_hundreds_leave_at_the_same_time() {
    const CLIENTS: usize = 400;
    let daemon = Daemon::start("");
    let fds = daemon.fds();
    let clients: Vec<Client> = (0..CLIENTS)
        .map(|number| daemon.hand_over(payload(&number.to_string(), r#""first_token_delay_ms":3600000"#)))
        .collect();
    let all = CLIENTS as f64;
    eventually("all have a worker", || (daemon.metric("daemon_active_streams") == all).then_some(()));
    let left_at = time_of_day();
    drop(clients);
    let took_to_leave = since(left_at, time_of_day());
    eventually("all sessions end", || (daemon.sessions().len() == CLIENTS).then_some(()));
    let sessions = daemon.sessions();
    let mut delays: Vec<Duration> =
        sessions.iter().map(|session| since(left_at, ended_at(session))).collect();
    delays.sort();
    let (median, p99) = (delays[CLIENTS / 2], delays[CLIENTS * 99 / 100]);
    let allowed = NOTICED_WITHIN + took_to_leave + SLACK;
    assert!(p99 < allowed, "p99 {p99:?}, median {median:?}, allowed {allowed:?}");
    assert!(sessions.iter().all(|session| session["outcome"] == "client_gone"), "{:?}", sessions[0]);
    eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
    assert_eq!(daemon.metric("daemon_active_connections"), 0.0);
    assert_eq!(daemon.metric("daemon_stream_errors_total{reason=\"client_disconnected\""), all);
}

fn payload(request_id: &str, mock: &str) -> String {
    format!(r#"{{"prompt":"hi","request_id":"{request_id}","mock":{{{mock}}}}}"#)
}

/// One client for each leaving.
fn waiting(daemon: &Daemon, mock: &str) -> Vec<(usize, Client)> {
    let numbered = LEAVINGS.into_iter().enumerate();
    let clients = numbered.map(|(number, (_, kind))| {
        let payload = payload(&number.to_string(), mock);
        (number, daemon.hand_over_by(Door::SeqPacket, kind, payload.as_bytes()))
    });
    clients.collect()
}

/// Nothing more is written for longer than two beats of the workers, after which their numbers are exact.
fn writers_are_blocked(daemon: &Daemon) {
    let mut last = (0.0, SystemTime::now());
    eventually("the writers are blocked", || {
        let sent = daemon.metric("daemon_bytes_sent_total");
        if sent != last.0 {
            last = (sent, SystemTime::now());
        }
        (sent > 0.0 && last.1.elapsed().ok()? > Duration::from_millis(1500)).then_some(())
    });
}

fn leave_and_be_noticed(daemon: &Daemon, clients: Vec<(usize, Client)>) {
    for (number, client) in clients {
        let (way, kind) = LEAVINGS[number];
        let left_at = time_of_day();
        let _kept = leave(client, way);
        let session = daemon.session(&number.to_string());
        assert_eq!(session["outcome"], "client_gone", "{way:?} {kind:?}: {session}");
        let noticed = since(left_at, ended_at(&session));
        assert!(noticed < NOTICED_WITHIN + SLACK, "{way:?} {kind:?}: noticed after {noticed:?}");
    }
    eventually("no lease is left", || (daemon.metric("daemon_active_connections") == 0.0).then_some(()));
    let ended = daemon.metric("handoffd_lease_endings_total{outcome=\"client_gone\"");
    assert_eq!(ended, LEAVINGS.len() as f64);
}

/// A half-closed client is still there to read: it is given back.
fn leave(client: Client, way: Way) -> Option<Client> {
    match way {
        Way::Close => drop(client),
        Way::Reset => client.reset(),
        Way::HalfClose => {
            client.half_close();
            return Some(client);
        }
    }
    None
}

fn time_of_day() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock");
    Duration::from_micros(u64::try_from(now.as_micros()).expect("microseconds") % (86_400 * 1_000_000))
}

/// The log's `2026-01-31T12:34:56.123456Z` as a time of day.
fn ended_at(session: &Value) -> Duration {
    let timestamp = session["timestamp"].as_str().expect("a timestamp");
    let time = timestamp.split(['T', 'Z']).nth(1).expect("a time");
    let mut secs = 0.0;
    for part in time.split(':') {
        secs = secs * 60.0 + part.parse::<f64>().expect("a number");
    }
    Duration::from_secs_f64(secs)
}

/// Across midnight too.
fn since(earlier: Duration, later: Duration) -> Duration {
    let day = Duration::from_secs(86_400);
    let half = day / 2;
    if later + half < earlier { later + day - earlier } else { later.saturating_sub(earlier) }
}
