use handoff_config::backend::Dialect;

use crate::event::Event;
use crate::request::{ChatRequest, Part, parse};
use crate::upstream::dialect::tests::question;
use crate::upstream::dialect::{Decoder, Wishes};
use crate::upstream::event_reader::RawEvent;

fn request(json: &str) -> ChatRequest {
    parse(json.as_bytes()).unwrap()
}

fn body_of(request: &ChatRequest) -> String {
    let asking = super::ask(question(request)).unwrap();
    assert!(asking.before.is_none());
    assert_eq!((asking.call.method.as_str(), asking.call.path.as_str()), ("POST", "/responses"));
    String::from_utf8(asking.call.body).unwrap()
}

fn input(messages: &str) -> String {
    let body = body_of(&request(&format!(r#"{{"messages":{messages}}}"#)));
    let body = body.strip_prefix(r#"{"model":"m","input":"#).unwrap();
    body.strip_suffix(r#","stream":true}"#).unwrap().to_owned()
}

#[test]
fn a_prompt_is_the_input_and_the_system_its_instructions() {
    assert_eq!(
        body_of(&request(
            r#"{"prompt":"hi","system":"be brief","max_tokens":7,"temperature":0.5,"extra_body":{"stream":false,"store":false,"temperature":null}}"#
        )),
        r#"{"model":"m","instructions":"be brief","input":"hi","stream":true,"max_output_tokens":7,"store":false}"#
    );
}

#[test]
fn messages_of_text_go_out_as_they_came() {
    let messages = r#"[{"role":"developer","content":"x"},{"role":"user","content":"\u0041", "n":1.0},{"role":"assistant","content":"y"}]"#;
    assert_eq!(input(messages), messages);
}

#[test]
fn parts_are_translated_and_unknown_ones_left_alone() {
    assert_eq!(
        input(
            r#"[{"role":"user","content":[{"type":"text","text":"a"},{"type":"image_url","image_url":{"url":"https://x","detail":"low"}},
            {"type":"image_url","image_url":"data:x"},{"type":"file","file":{"file_id":"f"}},{"type":"new","x":1}]},
            {"role":"assistant","content":[{"type":"text","text":"b"},{"type":"refusal","refusal":"c"}]}]"#
        ),
        concat!(
            r#"[{"role":"user","content":[{"type":"input_text","text":"a"},"#,
            r#"{"type":"input_image","image_url":"https://x","detail":"low"},{"type":"input_image","image_url":"data:x"},"#,
            r#"{"type":"input_file","file_id":"f"},{"type":"new","x":1}]},"#,
            r#"{"role":"assistant","content":[{"type":"output_text","text":"b"},{"type":"refusal","refusal":"c"}]}]"#
        )
    );
}

#[test]
fn calls_and_their_outputs_are_items_of_their_own() {
    assert_eq!(
        input(
            r#"[{"role":"assistant","content":"let me see","tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{}"}}]},
            {"role":"assistant","content":null,"tool_calls":[{"id":"c2","type":"function","function":{"name":"g","arguments":"{}"}}]},
            {"role":"tool","tool_call_id":"c1","content":"1"},
            {"role":"tool","tool_call_id":"c2","content":[{"type":"text","text":"2"}]}]"#
        ),
        concat!(
            r#"[{"role":"assistant","content":"let me see"},"#,
            r#"{"type":"function_call","call_id":"c1","name":"f","arguments":"{}"},"#,
            r#"{"type":"function_call","call_id":"c2","name":"g","arguments":"{}"},"#,
            r#"{"type":"function_call_output","call_id":"c1","output":"1"},"#,
            r#"{"type":"function_call_output","call_id":"c2","output":[{"type":"input_text","text":"2"}]}]"#
        )
    );
}

#[test]
fn what_is_attached_stands_for_the_content_of_the_last_user_message() {
    let image = Part::Image { mime: "image/png".to_owned(), base64: "AA==".to_owned() };
    let pdf = Part::Document {
        mime: "application/pdf".to_owned(),
        base64: "BB==".to_owned(),
        name: "a.pdf".to_owned(),
    };
    let parts = vec![Part::Text("see".to_owned()), image, pdf];
    let expected = concat!(
        r#"{"model":"m","input":[{"role":"user","content":[{"type":"input_text","text":"see"},"#,
        r#"{"type":"input_image","image_url":"data:image/png;base64,AA=="},"#,
        r#"{"type":"input_file","filename":"a.pdf","file_data":"data:application/pdf;base64,BB=="}]}],"stream":true}"#
    );
    for json in [r#"{"prompt":"see"}"#, r#"{"messages":[{"role":"user","content":"see"}]}"#] {
        assert_eq!(body_of(&ChatRequest { parts: parts.clone(), ..request(json) }), expected);
    }
}

const CREATED: &str = r#"{"type":"response.created","response":{"id":"resp_1/../x","status":"queued"}}"#;

fn decode(decoder: &mut Decoder, data: &str) {
    let event = RawEvent { name: None, data: data.into(), raw: b"" };
    decoder.decode(&event, &mut Vec::new()).unwrap();
}

#[test]
fn only_an_answer_in_the_background_has_to_be_cancelled_and_only_while_it_lasts() {
    let background = request(r#"{"prompt":"hi","extra_body":{"background":true}}"#);
    let mut decoder = Decoder::new(&Dialect::Responses, Wishes::of(&background));
    assert!(decoder.cancel().is_none());
    decode(&mut decoder, CREATED);
    decode(&mut decoder, r#"{"type":"response.in_progress","response":{}}"#);
    let call = decoder.cancel().unwrap();
    assert_eq!((call.method.as_str(), call.path.as_str()), ("POST", "/responses/resp_1%2F%2E%2E%2Fx/cancel"));
    decode(&mut decoder, r#"{"type":"response.completed","response":{"id":"resp_1"}}"#);
    assert!(decoder.cancel().is_none() && decoder.is_answered());

    let mut decoder = Decoder::new(&Dialect::Responses, Wishes::of(&request(r#"{"prompt":"hi"}"#)));
    decode(&mut decoder, CREATED);
    assert!(decoder.cancel().is_none());
}

#[test]
fn an_image_of_megabytes_passes() {
    let mut decoder = Decoder::new(&Dialect::Responses, Wishes::of(&request(r#"{"prompt":"hi"}"#)));
    let image = "A".repeat(5 << 20);
    decode(
        &mut decoder,
        &format!(
            r#"{{"type":"response.image_generation_call.partial_image","partial_image_b64":"{image}"}}"#
        ),
    );
}

#[test]
fn calls_without_end_are_not_remembered() {
    let mut decoder = Decoder::new(&Dialect::Responses, Wishes::of(&request(r#"{"prompt":"hi"}"#)));
    let mut events = Vec::new();
    for index in 0..super::CALLS_MAX + 5 {
        let data = format!(
            r#"{{"type":"response.output_item.added","output_index":{index},"item":{{"type":"function_call","call_id":"c","name":"f"}}}}"#
        );
        decoder.decode(&RawEvent { name: None, data: data.into(), raw: b"" }, &mut events).unwrap();
    }
    assert_eq!(events.iter().filter(|event| matches!(event, Event::ToolCall(_))).count(), super::CALLS_MAX);
}
