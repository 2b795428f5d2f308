//! What an API is sent, in its own words: the question, what the site says besides, headers, a key; and nothing of it
//! elsewhere.

use handoff_e2e::Daemon;
use handoff_e2e::upstream::book::Request;
use handoff_e2e::upstream::{API_KEY, Dialect, Protocol, Upstream};
use serde_json::{Value, json};

use crate::an_answer_comes_from_a_real_api::confined;

const PIXEL: &str = "data:image/png;base64,aGk=";

/// A whole conversation, with all that a site may say.
fn question(backend: &str) -> Value {
    let call =
        json!({"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1.0}"}});
    json!({
        "backend": backend, "model": "m-1", "request_id": "req-7", "test_pattern": "finish:length",
        "traceparent": "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "system": "Be brief.", "max_tokens": 77, "temperature": 0.5, "user_id": "secret-user",
        "messages": [
            {"role": "user", "content": "Grüezi"},
            {"role": "assistant", "content": null, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "content": "42"},
            {"role": "user", "content": [
                {"type": "text", "text": "What is it?"},
                {"type": "image_url", "image_url": {"url": PIXEL}},
            ]},
        ],
        "extra_body": {"tools": [{"name": "f", "odd": 1e2}], "top_p": 0.9},
    })
}

/// `openai` is the name of one that is always there.
fn name(dialect: Dialect) -> &'static str {
    if dialect == Dialect::OpenAi { "chat" } else { dialect.kind() }
}

/// One server, and a backend for each API.
fn site() -> (Upstream, Daemon) {
    let llm = Upstream::start(Protocol::H1);
    llm.script_by_path(
        [
            ("/chat/completions", Dialect::OpenAi),
            ("/responses", Dialect::Responses),
            ("/messages", Dialect::Anthropic),
            ("/api/chat", Dialect::Ollama),
            ("/runs/stream", Dialect::LangGraph),
        ]
        .map(|(path, dialect)| (path, handoff_e2e::upstream::Talk::new(dialect).into())),
    );
    let toml: String = Dialect::ALL
        .map(|dialect| {
            let mut section = llm.backend_toml(name(dialect), dialect);
            section += "headers = { x-team = \"search\", User-Agent = \"site/1\" }\n";
            if dialect == Dialect::Anthropic {
                section += "beta = \"b-1\"\n";
            }
            section
        })
        .concat();
    let daemon = confined(&toml);
    (llm, daemon)
}

fn ask(llm: &Upstream, daemon: &Daemon, payload: &Value) -> Request {
    let number = llm.request_count();
    let response = daemon.hand_over(payload.to_string()).response();
    assert!(response.is_complete(), "{response:?}");
    llm.wait_for_request(number).request
}

/// The body as it was sent, for what must not change on its way.
fn text(request: &Request) -> &str {
    std::str::from_utf8(&request.body).expect("UTF-8")
}

