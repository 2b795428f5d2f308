use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;
use crate::failure::Code;
use crate::sse::reader::{Seen, read};

const EVERYTHING: Include = Include { reasoning: true, tool_calls: true, finish_reason: true, usage: true };
const FORMATS: [Format; 4] = [Format::Content, Format::Text, Format::OpenAi, Format::Events];

fn writer(format: Format, include: Include) -> Writer {
    Writer::new(Stream {
        format,
        include,
        request_id: "r".into(),
        model: "gpt".into(),
        created_secs: 1_700_000_000,
    })
}

fn one_of_each() -> Vec<Event> {
    let call = r#"{"index":0,"id":"c","function":{"name":"f","arguments":""}}"#.to_owned();
    vec![
        Event::Reasoning("hm".to_owned()),
        Event::Content("a\nb".to_owned()),
        Event::Content(String::new()),
        Event::ToolCall(RawValue::from_string(call).unwrap()),
        Event::Finish { reason: "stop".to_owned() },
        Event::Usage(Usage { prompt_tokens: 1, completion_tokens: 2, total_tokens: 3, ..Usage::default() }),
    ]
}

fn write(format: Format, include: Include, events: &[Event]) -> Vec<u8> {
    let (mut writer, mut out) = (writer(format, include), Vec::new());
    for event in events {
        writer.event(&mut out, event);
    }
    writer.end(&mut out);
    out
}

fn written(format: Format, include: Include) -> String {
    String::from_utf8(write(format, include, &one_of_each())).unwrap()
}

#[test]
fn content_is_the_answer_and_two_ends() {
    assert_eq!(
        written(Format::Content, Include::default()),
        "id: r:1\ndata: {\"content\":\"a\\nb\"}\n\nid: r:2\ndata: [DONE]\n\n\
         id: r:end\nevent: done\ndata: [DONE]\n\n"
    );
}

#[test]
fn content_has_what_it_was_asked_to_include() {
    assert_eq!(
        written(Format::Content, EVERYTHING),
        "id: r:1\ndata: {\"reasoning\":\"hm\"}\n\n\
         id: r:2\ndata: {\"content\":\"a\\nb\"}\n\n\
         id: r:3\ndata: {\"tool_calls\":[{\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}]}\n\n\
         id: r:4\ndata: {\"finish_reason\":\"stop\"}\n\n\
         id: r:5\ndata: {\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}}\n\n\
         id: r:6\ndata: [DONE]\n\nid: r:end\nevent: done\ndata: [DONE]\n\n"
    );
}

#[test]
fn text_is_the_answer_alone() {
    assert_eq!(
        written(Format::Text, EVERYTHING),
        "id: r:1\ndata: a\ndata: b\n\nid: r:end\nevent: done\ndata: [DONE]\n\n"
    );
}

#[test]
fn openai_is_chunks_and_done() {
    let seen = read(written(Format::OpenAi, EVERYTHING).as_bytes());
    let (done, chunks) = seen.split_last().unwrap();
    assert_eq!(done, &Seen { data: "[DONE]".to_owned(), ..Seen::default() });
    let chunks: Vec<Value> = chunks.iter().map(|seen| serde_json::from_str(&seen.data).unwrap()).collect();
    let call = json!({"index": 0, "id": "c", "function": {"name": "f", "arguments": ""}});
    let chunk = |choices: Value| {
        json!({"id": "chatcmpl-r", "object": "chat.completion.chunk", "created": 1_700_000_000, "model": "gpt",
            "choices": choices})
    };
    let delta = |delta: Value| chunk(json!([{"index": 0, "delta": delta, "finish_reason": null}]));
    let mut usage = chunk(json!([]));
    usage["usage"] = json!({"prompt_tokens": 1, "completion_tokens": 2, "total_tokens": 3});
    let expected = [
        delta(json!({"role": "assistant", "reasoning_content": "hm"})),
        delta(json!({"content": "a\nb"})),
        delta(json!({"tool_calls": [call]})),
        chunk(json!([{"index": 0, "delta": {}, "finish_reason": "stop"}])),
        usage,
    ];
    assert_eq!(chunks, expected);
    assert!(!written(Format::OpenAi, Include::default()).contains("usage"));
}

#[test]
fn events_are_typed() {
    assert_eq!(
        written(Format::Events, Include::default()),
        "id: r:1\nevent: reasoning\ndata: {\"content\":\"hm\"}\n\n\
         id: r:2\nevent: delta\ndata: {\"content\":\"a\\nb\"}\n\n\
         id: r:3\nevent: tool_call\ndata: {\"index\":0,\"id\":\"c\",\"function\":{\"name\":\"f\",\"arguments\":\"\"}}\n\n\
         id: r:4\nevent: usage\ndata: {\"prompt_tokens\":1,\"completion_tokens\":2,\"total_tokens\":3}\n\n\
         id: r:end\nevent: done\ndata: {\"finish_reason\":\"stop\"}\n\n"
    );
}

