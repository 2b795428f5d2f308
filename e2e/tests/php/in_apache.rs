//! `php/handoff.php` in a real Apache with our module, under mod_php and under php-fpm.

use std::fs;
use std::io::Write;

use handoff_e2e::httpd::{self, Httpd, Setup, World};
use handoff_e2e::upstream::{Protocol, Upstream};
use handoff_e2e::{Daemon, Response, eventually};
use serde_json::json;

use crate::tests;

/// Where the time between two words is no matter.
const AT_ONCE: &str = "[backend.mock]\ntoken_delay_ms = 0\n";

/// The pages of PHP's own tests, which take the daemon's socket from the environment, as a site's would.
fn setup(world: World, daemon: &Daemon) -> Setup {
    let read = |name: &str| fs::read_to_string(tests().join(name)).expect("a file of php/");
    Setup::new(world, daemon)
        .directives("SetEnv HANDOFFD_SOCKET ${SOCKET}")
        .file("tests/page.php", &read("page.php"))
        .file("handoff.php", &read("../handoff.php"))
}

fn send(httpd: &Httpd, method: &str, page: &str, lines: &str, body: &str) -> Response {
    let mut client = httpd.connect();
    let lines = format!("{lines}Content-Length: {}\r\n", body.len());
    let request = httpd.request(method, &format!("/tests/page.php/{page}"), &lines);
    client.write_all(request.as_bytes()).expect("a request");
    client.write_all(body.as_bytes()).expect("a body");
    client.response()
}

fn get(httpd: &Httpd, page: &str) -> Response {
    send(httpd, "GET", page, "", "")
}

/// By error_log(): mod_php into Apache's log, php-fpm into its own.
fn php_has_logged(httpd: &Httpd, text: &str) -> bool {
    let logs = ["error.log", "fpm.log"].map(|name| httpd.directory().join(name));
    logs.iter().any(|log| fs::read_to_string(log).unwrap_or_default().contains(text))
}

#[test]
fn the_client_has_the_whole_answer_whatever_the_page_prints() {
    let daemon = httpd::daemon(AT_ONCE);
    for world in World::ALL {
        let httpd = setup(world, &daemon).start();
        for page in ["plain", "large", "last-byte", "noisy", "noisy?small", "returns"] {
            let response = get(&httpd, page);
            assert!(response.status == 200 && response.is_complete(), "{world:?} {page}: {response:?}");
            assert_eq!(response.header("X-Request-Id"), Some("r1"), "{world:?} {page}: {response:?}");
            let line = httpd.accessed(&format!("/{page} "));
            assert!(line.contains(" sent r1 "), "{world:?} {page}: {line}");
        }
        for text in ["SHUTDOWN RAN", "SEND RETURNED"] {
            eventually(text, || php_has_logged(&httpd, text).then_some(()));
        }
    }
}

#[test]
fn a_question_of_any_length_is_asked_as_it_is() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = httpd::daemon(&llm.openai_toml());
    let mut number = 0;
    for world in World::ALL {
        let httpd = setup(world, &daemon).start();
        for length in [10, 4_000, 5_000, 70_000, 3_000_000] {
            let question = format!("Grüße\u{1f600}\0\n{}", "x".repeat(length));
            let asked = json!({ "payload": { "prompt": question }, "options": { "via": "auto" } });
            let response = send(&httpd, "POST", "given", "", &asked.to_string());
            assert!(response.is_complete(), "{world:?} {length}: {response:?}");
            let body = llm.wait_for_request(number).request.json();
            assert!(body["messages"][0]["content"] == question.as_str(), "{world:?} {length}");
            number += 1;
        }
    }
}

#[test]
fn cookies_of_page_and_session_reach_the_client() {
    let daemon = httpd::daemon(AT_ONCE);
    for world in World::ALL {
        let httpd = setup(world, &daemon).start();
        let response = get(&httpd, "headers");
        for line in ["set-cookie: theme=dark; path=/", "Access-Control-Allow-Origin: https://example.org"] {
            assert!(response.head.lines().any(|own| own == line), "{world:?} {line}: {response:?}");
        }
        let response = get(&httpd, "session?who=me");
        assert!(response.text().contains("question 1 of me"), "{world:?}: {response:?}");
        let cookie = response.header("Set-Cookie").unwrap_or_default().split(';').next().unwrap_or_default();
        let response = send(&httpd, "GET", "session?who=you", &format!("Cookie: {cookie}\r\n"), "");
        assert!(response.text().contains("question 2 of you"), "{world:?}: {response:?}");
    }
}

#[test]
fn head_has_the_head_alone() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = setup(world, &daemon).start();
        for page in ["plain", "large"] {
            let response = send(&httpd, "HEAD", page, "", "");
            assert_eq!(
                (response.status, response.body.as_str()),
                (200, ""),
                "{world:?} {page}: {response:?}"
            );
            assert_eq!(response.header("Content-Type"), Some("text/event-stream"), "{world:?} {page}");
        }
    }
}

#[test]
fn a_page_that_cannot_hand_over_answers_itself() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = setup(world, &daemon).start();
        let response = get(&httpd, "stubborn");
        assert_eq!(response.status, 500, "{world:?}: {response:?}");
        assert!(response.body.contains("OutputBufferException: "), "{world:?}: {response:?}");
    }
}

#[test]
fn the_answer_does_not_wait_for_what_php_fpm_does_afterwards() {
    let daemon = httpd::daemon("");
    let httpd = setup(World::Event, &daemon).start();
    let response = get(&httpd, "busy");
    assert!(response.is_complete(), "{response:?}");
    // The page waits for this file.
    assert!(!php_has_logged(&httpd, "NO LONGER BUSY"), "the answer has waited for the page");
    fs::write(httpd.directory().join("state/go"), "").expect("a file");
    eventually("the page goes on", || php_has_logged(&httpd, "NO LONGER BUSY").then_some(()));
}

#[test]
fn without_the_module_mod_php_sends_nobody_the_question() {
    let daemon = httpd::daemon("");
    let mut setup = setup(World::Prefork, &daemon);
    setup.with_module = false;
    let httpd = setup.start();
    for page in ["plain", "large"] {
        let response = get(&httpd, page);
        assert_eq!(response.status, 500, "{page}: {response:?}");
        assert!(response.body.contains("NoModuleException: "), "{page}: {response:?}");
        assert!(!response.head.contains("X-Handoff-Data"), "{page}: {response:?}");
    }
}
