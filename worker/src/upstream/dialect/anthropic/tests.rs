use handoff_config::backend::Anthropic;
use serde_json::{Value, json};

use super::super::Asking;
use super::super::tests::{body, header, question, refusal, request};
use crate::upstream::event_reader::RawEvent;

fn config() -> Anthropic {
    let max_tokens = std::num::NonZeroU32::new(4096).unwrap();
    Anthropic { version: "2023-06-01".to_owned(), beta: Some("a-1,b-2".to_owned()), max_tokens }
}

fn ask(payload: Value) -> Asking {
    super::ask(&config(), "https://api.anthropic.com", question(&request(payload))).unwrap()
}

fn messages_of(payload: Value) -> Value {
    let body: Value = serde_json::from_str(&body(&ask(payload))).unwrap();
    body["messages"].clone()
}

#[test]
fn a_prompt_is_one_message_and_has_the_tokens_that_this_api_must_have() {
    let asking = ask(json!({"prompt": "Grüße", "system": "Be brief."}));
    assert!(asking.before.is_none());
    assert_eq!(asking.call.path, "/v1/messages");
    assert_eq!(header(&asking, "anthropic-version"), "2023-06-01");
    assert_eq!(header(&asking, "anthropic-beta"), "a-1,b-2");
    assert_eq!(
        body(&asking),
        r#"{"model":"m","max_tokens":4096,"system":"Be brief.","messages":[{"role":"user","content":"Grüße"}],"stream":true}"#
    );
}

#[test]
fn a_base_with_the_version_is_not_given_it_twice() {
    let request = request(json!({"prompt": "hi"}));
    let asking = super::ask(&config(), "https://a.example/v1", question(&request)).unwrap();
    assert_eq!(asking.call.path, "/messages");
}

#[test]
fn extra_body_wins_and_takes_away_but_the_answer_stays_a_stream() {
    let extra =
        json!({"temperature": null, "max_tokens": 9, "thinking": {"type": "enabled"}, "stream": false});
    let asking = ask(json!({"prompt": "hi", "temperature": 0.5, "max_tokens": 5, "extra_body": extra}));
    assert_eq!(
        body(&asking),
        r#"{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"hi"}],"stream":true,"thinking":{"type":"enabled"}}"#
    );
}

#[test]
fn a_message_in_this_apis_own_form_goes_through_byte_for_byte() {
    let own = r#"{"content": [{"text": "a\u00e9", "type": "text", "cache_control": {"type":"ephemeral"}}, {"type":"tool_use","id":"t","name":"n","input":{"x":1.50}}],  "role": "assistant"}"#;
    let payload = format!(r#"{{"messages":[{{"role":"user","content":"hi"}},{own}],"model":"m"}}"#);
    let request = crate::request::parse(payload.as_bytes()).unwrap();
    let asking = super::ask(&config(), "https://a", question(&request)).unwrap();
    assert!(
        body(&asking).contains(&format!(r#"[{{"role":"user","content":"hi"}},{own}]"#)),
        "{}",
        body(&asking)
    );
}

#[test]
fn system_messages_become_the_system_there_is_no_such_role() {
    let asking = ask(json!({"messages": [
        {"role": "system", "content": "one"},
        {"role": "user", "content": "hi"},
        {"role": "developer", "content": [{"type": "text", "text": "two"}]},
    ]}));
    let body: Value = serde_json::from_str(&body(&asking)).unwrap();
    assert_eq!(body["system"], json!([{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]));
    assert_eq!(body["messages"], json!([{"role": "user", "content": "hi"}]));
}

#[test]
fn openais_pictures_and_files_become_blocks() {
    let messages = messages_of(json!({"messages": [{"role": "user", "content": [
        {"type": "text", "text": "what?"},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk/", "detail": "low"}},
        {"type": "image_url", "image_url": {"url": "https://a/b.png"}},
        {"type": "file", "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,UERG"}},
    ]}]}));
    assert_eq!(
        messages,
        json!([{"role": "user", "content": [
            {"type": "text", "text": "what?"},
            {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk/"}},
            {"type": "image", "source": {"type": "url", "url": "https://a/b.png"}},
            {"type": "document", "source": {"type": "base64", "media_type": "application/pdf", "data": "UERG"},
             "title": "a.pdf"},
        ]}])
    );
}

#[test]
fn openais_calls_of_tools_and_their_answers_become_blocks_of_one_message_each() {
    let messages = messages_of(json!({"messages": [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": null, "tool_calls": [
            {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}},
            {"id": "c2", "type": "function", "function": {"name": "g", "arguments": ""}},
        ]},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
        {"role": "tool", "tool_call_id": "c2", "content": [{"type": "text", "text": "two"}]},
        {"role": "user", "content": "and?"},
    ]}));
    assert_eq!(
        messages,
        json!([
            {"role": "user", "content": "hi"},
            {"role": "assistant", "content": [
                {"type": "tool_use", "id": "c1", "name": "f", "input": {"a": 1}},
                {"type": "tool_use", "id": "c2", "name": "g", "input": {}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "c1", "content": "one"},
                {"type": "tool_result", "tool_use_id": "c2", "content": [{"type": "text", "text": "two"}]},
            ]},
            {"role": "user", "content": "and?"},
        ])
    );
}

#[test]
fn what_cannot_be_translated_is_refused_with_its_place() {
    let ask = |messages: Value| {
        let request = request(json!({"messages": messages}));
        refusal(super::ask(&config(), "https://a", question(&request)))
    };
    let call = json!({"id": "c", "function": {"name": "f", "arguments": "[1]"}});
    assert_eq!(
        ask(json!([{"role": "assistant", "content": "", "tool_calls": [call]}])),
        "bad_handoff: messages[0].tool_calls[0].function.arguments: must be a JSON object, written into a string"
    );
    assert_eq!(
        ask(json!([{"role": "tool", "content": "x"}])),
        "bad_handoff: messages[0].tool_call_id: must be there: it says which call is answered"
    );
    assert_eq!(
        ask(json!([{"role": "user", "content": ["x"]}])),
        "bad_handoff: messages[0].content: must be a string, null or an array of parts with a type"
    );
}

#[test]
fn what_is_attached_stands_for_the_last_user_messages_content() {
    let mut request = request(json!({"messages": [
        {"role": "user", "content": "first"},
        {"role": "user", "content": "last"},
        {"role": "assistant", "content": "so"},
    ]}));
    request.parts = super::super::tests::parts();
    let asking = super::ask(&config(), "https://a", question(&request)).unwrap();
    let body: Value = serde_json::from_str(&body(&asking)).unwrap();
    assert_eq!(
        body["messages"],
        json!([
            {"role": "user", "content": "first"},
            {"role": "user", "content": [
                {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aQ=="}},
                {"type": "text", "text": "last"},
                {"type": "document",
                 "source": {"type": "base64", "media_type": "application/pdf", "data": "cA=="}, "title": "p.pdf"},
            ]},
            {"role": "assistant", "content": "so"},
        ])
    );
}

#[test]
fn calls_that_never_end_fill_no_memory() {
    let mut decoder = super::Decoder::default();
    for index in 0..1000 {
        let block = json!({"type": "tool_use", "id": "t", "name": "f", "input": {"a": index}});
        let data = json!({"type": "content_block_start", "index": index, "content_block": block});
        let event = RawEvent { name: None, data: data.to_string().into(), raw: b"" };
        decoder.decode(&event, &mut Vec::new()).unwrap();
    }
    assert_eq!(decoder.open_calls.len(), super::OPEN_CALLS_MAX);
    assert_eq!(decoder.open_calls.last().map(|call| call.index), Some(999));
}
