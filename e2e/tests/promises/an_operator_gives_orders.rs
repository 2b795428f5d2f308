//! `handoffctl` over the control socket: what goes on is shown, what is ordered happens, and the exit code says so.

use handoff_e2e::operator::{Said, ctl, streams};
use handoff_e2e::process::is_alive;
use handoff_e2e::{Client, Daemon, Door, Options, apache::Kind, eventually};
use serde_json::Value;

const LONG: &str =
    r#"{"prompt":"x","user_id":"u1","request_id":"r1","mock":{"length":100000,"token_delay_ms":10}}"#;

fn refused(said: &Said, code: i32, reason: &str) {
    assert_eq!((said.code, said.out.as_str()), (code, ""), "{said:?}");
    assert!(said.err.starts_with("handoffctl: ") && said.err.contains(reason), "{reason}: {said:?}");
}

fn begun(daemon: &Daemon, payload: &str) -> Client {
    let mut client = daemon.hand_over(payload);
    client.read_until("\n\n");
    client
}

#[test]
fn status_without_http() {
    let toml = "[metrics]\nenabled = false\n".to_owned();
    let daemon = Daemon::with(&Options { toml, no_wait: true, ..Options::default() });
    let status: Value = eventually("it is ready", || {
        let said = ctl(&daemon, &["status", "--json"]);
        (said.code == 0).then(|| serde_json::from_str(&said.out).expect("JSON"))
    });
    assert_eq!((&status["pid"], &status["state"]), (&daemon.pid().into(), &"ready".into()));
    let said = ctl(&daemon, &["status"]);
    assert!(said.out.contains(&format!("pid {}: ready", daemon.pid())), "{said:?}");
    assert_eq!(said.out.lines().count(), 4, "{said:?}");
}

#[test]
fn streams_shows_those_that_there_are() {
    let daemon = Daemon::start("");
    assert_eq!(streams(&daemon), Vec::<Value>::new());
    let begun = begun(&daemon, LONG);
    let waiting = daemon.hand_over(r#"{"prompt":"x","user_id":7,"mock":{"first_token_delay_ms":60000}}"#);
    let shown = eventually("both are there, and read", || {
        let is_read = |stream: &Value| !stream["user_id"].is_null();
        Some(streams(&daemon)).filter(|shown| shown.len() == 2 && shown.iter().all(is_read))
    });
    let of_phase = |phase: &str| shown.iter().find(|stream| stream["phase"] == phase).expect(phase).clone();
    let (streaming, waits) = (of_phase("streaming"), of_phase("waiting"));
    assert_eq!((&streaming["user_id"], &streaming["request_id"]), (&"u1".into(), &"r1".into()));
    assert_eq!((&waits["user_id"], &waits["request_id"]), (&"7".into(), &Value::Null));
    assert_eq!(
        (waits["bytes"].as_u64(), streaming["bytes"].as_u64() > Some(100)),
        (Some(0), true),
        "{shown:?}"
    );
    for stream in &shown {
        let pid = u32::try_from(stream["pid"].as_u64().expect("a pid")).expect("a pid");
        assert!(daemon.workers("ready").contains(&pid), "{stream}");
        assert_eq!(stream["id"].as_str().map(str::len), Some(16), "{stream}");
        assert!(stream["age_ms"].as_u64().is_some_and(|ms| ms < 20_000), "{stream}");
        assert_eq!(stream["generation"], 1, "{stream}");
    }
    let table = ctl(&daemon, &["streams"]);
    let id = streaming["id"].as_str().expect("an id");
    assert!(
        table.out.starts_with("STREAM") && table.out.contains(id) && table.out.contains("u1"),
        "{table:?}"
    );
    drop((begun, waiting));
    eventually("they are gone", || streams(&daemon).is_empty().then_some(()));
}

#[test]
fn many_streams_are_shown_page_by_page_each_once() {
    const STREAMS: usize = 600;
    let daemon = Daemon::start("");
    let payload = br#"{"prompt":"x","mock":{"first_token_delay_ms":60000}}"#;
    let clients: Vec<Client> =
        (0..STREAMS).map(|_| daemon.hand_over_by(Door::SeqPacket, Kind::Unix, payload)).collect();
    eventually("all are there", || {
        let mut ids: Vec<String> = streams(&daemon).iter().map(|stream| stream["id"].to_string()).collect();
        let shown = ids.len();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), shown, "each is shown once");
        (shown == STREAMS).then_some(())
    });
    drop(clients);
}

