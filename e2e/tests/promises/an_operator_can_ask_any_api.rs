//! `handoffctl stream` asks whom it is told to, and shows what comes, also in the API's own bytes; its exit code says
//! whether that was all.

use std::process::{Command, Stdio};

use handoff_e2e::daemon::binary;
use handoff_e2e::operator::Said;
use handoff_e2e::upstream::{Dialect, Protocol, Talk, Upstream, words};
use handoff_e2e::{Answer, Daemon};
use serde_json::{Value, json};

use crate::an_answer_comes_from_a_real_api::confined;

fn stream(daemon: &Daemon, arguments: &[&str]) -> Said {
    let mut command = Command::new(binary("handoffctl"));
    command
        .arg("stream")
        .args(arguments)
        .arg("--socket")
        .arg(daemon.socket())
        .env_clear()
        .stdin(Stdio::null());
    command.output().expect("handoffctl runs").into()
}

#[test]
fn by_name_and_model_and_with_what_it_wants_to_see() {
    let llm = Upstream::start(Protocol::H1);
    llm.script(Answer::anthropic().reasoning(1));
    let daemon = confined(&llm.backend_toml("claude", Dialect::Anthropic));
    let asked = ["--backend", "claude", "--model", "m-1", "a question"];
    let said = stream(&daemon, &asked);
    assert_eq!((said.code, said.out.trim_end(), said.err.as_str()), (0, words(10).trim_end(), ""));
    assert_eq!(llm.wait_for_request(0).request.json()["model"], "m-1");

    let said = stream(&daemon, &[&asked[..], &["--json", "--include", "usage,reasoning"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    let data: Vec<Value> = said.out.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let seen = |data_of: &str| {
        data.iter().any(|event| event["data"].as_str().is_some_and(|data| data.contains(data_of)))
    };
    assert!(seen(r#"{"reasoning":"t0 "}"#) && seen(r#"{"usage":"#) && !seen("finish_reason"), "{said:?}");

    let said = stream(&daemon, &["--backend", "nobody", "a question"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("400") && said.err.contains("claude"), "{said:?}");
}

#[test]
fn in_the_apis_own_bytes() {
    let llm = Upstream::start(Protocol::H1);
    let talk = Talk::new(Dialect::Anthropic);
    llm.script(talk.clone());
    let daemon = confined(&llm.backend_toml("claude", Dialect::Anthropic));
    let raw = ["--backend", "claude", "--format", "raw", "a question"];
    let said = stream(&daemon, &raw);
    let body = String::from_utf8(talk.answer().body()).expect("UTF-8");
    assert_eq!((said.code, said.out, said.err), (0, body, String::new()));

    let said = stream(&daemon, &[&raw[..], &["--json"]].concat());
    assert_eq!(said.code, 0, "{said:?}");
    let first: Value = serde_json::from_str(said.out.lines().next().unwrap_or_default()).expect("JSON");
    assert_eq!(first["event"], json!("message_start"));

    // One that breaks off says so, and is not complete.
    llm.script(talk.broken_after(2, []));
    let said = stream(&daemon, &raw);
    assert_eq!(said.code, 1, "{said:?}");
    assert!(said.out.contains("w1 ") && said.err.contains("stream_incomplete"), "{said:?}");

    let said = stream(&daemon, &["--format", "raw", "a question"]);
    assert_eq!(said.code, 4, "{said:?}");
    assert!(said.err.contains("raw needs a backend whose bytes can be passed on"), "{said:?}");
}
