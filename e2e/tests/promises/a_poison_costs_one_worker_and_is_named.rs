//! A handoff that kills whoever serves it: one worker dies of it, and one that has nothing else to lose. Its client
//! gets 502, everybody else an answer, and the operator learns which one it was.

use std::fs;
use std::time::Duration;

use handoff_e2e::apache::hand_over_large;
use handoff_e2e::daemon::binary;
use handoff_e2e::{Client, Crowd, Daemon, PATIENCE, Response, eventually};
use serde_json::Value;
use tempfile::TempDir;

/// Not fast: those that come with the poison have not begun when it kills.
const INNOCENT: &str = r#"{"prompt":"x","mock":{"first_token_delay_ms":300,"length":3,"token_delay_ms":1}}"#;
const STREAM: &str = r#"{"prompt":"x","mock":{"length":400,"token_delay_ms":10}}"#;
/// More than such a worker has: it dies when it reads it.
const POISON_BYTES: usize = 30 << 20;

/// Four real workers with little memory. The directory holds their executable.
fn daemon(server: &str) -> (Daemon, TempDir) {
    let directory = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
    let fake = directory.path().join("worker");
    fs::hard_link(env!("CARGO_BIN_EXE_fake_worker"), &fake).expect("a link beside the build");
    let behaviour = format!("little memory for {}", binary("handoffd-worker").display());
    fs::write(directory.path().join("behaviour"), behaviour).expect("a behaviour");
    (Daemon::start(&format!("{server}[workers]\ncount = 4\nbinary = \"{}\"\n", fake.display())), directory)
}

fn poison(daemon: &Daemon) -> Client {
    hand_over_large(&daemon.socket(), &[b' '; POISON_BYTES])
}

fn assert_refused(response: &Response) {
    assert_eq!((response.status, response.heads()), (502, 1), "{response:?}");
    assert_eq!(response.error_code().as_deref(), Some("worker_crashed"), "{response:?}");
}

/// Workers of slots that have died, once all are there again.
fn crashes(daemon: &Daemon) -> f64 {
    eventually("four ready workers", || (daemon.workers("ready").len() == 4).then_some(()));
    (0..4)
        .map(|slot| {
            daemon.metric(&format!("handoffd_worker_restarts_total{{slot=\"{slot}\",reason=\"crash\""))
        })
        .sum()
}

#[test]
fn among_fifty_innocents_exactly_one_is_refused() {
    let (daemon, _directory) = daemon("");
    let mut streams: Vec<Client> = (0..8).map(|_| daemon.hand_over(STREAM)).collect();
    streams.iter_mut().for_each(|stream| drop(stream.read_until("\n\n")));
    let mut crowd = Crowd::default();
    (0..25).for_each(|_| crowd.join(daemon.hand_over(INNOCENT)));
    let poison = poison(&daemon);
    (0..25).for_each(|_| crowd.join(daemon.hand_over(INNOCENT)));
    // Who had just begun on the sacrificial worker when the poison's turn came ends with a word, as any stream does.
    let mut begun = 0.0;
    for (number, response) in crowd.responses(PATIENCE).iter().enumerate() {
        assert_eq!((response.status, response.heads()), (200, 1), "innocent {number}: {response:?}");
        match response.error_code().as_deref() {
            None => assert!(response.is_complete(), "innocent {number}: {response:?}"),
            Some(code) => assert_eq!(code, "worker_crashed", "innocent {number}: {response:?}"),
        }
        begun += f64::from(u8::from(!response.is_complete()));
    }
    assert_refused(&poison.response());
    let rests = streams.into_iter().map(Client::response);
    let (whole, cut): (Vec<_>, Vec<_>) = rests.partition(|rest| rest.body.ends_with("[DONE]\n\n"));
    assert_eq!((whole.len(), cut.len()), (6, 2), "only the streams of one worker: {cut:?}");
    assert!(cut.iter().all(|rest| rest.body.contains("worker_crashed")), "{cut:?}");
    assert_eq!(crashes(&daemon), 1.0, "one worker with other people's streams died of it");
    // Some had ended, but for the worker's last word.
    assert!(daemon.metric("handoffd_epitaphs_total") >= 2.0 + begun, "{begun} were cut");
    assert_eq!(daemon.metric("handoffd_poison_total"), 1.0);
    assert_eq!(daemon.metric(r#"handoffd_lease_endings_total{outcome="refused_worker_crashed""#), 1.0);
}

#[test]
fn the_operator_learns_which_one_it_was() {
    let (daemon, _directory) = daemon("");
    assert_eq!(daemon.status()["last_poison"], Value::Null);
    assert_refused(&poison(&daemon).response());
    let told = eventually("/status names it", || {
        Some(daemon.status()["last_poison"].clone()).filter(|last| !last.is_null())
    });
    // Without the envelope, which is another one each time.
    assert_eq!(told["bytes"], POISON_BYTES, "{told}");
    let line: Value = serde_json::from_str(&daemon.logged("\"message\":\"poison: ")).expect("JSON");
    assert_eq!(line["level"], "ERROR", "{line}");
    for field in ["lease", "bytes", "hash"] {
        assert_eq!(line[field], told[field], "{field}: {line}");
    }
}

#[test]
fn by_default_nothing_is_remembered_of_it() {
    let (daemon, _directory) = daemon("");
    for number in 1..=2 {
        assert_refused(&poison(&daemon).response());
        assert_eq!(crashes(&daemon), f64::from(number), "it was tried");
    }
}

#[test]
fn where_the_site_wants_it_the_same_payload_is_refused_at_once_for_a_while() {
    let (daemon, _directory) = daemon("poison_memory_secs = 3\n");
    assert_refused(&poison(&daemon).response());
    assert_refused(&poison(&daemon).response());
    assert_eq!(
        (crashes(&daemon), daemon.metric("handoffd_poison_total")),
        (1.0, 1.0),
        "nobody tried it again"
    );
    assert!(daemon.hand_over(INNOCENT).response().is_complete());
    eventually("it is tried again", || {
        assert_refused(&poison(&daemon).response());
        (crashes(&daemon) > 1.0).then_some(())
    });
}

#[test]
fn the_sacrificial_worker_is_shown_and_let_go_when_it_has_nothing_to_do() {
    let (daemon, _directory) = daemon("");
    assert_refused(&poison(&daemon).response());
    let mut client = daemon.hand_over(r#"{"prompt":"x","mock":{"first_token_delay_ms":1000,"length":2000}}"#);
    let holder = eventually("a worker has it", || daemon.holders().first().map(|(pid, _)| *pid));
    handoff_e2e::process::signal(holder, nix::sys::signal::Signal::SIGKILL);
    client.read_until("\n\n");
    let quarantined = || {
        let status = daemon.status();
        let workers = status["workers"].as_array().cloned().unwrap_or_default();
        workers.into_iter().find(|worker| worker["slot"] == "quarantine" && worker["pid"].is_number())
    };
    assert_eq!(quarantined().expect("the sacrificial worker")["leases"], 1);
    assert_eq!(daemon.workers("ready").len() + daemon.workers("starting").len(), 4, "it has no slot");
    drop(client);
    eventually("it is gone", || quarantined().is_none().then_some(()));
    handoff_e2e::throughout(Duration::from_millis(200), || assert!(quarantined().is_none()));
}
