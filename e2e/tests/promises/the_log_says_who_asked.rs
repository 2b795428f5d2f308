//! The line of a session says whose it was: the client's address, method, path and protocol, whether it came by TLS or is
//! relayed, and those of its headers that are configured. Never the query, which may be the question.

use handoff_e2e::Daemon;
use handoff_e2e::apache::enveloped;
use serde_json::{Value, json};

const SECRET: &str = "my-secret-question";
const ONE_WORD: &str = r#"{"prompt":"hi","request_id":"r","mock":{"length":1}}"#;

fn envelope() -> Value {
    json!({
        "v": 1, "method": "POST", "uri": format!("/chat.php?q={SECRET}"), "proto": "HTTP/2.0", "client": "2001:db8::7",
        "tls": true, "relay": false, "headers": [["User-Agent", "curl/8"], ["Origin", "https://a"], ["Cookie", SECRET]],
    })
}

fn session(toml: &str, message: Vec<u8>) -> (Value, String) {
    let daemon = Daemon::start(toml);
    let response = daemon.hand_over(message).response();
    assert!(response.is_complete(), "{response:?}");
    (daemon.session("r"), daemon.log())
}

#[test]
fn as_apache_knows_it() {
    let (line, log) =
        session("[logging]\nformat = \"json\"\nlevel = \"trace\"\n", enveloped(&envelope(), ONE_WORD));
    let expected = json!({"client": "2001:db8::7", "method": "POST", "path": "/chat.php", "proto": "HTTP/2.0", "tls": true, "relay": false});
    for (field, value) in expected.as_object().expect("fields") {
        assert_eq!(&line[field], value, "{field} of {line}");
    }
    assert_eq!(line["request_headers"], Value::Null, "none are configured");
    assert!(!log.contains(SECRET) && !log.contains("curl/8"), "{log}");
}

#[test]
fn with_the_headers_that_are_configured() {
    let toml =
        "[logging]\nformat = \"json\"\nlevel = \"trace\"\nrequest_headers = [\"User-Agent\", \"referer\"]\n";
    let (line, log) = session(toml, enveloped(&envelope(), ONE_WORD));
    assert_eq!(line["request_headers"], r#"{"user-agent":"curl/8"}"#, "{line}");
    assert!(!log.contains(SECRET) && !log.contains("https://a"), "{log}");
}

#[test]
fn in_short_and_harmless_words() {
    let (esc, long) = ("\u{1b}[2J\r\n{\"level\":\"INFO\"}", "x".repeat(10_000));
    let envelope = json!({
        "v": 1, "method": format!("GET{esc}"), "uri": format!("/{long}"), "client": long, "proto": esc,
        "headers": [["user-agent", "a\"b\u{202e}"], ["referer", long]],
    });
    for format in ["json", "pretty"] {
        let toml = format!(
            "[logging]\nformat = \"{format}\"\nlevel = \"info\"\nrequest_headers = [\"user-agent\", \"referer\"]\n"
        );
        let daemon = Daemon::start(&toml);
        assert!(daemon.hand_over(enveloped(&envelope, ONE_WORD)).response().is_complete());
        let line = handoff_e2e::eventually("the line is written", || {
            daemon.log().lines().find(|line| line.contains("session ended")).map(str::to_owned)
        });
        assert!(!line.contains('\u{1b}') && line.len() < 2000, "{format}: {line}");
        assert!(line.contains("complete") && line.contains(&"x".repeat(200)), "{format}: {line}");
    }
}

#[test]
fn else_as_the_payload_knows_it() {
    let payload = json!({
        "prompt": "hi", "request_id": "r", "client_ip": "192.0.2.9", "proto": "HTTP/1.1", "origin": "https://b",
        "mock": {"length": 1},
    });
    let toml = "[logging]\nformat = \"json\"\nlevel = \"info\"\nrequest_headers = [\"origin\"]\n";
    let (line, _) = session(toml, payload.to_string().into_bytes());
    assert_eq!((&line["client"], &line["proto"]), (&"192.0.2.9".into(), &"HTTP/1.1".into()), "{line}");
    assert_eq!(line["request_headers"], r#"{"origin":"https://b"}"#, "{line}");
    for unknown in ["path", "tls", "relay", "method"] {
        assert_eq!(line[unknown], Value::Null, "{unknown} of {line}");
    }
}

#[test]
fn without_what_would_let_a_reader_pass_for_the_client() {
    let config = handoff_e2e::daemon::binary("handoffd");
    let directory = tempfile::tempdir().expect("a directory");
    for header in ["cookie", "Authorization", "proxy-authorization"] {
        let file = directory.path().join("daemon.toml");
        std::fs::write(&file, format!("[logging]\nrequest_headers = [\"{header}\"]\n")).expect("a file");
        let check = std::process::Command::new(&config).arg("--check").arg(&file).output().expect("handoffd");
        let said = String::from_utf8_lossy(&check.stderr).into_owned();
        assert!(!check.status.success() && said.contains("logging.request_headers"), "{header}: {said}");
    }
}