#[test]
fn headers_for_each_api() {
    let (llm, daemon) = site();
    for dialect in Dialect::ALL {
        let request = ask(&llm, &daemon, &question(name(dialect)));
        let header = |name: &str| request.header(name);
        assert_eq!(request.method, "POST");
        let (path, accept) = match dialect {
            Dialect::OpenAi => ("/v1/chat/completions", "text/event-stream"),
            Dialect::Responses => ("/v1/responses", "text/event-stream"),
            Dialect::Anthropic => ("/v1/messages", "text/event-stream"),
            Dialect::Ollama => ("/api/chat", "application/x-ndjson"),
            Dialect::LangGraph => ("/runs/stream", "text/event-stream"),
        };
        assert_eq!((request.path.as_str(), header("accept")), (path, Some(accept)));
        assert_eq!(header("accept-encoding"), Some("identity"), "{dialect:?}");
        assert_eq!(header("content-type"), Some("application/json"), "{dialect:?}");
        assert_eq!(header("content-length"), Some(request.body.len().to_string().as_str()), "{dialect:?}");
        assert_eq!(header("host"), Some(llm.address().as_str()), "{dialect:?}");
        assert_eq!(header("x-request-id"), Some("req-7"), "{dialect:?}");
        let traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
        assert_eq!(header("traceparent"), Some(traceparent), "{dialect:?}");
        assert!(header("idempotency-key").is_some_and(|key| key.starts_with("handoffd-")), "{dialect:?}");
        // The configuration's win.
        assert_eq!((header("x-team"), header("user-agent")), (Some("search"), Some("site/1")));
        let (key, other, value) = match dialect {
            Dialect::OpenAi | Dialect::Responses | Dialect::Ollama => {
                ("authorization", "x-api-key", format!("Bearer {API_KEY}"))
            }
            Dialect::Anthropic | Dialect::LangGraph => ("x-api-key", "authorization", API_KEY.to_owned()),
        };
        assert_eq!((header(key), header(other)), (Some(value.as_str()), None), "{dialect:?}");
        let is_anthropic = dialect == Dialect::Anthropic;
        assert_eq!(header("anthropic-version"), is_anthropic.then_some("2023-06-01"), "{dialect:?}");
        assert_eq!(header("anthropic-beta"), is_anthropic.then_some("b-1"), "{dialect:?}");
        let knows_patterns = matches!(dialect, Dialect::OpenAi | Dialect::Responses | Dialect::LangGraph);
        assert_eq!(header("x-test-pattern"), knows_patterns.then_some("finish:length"), "{dialect:?}");
        assert_eq!(request.headers.iter().filter(|(name, _)| name == "user-agent").count(), 1);
        let sent = text(&request);
        assert!(!sent.contains(API_KEY) && !sent.contains("secret-user"), "{sent}");
    }
    let keys =
        llm.requests().into_iter().map(|seen| seen.request.header("idempotency-key").map(str::to_owned));
    let keys: std::collections::HashSet<_> = keys.collect();
    assert_eq!(keys.len(), Dialect::ALL.len(), "each question has its own");
}

#[test]
fn the_body_for_each_api() {
    let (llm, daemon) = site();
    let body = |dialect: Dialect| {
        let request = ask(&llm, &daemon, &question(name(dialect)));
        assert!(text(&request).contains(r#"[{"name":"f","odd":100.0}]"#), "untouched: {}", text(&request));
        request.json()
    };
    let messages = question("")["messages"].clone();
    let tools = json!([{"name": "f", "odd": 1e2}]);

    let mut all = vec![json!({"role": "system", "content": "Be brief."})];
    all.extend(messages.as_array().cloned().unwrap_or_default());
    let expected = json!({
        "model": "m-1", "messages": all, "stream": true, "stream_options": {"include_usage": true},
        "max_tokens": 77, "temperature": 0.5, "top_p": 0.9, "tools": tools,
    });
    assert_eq!(body(Dialect::OpenAi), expected);

    let input = json!([
        {"role": "user", "content": "Grüezi"},
        {"type": "function_call", "call_id": "call_1", "name": "f", "arguments": "{\"x\": 1.0}"},
        {"type": "function_call_output", "call_id": "call_1", "output": "42"},
        {"role": "user", "content": [
            {"type": "input_text", "text": "What is it?"},
            {"type": "input_image", "image_url": PIXEL},
        ]},
    ]);
    let expected = json!({
        "model": "m-1", "instructions": "Be brief.", "input": input, "stream": true,
        "max_output_tokens": 77, "temperature": 0.5, "top_p": 0.9, "tools": tools,
    });
    assert_eq!(body(Dialect::Responses), expected);

    let image = json!({"type": "base64", "media_type": "image/png", "data": "aGk="});
    let expected = json!({
        "model": "m-1", "system": "Be brief.", "max_tokens": 77, "temperature": 0.5, "stream": true, "top_p": 0.9,
        "tools": tools, "messages": [
            {"role": "user", "content": "Grüezi"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "call_1", "name": "f", "input": {"x": 1.0}},
            ]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "call_1", "content": "42"}]},
            {"role": "user", "content": [
                {"type": "text", "text": "What is it?"}, {"type": "image", "source": image},
            ]},
        ],
    });
    assert_eq!(body(Dialect::Anthropic), expected);

    let call = json!({"id": "call_1", "function": {"name": "f", "arguments": {"x": 1.0}}});
    let expected = json!({
        "model": "m-1", "stream": true, "options": {"temperature": 0.5, "num_predict": 77}, "top_p": 0.9,
        "tools": tools, "messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": "Grüezi"},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "content": "42", "tool_call_id": "call_1", "tool_name": "f"},
            {"role": "user", "content": "What is it?", "images": ["aGk="]},
        ],
    });
    assert_eq!(body(Dialect::Ollama), expected);

    let call = question("")["messages"][1]["tool_calls"][0].clone();
    let expected = json!({
        "assistant_id": "agent", "stream_mode": ["messages-tuple"], "stream_subgraphs": false,
        "on_completion": "delete", "on_disconnect": "cancel", "top_p": 0.9, "tools": tools,
        "input": {"messages": [
            {"type": "system", "content": "Be brief."},
            {"type": "human", "content": "Grüezi"},
            {"type": "ai", "content": "", "tool_calls": [call]},
            {"type": "tool", "content": "42", "tool_call_id": "call_1"},
            {"type": "human", "content": [
                {"type": "text", "text": "What is it?"}, {"type": "image_url", "image_url": {"url": PIXEL}},
            ]},
        ]},
    });
    assert_eq!(body(Dialect::LangGraph), expected);
}

