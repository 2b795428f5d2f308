//! An answer of status 200 that is no stream of events is refused: nobody reads a page, a document or a compressed body as
//! if it were words.

use handoff_e2e::Asker;
use handoff_e2e::asker::{ONCE, name};
use handoff_e2e::upstream::{API_KEY, Answer, Dialect, Protocol, Talk, Upstream, words};
use serde_json::json;

fn asker(llm: &Upstream) -> Asker {
    Asker::in_every_dialect(llm, ONCE)
}

/// What it is, and what the client is told.
fn no_streams(dialect: Dialect, llm: &Upstream) -> Vec<(Answer, u16, &'static str)> {
    let page = format!("<html><body>Log in at {} with {API_KEY}</body></html>", llm.origin());
    let error = |status, kind| {
        let answer = match dialect {
            Dialect::Anthropic => Answer::anthropic_error(200, kind, &page),
            Dialect::OpenAi | Dialect::Responses | Dialect::Ollama | Dialect::LangGraph => {
                Answer::openai_error(200, kind, kind, &page)
            }
        };
        (answer, status)
    };
    let mut answers = vec![
        (Answer::html(200, &page), 502, "upstream_error"),
        (Answer::html(200, &page).without_header("content-type"), 502, ""),
        (Answer::new(204), 502, "upstream_error"),
        (
            Answer::new(206).header("content-type", "text/event-stream").send("data: {}\n\n"),
            502,
            "upstream_error",
        ),
        (Talk::new(dialect).answer().gzip(), 502, "upstream_error"),
        (Talk::new(dialect).answer().header("content-encoding", "br"), 502, "upstream_error"),
    ];
    for (kind, status, code) in [
        ("rate_limit_error", 429, "rate_limited"),
        ("overloaded_error", 503, "overloaded"),
        ("of_the_future", 502, "upstream_error"),
    ] {
        let (answer, _) = error(status, kind);
        answers.push((answer, status, code));
    }
    answers
}

#[test]
fn whatever_it_is_instead() {
    for protocol in [Protocol::H1, Protocol::H2c] {
        let llm = Upstream::start(protocol);
        let asker = asker(&llm);
        for dialect in Dialect::ALL {
            for (answer, status, code) in no_streams(dialect, &llm) {
                let what = (answer.status, answer.headers.clone(), code);
                llm.script(answer);
                let told = asker.ask(&json!({"backend": name(dialect)}));
                let (seen, error) = (told.response.status, told.response.error_code().unwrap_or_default());
                assert!(seen == status && error.starts_with(code), "{dialect:?} {what:?}: {told:?}");
                assert!(!told.response.body.contains("[DONE]"), "{dialect:?} {what:?}: {told:?}");
                assert!(!told.response.body.contains("Log in"), "{dialect:?} {what:?}: {told:?}");
                assert_ne!(told.session["outcome"], "complete", "{dialect:?} {what:?}: {told:?}");
            }
        }
    }
}

#[test]
fn and_is_counted_as_that() {
    let llm = Upstream::start(Protocol::H1);
    let asker = asker(&llm);
    for answer in [Answer::html(200, "<html>"), Answer::new(204), Answer::openai().answer().gzip()] {
        llm.script(answer);
        asker.ask(&json!({})).is_refused(502, "upstream_error", "upstream_failed");
    }
    asker.adds_up(&[("chat", "not_a_stream", 3)], &[("upstream_failed", 3)]);
}

#[test]
fn while_a_stream_without_its_type_is_one() {
    let llm = Upstream::start(Protocol::H1);
    let asker = asker(&llm);
    for kind in [None, Some("text/plain"), Some("TEXT/EVENT-STREAM"), Some("text/event-stream;charset=UTF-8")]
    {
        let answer = Answer::openai().answer().without_header("content-type");
        llm.script(match kind {
            Some(kind) => answer.header("content-type", kind),
            None => answer,
        });
        asker.ask(&json!({})).is_complete(&words(10));
    }
}
