//! An error that comes inside an answer of status 200 is what it says: with a real status while there was no word, with one
//! error event afterwards; never in the upstream's own words.

use handoff_e2e::Asker;
use handoff_e2e::asker::{FORMATS, ONCE, name};
use handoff_e2e::upstream::{API_KEY, Answer, Dialect, Protocol, Step, Talk, Upstream, words};
use serde_json::json;

/// An error of this machine word in the middle of a stream; its sentence says more than anybody should read.
fn error(dialect: Dialect, word: &str, llm: &Upstream) -> Step {
    let sentence = format!("{} does not like {API_KEY}", llm.origin());
    let event = match dialect {
        Dialect::OpenAi => {
            format!("data: {}\n\n", json!({"error": {"message": sentence, "type": word, "code": null}}))
        }
        Dialect::Responses => {
            let data = json!({"type": "error", "code": word, "message": sentence, "param": null});
            format!("event: error\ndata: {data}\n\n")
        }
        Dialect::Anthropic => {
            let data = json!({"type": "error", "error": {"type": word, "message": sentence}});
            format!("event: error\ndata: {data}\n\n")
        }
        Dialect::Ollama => format!("{}\n", json!({"error": sentence})),
        Dialect::LangGraph => {
            format!("event: error\ndata: {}\n\n", json!({"error": word, "message": sentence}))
        }
    };
    Step::Send(event.into_bytes())
}

/// Each kind of error in this dialect: its word, and what the client is told.
fn errors(dialect: Dialect) -> Vec<(&'static str, u16, &'static str)> {
    match dialect {
        Dialect::Ollama => vec![("", 502, "upstream_error")],
        Dialect::LangGraph => vec![("ValueError", 502, "upstream_error")],
        Dialect::OpenAi | Dialect::Responses | Dialect::Anthropic => vec![
            ("rate_limit_exceeded", 429, "rate_limited"),
            ("insufficient_quota", 429, "rate_limited"),
            ("overloaded_error", 503, "overloaded"),
            ("server_error", 502, "upstream_error"),
            ("authentication_error", 502, "upstream_auth"),
            ("invalid_request_error", 400, "invalid_request"),
            ("of_the_future", 502, "upstream_error"),
        ],
    }
}

fn asker(llm: &Upstream) -> Asker {
    Asker::in_every_dialect(llm, ONCE)
}

#[test]
fn with_its_status_before_the_first_word() {
    for protocol in [Protocol::H1, Protocol::H2c] {
        let llm = Upstream::start(protocol);
        let asker = asker(&llm);
        let failures = Dialect::ALL.map(|dialect| {
            let mut asked = 0;
            for (word, status, code) in errors(dialect) {
                // After the opening; where there is nothing else; and with a stream that stays open.
                let opened = Talk::new(dialect).broken_after(0, [error(dialect, word, &llm)]);
                let mut first = opened.clone();
                first.steps.drain(..first.steps.len() - 1);
                for answer in [opened.clone(), first, opened.hang()] {
                    llm.script(answer);
                    for format in ["content", "openai", "raw"] {
                        let told = asker.ask(&json!({"backend": name(dialect), "format": format}));
                        told.is_refused(status, code, "upstream_failed");
                        asked += 1;
                    }
                }
            }
            (name(dialect), "error_event", asked)
        });
        let all = failures.iter().map(|(_, _, count)| count).sum();
        asker.adds_up(&failures, &[("upstream_failed", all)]);
        assert_eq!(u32::try_from(llm.request_count()), Ok(all), "nobody is asked twice");
    }
}

#[test]
fn with_one_event_after_some_words() {
    let llm = Upstream::start(Protocol::H1AndH2c);
    let asker = asker(&llm);
    let failures = Dialect::ALL.map(|dialect| {
        let mut asked = 0;
        for (word, _, code) in errors(dialect) {
            llm.script(Talk::new(dialect).broken_after(4, [error(dialect, word, &llm), Step::Hang]));
            for format in FORMATS.into_iter().chain(["raw"]) {
                let told = asker.ask(&json!({"backend": name(dialect), "format": format}));
                told.is_broken_after(4, code, "upstream_failed");
                asked += 1;
            }
        }
        (name(dialect), "error_event", asked)
    });
    let all = failures.iter().map(|(_, _, count)| count).sum();
    asker.adds_up(&failures, &[("upstream_failed", all)]);
}

#[test]
fn and_another_backend_is_asked() {
    let (busy, other) = (Upstream::start(Protocol::H1), Upstream::start(Protocol::H1));
    let overloaded = error(Dialect::OpenAi, "overloaded_error", &busy);
    busy.script(Answer::openai().broken_after(0, [overloaded]));
    let asker = Asker::with_fallback("", &busy, &other);
    asker.ask(&json!({})).is_complete(&words(10));
    asker.adds_up(&[("first", "error_event", 1)], &[("complete", 1)]);
}
