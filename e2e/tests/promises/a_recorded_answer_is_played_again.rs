//! A backend of the kind `replay`: the answer of another day, with its own timing or faster, by confined
//! workers.

use std::fs;
use std::time::{Duration, Instant};

use handoff_e2e::{Daemon, Options, eventually};
use serde_json::json;
use tempfile::TempDir;

/// Two words, half a second apart; `end` is how it ended.
fn recording(end: &str) -> TempDir {
    let directory = tempfile::tempdir().expect("a directory");
    let event = |delta: serde_json::Value, finish: Option<&str>| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        format!("data: {}\n\n", json!({"id": "c", "object": "chat.completion.chunk", "choices": [choice]}))
    };
    let word = |text: &str| event(json!({"content": text}), None);
    let stop = event(json!({}), Some("stop")) + "data: [DONE]\n\n";
    let last = if end == "clean" { stop } else { String::new() };
    let lines = [
        json!({"handoffd_recording": 1, "backend": "b", "dialect": "openai", "model": "m", "status": 200}),
        json!({"t_ms": 100, "text": word("Hello")}),
        json!({"t_ms": 600, "text": word(" again")}),
        json!({"t_ms": 600, "text": last}),
        json!({"t_ms": 600, "end": end}),
    ];
    let text: Vec<String> = lines.iter().map(serde_json::Value::to_string).collect();
    fs::write(directory.path().join("answer.jsonl"), text.join("\n")).expect("a recording");
    directory
}

fn configuration(directory: &TempDir, speed: &str) -> String {
    let file = directory.path().join("answer.jsonl");
    format!(
        "[workers]\ncount = 2\nsandbox = \"require\"\n[backends.recorded]\nkind = \"replay\"\nfile = \"{}\"\nspeed = {speed}\n",
        file.display()
    )
}

const QUESTION: &str = r#"{"prompt":"x","backend":"recorded"}"#;

#[test]
fn with_its_own_timing_or_at_once() {
    let directory = recording("clean");
    for (speed, at_least) in [("1", Duration::from_millis(500)), ("0", Duration::ZERO)] {
        let daemon = Daemon::start(&configuration(&directory, speed));
        let mut client = daemon.hand_over(QUESTION);
        client.read_until("Hello");
        let began_at = Instant::now();
        let response = client.response();
        // The timer counts whole milliseconds, and the first word was on its way when it was seen.
        assert!(began_at.elapsed() + Duration::from_millis(100) >= at_least, "{:?}", began_at.elapsed());
        assert!(response.body.contains(" again") && response.body.contains("data: [DONE]"), "{response:?}");
    }
}

#[test]
fn one_that_broke_off_never_looks_whole() {
    let daemon = Daemon::start(&configuration(&recording("broken"), "0"));
    let response = daemon.hand_over(QUESTION).response();
    assert!(response.body.contains(" again") && !response.body.contains("[DONE]"), "{response:?}");
    assert_eq!(response.error_code().as_deref(), Some("stream_incomplete"), "{response:?}");
}

#[test]
fn one_that_is_not_there_keeps_workers_from_starting_and_is_named() {
    let directory = recording("clean");
    let toml = configuration(&directory, "1");
    fs::write(directory.path().join("answer.jsonl"), "<html>").expect("a file system");
    let daemon = Daemon::with(&Options { toml, no_wait: true, ..Options::default() });
    eventually("the reason is in the log", || {
        let reason = "neither a recording of version 1 nor server-sent events";
        let log = daemon.log();
        (log.contains("backends.recorded.file: ") && log.contains(reason)).then_some(())
    });
    assert!(!daemon.is_ready());
}