#[test]
fn a_refusal_stands_in_the_answers_place() {
    let refusal = Event::Refusal("no".to_owned());
    for (format, expected) in [
        (Format::Content, "id: r:1\ndata: {\"content\":\"no\"}\n\n"),
        (Format::Text, "id: r:1\ndata: no\n\n"),
        (Format::Events, "id: r:1\nevent: refusal\ndata: {\"content\":\"no\"}\n\n"),
    ] {
        let mut out = Vec::new();
        writer(format, Include::default()).event(&mut out, &refusal);
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}

#[test]
fn an_error_is_one_event_and_no_done() {
    let failure = Failure::new(Code::UpstreamError, "no");
    let data =
        "data: {\"error\":{\"message\":\"no\",\"type\":\"server_error\",\"code\":\"upstream_error\"}}\n\n";
    for format in FORMATS {
        let mut out = Vec::new();
        writer(format, EVERYTHING).error(&mut out, &failure);
        let name = if format == Format::Events { "event: error\n" } else { "" };
        assert_eq!(String::from_utf8(out).unwrap(), format!("{name}{data}"));
    }
}

#[test]
fn a_heartbeat_is_no_event() {
    let mut out = Vec::new();
    writer(Format::Content, EVERYTHING).heartbeat(&mut out);
    assert_eq!(out, b": keep-alive\n\n");
    assert_eq!(read(&out), []);
}

/// The answer as a client of this format puts it together.
fn answer(format: Format, seen: &[Seen]) -> String {
    let content = |seen: &Seen| -> String {
        let data: Value = serde_json::from_str(&seen.data).unwrap();
        let text = match format {
            Format::OpenAi => &data["choices"][0]["delta"]["content"],
            Format::Content | Format::Text | Format::Events | Format::Raw => &data["content"],
        };
        text.as_str().unwrap().to_owned()
    };
    match format {
        Format::Text => seen.iter().map(|seen| seen.data.clone()).collect(),
        Format::Content | Format::OpenAi | Format::Events | Format::Raw => seen.iter().map(content).collect(),
    }
}

proptest! {
    /// Pieces may be cut in the middle of a CRLF.
    #[test]
    fn a_page_that_appends_every_message_shows_the_text(texts in prop::collection::vec("[ab\r\n]{0,3}", 0..9)) {
        let events: Vec<Event> = texts.iter().cloned().map(Event::Content).collect();
        let seen = read(&write(Format::Text, Include::default(), &events));
        let (_, messages) = seen.split_last().unwrap();
        let shown: String = messages.iter().map(|message| message.data.as_str()).collect();
        prop_assert_eq!(shown, texts.concat().replace("\r\n", "\n").replace('\r', "\n"));
    }

    #[test]
    fn any_text_comes_back_event_by_event(texts: Vec<String>, index in 0..FORMATS.len()) {
        let format = FORMATS[index];
        // The text format keeps line breaks, but not their kind.
        let texts = texts.iter().map(|text| text.replace('\r', "\n"));
        let texts: Vec<String> = texts.filter(|text| !text.is_empty()).collect();
        let events: Vec<Event> = texts.iter().cloned().map(Event::Content).collect();
        let seen = read(&write(format, Include::default(), &events));
        let ends = if format == Format::Content { 2 } else { 1 };
        prop_assert_eq!(seen.len(), texts.len() + ends);
        for (number, (seen, text)) in seen.iter().zip(&texts).enumerate() {
            prop_assert_eq!(&answer(format, std::slice::from_ref(seen)), text);
            let id = (format != Format::OpenAi).then(|| format!("r:{}", number + 1));
            prop_assert_eq!(&seen.id, &id);
        }
    }

    #[test]
    fn an_epitaph_is_whole_wherever_the_stream_was_cut(text: String, index in 0..FORMATS.len(), cut: usize) {
        let format = FORMATS[index];
        let mut stream = write(format, EVERYTHING, &[Event::Content(text)]);
        stream.truncate(cut % (stream.len() + 1));
        let failure = Failure::new(Code::WorkerCrashed, "the answer was interrupted");
        epitaph(&mut stream, format, &failure);
        // A cut may part a character; what stands before the epitaph's first newline is then no text.
        let seen = read(String::from_utf8_lossy(&stream).as_bytes());
        let last = seen.last().unwrap();
        let error: Value = serde_json::from_str(&last.data).unwrap();
        prop_assert_eq!(&error["error"]["code"], "worker_crashed");
        prop_assert_eq!(last.name.as_deref(), (format == Format::Events).then_some("error"));
    }
}
