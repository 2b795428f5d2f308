//! An upstream's words reach the client one by one, whatever the upstream speaks, out of workers that may do nothing else.

use handoff_e2e::upstream::{self, Dialect, End, Protocol, Spoken, Step, Talk, Upstream, words};
use handoff_e2e::{Answer, Client, Daemon, Response};
use nix::unistd::geteuid;
use serde_json::json;

/// Confined workers, as another user where we may.
pub(crate) fn confined(backends: &str) -> Daemon {
    let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    Daemon::start(&format!("[workers]\ncount = 2\nsandbox = \"require\"\n{run_as}\n{backends}"))
}

/// The upstream says the last five of ten words when the client has the first five, not before.
fn half_by_half(llm: &Upstream, client: &mut Client) -> Response {
    let begin = client.read_until("w4 \"}\n\n");
    llm.open("half");
    let mut response = client.read_response();
    let (head, body) = begin.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    response.status = 200;
    response.body.insert_str(0, body);
    response
}

#[test]
fn word_by_word_over_each_protocol() {
    for protocol in Protocol::ALL {
        let llm = Upstream::start(protocol);
        llm.script(Answer::openai().with_after(5, [Step::WaitFor("half".to_owned())]));
        let daemon =
            confined(&format!("[backend]\nprovider = \"llm\"\n{}", llm.backend_toml("llm", Dialect::OpenAi)));
        let mut client = daemon.hand_over(r#"{"prompt":"a question","model":"gpt-x","request_id":"r"}"#);
        let response = half_by_half(&llm, &mut client);
        drop(client);
        assert!(response.is_complete() && response.text() == words(10), "{protocol:?}: {response:?}");
        let events = response.data().into_iter().filter(|data| data.contains("content")).count();
        assert_eq!(events, 10, "{protocol:?}: a word an event");

        let (_, end) = llm.wait_for_end(0);
        assert_eq!(end, End::Complete, "{protocol:?}");
        let request = llm.wait_for_request(0).request;
        let is_h2 = matches!(protocol, Protocol::H2c | Protocol::H1AndH2c | Protocol::H2Tls);
        assert_eq!(request.spoken, if is_h2 { Spoken::H2 } else { Spoken::H1 }, "{protocol:?}");
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/chat/completions"));
        let key = format!("Bearer {}", upstream::API_KEY);
        assert_eq!(request.header("authorization"), Some(key.as_str()), "{protocol:?}");
        let body = request.json();
        assert_eq!((&body["model"], &body["stream"]), (&json!("gpt-x"), &json!(true)), "{body}");
        assert_eq!(body["messages"][0]["content"], "a question", "{body}");
        assert_eq!(llm.request_count(), 1, "{protocol:?}: nobody was asked twice");
        let session = daemon.session("r");
        assert_eq!(
            (&session["outcome"], &session["backend"]),
            (&json!("complete"), &json!("llm")),
            "{session}"
        );
        assert!(!daemon.log().contains(upstream::API_KEY), "a key in the log");
    }
}

#[test]
fn the_keys_of_the_daemon_that_sites_use_today_are_enough() {
    for protocol in [Protocol::H1, Protocol::H2Tls, Protocol::Unix] {
        let llm = Upstream::start(protocol);
        let daemon = confined(&llm.openai_toml());
        let response = daemon.hand_over(r#"{"prompt":"a question"}"#).response();
        assert!(response.is_complete() && response.text() == words(10), "{protocol:?}: {response:?}");
    }
}

#[test]
fn each_api_over_each_protocol() {
    for protocol in Protocol::ALL {
        let llm = Upstream::start(protocol);
        llm.script_by_path(
            [
                ("/chat/completions", Dialect::OpenAi),
                ("/responses", Dialect::Responses),
                ("/messages", Dialect::Anthropic),
                ("/api/chat", Dialect::Ollama),
                ("/runs/stream", Dialect::LangGraph),
            ]
            .map(|(path, dialect)| (path, Talk::new(dialect).into())),
        );
        let name = |dialect: Dialect| format!("a-{}", dialect.kind());
        let sections = Dialect::ALL.map(|dialect| llm.backend_toml(&name(dialect), dialect));
        let daemon = confined(&sections.concat());
        for dialect in Dialect::ALL {
            let payload = json!({"prompt": "a question", "backend": name(dialect)});
            let response = daemon.hand_over(payload.to_string()).response();
            assert!(
                response.is_complete() && response.text() == words(10),
                "{dialect:?} over {protocol:?}: {response:?}"
            );
        }
    }
}
