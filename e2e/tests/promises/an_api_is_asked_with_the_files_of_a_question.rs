//! What a site attaches comes to the API in the API's own words, and is there until an answer begins: also for a further
//! attempt. What is no file of the site is not read, and nobody waits for it.

use std::fs;
use std::time::{Duration, Instant};

use handoff_e2e::upstream::book::Request;
use handoff_e2e::upstream::{Dialect, Protocol, Step, Talk, Upstream};
use handoff_e2e::{Answer, throughout};
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;
use serde_json::{Value, json};

use crate::a_question_brings_its_files::Site;

/// A text, a picture and a PDF, by a payload that is a file too.
fn fill(site: &Site, backend: &str) -> String {
    site.write("notes.txt", "zwölf Wörter");
    site.write("cat.png", b"\x89PNG\r\n");
    site.write("paper.pdf", b"%PDF-1.7");
    let payload = json!({
        "prompt": "Compare {notes} with {cat}.", "backend": backend, "request_id": "r",
        "attachments": {"notes": "notes.txt", "cat": site.path("cat.png"), "paper": "paper.pdf"},
        "images": [{"base64": "aGk=", "mime_type": "image/webp"}],
    });
    site.write("payload.json", payload.to_string());
    json!({"payload_file": "payload.json"}).to_string()
}

const FILES: [&str; 4] = ["notes.txt", "cat.png", "paper.pdf", "payload.json"];

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text})
}

#[test]
fn in_its_own_words() {
    let llm = Upstream::start(Protocol::H1);
    llm.script_by_path(
        [
            ("/chat/completions", Dialect::OpenAi),
            ("/responses", Dialect::Responses),
            ("/messages", Dialect::Anthropic),
        ]
        .map(|(path, dialect)| (path, Talk::new(dialect).into())),
    );
    let names =
        [("chat", Dialect::OpenAi), ("responses", Dialect::Responses), ("claude", Dialect::Anthropic)];
    let site = Site::with(&names.map(|(name, dialect)| llm.backend_toml(name, dialect)).concat());
    let (webp, png, pdf) = (
        "data:image/webp;base64,aGk=",
        "data:image/png;base64,iVBORw0K",
        "data:application/pdf;base64,JVBERi0xLjc=",
    );
    let url = |url: &str| json!({"type": "image_url", "image_url": {"url": url}});
    let input = |url: &str| json!({"type": "input_image", "image_url": url});
    let image = |mime: &str, data: &str| json!({"type": "image", "source": {"type": "base64", "media_type": mime, "data": data}});
    let (begin, end) = ("Compare zwölf Wörter with ", ".");
    let document = json!({"type": "base64", "media_type": "application/pdf", "data": "JVBERi0xLjc="});
    for (number, ((backend, _), expected)) in names
        .into_iter()
        .zip([
            json!([
                url(webp), {"type": "file", "file": {"filename": "paper.pdf", "file_data": pdf}},
                text(begin), url(png), text(end),
            ]),
            json!([
                input(webp), {"type": "input_file", "filename": "paper.pdf", "file_data": pdf},
                {"type": "input_text", "text": begin}, input(png), {"type": "input_text", "text": end},
            ]),
            json!([
                image("image/webp", "aGk="), {"type": "document", "source": document, "title": "paper.pdf"},
                text(begin), image("image/png", "iVBORw0K"), text(end),
            ]),
        ])
        .enumerate()
    {
        let response = site.daemon.hand_over(fill(&site, backend)).response();
        assert!(response.is_complete(), "{backend}: {response:?}");
        let body = llm.wait_for_request(number).request.json();
        let messages = if backend == "responses" { &body["input"] } else { &body["messages"] };
        assert_eq!(messages[0]["content"], expected, "{backend}");
        FILES.into_iter().for_each(|file| site.is_removed(file));
    }
}

#[test]
fn again_when_the_first_attempt_fails_and_they_go_when_an_answer_begins() {
    let llm = Upstream::start(Protocol::H1);
    let site = Site::with(&llm.backend_toml("llm", Dialect::OpenAi));
    let failed = Answer::openai_error(500, "server_error", "server_error", "no");
    let late = Talk::new(Dialect::OpenAi).with_after(0, [Step::WaitFor("begin".into())]);
    llm.script_each([failed, late]);
    let client = site.daemon.hand_over(fill(&site, "llm"));
    let second = llm.wait_for_request(1).request;
    let first = llm.wait_for_request(0).request;
    let key = |request: &Request| request.header("idempotency-key").map(str::to_owned);
    assert_eq!((&second.body, key(&second)), (&first.body, key(&first)), "the same question");
    throughout(Duration::from_millis(100), || {
        assert!(FILES.into_iter().all(|file| site.path(file).exists()), "removed before an answer has begun");
    });
    llm.open("begin");
    let response = client.response();
    assert!(response.is_complete(), "{response:?}");
    FILES.into_iter().for_each(|file| site.is_removed(file));
    assert!(fs::read_dir(site.path("")).expect("a directory").next().is_none(), "nothing is left behind");
}

#[test]
fn an_error_is_an_answer_too() {
    let llm = Upstream::start(Protocol::H1);
    let site = Site::with(&(llm.backend_toml("llm", Dialect::OpenAi) + "retries = 0\n"));
    llm.script(Answer::openai_error(401, "invalid_request_error", "invalid_api_key", "no"));
    let response = site.daemon.hand_over(fill(&site, "llm")).response();
    assert_eq!(
        (response.status, response.error_code().as_deref()),
        (502, Some("upstream_auth")),
        "{response:?}"
    );
    FILES.into_iter().for_each(|file| site.is_removed(file));
}

#[test]
fn what_is_no_file_is_refused_at_once_and_nobody_is_asked() {
    let llm = Upstream::start(Protocol::H1);
    let site = Site::with(&llm.backend_toml("llm", Dialect::OpenAi));
    mkfifo(&site.path("fifo"), Mode::from_bits_truncate(0o660)).expect("a FIFO");
    fs::create_dir(site.path("directory")).expect("a directory");
    std::os::unix::fs::symlink("/proc/self/environ", site.path("link")).expect("a link");
    std::os::unix::fs::symlink("/dev/zero", site.path("zero")).expect("a link");
    std::os::unix::fs::symlink("..", site.path("up")).expect("a link");
    for path in ["fifo", "directory", "link", "zero", "up/secret", "../secret", "directory/../../secret", "."]
    {
        for payload in [
            json!({"prompt": "x", "backend": "llm", "attachments": {"a": path}}),
            json!({"backend": "llm", "payload_file": path}),
        ] {
            let began_at = Instant::now();
            let response = site.daemon.hand_over(payload.to_string()).response();
            let code = response.error_code();
            assert_eq!(
                (response.status, code.as_deref()),
                (400, Some("bad_handoff")),
                "{payload}: {response:?}"
            );
            assert!(!response.body.contains("secret"), "{payload}: {response:?}");
            assert!(began_at.elapsed() < Duration::from_secs(5), "{payload}");
        }
    }
    assert!(
        ["fifo", "directory", "link", "zero", "up"]
            .iter()
            .all(|name| fs::symlink_metadata(site.path(name)).is_ok())
    );
    assert_eq!(llm.request_count(), 0, "nobody was asked");
}
