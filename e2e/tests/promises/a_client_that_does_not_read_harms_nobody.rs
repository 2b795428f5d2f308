//! A client that never reads is cut off after `write_timeout_secs`, takes no memory, and no time from others. A
//! slow one that does read is never cut off.

use std::time::{Duration, Instant};

use handoff_e2e::apache::{self, Kind};
use handoff_e2e::{Client, Daemon, Door, eventually};

/// An answer larger than all that the kernel keeps for a client.
const ENDLESS: &[u8] =
    br#"{"prompt":"hi","request_id":"deaf","mock":{"length":10000000,"token_delay_ms":0}}"#;
const STEADY: &[u8] = br#"{"prompt":"hi","request_id":"steady","mock":{"length":100,"token_delay_ms":20}}"#;

#[test]
fn it_is_cut_off_and_its_neighbours_notice_nothing() {
    const DEAF: usize = 8;
    let daemon = Daemon::start("write_timeout_secs = 1\n");
    let before = memory(&daemon);
    let deaf: Vec<Client> = (0..DEAF)
        .map(|number| hand_over_small(&daemon, if number % 2 == 0 { Kind::Tcp } else { Kind::Unix }, ENDLESS))
        .collect();
    let neighbours: Vec<Client> = (0..4).map(|_| daemon.hand_over(STEADY)).collect();
    let began_at = Instant::now();
    for neighbour in neighbours {
        let response = neighbour.response();
        assert!(response.is_complete(), "{response:?}");
        assert_eq!(response.text().split_whitespace().count(), 100);
    }
    let took = began_at.elapsed();
    assert!(took < Duration::from_secs(6), "2 s of words took {took:?}");
    let grown = memory(&daemon).saturating_sub(before);
    assert!(grown < 16 << 20, "the workers have grown by {grown} bytes for {DEAF} deaf clients");
    eventually("all are cut off", || {
        let ended = daemon.metric("handoffd_lease_endings_total{outcome=\"client_too_slow\"");
        (ended == DEAF as f64).then_some(())
    });
    assert_eq!(daemon.metric("daemon_stream_errors_total{reason=\"timeout\""), DEAF as f64);
    for session in daemon.sessions().iter().filter(|session| session["request_id"] == "deaf") {
        let ms = session["duration_ms"].as_f64().expect("a duration");
        assert!((1000.0..6000.0).contains(&ms), "{session}");
    }
    drop(deaf);
}

#[test]
fn a_slow_reader_is_waited_for_as_long_as_it_reads() {
    let daemon = Daemon::start("write_timeout_secs = 0.5\n");
    // 5 KB every 5 ms at most: to empty the third of its buffer that the kernel waits for, before it says that
    // there is room again, takes this client longer than the write timeout.
    let payload = br#"{"prompt":"hi","request_id":"slow","mock":{"length":150000,"token_delay_ms":0}}"#;
    let mut client = daemon.hand_over(payload);
    let response = client.read_slowly(5000);
    assert!(response.is_complete(), "{} bytes came, {:?}", response.body.len(), response.broken);
    assert_eq!(response.body.matches("\"content\"").count(), 150_000);
    let session = daemon.session("slow");
    assert!(session["duration_ms"].as_f64() > Some(1000.0), "too fast to prove anything: {session}");
}

#[test]
fn a_slow_reader_on_a_unix_socket_is_waited_for_too() {
    let daemon = Daemon::start("write_timeout_secs = 0.5\n");
    let payload = br#"{"prompt":"hi","request_id":"slow","mock":{"length":30000,"token_delay_ms":0}}"#;
    let mut client = daemon.hand_over_by(Door::SeqPacket, Kind::Unix, payload);
    let response = client.read_slowly(2000);
    assert!(response.is_complete(), "{} bytes came, {:?}", response.body.len(), response.broken);
}

#[test]
fn a_trickle_of_single_bytes_ends_in_time_and_holds_nobody_up() {
    let daemon = Daemon::start("write_timeout_secs = 1\n");
    let mut trickle = hand_over_small(&daemon, Kind::Tcp, ENDLESS);
    let neighbour = daemon.hand_over(STEADY);
    let deadline = Instant::now() + handoff_e2e::PATIENCE;
    let mut byte = [0; 1];
    while daemon.metric("handoffd_lease_endings_total{outcome=\"client_too_slow\"") == 0.0 {
        std::io::Read::read_exact(&mut trickle, &mut byte).expect("a byte");
        assert!(Instant::now() < deadline, "a client that takes next to nothing is served for ever");
    }
    assert!(neighbour.response().is_complete());
}

/// The client keeps as little as the kernel allows.
fn hand_over_small(daemon: &Daemon, kind: Kind, payload: &[u8]) -> Client {
    let (ours, theirs) = apache::client_pair(kind);
    ours.shrink_buffer();
    apache::hand_over(&daemon.socket(), Door::SeqPacket, payload, theirs).expect("a handoff");
    ours
}

/// What both workers have resident, as of their last beats.
fn memory(daemon: &Daemon) -> u64 {
    eventually("both workers have beaten", || {
        let status = daemon.status();
        let bytes = status["workers"].as_array()?.iter().map(|worker| worker["rss_bytes"].as_u64());
        let bytes: Vec<u64> = bytes.collect::<Option<_>>()?;
        (bytes.len() == 2 && bytes.iter().all(|bytes| *bytes > 0)).then(|| bytes.iter().sum())
    })
}
