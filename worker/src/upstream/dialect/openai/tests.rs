use serde_json::value::RawValue;

use crate::request::{ChatRequest, Part, parse};
use crate::upstream::dialect::tests::question;
use crate::upstream::dialect::{Decoder, Pass, Verdict, Wishes};
use crate::upstream::event_reader::RawEvent;
use handoff_config::backend::Dialect;

fn request(json: &str) -> ChatRequest {
    parse(json.as_bytes()).unwrap()
}

fn body_of(request: &ChatRequest) -> String {
    let asking = super::ask(question(request)).unwrap();
    assert!(asking.before.is_none());
    assert_eq!((asking.call.method.as_str(), asking.call.path.as_str()), ("POST", "/chat/completions"));
    let body = String::from_utf8(asking.call.body).unwrap();
    serde_json::from_str::<&RawValue>(&body).unwrap();
    body
}

fn body(json: &str) -> String {
    body_of(&request(json))
}

#[test]
fn a_prompt_is_one_message_behind_the_system() {
    assert_eq!(
        body(r#"{"prompt":"hi \"you\"","system":"be brief","max_tokens":7,"temperature":0.5}"#),
        concat!(
            r#"{"model":"m","messages":[{"role":"system","content":"be brief"},"#,
            r#"{"role":"user","content":"hi \"you\""}],"stream":true,"stream_options":{"include_usage":true},"#,
            r#""max_tokens":7,"temperature":0.5}"#
        )
    );
}

#[test]
fn messages_go_out_as_they_came() {
    let messages = r#"[{"role":"user","content":[{"type":"text","text":"\u0041"},{"type":"image_url","image_url":{"url":"https://x"}}]},{"z":1e400,"role":"assistant","content":null,"tool_calls":[{"id":"c"}]}, {"role":"tool", "tool_call_id":"c","content":"3"}]"#;
    let body = body(&format!(r#"{{"messages":{messages},"prompt":"unused"}}"#));
    let sent = messages.replace("}, {", "},{");
    assert!(body.contains(&format!(r#""messages":{sent},"stream""#)), "{body}");
}

#[test]
fn the_extra_body_wins_and_null_leaves_out() {
    assert_eq!(
        body(
            r#"{"prompt":"hi","max_tokens":7,"temperature":1,"extra_body":{"model":"other","temperature":0.10,"stream":false,
            "max_tokens":null,"tools":[ {"a":1} ],"top_p":null}}"#
        ),
        concat!(
            r#"{"model":"other","messages":[{"role":"user","content":"hi"}],"stream":true,"#,
            r#""stream_options":{"include_usage":true},"temperature":0.10,"tools":[ {"a":1} ],"top_p":null}"#
        )
    );
}

#[test]
fn the_two_names_of_the_longest_answer_are_never_sent_together() {
    let body = body(r#"{"prompt":"hi","max_tokens":7,"extra_body":{"max_completion_tokens":9}}"#);
    assert!(body.ends_with(r#""max_completion_tokens":9}"#) && !body.contains("max_tokens"), "{body}");
}

#[test]
fn the_usage_is_asked_for_unless_the_site_says_otherwise() {
    for (theirs, ours) in [
        (
            r#"{"include_obfuscation":false}"#,
            r#","stream_options":{"include_usage":true,"include_obfuscation":false}"#,
        ),
        (r#"{"include_usage":false}"#, r#","stream_options":{"include_usage":false}"#),
        ("null", ""),
    ] {
        let body = body(&format!(r#"{{"prompt":"hi","extra_body":{{"stream_options":{theirs}}}}}"#));
        assert_eq!(
            body,
            format!(r#"{{"model":"m","messages":[{{"role":"user","content":"hi"}}],"stream":true{ours}}}"#)
        );
    }
}

#[test]
fn parts_stand_for_the_content_of_the_last_user_message() {
    let parts = || {
        let (mime, base64) = ("image/png".to_owned(), "AA==".to_owned());
        let pdf = Part::Document {
            mime: "application/pdf".to_owned(),
            base64: "BB==".to_owned(),
            name: "a.pdf".to_owned(),
        };
        vec![Part::Text("see".to_owned()), Part::Image { mime, base64 }, pdf]
    };
    let content = concat!(
        r#""content":[{"type":"text","text":"see"},"#,
        r#"{"type":"image_url","image_url":{"url":"data:image/png;base64,AA=="}},"#,
        r#"{"type":"file","file":{"filename":"a.pdf","file_data":"data:application/pdf;base64,BB=="}}]"#
    );
    let with_parts = |json| body_of(&ChatRequest { parts: parts(), ..request(json) });
    let body = with_parts(r#"{"prompt":"see"}"#);
    assert!(body.contains(&format!(r#""messages":[{{"role":"user",{content}}}]"#)), "{body}");
    let body = with_parts(
        r#"{"messages":[{"role":"user","content":"a"},{"content":"b","role":"user","name":"n"},{"role":"assistant","content":"c"}]}"#,
    );
    let expected = format!(
        r#""messages":[{{"role":"user","content":"a"}},{{"role":"user","name":"n",{content}}},{{"role":"assistant","content":"c"}}]"#
    );
    assert!(body.contains(&expected), "{body}");
}

#[test]
fn a_test_pattern_goes_out_as_a_header() {
    let request = request(r#"{"prompt":"hi","test_pattern":"abort:3"}"#);
    let headers = super::ask(question(&request)).unwrap().call.headers;
    assert_eq!((headers.len(), &headers["x-test-pattern"]), (1, &"abort:3".parse().unwrap()));
}

#[test]
fn who_asks_nothing_is_told_so() {
    let request = request(r#"{"langgraph_input":{"a":1}}"#);
    let failure = super::ask(question(&request)).unwrap_err();
    assert_eq!(failure.message, "prompt: this backend must have a prompt or messages");
}

fn decode(request: &ChatRequest, data: &str) -> Verdict {
    let event = RawEvent { name: None, data: data.into(), raw: b"" };
    Decoder::new(&Dialect::OpenAi, Wishes::of(request)).decode(&event, &mut Vec::new()).unwrap()
}

#[test]
fn the_usage_alone_is_passed_on_to_a_site_that_asked_for_it() {
    let usage = r#"{"choices":[],"usage":{"prompt_tokens":1}}"#;
    let pass = |json| decode(&request(json), usage).pass;
    assert_eq!(pass(r#"{"prompt":"hi"}"#), Pass::Usage);
    assert_eq!(
        pass(r#"{"prompt":"hi","extra_body":{"stream_options":{"include_obfuscation":true}}}"#),
        Pass::Usage
    );
    assert_eq!(pass(r#"{"prompt":"hi","extra_body":{"stream_options":{"include_usage":true}}}"#), Pass::On);
}

#[test]
fn what_is_wrong_with_an_event_is_said_without_a_word_of_it() {
    let event = RawEvent { name: None, data: r#"{"choices":"a secret"}"#.into(), raw: b"" };
    let mut decoder = Decoder::new(&Dialect::OpenAi, Wishes::of(&request(r#"{"prompt":"hi"}"#)));
    let trouble = decoder.decode(&event, &mut Vec::new()).unwrap_err();
    assert_eq!(trouble.to_string(), "malformed: an event is of another shape at line 1 column 21");
}

#[test]
fn choices_beyond_all_bounds_do_no_harm() {
    let request = request(r#"{"prompt":"hi"}"#);
    for index in [127, 128, u64::from(u32::MAX), u64::MAX] {
        decode(&request, &format!(r#"{{"choices":[{{"index":{index},"delta":{{}}}}]}}"#));
    }
}

#[test]
fn an_answer_is_whole_when_all_choices_that_were_asked_for_have_ended() {
    let wishes = Wishes::of(&request(r#"{"prompt":"hi","extra_body":{"n":2}}"#));
    let mut decoder = Decoder::new(&Dialect::OpenAi, wishes);
    let mut is_answered_after_end_of = |index| {
        let data = format!(r#"{{"choices":[{{"index":{index},"delta":{{}},"finish_reason":"stop"}}]}}"#);
        let event = RawEvent { name: None, data: data.into(), raw: b"" };
        decoder.decode(&event, &mut Vec::new()).unwrap();
        decoder.is_answered()
    };
    assert!(!is_answered_after_end_of(0), "of the second one nothing has come yet");
    assert!(is_answered_after_end_of(1));
}
