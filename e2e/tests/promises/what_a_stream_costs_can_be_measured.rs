//! `handoffctl bench` measures a daemon with real handoffs: every stream is read to its end, every event counted, what
//! fails is told by its kind and the exit code, and its JSON is the documented one.

use std::collections::BTreeSet;
use std::process::{Command, Stdio};

use handoff_e2e::daemon::binary;
use handoff_e2e::operator::Said;
use handoff_e2e::{Daemon, Options};
use serde_json::{Value, json};

const DOCS: &str = include_str!("../../../docs/OPERATIONS.md");

fn bench(arguments: &[&str]) -> Said {
    let mut command = Command::new(binary("handoffctl"));
    command.arg("bench").args(arguments).env_clear().stdin(Stdio::null());
    command.output().expect("handoffctl runs").into()
}

/// The JSON of a run that ends with this code.
fn measured(mode: &str, socket: &std::path::Path, arguments: &[&str], code: i32) -> Value {
    let socket = socket.to_str().expect("a path");
    let said = bench(&[&[mode, "--socket", socket, "--json", "-"], arguments].concat());
    assert_eq!((said.code, said.err.as_str()), (code, ""), "{said:?}");
    serde_json::from_str(&said.out).expect("JSON")
}

fn payload(length: u32, token_delay_ms: u32) -> String {
    format!(r#"{{"prompt":"x","mock":{{"length":{length},"token_delay_ms":{token_delay_ms}}}}}"#)
}

fn keys(value: &Value, found: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => object.iter().for_each(|(key, value)| {
            found.insert(key.clone());
            keys(value, found);
        }),
        Value::Array(array) => array.iter().for_each(|value| keys(value, found)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

#[test]
fn a_churn_completes_every_stream_and_counts_every_event() {
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    let payload = payload(5, 0);
    let arguments = ["--handoffs", "300", "--open", "16", "--payload", &payload];
    for (socket, more) in [
        (daemon.socket(), &[][..]),
        (daemon.stream_socket(), &["--clients", "unix"][..]),
        (daemon.socket(), &["--processes", "3"][..]),
    ] {
        let report = measured("churn", &socket, &[&arguments, more].concat(), 0);
        assert_eq!(report["completed"], 300, "{report}");
        assert_eq!((&report["handoffs"], &report["events"]), (&300.into(), &1500.into()), "{report}");
        assert_eq!((&report["tokens"], &report["failed"]), (&1500.into(), &json!({})), "{report}");
        assert!(report["daemon"]["cpu_us_per_handoff"].as_f64() > Some(1.0), "{report}");
        let pids: Vec<u64> = (report["daemon"]["by_process"].as_array().expect("processes").iter())
            .filter_map(|process| process["pid"].as_u64())
            .collect();
        assert!(
            pids.contains(&daemon.pid().into()) && pids.len() == 3,
            "the daemon and its workers: {report}"
        );
    }
    let finished = daemon.metric("daemon_connections_total");
    assert!(finished >= 900.0, "the daemon has seen them too: {finished}");
}

#[test]
fn what_the_upstream_has_stamped_is_told() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 0\n");
    // The mock says it again. The first nanosecond of a clock that began when the machine did.
    let arguments = ["--handoffs", "3", "--payload", r#"{"prompt":"@1"}"#];
    let report = measured("churn", &daemon.socket(), &[&arguments[..], &["--stamped"]].concat(), 0);
    assert!(report["added_latency_us"]["max"].as_f64() > Some(1_000_000.0), "{report}");
    assert_eq!(measured("churn", &daemon.socket(), &arguments, 0)["added_latency_us"], Value::Null);
}

#[test]
fn held_streams_have_a_plateau_and_a_pace() {
    let daemon = Daemon::start("");
    let payload = payload(20, 50);
    let arguments = ["--streams", "60", "--rate", "400", "--hold", "0.5", "--payload", &payload];
    let report = measured("held", &daemon.socket(), &arguments, 0);
    assert_eq!((&report["completed"], &report["events"]), (&60.into(), &1200.into()), "{report}");
    let (seconds, events) = (report["plateau"]["seconds"].as_f64(), report["plateau"]["events"].as_f64());
    let (seconds, events) = (seconds.expect("a plateau"), events.expect("a plateau"));
    assert!((0.2..=0.6).contains(&seconds), "{report}");
    let expected = seconds * 60.0 / 0.05;
    assert!((events - expected).abs() < expected * 0.35, "{events} events, not {expected}: {report}");
    let gap = report["token_gap_us"]["p50"].as_f64().expect("gaps");
    assert!((40_000.0..80_000.0).contains(&gap), "{report}");
    assert!(report["daemon"]["cpu_us_per_event"].as_f64() > Some(0.1), "{report}");
    assert!(report["generator_lag_us"]["p50"].as_f64() < Some(50_000.0), "{report}");
}

#[test]
fn a_stream_that_breaks_off_is_told_and_so_is_one_that_is_late() {
    let daemon = Daemon::start("");
    let fails = r#"{"prompt":"x","mock":{"length":5,"token_delay_ms":0,"fail_at":3}}"#;
    let arguments = ["--handoffs", "20", "--open", "2", "--payload", fails];
    let report = measured("churn", &daemon.socket(), &arguments, 1);
    assert_eq!((&report["completed"], &report["failed"]), (&0.into(), &json!({"error_event": 20})));
    assert_eq!(report["events"], 40, "those before the error: {report}");
    let arguments = ["--streams", "2", "--timeout", "0.2", "--payload", &payload(1000, 50)];
    let report = measured("held", &daemon.socket(), &arguments, 1);
    assert_eq!(report["failed"], json!({"timeout": 2}), "{report}");
}

#[test]
fn a_stream_that_is_refused_is_told_and_the_others_are_held() {
    let daemon = Daemon::start("max_connections = 4\n");
    let report = measured("held", &daemon.socket(), &["--streams", "12", "--payload", &payload(10, 50)], 1);
    assert_eq!(
        (&report["completed"], &report["failed"]),
        (&4.into(), &json!({"refused_503": 8})),
        "{report}"
    );
}

#[test]
fn the_json_is_the_documented_one() {
    let daemon = Daemon::start("");
    let file = daemon.directory().join("bench.json");
    let arguments = ["churn", "--handoffs", "10", "--json", file.to_str().expect("a path"), "--socket"];
    let said = bench(&[&arguments[..], &[daemon.socket().to_str().expect("a path")]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    assert!(said.out.contains("10 completed") && said.out.contains("handoffd-worker"), "a table: {said:?}");
    let mut found = BTreeSet::new();
    let json = std::fs::read_to_string(&file).expect("the JSON");
    keys(&serde_json::from_str(&json).expect("JSON"), &mut found);

    let section = DOCS.split("### What a stream costs").nth(1).and_then(|rest| rest.split("\n##").next());
    let rows = section.expect("the section").lines().filter(|line| line.starts_with("| `"));
    let mut documented = BTreeSet::new();
    for row in rows {
        let first = row.split('|').nth(1).expect("a column");
        documented.extend(first.split('`').skip(1).step_by(2).map(str::to_owned));
    }
    assert!(documented.is_subset(&found), "documented, but not there: {:?}", &documented - &found);
    let beside = ["p50", "p90", "p99", "max", "pid", "name", "cpu_us", "pss_bytes_before"].map(str::to_owned);
    let undocumented = &(&found - &documented) - &beside.into();
    assert!(undocumented.is_empty(), "there, but not documented: {undocumented:?}");
}

#[test]
fn nobody_there_is_said_in_a_sentence() {
    let daemon = Daemon::start("");
    let gone = daemon.directory().join("gone.sock");
    let said = bench(&["churn", "--socket", gone.to_str().expect("a path")]);
    assert_eq!((said.code, said.out.as_str()), (3, ""), "{said:?}");
    assert!(said.err.contains("there is no such socket"), "{said:?}");
}
