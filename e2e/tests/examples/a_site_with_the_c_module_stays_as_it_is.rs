//! `examples/apache-c-module`: what its PHP says, in the messages of the C module, new and old, is answered; and its
//! configurations are right.

use std::path::Path;
use std::process::{Command, Output};

use handoff_e2e::apache::Kind;
use handoff_e2e::daemon::binary;
use handoff_e2e::example::{self, Example};
use handoff_e2e::{Daemon, Door, Options, Response, eventually};
use tempfile::TempDir;

/// PHP's own server, where ada has logged in.
fn php(sessions: &Path) -> Example {
    std::fs::write(sessions.join("sess_ada"), "user_id|s:3:\"ada\";").expect("a session");
    let save_path = format!("session.save_path={}", sessions.display());
    let mut command = Command::new("php");
    command.args(["-d", &save_path, "-S", "127.0.0.1:0", "stream.php"]);
    Example::start(command.current_dir(example::directory("apache-c-module")))
}

fn request(method: &str, query: &str, headers: &str) -> String {
    let cookie = "Cookie: PHPSESSID=ada\r\n";
    format!("{method} /stream.php?{query} HTTP/1.1\r\nHost: site.example\r\n{cookie}{headers}\r\n")
}

/// What the C module finds in PHP's answer, and sends: the socket, and the message.
fn handoff(response: &Response) -> (&str, &str) {
    let header = |name| response.header(name).unwrap_or_else(|| panic!("no {name}: {response:?}"));
    (header("X-Socket-Handoff"), header("X-Handoff-Data"))
}

/// What a page shows that appends the data of every message and stops at `done`, by the rules of EventSource.
fn page(response: &Response) -> String {
    let (messages, rest) = response.body.split_once("event: done\ndata: [DONE]\n").expect("a proper end");
    assert_eq!(rest, "\n", "something follows the end: {response:?}");
    let message = |message: &str| {
        let data = message.lines().filter_map(|line| line.strip_prefix("data: "));
        data.collect::<Vec<_>>().join("\n")
    };
    messages.split("\n\n").map(message).collect()
}

/// What the mock answers.
fn answer_to(prompt: &str) -> String {
    format!(
        "Hello from handoffd! You asked: {prompt}\n\nThis answer comes from the embedded mock, word by word, and costs nothing."
    )
}

#[test]
fn and_its_pages_show_exactly_the_answer() {
    let sessions = TempDir::new().expect("a directory");
    let php = php(sessions.path());
    let daemon = Daemon::with(&Options { stream_socket: true, ..Options::default() });
    let response = php.answer(&request("GET", "prompt=gr%C3%BC%C3%9Fe", ""));
    let (socket, data) = handoff(&response);
    assert_eq!(socket, "/run/handoffd/handoffd.sock");
    for door in [Door::SeqPacket, Door::Stream] {
        let response = daemon.hand_over_by(door, Kind::Tcp, data.as_bytes()).response();
        assert_eq!(page(&response), answer_to("grüße"), "{door:?}");
    }
    let (first, second) = (daemon.hand_over(data), daemon.hand_over(data));
    for client in [first, second] {
        assert_eq!(page(&client.response()), answer_to("grüße"), "two at once");
    }
    let sessions = eventually("the log has every session", || {
        let sessions = daemon.sessions();
        (sessions.len() == 4).then_some(sessions)
    });
    assert!(sessions.iter().all(|session| session["user_id"] == "ada"), "{sessions:?}");
}

#[test]
fn and_head_has_no_body_and_nobody_is_answered_twice() {
    let sessions = TempDir::new().expect("a directory");
    let php = php(sessions.path());
    let daemon = Daemon::start("");
    let head = php.answer(&request("HEAD", "prompt=hello", ""));
    let response = daemon.hand_over(handoff(&head).1).response();
    assert_eq!((response.status, response.body.as_str()), (200, ""), "{response:?}");
    let again = php.answer(&request("GET", "prompt=hello", "Last-Event-ID: r1:end\r\n"));
    let response = daemon.hand_over(handoff(&again).1).response();
    assert_eq!(response.status, 204, "{response:?}");
}

#[test]
fn and_nobody_is_handed_over_who_may_not() {
    let sessions = TempDir::new().expect("a directory");
    let php = php(sessions.path());
    let response = php.answer("GET /stream.php?prompt=hello HTTP/1.1\r\nHost: site.example\r\n\r\n");
    assert_eq!((response.status, response.header("X-Socket-Handoff")), (401, None), "{response:?}");
    let response = php.answer(&request("GET", "prompt=+", ""));
    assert_eq!((response.status, response.header("X-Socket-Handoff")), (400, None), "{response:?}");
}

#[test]
fn and_the_daemon_keeps_nothing_open() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 0\n");
    let data = r#"{"prompt":"hello","format":"text"}"#;
    assert_eq!(daemon.hand_over(data).response().status, 200);
    let fds = daemon.fds();
    for _ in 0..200 {
        assert_eq!(page(&daemon.hand_over(data).response()), answer_to("hello"));
    }
    eventually("every fd is closed", || (daemon.fds() <= fds).then_some(()));
}

#[test]
fn and_its_configuration_is_right() {
    let config = example::directory("apache-c-module").join("daemon.toml");
    let Output { status, stderr, .. } =
        Command::new(binary("handoffd")).arg("--check").arg(config).output().expect("handoffd");
    assert!(status.success(), "{}", String::from_utf8_lossy(&stderr));
}
