use proptest::prelude::*;
use serde_json::json;

use super::*;

fn request(payload: serde_json::Value) -> ChatRequest {
    parse(payload.to_string().as_bytes()).unwrap()
}

fn refusal(payload: &str) -> String {
    parse(payload.as_bytes()).unwrap_err().to_string()
}

/// The refusal of a payload with a prompt and these further entries.
fn refusal_of(entries: &str) -> String {
    refusal(&format!(r#"{{"prompt":"hi",{entries}}}"#))
}

#[test]
fn a_prompt_is_enough() {
    let request = request(json!({"prompt": "hi"}));
    assert_eq!(request.prompt.as_deref(), Some("hi"));
    assert_eq!(request.format, Format::Content);
    assert_eq!(request.method, Method::Get);
    assert_eq!(request.last_user_text(), "hi");
}

#[test]
fn white_space_and_nuls_around_the_payload_are_nothing() {
    assert!(parse(b"\0 \r\n{\"prompt\":\"hi\"}\n\0\0").is_ok());
    for nothing in [&b""[..], b"\0", b" \0\t\r\n\x0b"] {
        assert_eq!(parse(nothing).unwrap_err(), BadHandoff::NoPayload);
    }
    for nothing in [&b"\x01{\"v\":1}\n\0"[..], b"\x01{\"v\":1}"] {
        assert_eq!(parse(nothing).unwrap_err(), BadHandoff::NoPayloadInEnvelope);
    }
}

#[test]
fn what_is_not_a_json_object_is_refused() {
    assert_eq!(refusal("[]"), "the payload must be a JSON object");
    assert_eq!(refusal("null"), "the payload must be a JSON object");
    assert_eq!(refusal("{\"prompt\":"), "the payload is not valid JSON (line 1, column 10)");
    assert_eq!(refusal("{\"prompt\":\"hi\"} x"), "the payload is not valid JSON (line 1, column 17)");
    assert_eq!(parse(b"{\"unknown\":\"\xff\"}").unwrap_err(), BadHandoff::NotUtf8);
}

#[test]
fn deep_nesting_is_skipped_or_refused_and_never_overflows() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    for key in ["unknown", "prompt", "messages", "response_headers", "include", "mock", "extra_body"] {
        let outcome = parse(format!(r#"{{"{key}":{deep},"prompt":"hi"}}"#).as_bytes());
        assert_eq!(outcome.is_ok(), matches!(key, "unknown" | "prompt"), "{key}");
    }
    let message = format!(r#"{{"messages":[{{"role":"user","content":[{deep}]}}]}}"#);
    assert_eq!(parse(message.as_bytes()).unwrap().last_user_text(), "");
    assert!(parse("{\"a\":".repeat(100_000).as_bytes()).is_err());
}

#[test]
fn types_are_read_as_sites_write_them() {
    let request = request(json!({
        "prompt": 42, "user_id": 7, "request_id": 12, "model": null, "system": "", "max_tokens": "100",
        "temperature": " 0.7 ", "heartbeat": "2.5", "extra_body": [], "response_headers": [], "mock": [],
        "include": "usage", "method": "head", "messages": [],
    }));
    assert_eq!(request.prompt.as_deref(), Some("42"));
    assert_eq!(request.user_id.as_deref(), Some("7"));
    assert_eq!(request.request_id.as_deref(), Some("12"));
    assert_eq!((request.model, request.system), (None, None));
    assert_eq!((request.max_tokens, request.temperature), (Some(100), Some(0.7)));
    assert_eq!(request.heartbeat, Some(Duration::from_millis(2500)));
    assert!(request.extra_body.is_none() && request.response_headers.is_empty());
    assert_eq!(request.include, Include { usage: true, ..Include::default() });
    assert_eq!(request.method, Method::Head);
}

#[test]
fn every_key_has_its_place() {
    let request = request(json!({
        "prompt": "p", "system": "s", "model": "m", "user_id": "u", "request_id": "r", "backend": "b",
        "extra_body": {"tools": []}, "format": "events",
        "include": ["reasoning", "tool_calls", "finish_reason", "new"],
        "on_disconnect": "drain_usage", "test_pattern": "abort:3", "last_event_id": "r:7", "client_ip": "::1",
        "traceparent": "00-1-2-01", "origin": "https://a", "proto": "HTTP/2", "method": "POST",
        "mock": {"length": "3", "token_delay_ms": 5, "first_token_delay_ms": 6, "fail_at": 2},
    }));
    let texts = [
        (&request.system, "s"),
        (&request.model, "m"),
        (&request.user_id, "u"),
        (&request.request_id, "r"),
        (&request.backend, "b"),
        (&request.test_pattern, "abort:3"),
        (&request.last_event_id, "r:7"),
        (&request.client_ip, "::1"),
        (&request.traceparent, "00-1-2-01"),
        (&request.origin, "https://a"),
        (&request.proto, "HTTP/2"),
    ];
    for (text, expected) in texts {
        assert_eq!(text.as_deref(), Some(expected));
    }
    assert_eq!(request.extra_body.unwrap().get(), r#"{"tools":[]}"#);
    assert_eq!(request.format, Format::Events);
    assert_eq!(
        request.include,
        Include { reasoning: true, tool_calls: true, finish_reason: true, usage: false }
    );
    assert_eq!(request.on_disconnect, Some(OnDisconnect::DrainUsage));
    assert_eq!(request.method, Method::Other);
    let mock = MockOptions {
        length: std::num::NonZeroU32::new(3),
        token_delay: Some(Duration::from_millis(5)),
        first_token_delay: Some(Duration::from_millis(6)),
        fail_at: std::num::NonZeroU32::new(2),
    };
    assert_eq!(request.mock, mock);
}

#[test]
fn a_refusal_names_the_key_and_what_is_allowed_and_no_content() {
    let cases = [
        (r#""user_id":["secret"]"#, "user_id: must be a string"),
        (r#""user_id":"a\nb""#, "user_id: must be a string of at most 256 bytes without control characters"),
        (r#""request_id":"a b""#, "request_id: must be a string of at most 128 visible ASCII characters"),
        (r#""model":"\ud800""#, "model: must be valid Unicode text"),
        (r#""max_tokens":-1"#, "max_tokens: must be a whole number from 1"),
        (r#""max_tokens":{}"#, "max_tokens: must be a whole number from 1"),
        (r#""temperature":"NaN""#, "temperature: must be a number"),
        (r#""temperature":1e999"#, "temperature: must be a number"),
        (r#""heartbeat":0"#, "heartbeat: must be a number of seconds from 0.1 to 86400"),
        (r#""format":"xml""#, "format: must be content, text, openai, events or raw"),
        (r#""include":{"a":1}"#, "include: must be an array of reasoning, tool_calls, finish_reason, usage"),
        (r#""on_disconnect":"secret""#, "on_disconnect: must be cancel, drain_usage or continue"),
        (r#""extra_body":[1]"#, "extra_body: must be an object"),
        (r#""mock":{"fail_at":0}"#, "mock.fail_at: must be a whole number from 1"),
        (r#""messages":{"0":"secret"}"#, "messages: must be an array of at most 10000 messages"),
        (r#""messages":["secret"]"#, "messages[0]: must be an object with a role and a content"),
        (r#""messages":[{}]"#, "messages[0]: must be an object with a role that is a string"),
    ];
    for (entries, expected) in cases {
        assert_eq!(refusal_of(entries), expected, "{entries}");
    }
    assert!(refusal_of(r#""messages":[{"role":"user","content":1}]"#).starts_with("messages[0]: must be"));
    let many = vec!["{\"role\":\"user\"}"; 10_001].join(",");
    assert!(refusal_of(&format!(r#""messages":[{many}]"#)).contains("at most 10000"));
}

#[test]
fn of_duplicate_keys_the_last_wins() {
    assert_eq!(parse(br#"{"prompt":[],"prompt":"b"}"#).unwrap().prompt.as_deref(), Some("b"));
}

#[test]
fn an_empty_question_is_refused_before_anybody_pays_for_it() {
    for payload in [r#"{}"#, r#"{"prompt":" \n"}"#, r#"{"messages":[]}"#, r#"{"system":"be nice"}"#] {
        assert_eq!(parse(payload.as_bytes()).unwrap_err(), BadHandoff::NoPrompt, "{payload}");
    }
    for payload in [r#"{"method":"HEAD"}"#, r#"{"last_event_id":"r:end"}"#, r#"{"langgraph_input":{}}"#] {
        assert!(parse(payload.as_bytes()).is_ok(), "{payload}");
    }
}

#[test]
fn messages_pass_untouched() {
    let messages = [
        r#"{ "role":"user", "content":"\u00e4", "z":1.0, "a":12345678901234567890123 }"#,
        r#"{"role":"assistant","content":null,"tool_calls":[{}]}"#,
        r#"{"content":[{"type":"text","text":"one"},{"type":"image_url"},{"text":"two"}],"role":"user"}"#,
    ];
    let payload = format!(r#"{{"prompt":"unused","system":"first","messages":[{}]}}"#, messages.join(" , "));
    let request = parse(payload.as_bytes()).unwrap();
    let kept: Vec<&str> = request.messages.iter().map(|message| message.json.get()).collect();
    assert_eq!(kept, messages);
    assert_eq!(request.last_user_text(), "one\ntwo");
    assert_eq!(request.messages[0].text(), "ä");
    assert_eq!(request.system.as_deref(), Some("first"));
}

#[test]
fn a_system_message_among_the_messages_wins() {
    for role in ["system", "developer"] {
        let messages = json!([{"role": "user", "content": "hi"}, {"role": role, "content": "be nice"}]);
        assert_eq!(request(json!({"system": "be rude", "messages": messages})).system, None);
    }
}

#[test]
fn response_headers_are_scalars_or_arrays_of_them() {
    let request = request(json!({"prompt": "hi", "response_headers": {
        "Set-Cookie": ["a=1", "b=2"], "X-Count": 3, "X-Flag": true, "X-None": null, "X-Name": "Zoë",
    }}));
    let mut lines: Vec<String> = request.response_headers.iter().map(|(n, v)| format!("{n}: {v}")).collect();
    lines.sort();
    assert_eq!(lines, ["Set-Cookie: a=1", "Set-Cookie: b=2", "X-Count: 3", "X-Flag: true", "X-Name: Zoë"]);
}

#[test]
fn response_headers_that_would_break_the_head_are_refused() {
    let headers = |entries: &str| refusal_of(&format!(r#""response_headers":{{{entries}}}"#));
    assert!(headers(r#""X-A":"a\r\nB: c""#).starts_with("response_headers.X-A: must be a string"));
    assert!(headers(r#""X-A":"\u007f""#).starts_with("response_headers.X-A: "));
    assert!(headers(r#""X-A":[["nested"]]"#).starts_with("response_headers.X-A: "));
    for name in ["", "a b", "a:b", "a\\r\\nb", "ä"] {
        let expected = "response_headers: must be an object whose names are valid header names";
        assert_eq!(headers(&format!(r#""{name}":"v""#)), expected);
    }
    for name in ["Content-Length", "transfer-encoding", "CONNECTION", "Cache-Control", "X-Accel-Buffering"] {
        assert!(headers(&format!(r#""{name}":"v""#)).ends_with("handoffd sets it"), "{name}");
    }
    assert!(headers(r#""x-request-ID":"v""#).ends_with("set request_id instead"));

    let too_many: Vec<String> = (0..65).map(|n| format!(r#""X-{n}":"v""#)).collect();
    let repeated = format!(r#""X-A":[{}]"#, vec!["1"; 65].join(","));
    let too_long = format!(r#""X-A":"{}""#, "v".repeat(16 * 1024));
    for entries in [too_many.join(","), repeated, too_long] {
        assert!(headers(&entries).ends_with("at most 64 headers and 16 KiB together"));
    }
    assert!(refusal_of(r#""response_headers":["X-A: b"]"#).ends_with("an object"));
}

#[test]
fn the_envelope_knows_better_than_the_payload() {
    let line = r#"{"v":1,"method":"HEAD","uri":"/chat.php?q=1","proto":"HTTP/1.1","client":"203.0.113.9",
        "tls":true,"relay":false,"new":1,
        "headers":[["Last-Event-ID","r:end"],["origin","https://a"],["traceparent","a b"]]}"#;
    let payload = r#"{"method":"GET","client_ip":"10.0.0.1","proto":"HTTP/1.0"}"#;
    let message = format!("\x01{}\n{payload}\0", line.replace('\n', ""));
    let request = parse(message.as_bytes()).unwrap();
    assert_eq!(request.method, Method::Head);
    assert_eq!(request.client_ip.as_deref(), Some("203.0.113.9"));
    assert_eq!(request.proto.as_deref(), Some("HTTP/1.1"));
    assert_eq!(request.origin.as_deref(), Some("https://a"));
    assert_eq!(request.traceparent, None);
    assert!(request.already_finished());
    let envelope = request.envelope.unwrap();
    assert_eq!((envelope.v, envelope.tls, envelope.relay), (1, true, false));
    assert_eq!(envelope.uri.as_deref(), Some("/chat.php?q=1"));
}

#[test]
fn a_refused_head_request_is_still_one() {
    let method_of = |message: &[u8]| Caller::of_message(message, &[]).method;
    assert_eq!(method_of(b"\x01{\"v\":1,\"method\":\"HEAD\"}\nnonsense"), Method::Head);
    assert_eq!(method_of(b"nonsense"), Method::Get);
}

#[test]
fn apaches_request_id_is_used_where_the_payload_has_none() {
    let id_of = |envelope: &str, payload: &str| {
        let message = format!("\x01{{\"v\":1,\"request_id\":{envelope}}}\n{{\"prompt\":\"hi\"{payload}}}");
        parse(message.as_bytes()).unwrap().request_id
    };
    assert_eq!(id_of(r#""a-1""#, "").as_deref(), Some("a-1"));
    assert_eq!(id_of(r#""a-1""#, r#","request_id":"p-1""#).as_deref(), Some("p-1"));
    let long = format!("\"{}\"", "a".repeat(129));
    for bad in [r#""a b""#, r#""a\r\nb""#, r#""ä""#, "\"\"", "7", "null", "{}", &long] {
        assert_eq!(id_of(bad, ""), None, "{bad}");
    }
}

#[test]
fn a_trace_state_goes_with_its_own_trace_alone() {
    let of = |headers: &str, payload: &str| {
        let message = format!("\x01{{\"v\":1,\"headers\":[{headers}]}}\n{{\"prompt\":\"hi\"{payload}}}");
        let request = parse(message.as_bytes()).unwrap();
        (request.traceparent, request.tracestate)
    };
    let (parent, state) =
        (r#"["traceparent","00-a-b-01"]"#, r#"["tracestate","x=1"],["TraceState"," y=2 "]"#);
    let text = |value: &str| Some(value.to_owned());
    assert_eq!(of(&format!("{parent},{state}"), ""), (text("00-a-b-01"), text("x=1,y=2")));
    assert_eq!(of(&format!("{parent},{state}"), r#","traceparent":"00-s-s-01""#), (text("00-s-s-01"), None));
    assert_eq!(of(state, ""), (None, None));
    for bad in ["ä=1".to_owned(), "x=\\ny".to_owned(), "x".repeat(513), " ".to_owned()] {
        let headers = format!(r#"{parent},["tracestate","{bad}"]"#);
        assert_eq!(of(&headers, ""), (text("00-a-b-01"), None), "{bad}");
    }
}

#[test]
fn a_broken_envelope_is_refused() {
    for message in
        [&b"\x01"[..], b"\x01{}\n{\"prompt\":\"hi\"}", b"\x01\xff\n{}", b"\x01{\"v\":2}\n{\"prompt\":\"hi\"}"]
    {
        assert!(matches!(parse(message), Err(BadHandoff::Envelope(_))), "{message:?}");
    }
}

#[test]
fn messages_are_a_list_or_refused_whatever_else_they_are() {
    let refused = "messages: must be an array of at most 10000 messages";
    for other in ["\"\\ud800\"", "1e999", "-0", "{\"a\":[1]}", "true"] {
        assert_eq!(refusal(&format!(r#"{{"prompt":"hi","messages":{other}}}"#)), refused, "{other}");
    }
    let message = r#"{"role":"user","content":"hi"}"#;
    let of = |count| parse(format!(r#"{{"messages":[{}]}}"#, vec![message; count].join(", ")).as_bytes());
    assert_eq!(of(10_000).unwrap().messages.len(), 10_000);
    assert_eq!(of(10_001).unwrap_err().to_string(), refused);
    let last = parse(br#"{"messages":[{"role":"user"}],"messages":null,"prompt":"hi"}"#).unwrap();
    assert!(last.messages.is_empty());
}

#[test]
fn names_and_values_may_be_written_with_escapes_and_white_space() {
    let payload = "{\n \"m\\u0065ssages\" : [ {\r\n\t\"r\\u006fle\" : \"us\\u0065r\" , \"x\" : [ \"]\\\"\\\\\" ] , \"content\" : \"a\\\"b\\\\\" } ] }";
    let request = parse(payload.as_bytes()).unwrap();
    assert_eq!(request.messages[0].role, Role::User);
    assert_eq!(request.last_user_text(), "a\"b\\");
    let half = r#"{"messages":[{"role":"user","\ud800":1,"content":"hi"}]}"#;
    assert_eq!(refusal(half), "messages[0]: must be an object with a role and a content");
}

/// Payloads that are nearly right, so that the readers behind the JSON parser are reached.
fn payload() -> impl Strategy<Value = String> {
    let scalar = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("\"\\ud800\"".to_owned()),
        any::<f64>().prop_map(|n| serde_json::Value::from(n).to_string()),
        any::<i64>().prop_map(|n| n.to_string()),
        any::<String>().prop_map(|s| serde_json::Value::from(s).to_string()),
    ];
    let key = prop_oneof![proptest::sample::select(KEYS).prop_map(str::to_owned), any::<String>()];
    let value = scalar.prop_recursive(3, 24, 6, move |inner| {
        let key = prop_oneof![Just("role".to_owned()), Just("content".to_owned()), "[A-Za-z-]{1,8}"];
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..5).prop_map(|items| format!("[{}]", items.join(","))),
            proptest::collection::vec((key, inner), 0..5).prop_map(object),
        ]
    });
    proptest::collection::vec((key, value), 0..4).prop_map(object)
}

fn object(entries: Vec<(String, String)>) -> String {
    let entries: Vec<String> =
        entries.into_iter().map(|(key, value)| format!("{}:{value}", serde_json::Value::from(key))).collect();
    format!("{{{}}}", entries.join(","))
}

proptest! {
    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        let _ = parse(&bytes);
        let _ = parse(&[b"\x01", bytes.as_slice()].concat());
    }

    #[test]
    fn any_payload_is_read_or_refused_and_what_goes_into_headers_is_safe(payload in payload()) {
        if let Ok(request) = parse(payload.as_bytes()) {
            let _ = request.last_user_text();
            for (name, value) in &request.response_headers {
                prop_assert!(!name.is_empty() && !name.contains([':', '\r', '\n', ' ']));
                prop_assert!(!value.contains(['\r', '\n', '\0']));
            }
            let tokens = [request.request_id, request.test_pattern, request.traceparent];
            for token in tokens.into_iter().flatten() {
                prop_assert!(token.bytes().all(|byte| byte.is_ascii_graphic()));
            }
        }
    }

    #[test]
    fn any_prompt_is_read_as_it_was_written(prompt: String) {
        let prompt = format!("{prompt}?");
        let request = request(json!({"prompt": prompt}));
        prop_assert_eq!(request.prompt, Some(prompt));
    }
}

#[test]
fn what_a_run_needs_to_know_is_read() {
    let request = request(json!({
        "langgraph_input": {"shop": 1}, "thread_id": "6f1c", "assistant_id": "my agent", "stream_mode": "values",
        "profile": "eu",
    }));
    let options = request.langgraph;
    assert_eq!(options.thread_id.as_deref(), Some("6f1c"));
    assert_eq!(options.assistant_id.as_deref(), Some("my agent"));
    assert_eq!(options.stream_mode, ["values"]);
    assert_eq!(options.input.unwrap().get(), r#"{"shop":1}"#);
    assert_eq!(request.profile.as_deref(), Some("eu"));
}

#[test]
fn a_run_that_cannot_be_is_refused_by_its_key() {
    let modes = "stream_mode: must be an array of at most 16 names of stream modes";
    let cases = [
        (r#""thread_id":"..""#, "thread_id: must be the id of a thread, not a directory"),
        (r#""thread_id":"a b""#, "thread_id: must be a string of at most 128 visible ASCII characters"),
        (
            r#""assistant_id":"a\nb""#,
            "assistant_id: must be a string of at most 256 bytes without control characters",
        ),
        (r#""stream_mode":{}"#, modes),
        (r#""stream_mode":["values",7]"#, modes),
        (r#""stream_mode":["a b"]"#, modes),
        (r#""stream_mode":[1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]"#, modes),
        (r#""langgraph_input":"x""#, "langgraph_input: must be an object"),
        (r#""profile":["x"]"#, "profile: must be a string"),
    ];
    for (entries, expected) in cases {
        assert_eq!(refusal_of(entries), expected, "{entries}");
    }
}
