use serde_json::{Value, json};

use super::super::tests::{body, parts, question, refusal, request};
use super::ask;

fn body_of(payload: Value) -> String {
    body(&ask(question(&request(payload))).unwrap())
}

fn messages_of(payload: Value) -> Value {
    let body: Value = serde_json::from_str(&body_of(payload)).unwrap();
    body["messages"].clone()
}

#[test]
fn a_prompt_is_one_message_and_numbers_are_options() {
    assert_eq!(
        body_of(json!({"prompt": "hi", "system": "s", "temperature": 0.5, "max_tokens": 7})),
        r#"{"model":"m","messages":[{"role":"system","content":"s"},{"role":"user","content":"hi"}],"options":{"temperature":0.5,"num_predict":7},"stream":true}"#
    );
    let plain = ask(question(&request(json!({"prompt": "hi"})))).unwrap();
    assert_eq!(plain.call.path, "/api/chat");
    assert_eq!(body(&plain), r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#);
}

#[test]
fn extra_body_wins_and_its_options_stand_beside_ours() {
    let extra = json!({"options": {"num_ctx": 4096, "temperature": 0}, "think": true, "keep_alive": "5m", "stream": false});
    assert_eq!(
        body_of(json!({"prompt": "hi", "temperature": 0.5, "max_tokens": 7, "extra_body": extra})),
        r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"options":{"temperature":0,"num_predict":7,"num_ctx":4096},"stream":true,"keep_alive":"5m","think":true}"#
    );
    assert_eq!(
        body_of(json!({"prompt": "hi", "temperature": 0.5, "extra_body": {"options": null}})),
        r#"{"model":"m","messages":[{"role":"user","content":"hi"}],"stream":true}"#
    );
    let wrong = request(json!({"prompt": "hi", "extra_body": {"options": 1}}));
    assert_eq!(refusal(ask(question(&wrong))), "bad_handoff: extra_body.options: must be an object");
}

#[test]
fn a_content_is_one_text_with_pictures_beside_it() {
    assert_eq!(
        messages_of(json!({"messages": [
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [
                {"type": "text", "text": "a"},
                {"type": "image_url", "image_url": "data:image/png;base64,aGk/"},
                {"type": "text", "text": "b"},
            ]},
            {"role": "user", "content": "untouched", "images": ["aGk="]},
        ]})),
        json!([
            {"role": "system", "content": "d"},
            {"role": "user", "content": "a\nb", "images": ["aGk/"]},
            {"role": "user", "content": "untouched", "images": ["aGk="]},
        ])
    );
}

#[test]
fn arguments_of_calls_are_objects_and_answers_name_the_tool() {
    assert_eq!(
        messages_of(json!({"messages": [
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"a\": 1}"}}]},
            {"role": "tool", "tool_call_id": "c1", "content": "one"},
        ]})),
        json!([
            {"role": "assistant", "content": "", "tool_calls": [
                {"id": "c1", "function": {"name": "f", "arguments": {"a": 1}}}]},
            {"role": "tool", "content": "one", "tool_call_id": "c1", "tool_name": "f"},
        ])
    );
}

#[test]
fn what_ollama_cannot_take_is_refused_rather_than_left_out() {
    let link = json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "https://a/b.png"}}]}]);
    assert_eq!(
        refusal(ask(question(&request(json!({"messages": link}))))),
        "bad_handoff: messages[0].content[0]: must be text or a picture in a data: URL: Ollama takes nothing else"
    );
    let mut with_pdf = request(json!({"prompt": "hi"}));
    with_pdf.parts = parts();
    assert_eq!(
        refusal(ask(question(&with_pdf))),
        "bad_handoff: prompt: must be text or a picture in a data: URL: Ollama takes nothing else"
    );
    with_pdf.parts.pop();
    let body: Value = serde_json::from_str(&body(&ask(question(&with_pdf)).unwrap())).unwrap();
    assert_eq!(body["messages"], json!([{"role": "user", "content": "last", "images": ["aQ=="]}]));
}
