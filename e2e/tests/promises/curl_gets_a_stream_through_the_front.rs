//! A client that nobody here wrote, curl, gets its stream through `handoffctl front`.

use std::process::Command;

use handoff_e2e::front::Front;
use handoff_e2e::{Daemon, eventually};

fn curl(arguments: &[&str]) -> String {
    let output = Command::new("curl").args(["-sS", "-N", "--max-time", "20"]).args(arguments).output();
    let output = output.expect("curl: run scripts/test-packages");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "curl {arguments:?}: {output:?}");
    text
}

#[test]
fn by_get_and_post_with_http_1_0_and_1_1() {
    let daemon = Daemon::start("");
    let front = Front::start(&daemon);
    let query = format!("{}/stream?prompt=by%20curl", front.url());
    let post = format!("{}/stream", front.url());
    let json = r#"{"prompt":"by curl"}"#;
    let ways: [&[&str]; 5] = [
        &["--http1.1", &query],
        &["--http1.0", &query],
        &["-d", json, "-H", "Content-Type: application/json", &post],
        &["-d", "prompt=by+curl", &post],
        &["-H", "Expect: 100-continue", "-d", json, &post],
    ];
    for way in ways {
        let body = curl(way);
        assert!(body.ends_with("event: done\ndata: [DONE]\n\n"), "{way:?}: {body}");
        assert!(body.contains(r#"{"content":" curl"}"#), "{way:?}: {body}");
    }
    eventually("all five are counted", || {
        (daemon.metric("handoffd_lease_endings_total{outcome=\"complete\"") == 5.0).then_some(())
    });
}

#[test]
fn head_gets_the_head_alone() {
    let daemon = Daemon::start("");
    let front = Front::start(&daemon);
    let head = curl(&["--head", &format!("{}/stream?prompt=x", front.url())]);
    assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
    assert!(head.contains("\r\nContent-Type: text/event-stream\r\n"), "{head}");
    assert_eq!(daemon.metric("daemon_backend_requests_total"), 0.0, "no question to the backend");
}

#[test]
fn without_a_prompt_the_answer_is_a_400() {
    let daemon = Daemon::start("");
    let front = Front::start(&daemon);
    let answer = curl(&["-w", "%{http_code}", &format!("{}/stream", front.url())]);
    assert!(answer.ends_with("400") && answer.contains("bad_handoff"), "{answer}");
}