#[test]
fn parts_and_unknown_parameters_go_through_byte_for_byte() {
    let (llm, daemon) = site();
    let part = r#"{ "type":"input_audio", "input_audio":{"data":"AAA=","format":"wav"},"x":1.50 }"#;
    let message = format!(r#"{{"role":"user", "content":[{part}],"name":"n\u00fc"}}"#);
    let extra =
        r#"{"seed":12345678901234567890,"metadata":{"b":1, "a":[ ]},"stream":false,"temperature":null}"#;
    let payload =
        format!(r#"{{"backend":"chat","temperature":1,"messages":[{message}],"extra_body":{extra}}}"#);
    let response = daemon.hand_over(&payload).response();
    assert!(response.is_complete(), "{response:?}");
    let request = llm.wait_for_request(0).request;
    let sent = text(&request);
    for piece in [message.as_str(), r#""seed":12345678901234567890"#, r#""metadata":{"b":1, "a":[ ]}"#] {
        assert!(sent.contains(piece), "{piece} is not in {sent}");
    }
    assert_eq!(request.json()["stream"], json!(true), "an answer is a stream, whatever else is asked for");
    assert_eq!(sent.matches("\"stream\":").count(), 1, "{sent}");
    assert!(!sent.contains("temperature"), "a null takes away what we would say: {sent}");
}

#[test]
fn a_run_of_a_thread_and_what_stands_beside_its_messages() {
    let (llm, daemon) = site();
    let thread = |request: &Request| {
        assert_eq!(request.header("x-api-key"), Some(API_KEY));
        request.json()
    };
    llm.script_by_path([
        ("/threads", handoff_e2e::Answer::json(409, &json!({"detail": "it is there"}))),
        ("/runs/stream", handoff_e2e::Answer::langgraph().into()),
    ]);
    let payload = json!({
        "backend": "langgraph", "prompt": "x", "thread_id": "a/b?..", "assistant_id": "other",
        "stream_mode": ["messages", "updates"], "langgraph_input": {"z": 1, "a": {"k": [1.0]}},
        "on_disconnect": "continue",
    });
    let response = daemon.hand_over(payload.to_string()).response();
    assert!(response.is_complete(), "{response:?}");
    let made = llm.wait_for_request(0).request;
    assert_eq!(made.path, "/threads");
    assert_eq!(thread(&made), json!({"thread_id": "a/b?..", "if_exists": "do_nothing"}));
    let run = llm.wait_for_request(1).request;
    assert_eq!(run.path, "/threads/a%2Fb%3F../runs/stream");
    let body = thread(&run);
    assert_eq!(
        (&body["assistant_id"], &body["stream_mode"]),
        (&json!("other"), &json!(["messages", "updates"]))
    );
    // As far as the configuration allows it.
    assert_eq!(body["on_disconnect"], "cancel");
    let input = r#""input":{"messages":[{"type":"human","content":"x"}],"a":{"k":[1.0]},"z":1}"#;
    assert!(text(&run).contains(input), "{}", text(&run));
}
