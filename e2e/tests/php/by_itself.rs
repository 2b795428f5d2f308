//! `php/handoff.php` in PHP's own server, and the test plays Apache: the daemon is asked what the page has asked.

use std::io::{Read, Write};
use std::net::{SocketAddrV4, TcpStream};
use std::process::{Child, Command, Stdio};

use handoff_e2e::upstream::{Protocol, Upstream};
use handoff_e2e::{Client, Daemon, apache, eventually, own_port};
use serde_json::{Value, json};

use crate::tests;

/// More than fits one message of a handoff.
const LARGE: usize = 1 << 20;

/// PHP's built-in server with the pages of PHP's own tests.
struct Site {
    server: Child,
    address: SocketAddrV4,
}

impl Site {
    fn start() -> Self {
        let address = own_port();
        let server = Command::new("php")
            .args(["-d", "output_buffering=0", "-S", &address.to_string()])
            .arg(tests().join("page.php"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("php starts");
        eventually("PHP's server listens", || TcpStream::connect(address).ok());
        Self { server, address }
    }

    /// What PHP answers to the module: status line and headers, and the body.
    fn ask(&self, method: &str, path: &str, lines: &str, body: &str) -> (String, Vec<u8>) {
        let mut connection = TcpStream::connect(self.address).expect("a connection");
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: site\r\n{lines}Content-Length: {length}\r\n\r\n{body}"
        );
        connection.write_all(request.as_bytes()).expect("a request");
        let mut response = Vec::new();
        connection.read_to_end(&mut response).expect("a response");
        let end = response.windows(4).position(|bytes| bytes == b"\r\n\r\n").expect("the end of the head");
        let body = response.split_off(end + 4);
        (String::from_utf8(response).expect("a head in UTF-8"), body)
    }

    /// Asks the page, and plays mod_socket_handoff.
    fn hand_over(&self, daemon: &Daemon, method: &str, path: &str, lines: &str, body: &str) -> Client {
        let (head, body) = self.ask(method, path, lines, body);
        assert!(head.starts_with("HTTP/1.1 200 "), "{head}{}", String::from_utf8_lossy(&body));
        let header = |name: &str| head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
        assert_eq!(header("X-Socket-Handoff"), Some("/run/handoffd/handoffd.sock"), "{head}");
        match header("X-Handoff-Data") {
            Some(json) => {
                assert!(body.is_empty() && header("X-Handoff-Body").is_none(), "{head}");
                daemon.hand_over(json)
            }
            None => {
                assert_eq!(header("X-Handoff-Body"), Some("1"), "{head}");
                apache::hand_over_large(&daemon.socket(), &body)
            }
        }
    }

    /// A page that hands over exactly this.
    fn hand_over_given(&self, daemon: &Daemon, payload: &Value, options: &Value) -> Client {
        let asked = json!({ "payload": payload, "options": options });
        self.hand_over(daemon, "POST", "/given", "", &asked.to_string())
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.server.kill();
        let _ = self.server.wait();
    }
}

#[test]
fn phps_own_tests_pass() {
    let output = Command::new("php").arg(tests().join("run.php")).output().expect("php (Debian: php-cli)");
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains(" passed, 0 failed"), "{said}");
    println!("{said}");
}

#[test]
fn the_upstream_is_asked_what_the_page_has_asked() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = Daemon::start(&llm.openai_toml());
    let site = Site::start();
    let questions = [
        "a\0b\nc\r\nX-Handoff-Data: {}\r\n\r\n".to_owned(),
        "\u{1}\u{1f}\u{7f}\u{85}\u{2028}\u{feff}\u{1f600}".to_owned(),
        r#""\/</script>{}"#.to_owned(),
        "x".repeat(LARGE),
    ];
    let mut number = 0;
    for question in &questions {
        for via in ["auto", "body"] {
            let payload = json!({ "prompt": question, "system": "Grüße" });
            let response = site.hand_over_given(&daemon, &payload, &json!({ "via": via })).response();
            assert!(response.is_complete(), "{response:?}");
            let messages = llm.wait_for_request(number).request.json()["messages"].clone();
            assert_eq!(messages[0]["content"], "Grüße");
            assert!(messages[1]["content"] == question.as_str(), "{via}, {} bytes", question.len());
            number += 1;
        }
    }
    assert_eq!(llm.request_count(), number);
}

#[test]
fn the_clients_head_is_what_the_page_has_set() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 0\nallow_request_options = true");
    let site = Site::start();
    let response = site.hand_over(&daemon, "GET", "/headers", "", "").response();
    assert!(response.status == 200 && response.is_complete(), "{response:?}");
    for line in [
        "X-Request-Id: r1",
        "set-cookie: theme=dark; path=/",
        "set-cookie: lang=de",
        "set-cookie: a=1",
        "Access-Control-Allow-Origin: https://example.org",
        "Content-Security-Policy: default-src 'self'; img-src *",
        "vary: Cookie",
        "X-Number: 7",
    ] {
        let count = response.head.lines().filter(|own| *own == line).count();
        assert_eq!(count, 1, "{line}: {response:?}");
    }
    for name in ["Vary:", "Location:", "ETag:", "X-Powered-By:", "X-None:"] {
        assert!(!response.head.contains(name), "{name} {response:?}");
    }
}

#[test]
fn head_and_a_finished_stream_cost_no_answer() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = Daemon::start(&llm.openai_toml());
    let site = Site::start();
    for path in ["/plain", "/large"] {
        let response = site.hand_over(&daemon, "HEAD", path, "", "").response();
        assert_eq!((response.status, response.body.as_str()), (200, ""), "{path}: {response:?}");
        let response = site.hand_over(&daemon, "GET", path, "Last-Event-ID: r0:end\r\n", "").response();
        assert_eq!(response.status, 204, "{path}: {response:?}");
    }
    assert_eq!(llm.request_count(), 0);
}
