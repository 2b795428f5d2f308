//! Whoever fails before the answer has begun is replaced by the next backend of the chain, whatever that one speaks; after
//! the first word nobody else is asked.

use handoff_e2e::upstream::{Dialect, Protocol, Step, code, words};
use handoff_e2e::{Answer, Daemon, Response, Upstream, eventually};
use serde_json::{Value, json};

/// Three backends, each the next one's fallback, asked from the first on.
struct Chain {
    first: Upstream,
    second: Upstream,
    third: Upstream,
}

impl Chain {
    fn start() -> Self {
        let [first, second, third] = [Protocol::H2Tls, Protocol::H1, Protocol::H2c].map(Upstream::start);
        third.script(Answer::ollama());
        Self { first, second, third }
    }

    fn toml(&self) -> String {
        let first = self.first.backend_toml("first", Dialect::OpenAi);
        let second = self.second.backend_toml("second", Dialect::Anthropic);
        let third = self.third.backend_toml("third", Dialect::Ollama);
        format!(
            "[backend]\nprovider = \"first\"\n{first}fallbacks = [\"second\", \"third\"]\nretries = 0\n\
             {second}retries = 0\n{third}model = \"llama\"\n"
        )
    }
}

fn text(response: &Response, format: &str) -> String {
    if format == "content" {
        return response.text();
    }
    let chunks = response.data().into_iter().filter_map(|data| serde_json::from_str::<Value>(data).ok());
    chunks.filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str().map(str::to_owned)).collect()
}

fn is_whole(response: &Response) -> bool {
    response.status == 200 && response.broken.is_none() && response.body.ends_with("data: [DONE]\n\n")
}

#[test]
fn down_a_chain_of_three_dialects_in_each_format() {
    let chain = Chain::start();
    let daemon = Daemon::confined(2, &format!("{}[client]\ncommit_after_secs = 5\n", chain.toml()));
    let role = Answer::openai().parts().opening.concat();
    let failures = [
        Answer::openai_error(500, "server_error", "internal", "no"),
        Answer::openai_error(401, "invalid_request_error", "invalid_api_key", "no"),
        Answer::html(200, "<html>a gateway</html>"),
        Answer::sse().event(&json!({"error": {"message": "no", "type": "server_error"}})),
        // Not one word: it may still be somebody else's answer.
        Answer::sse().send(role.clone()).cut(),
        Answer::sse().send(role.clone()).reset(code::INTERNAL_ERROR),
        Answer::sse().send(role),
    ];
    let overloaded = json!({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}});
    let seconds = [
        Answer::anthropic_error(529, "overloaded_error", "no"),
        Answer::sse().named_event("error", &overloaded),
    ];
    let mut asked = 0;
    for (index, failure) in failures.into_iter().enumerate() {
        chain.first.script(failure);
        chain.second.script(seconds[index % 2].clone());
        for format in ["content", "openai"] {
            let id = format!("r{index}-{format}");
            let payload =
                json!({"prompt": "a question", "model": "gpt-x", "format": format, "request_id": id});
            let response = daemon.hand_over(payload.to_string()).response();
            assert!(is_whole(&response) && text(&response, format) == words(10), "{index}: {response:?}");
            let session = daemon.session(&id);
            assert_eq!(
                (&session["outcome"], &session["backend"]),
                (&json!("complete"), &json!("third")),
                "{session}"
            );
            let request = chain.third.wait_for_request(asked).request;
            assert_eq!((request.path.as_str(), &request.json()["model"]), ("/api/chat", &json!("llama")));
            asked += 1;
        }
    }
    assert_eq!(chain.third.request_count(), asked);
    assert!(chain.first.request_count() <= asked && chain.second.request_count() <= asked, "nobody twice");
}

#[test]
fn also_when_heartbeats_are_out() {
    let chain = Chain::start();
    chain.second.script(Answer::anthropic());
    let toml = format!("{}[client]\ncommit_after_secs = 0.1\nheartbeat_secs = 0.1\n", chain.toml());
    let daemon = Daemon::confined(2, &toml);
    for format in ["content", "openai"] {
        let role = Answer::openai().parts().opening.concat();
        chain.first.script(Answer::sse().send(role).wait_for(format).cut());
        let payload = json!({"prompt": "a question", "format": format});
        let mut client = daemon.hand_over(payload.to_string());
        let begin = client.read_until(": keep-alive\n\n");
        assert!(begin.starts_with("HTTP/1.1 200 "), "{begin}");
        chain.first.open(format);
        let rest = client.response();
        assert!(rest.broken.is_none() && rest.body.ends_with("data: [DONE]\n\n"), "{rest:?}");
        assert_eq!(text(&rest, format), words(10), "{rest:?}");
    }
    assert_eq!((chain.first.request_count(), chain.second.request_count()), (2, 2));
}

#[test]
fn without_asking_who_wants_a_pause() {
    let chain = Chain::start();
    let refusal = Answer::openai_error(429, "requests", "rate_limit_exceeded", "not now");
    chain.first.script(refusal.header("retry-after", "30"));
    chain.second.script(Answer::anthropic());
    let daemon = Daemon::confined(2, &chain.toml());
    for number in 0..5 {
        let response = daemon.hand_over(r#"{"prompt":"a question"}"#).response();
        assert!(is_whole(&response) && response.text() == words(10), "{number}: {response:?}");
        eventually("all workers are told", || {
            (daemon.metric("handoffd_backend_cooling{backend=\"first\"") == 1.0).then_some(())
        });
    }
    assert_eq!((chain.first.request_count(), chain.second.request_count()), (1, 5));
}

#[test]
fn never_after_the_first_word() {
    let ends: [(&str, Vec<Step>); 4] = [
        ("reset", vec![Step::Reset(code::INTERNAL_ERROR)]),
        ("cut", vec![Step::Cut]),
        ("end", vec![]),
        (
            "error",
            vec![Step::Send(
                b"data: {\"error\":{\"message\":\"no\",\"type\":\"server_error\"}}\n\n".to_vec(),
            )],
        ),
    ];
    let chain = Chain::start();
    let daemon = Daemon::confined(2, &chain.toml());
    for (name, steps) in ends {
        chain.first.script(Answer::openai().broken_after(1, steps));
        for format in ["content", "openai"] {
            let payload = json!({"prompt": "a question", "format": format});
            let response = daemon.hand_over(payload.to_string()).response();
            assert_eq!((response.status, response.broken), (200, None), "{name}: {response:?}");
            assert_eq!(text(&response, format), words(1), "{name}: {response:?}");
            assert!(response.error_code().is_some(), "{name}: {response:?}");
            assert!(!response.body.contains("[DONE]"), "{name}: {response:?}");
        }
    }
    assert_eq!((chain.second.request_count(), chain.third.request_count()), (0, 0));
}