#[test]
fn kill_ends_exactly_that_stream_with_a_word() {
    let daemon = Daemon::start("");
    let others: Vec<Client> = (0..4).map(|_| begun(&daemon, &LONG.replace("100000", "200"))).collect();
    let victim = begun(&daemon, &LONG.replace("\"r1\"", "\"victim\""));
    let waiting =
        daemon.hand_over(r#"{"prompt":"x","request_id":"waits","mock":{"first_token_delay_ms":60000}}"#);
    for (client, name, status, outcome) in
        [(victim, "victim", 0, "canceled"), (waiting, "waits", 503, "canceled")]
    {
        let id = eventually("it is there", || {
            let found = streams(&daemon).into_iter().find(|stream| stream["request_id"] == name)?;
            found["id"].as_str().map(str::to_owned)
        });
        let told = std::thread::spawn(move || client.response());
        let said = ctl(&daemon, &["kill", &id]);
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(said.out, format!("stream {id} has ended: {outcome}\n"));
        let response = told.join().expect("a response");
        assert_eq!(response.error_code().as_deref(), Some("canceled"), "{response:?}");
        assert_eq!((response.status, response.broken), (status, None), "{response:?}");
        assert!(!response.body.contains("[DONE]"), "{response:?}");
        assert_eq!(daemon.session(name)["outcome"], outcome);
        refused(&ctl(&daemon, &["kill", &id]), 1, "no worker has a stream");
    }
    for other in others {
        assert!(other.response().body.ends_with("[DONE]\n\n"));
    }
    assert_eq!(daemon.metric(r#"handoffd_lease_endings_total{outcome="canceled""#), 2.0);
    let complete = || daemon.metric(r#"handoffd_lease_endings_total{outcome="complete""#);
    eventually("the others' ends are reported", || (complete() == 4.0).then_some(()));
    assert_eq!(daemon.metric("handoffd_worker_restarts_total"), 0.0);
    refused(&ctl(&daemon, &["kill", "nonsense"]), 1, "16 hexadecimal digits");
}

#[test]
fn kill_does_not_wait_for_a_client_that_does_not_read() {
    let daemon = Daemon::start("write_timeout_secs = 600\n");
    let mut client = daemon
        .hand_over(r#"{"prompt":"x","request_id":"deaf","mock":{"length":10000000,"token_delay_ms":0}}"#);
    client.shrink_buffer();
    client.read_until("\n\n");
    let id = eventually("its stream stands still", || {
        let bytes = || streams(&daemon).first().map(|stream| (stream["id"].clone(), stream["bytes"].clone()));
        let before = bytes()?;
        handoff_e2e::throughout(std::time::Duration::from_millis(300), || {});
        (bytes()? == before).then(|| before.0.as_str().map(str::to_owned))?
    });
    let said = ctl(&daemon, &["kill", &id]);
    assert_eq!((said.code, said.out), (0, format!("stream {id} has ended: canceled\n")));
}

#[test]
fn drain_replaces_the_worker_of_a_slot() {
    let daemon = Daemon::start("");
    let streaming = begun(&daemon, &LONG.replace("100000", "150"));
    let slot = streams(&daemon)[0]["slot"].to_string();
    let old = u32::try_from(streams(&daemon)[0]["pid"].as_u64().expect("a pid")).expect("a pid");
    let ready = daemon.workers("ready");
    let said = ctl(&daemon, &["drain", &slot]);
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.starts_with(&format!("slot {slot}: a successor starts")), "{said:?}");
    eventually("the old one drains", || (daemon.workers("draining") == [old]).then_some(()));
    assert_eq!(daemon.workers("ready").len(), 2);
    refused(&ctl(&daemon, &["drain", &slot]), 1, "still drains");
    assert!(streaming.response().body.ends_with("[DONE]\n\n"), "its stream goes on");
    eventually("the old one is gone", || (!is_alive(old)).then_some(()));
    let kept = daemon.workers("ready").into_iter().filter(|pid| ready.contains(pid)).count();
    assert_eq!(kept, 1, "only this slot's worker was replaced");
    let by_operator = format!("handoffd_worker_restarts_total{{slot=\"{slot}\",reason=\"operator\"");
    assert_eq!(daemon.metric(&by_operator), 1.0);
    refused(&ctl(&daemon, &["drain", "9"]), 1, "there is no such slot; there are 2, from 0");
}

#[test]
fn log_changes_the_level_of_all_until_the_next_roll() {
    let daemon = Daemon::start("[logging]\nformat = \"json\"\nlevel = \"info\"\n");
    // What the log has of the sessions, once it has this one.
    let logged_until = |last: &str| -> Vec<String> {
        assert_eq!(daemon.session(last)["request_id"], last);
        let ids = daemon
            .sessions()
            .into_iter()
            .filter_map(|session| session["request_id"].as_str().map(str::to_owned));
        ids.collect()
    };
    let serve = |request_id: &str| {
        let payload = format!(r#"{{"prompt":"x","request_id":"{request_id}","mock":{{"length":1}}}}"#);
        let complete = || daemon.metric(r#"handoffd_lease_endings_total{outcome="complete""#);
        let before = complete();
        assert!(daemon.hand_over(payload).response().is_complete());
        eventually("its end is reported", || (complete() > before).then_some(()));
    };
    serve("first");
    assert_eq!(logged_until("first"), ["first"], "at info");
    let said = ctl(&daemon, &["log", "warn"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert!(said.out.contains("until the next roll or restart"), "{said:?}");
    serve("second");
    refused(&ctl(&daemon, &["log", "inof"]), 1, "must be one of trace, debug");
    assert_eq!(ctl(&daemon, &["log", "debug"]).code, 0);
    serve("third");
    assert_eq!(logged_until("third"), ["first", "third"], "not at warn");
    // A worker that comes later has it too.
    assert_eq!(ctl(&daemon, &["log", "warn"]).code, 0);
    for pid in daemon.workers("ready") {
        handoff_e2e::process::signal(pid, nix::sys::signal::Signal::SIGKILL);
        eventually("it is replaced", || {
            let ready = daemon.workers("ready");
            (ready.len() == 2 && !ready.contains(&pid)).then_some(())
        });
    }
    serve("fourth");
    assert_eq!(ctl(&daemon, &["reload", "--wait"]).code, 0);
    serve("fifth");
    let logged = logged_until("fifth");
    assert_eq!(logged, ["first", "third", "fifth"], "the new generation follows its configuration");
}

#[test]
fn what_cannot_be_is_refused_with_a_reason_and_a_code() {
    let daemon = Daemon::start("");
    assert_eq!(ctl(&daemon, &["drain", "one"]).code, 2);
    assert_eq!(ctl(&daemon, &["reload", "--timeout", "5"]).code, 2, "a timeout without --wait");
    std::fs::remove_file(daemon.control_socket()).expect("a socket file");
    for command in [["reload", "--wait"], ["kill", "0000000000000001"], ["log", "info"]] {
        refused(&ctl(&daemon, &command), 3, "is it running");
    }
    refused(&ctl(&daemon, &["streams", "--json"]), 3, "is it running");
}

#[test]
fn upgrade_can_be_waited_for() {
    let daemon = Daemon::with(&Options { own_binaries: true, ..Options::default() });
    let (workers, version) = (daemon.workers("ready"), env!("CARGO_PKG_VERSION"));
    let streaming = begun(&daemon, &LONG.replace("100000", "200"));
    let said = ctl(&daemon, &["upgrade", "--wait"]);
    let expected = format!("handoffd {version} has taken over: done, from {version}\n");
    assert_eq!((said.code, said.out, said.err.as_str()), (0, expected, ""));
    // The new image shows and ends the streams of workers that it has not started.
    assert_eq!(daemon.workers("ready"), workers);
    assert_eq!(streams(&daemon)[0]["request_id"], "r1");
    assert!(streaming.response().body.ends_with("[DONE]\n\n"));
    let victim = begun(&daemon, LONG);
    let id = streams(&daemon)[0]["id"].as_str().expect("an id").to_owned();
    let told = std::thread::spawn(move || victim.response());
    assert_eq!(ctl(&daemon, &["kill", &id]).out, format!("stream {id} has ended: canceled\n"));
    assert_eq!(told.join().expect("a response").error_code().as_deref(), Some("canceled"));
    // A binary that cannot take over changes nothing, and the reason is told.
    daemon.replace_binary("handoffd", b"#!/bin/sh\necho no handoffd\n");
    refused(&ctl(&daemon, &["upgrade", "--wait"]), 1, "is no handoffd that can take over");
    let said = ctl(&daemon, &["upgrade"]);
    assert_eq!((said.code, said.err.as_str()), (0, ""), "{said:?}");
    assert_eq!(daemon.workers("ready"), workers);
}
