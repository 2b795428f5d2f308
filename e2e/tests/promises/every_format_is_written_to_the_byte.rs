//! What a client gets is the documented bytes, neither more nor less, in each format.

use handoff_e2e::{Daemon, Response};
use serde_json::Value;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
                    Connection: close\r\nX-Accel-Buffering: no\r\nX-Request-Id: r-1";

#[test]
fn content() {
    let response = answer("content", "[]");
    assert_eq!(response.head, HEAD);
    assert_eq!(
        response.body,
        "id: r-1:1\ndata: {\"content\":\"Hello\"}\n\n\
         id: r-1:2\ndata: {\"content\":\" from\"}\n\n\
         id: r-1:3\ndata: [DONE]\n\n\
         id: r-1:end\nevent: done\ndata: [DONE]\n\n"
    );
}

#[test]
fn content_with_all_that_may_be_included() {
    let response = answer("content", r#"["usage","finish_reason","reasoning","tool_calls","unknown"]"#);
    assert_eq!(
        response.body,
        "id: r-1:1\ndata: {\"content\":\"Hello\"}\n\n\
         id: r-1:2\ndata: {\"content\":\" from\"}\n\n\
         id: r-1:3\ndata: {\"finish_reason\":\"stop\"}\n\n\
         id: r-1:4\ndata: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n\
         id: r-1:5\ndata: [DONE]\n\n\
         id: r-1:end\nevent: done\ndata: [DONE]\n\n"
    );
}

#[test]
fn text() {
    let response = answer("text", "[]");
    assert_eq!(response.head, HEAD);
    assert_eq!(
        response.body,
        "id: r-1:1\ndata: Hello\n\nid: r-1:2\ndata:  from\n\nid: r-1:end\nevent: done\ndata: [DONE]\n\n"
    );
}

#[test]
fn events() {
    let response = answer("events", "[]");
    assert_eq!(response.head, HEAD);
    assert_eq!(
        response.body,
        "id: r-1:1\nevent: delta\ndata: {\"content\":\"Hello\"}\n\n\
         id: r-1:2\nevent: delta\ndata: {\"content\":\" from\"}\n\n\
         id: r-1:3\nevent: usage\ndata: {\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}\n\n\
         id: r-1:end\nevent: done\ndata: {\"finish_reason\":\"stop\"}\n\n"
    );
}

#[test]
fn openai() {
    for (include, usage) in [
        ("[]", ""),
        (
            r#"["usage"]"#,
            "data: {\"id\":\"chatcmpl-r-1\",\"object\":\"chat.completion.chunk\",\"created\":NOW,\
             \"model\":\"m\",\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\
             \"total_tokens\":3}}\n\n",
        ),
    ] {
        let response = answer("openai", include);
        assert_eq!(response.head, HEAD);
        let first: Value = serde_json::from_str(response.data()[0]).expect("a chunk");
        let chunk = |delta: &str, finish_reason: &str| {
            format!(
                "data: {{\"id\":\"chatcmpl-r-1\",\"object\":\"chat.completion.chunk\",\"created\":NOW,\
                 \"model\":\"m\",\"choices\":[{{\"index\":0,\"delta\":{delta},\"finish_reason\":{finish_reason}}}]}}\n\n"
            )
        };
        let expected = [
            &chunk(r#"{"role":"assistant","content":"Hello"}"#, "null"),
            &chunk(r#"{"content":" from"}"#, "null"),
            &chunk("{}", "\"stop\""),
            usage,
            "data: [DONE]\n\n",
        ];
        assert_eq!(response.body, expected.concat().replace("NOW", &first["created"].to_string()));
    }
}

#[test]
fn any_unicode_comes_back_unharmed() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 0\n");
    let prompt = "Grüße, 世界! 👩‍👩‍👧 \u{2028}\u{feff}\u{0} \"quoted\" \\ \ttab <b>&amp; مرحبا \u{10ffff}";
    let payload = serde_json::json!({ "prompt": prompt }).to_string();
    let response = daemon.hand_over(&payload).response();
    assert!(response.is_complete(), "{response:?}");
    assert!(response.text().contains(prompt), "{:?}", response.text());
    // Half a character, escaped in two, is one character.
    let response = daemon.hand_over(r#"{"prompt":"\ud83d\ude00"}"#).response();
    assert!(response.text().contains("You asked: 😀"), "{response:?}");
}

#[test]
fn a_line_break_in_text_becomes_a_further_data_line() {
    let daemon = Daemon::start("[backend.mock]\ntoken_delay_ms = 0\n");
    let payload =
        r#"{"prompt":"one\ntwo\r\nthree\rdata: four\n\nevent: five","format":"text","request_id":"r"}"#;
    let response = daemon.hand_over(payload).response();
    assert_eq!(response.status, 200, "{response:?}");
    let lines = response.body.lines().all(|line| {
        line.is_empty() || line.starts_with("data: ") || line.starts_with("id: r:") || line == "event: done"
    });
    assert!(lines, "{}", response.body);
    assert_eq!(response.body.matches("event: done\n").count(), 1);
    let events = response.body.split("\n\n").filter(|event| event.starts_with("id: "));
    let texts = events.take_while(|event| !event.contains(":end\n")).map(|event| {
        let lines = event.lines().filter_map(|line| line.strip_prefix("data: "));
        lines.collect::<Vec<_>>().join("\n")
    });
    let text: String = texts.collect();
    assert!(
        text.contains("You asked: one\ntwo\nthree\ndata: four\n\nevent: five\n\nThis answer"),
        "{text:?}"
    );
}

/// Two words.
fn answer(format: &str, include: &str) -> Response {
    let daemon = Daemon::start("");
    let payload = format!(
        r#"{{"prompt":"hi","request_id":"r-1","model":"m","format":"{format}","include":{include},"mock":{{"length":2}}}}"#
    );
    let response = daemon.hand_over(&payload).response();
    assert_eq!(response.broken, None);
    response
}
