//! `examples/curl/ask` prints an answer's words as they come, and its exit status says whether that was all.

use std::io::Read;
use std::process::{Command, Output, Stdio};

use handoff_e2e::front::Front;
use handoff_e2e::{Daemon, example};

const ANSWER: &str = "This answer comes from the embedded mock, word by word, and costs nothing.";

fn ask(front: &Front, query: &str) -> Command {
    let mut command = Command::new(example::directory("curl").join("ask"));
    command.args(["--get", &format!("{}/stream?format=text&{query}", front.url())]);
    command
}

fn outcome(output: &Output) -> (Option<i32>, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

#[test]
fn word_by_word() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 50\n");
    let front = Front::start(&daemon);
    let mut child = ask(&front, "prompt=hello").stdout(Stdio::piped()).spawn().expect("bash, and curl");
    let mut first = [0; 1];
    child.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("a first word");
    assert!(daemon.metric("daemon_active_streams") > 0.5, "it printed nothing before the end");
    let (code, rest, _) = outcome(&child.wait_with_output().expect("an end"));
    let printed = format!("{}{rest}", char::from(first[0]));
    assert_eq!(code, Some(0), "{printed}");
    assert!(printed.contains(ANSWER), "{printed}");
    assert!(!printed.contains("data:") && !printed.contains("[DONE]"), "{printed}");
}

#[test]
fn with_its_line_breaks() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 0\n");
    let front = Front::start(&daemon);
    let output = ask(&front, "prompt=one%0A%0Atwo").output().expect("bash, and curl");
    let (code, printed, errors) = outcome(&output);
    assert_eq!((code, errors.as_str()), (Some(0), ""), "{printed}");
    assert!(printed.contains("one\n\ntwo"), "{printed:?}");
}

#[test]
fn and_what_broke_off_is_no_success() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 0\nallow_request_options = true\n");
    let front = Front::start(&daemon);
    let output = ask(&front, "prompt=hello&mock=%7B%22fail_at%22:3%7D").output().expect("bash, and curl");
    let (code, printed, _) = outcome(&output);
    assert_eq!(code, Some(1), "{printed}");
    assert!(printed.contains("\"error\""), "{printed}");
}

#[test]
fn and_neither_is_a_refusal() {
    let daemon = Daemon::start("");
    let front = Front::start(&daemon);
    let output = ask(&front, "prompt=hello&backend=nobody").output().expect("bash, and curl");
    let (code, printed, errors) = outcome(&output);
    assert_eq!(code, Some(22), "{printed} {errors}");
    assert!(errors.contains("bad_handoff"), "{errors}");
}
