use handoff_config::backend::LangGraph;
use serde_json::{Value, json};

use super::super::Asking;
use super::super::tests::{body, header, parts, question, request};
use super::Decoder;
use crate::event::Event;
use crate::upstream::event_reader::RawEvent;

fn config() -> LangGraph {
    LangGraph { assistant_id: "agent".to_owned(), stream_mode: vec!["messages-tuple".to_owned()] }
}

fn ask(payload: Value) -> Asking {
    super::ask(&config(), question(&request(payload))).unwrap()
}

#[test]
fn a_run_without_a_thread_is_one_call_with_the_body_of_the_example_daemon() {
    let asking = ask(json!({"prompt": "hi", "system": "s", "test_pattern": "short"}));
    assert!(asking.before.is_none());
    assert_eq!(asking.call.path, "/runs/stream");
    assert_eq!(header(&asking, "x-test-pattern"), "short");
    assert_eq!(
        body(&asking),
        r#"{"assistant_id":"agent","input":{"messages":[{"type":"system","content":"s"},{"type":"human","content":"hi"}]},"stream_mode":["messages-tuple"],"stream_subgraphs":false,"on_completion":"delete","on_disconnect":"cancel"}"#
    );
}

#[test]
fn a_thread_is_made_first_and_its_id_cannot_leave_its_place_in_the_path() {
    let asking = ask(json!({"prompt": "hi", "thread_id": "a/../b?c#d%2e~e"}));
    assert_eq!(asking.call.path, "/threads/a%2F..%2Fb%3Fc%23d%252e~e/runs/stream");
    let before = asking.before.unwrap();
    assert_eq!((before.method, before.path.as_str()), (http::Method::POST, "/threads"));
    assert_eq!(
        String::from_utf8(before.body).unwrap(),
        r#"{"thread_id":"a/../b?c#d%2e~e","if_exists":"do_nothing"}"#
    );
}

#[test]
fn what_the_site_asks_of_the_run_goes_into_it() {
    let asking = ask(json!({
        "prompt": "hi", "assistant_id": "other", "stream_mode": ["values", "messages"], "on_disconnect": "continue",
        "langgraph_input": {"shop": 1.50, "a\"b": [null], "empty": null}, "extra_body": {"metadata": {"k": "v"}, "on_completion": null},
    }));
    assert_eq!(
        body(&asking),
        r#"{"assistant_id":"other","input":{"messages":[{"type":"human","content":"hi"}],"a\"b":[null],"empty":null,"shop":1.5},"stream_mode":["values","messages"],"stream_subgraphs":false,"on_disconnect":"continue","metadata":{"k":"v"}}"#
    );
}

#[test]
fn messages_keep_all_but_the_word_for_who_speaks() {
    let asking = ask(json!({"messages": [
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://a"}}]},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "one"},
        {"role": "custom", "content": "x", "name": "n"},
    ]}));
    let body: Value = serde_json::from_str(&body(&asking)).unwrap();
    assert_eq!(
        body["input"]["messages"],
        json!([
            {"type": "human", "content": [{"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "https://a"}}]},
            {"type": "ai", "content": "", "tool_calls": [{"id": "c", "function": {"name": "f", "arguments": "{}"}}]},
            {"type": "tool", "content": "one", "tool_call_id": "c"},
            {"type": "custom", "content": "x", "name": "n"},
        ])
    );
}

#[test]
fn what_is_attached_is_written_as_openai_has_it() {
    let mut request = request(json!({"prompt": "hi"}));
    request.parts = parts();
    let body: Value =
        serde_json::from_str(&body(&super::ask(&config(), question(&request)).unwrap())).unwrap();
    assert_eq!(
        body["input"]["messages"],
        json!([{"type": "human", "content": [
            {"type": "image_url", "image_url": {"url": "data:image/png;base64,aQ=="}},
            {"type": "text", "text": "last"},
            {"type": "file", "file": {"filename": "p.pdf", "file_data": "data:application/pdf;base64,cA=="}},
        ]}])
    );
}

#[test]
fn input_alone_is_a_question_too() {
    let asking = ask(json!({"langgraph_input": {"shop": 1}}));
    assert!(body(&asking).contains(r#""input":{"messages":[],"shop":1}"#), "{}", body(&asking));
}

#[test]
fn memory_stays_small_however_many_messages_a_run_has() {
    let mut decoder = Decoder::default();
    let mut events = Vec::new();
    for number in 0..10_000 {
        let usage = r#"{"input_tokens":2,"output_tokens":1,"total_tokens":3}"#;
        let data = format!(
            r#"[{{"id":"{number}","type":"AIMessageChunk","content":"x","usage_metadata":{usage}}},{{}}]"#
        );
        events.clear();
        let event = RawEvent { name: Some("messages"), data: data.into(), raw: b"" };
        decoder.decode(&event, &mut events).unwrap();
    }
    assert_eq!(decoder.messages.len(), super::MESSAGES_MAX);
    assert!(matches!(events.last(), Some(Event::Usage(usage)) if usage.total_tokens == 30_000), "{events:?}");
}
