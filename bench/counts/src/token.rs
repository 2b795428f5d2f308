//! A token on its way: an upstream's bytes, its events, and the bytes of the client.

use std::hint::black_box;
use std::num::NonZeroU32;

use handoff_config::backend::{Anthropic, Dialect, LangGraph, Mock};
use handoff_shared::message::Format;
use handoff_worker::event::Event;
use handoff_worker::request::MockOptions;
use handoff_worker::upstream::dialect::{Decoder, Wishes, framing};
use handoff_worker::upstream::event_reader::EventReader;
use handoff_worker::upstream::mock;

use crate::format::writer;
use crate::{Case, Operation};

pub(crate) const CASES: &[Case] = &[
    Case::new("event_reader.one_event_in_a_piece", || cutting(vec![CHUNK.to_owned()])),
    Case::new("event_reader.16_events_in_a_piece", || cutting(vec![CHUNK.repeat(16)])),
    Case::new("event_reader.an_event_in_four_pieces", || {
        let (quarter, text) = (CHUNK.len() / 4, CHUNK);
        let cuts = [0, quarter, 2 * quarter, 3 * quarter, text.len()];
        cutting(cuts.windows(2).map(|cut| text[cut[0]..cut[1]].to_owned()).collect())
    }),
    Case::new("dialect.openai_chunk", || decoding(&Dialect::OpenAi, CHUNK)),
    Case::new("dialect.responses_delta", || decoding(&Dialect::Responses, DELTA)),
    Case::new("dialect.anthropic_delta", || decoding(&anthropic(), BLOCK)),
    Case::new("dialect.ollama_line", || decoding(&Dialect::Ollama, LINE)),
    Case::new("dialect.langgraph_message", || decoding(&langgraph(), TUPLE)),
    Case::new("token.openai_to_content", || passing(Format::Content)),
    Case::new("token.openai_to_text", || passing(Format::Text)),
    Case::new("token.openai_to_events", || passing(Format::Events)),
    Case::new("answer.mock_of_19_tokens_to_content", mocking),
];

/// As OpenAI sends it today.
const CHUNK: &str = concat!(
    r#"data: {"id":"chatcmpl-CWLqzx7AqO3q8vX0wQm5K4hFZ2bYd","object":"chat.completion.chunk","created":1761822461,"#,
    r#""model":"gpt-4o-mini-2024-07-18","service_tier":"default","system_fingerprint":"fp_560af6e559","#,
    r#""choices":[{"index":0,"delta":{"content":" answer"},"logprobs":null,"finish_reason":null}],"#,
    r#""usage":null,"obfuscation":"x9KqLm3"}"#,
    "\n\n"
);
const DELTA: &str = concat!(
    "event: response.output_text.delta\n",
    r#"data: {"type":"response.output_text.delta","sequence_number":7,"item_id":"msg_68a1f0c2b7e881a09c5f","#,
    r#""output_index":0,"content_index":0,"delta":" answer","logprobs":[],"obfuscation":"x9KqLm3"}"#,
    "\n\n"
);
const BLOCK: &str = concat!(
    "event: content_block_delta\n",
    r#"data: {"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":" answer"}}"#,
    "\n\n"
);
const LINE: &str = concat!(
    r#"{"model":"llama3.2","created_at":"2026-02-03T09:21:17.446341Z","#,
    r#""message":{"role":"assistant","content":" answer"},"done":false}"#,
    "\n"
);
const TUPLE: &str = concat!(
    "event: messages\n",
    r#"data: [{"content":" answer","additional_kwargs":{},"response_metadata":{},"type":"AIMessageChunk","name":null,"#,
    r#""id":"run-5f2c","example":false,"tool_calls":[],"invalid_tool_calls":[],"usage_metadata":null,"#,
    r#""tool_call_chunks":[]},{"langgraph_node":"agent","langgraph_step":1,"thread_id":"a3c1"}]"#,
    "\n\n"
);

const EVENT_BYTES_MAX: usize = 1 << 20;
/// Of the mock's answer.
const TOKENS: NonZeroU32 = NonZeroU32::new(19).unwrap();

fn anthropic() -> Dialect {
    let max_tokens = const { NonZeroU32::new(4096).unwrap() };
    Dialect::Anthropic(Anthropic { version: "2023-06-01".to_owned(), beta: None, max_tokens })
}

fn langgraph() -> Dialect {
    Dialect::LangGraph(LangGraph {
        assistant_id: "agent".to_owned(),
        stream_mode: vec!["messages-tuple".to_owned()],
    })
}

/// A body's pieces, into events.
fn cutting(pieces: Vec<String>) -> Operation {
    let mut reader = EventReader::new(framing(&Dialect::OpenAi), EVENT_BYTES_MAX);
    Box::new(move || {
        for piece in &pieces {
            reader.push(black_box(piece.as_bytes()));
            while let Ok(Some(event)) = reader.next() {
                black_box(&event);
            }
        }
    })
}

/// An event, read by its dialect.
fn decoding(dialect: &Dialect, event: &str) -> Operation {
    let mut reader = EventReader::new(framing(dialect), EVENT_BYTES_MAX);
    let mut decoder = Decoder::new(dialect, Wishes::default());
    let event = event.to_owned();
    let mut events = Vec::new();
    Box::new(move || {
        reader.push(black_box(event.as_bytes()));
        while let Ok(Some(event)) = reader.next() {
            let verdict = decoder.decode(&event, &mut events);
            assert!(verdict.is_ok() && events.len() == 1, "it is one token");
            events.clear();
        }
    })
}

/// A chunk of OpenAI's, from its bytes to those of the client.
fn passing(format: Format) -> Operation {
    let mut reader = EventReader::new(framing(&Dialect::OpenAi), EVENT_BYTES_MAX);
    let mut decoder = Decoder::new(&Dialect::OpenAi, Wishes::default());
    let mut writer = writer(format);
    let (mut events, mut out) = (Vec::new(), Vec::new());
    Box::new(move || {
        reader.push(black_box(CHUNK.as_bytes()));
        while let Ok(Some(event)) = reader.next() {
            let _ = black_box(decoder.decode(&event, &mut events));
            for event in events.drain(..) {
                writer.event(&mut out, &event);
            }
        }
        assert!(!out.is_empty(), "it has become something");
        black_box(&out);
        out.clear();
    })
}

/// A whole answer of the mock's.
fn mocking() -> Operation {
    let config = Mock {
        token_delay: std::time::Duration::ZERO,
        first_token_delay: std::time::Duration::ZERO,
        length: Some(TOKENS),
        burst: None,
        fail_at: None,
        allow_request_options: false,
    };
    let mut out = Vec::new();
    Box::new(move || {
        let mut writer = writer(Format::Content);
        let answer = mock::Answer::new(&config, &MockOptions::default(), black_box("How do I read a file?"));
        for step in answer {
            let event: Event = step.event.expect("it is not told to fail");
            writer.event(&mut out, &event);
        }
        writer.end(&mut out);
        black_box(&out);
        out.clear();
    })
}
