//! Whatever its size, what PHP hands over is what the upstream is asked. What is no JSON is refused, and asked of nobody.

use std::io::Write;

use handoff_e2e::httpd::{self, Setup, World};
use handoff_e2e::upstream::{Dialect, Protocol};
use handoff_e2e::{Daemon, Httpd, Upstream};

/// The prompt is the request's body: `by` header or body.
const ECHO: &str = r"<?php
header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
$payload = json_encode(['prompt' => file_get_contents('php://input')], JSON_UNESCAPED_UNICODE);
if ($_GET['by'] === 'body') {
    header('X-Handoff-Body: 1');
    echo $payload;
} else {
    header('X-Handoff-Data: ' . $payload);
}
";
/// The payload is the request's body.
const RAW: &str = r"<?php
header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
$payload = file_get_contents('php://input');
if ($_GET['by'] === 'body') {
    header('X-Handoff-Body: 1');
    echo $payload;
} else {
    header('X-Handoff-Data: ' . $payload);
}
";

fn site(world: World, llm: &Upstream) -> (Daemon, Httpd) {
    let backend = llm.backend_toml("llm", Dialect::OpenAi);
    let daemon = httpd::daemon(&format!("[backend]\nprovider = \"llm\"\n{backend}"));
    let httpd = Httpd::start(world, &daemon, &[("echo.php", ECHO), ("raw.php", RAW)]);
    (daemon, httpd)
}

fn post(httpd: &Httpd, path: &str, body: &[u8]) -> handoff_e2e::Response {
    let mut client = httpd.connect();
    let lines = format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", body.len());
    let head = httpd.request("POST", path, &lines);
    client.write_all(head.as_bytes()).and_then(|()| client.write_all(body)).expect("a request");
    client.response()
}

/// So many bytes, no two lines of which are the same. Lines are long: a worker without optimization writes newlines slowly.
fn prompt(bytes: usize) -> String {
    let mut text: String = (0..=bytes / 200).map(|line| format!("line {line:0193}\n.")).collect();
    text.truncate(bytes);
    text
}

#[test]
fn from_one_byte_to_thirty_megabytes() {
    for world in World::ALL {
        let llm = Upstream::start(Protocol::H1);
        let (_daemon, httpd) = site(world, &llm);
        // A header of php-fpm's ends at 8 KB, one of mod_php's at what a message holds.
        let by_header = if world == World::Prefork { 200_000 } else { 7_000 };
        let sizes = [("header", 1), ("header", by_header)].into_iter();
        let sizes =
            sizes.chain([1, 8_192, 64 << 10, 200_000, 1 << 20, 30 << 20].map(|bytes| ("body", bytes)));
        for (number, (by, bytes)) in sizes.enumerate() {
            let what = format!("{world:?}, {bytes} B by {by}");
            let prompt = prompt(bytes);
            let response = post(&httpd, &format!("/echo.php?by={by}"), prompt.as_bytes());
            assert!(response.is_complete(), "{what}: {response:?}");
            let asked = llm.wait_for_request(number).request.json();
            let content = asked["messages"][0]["content"].as_str().unwrap_or_default();
            assert!(content == prompt, "{what}: {} B of prompt were asked", content.len());
        }
    }
}

#[test]
fn also_where_the_answer_is_relayed() {
    for world in World::ALL {
        let llm = Upstream::start(Protocol::H1);
        let backend = llm.backend_toml("llm", Dialect::OpenAi);
        let daemon = httpd::daemon(&format!("[backend]\nprovider = \"llm\"\n{backend}"));
        let httpd = Setup::new(world, &daemon).file("echo.php", ECHO).tls("SocketHandoffRelay On").start();
        for (number, bytes) in [1, 64 << 10, 1 << 20].into_iter().enumerate() {
            let prompt = prompt(bytes);
            let mut client = httpd.tls_connect();
            let lines =
                format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", prompt.len());
            let request = httpd.request("POST", "/echo.php?by=body", &lines) + &prompt;
            client.write_all(request.as_bytes()).expect("a request");
            let response = httpd::unchunked(client.response());
            assert!(response.is_complete(), "{world:?}, {bytes} B: {response:?}");
            let asked = llm.wait_for_request(number).request.json();
            let content = asked["messages"][0]["content"].as_str().unwrap_or_default();
            assert!(content == prompt, "{world:?}: {} B of {bytes} were asked", content.len());
        }
    }
}

#[test]
fn nothing_at_all_is_refused() {
    for world in World::ALL {
        let llm = Upstream::start(Protocol::H1);
        let (_daemon, httpd) = site(world, &llm);
        for by in ["header", "body"] {
            let response = post(&httpd, &format!("/raw.php?by={by}"), b"");
            assert_eq!(response.status, 400, "{world:?}, {by}: {response:?}");
            assert!(response.error_code().is_some(), "{world:?}, {by}: {response:?}");
        }
        assert_eq!(llm.request_count(), 0, "{world:?}");
    }
}

#[test]
fn more_than_is_allowed_is_refused() {
    for world in World::ALL {
        let llm = Upstream::start(Protocol::H1);
        let (_daemon, httpd) = site(world, &llm);
        let payload = format!("{{\"prompt\":\"{}\"}}", prompt(33 << 20).replace('\n', " "));
        let response = post(&httpd, "/raw.php?by=body", payload.as_bytes());
        assert_eq!(response.status, 500, "{world:?}: {response:?}");
        assert_eq!(llm.request_count(), 0, "{world:?}");
    }
}

#[test]
fn odd_bytes_are_passed_on_or_refused() {
    let odd: [(&[u8], Option<&str>); 7] = [
        (b"{\n  \"prompt\": \"indented\"\n}\n", Some("indented")),
        (b"{\"prompt\":\"a\\nb\"}", Some("a\nb")),
        (b"{\"prompt\":\"a\\u0000b\"}", Some("a\0b")),
        (b"{\"prompt\":\"a\nb\"}", None),
        (b"{\"prompt\":\"a\0b\"}", None),
        (b"{\"prompt\":\"a\xffb\"}", None),
        (b"{\"prompt\":\"cut", None),
    ];
    for world in World::ALL {
        let llm = Upstream::start(Protocol::H1);
        let (_daemon, httpd) = site(world, &llm);
        let mut asked = 0;
        for (payload, prompt) in odd {
            let what = format!("{world:?}: {}", payload.escape_ascii());
            let response = post(&httpd, "/raw.php?by=body", payload);
            match prompt {
                Some(prompt) => {
                    assert!(response.is_complete(), "{what}: {response:?}");
                    let request = llm.wait_for_request(asked).request.json();
                    assert_eq!(request["messages"][0]["content"], prompt, "{what}");
                    asked += 1;
                }
                None => {
                    assert_eq!(response.status, 400, "{what}: {response:?}");
                    assert!(response.error_code().is_some(), "{what}: {response:?}");
                }
            }
            // PHP drops a header with such bytes, and there is no payload then; or it is what it was.
            let response = post(&httpd, "/raw.php?by=header", payload);
            asked += usize::from(response.status == 200);
            assert!(response.is_complete() || response.status == 400, "{what}: {response:?}");
        }
        assert_eq!(llm.request_count(), asked, "{world:?}");
    }
}
