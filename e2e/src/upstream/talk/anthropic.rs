//! Messages, as Anthropic's API writes them: blocks of thinking, text and tools, each opened and closed.

use serde_json::{Value, json};

use super::{Parts, Talk, named, thought, word};

pub(super) fn parts(talk: &Talk) -> Parts {
    let usage = json!({
        "input_tokens": 11, "cache_creation_input_tokens": 0, "cache_read_input_tokens": 3,
        "output_tokens": 1, "service_tier": "standard",
    });
    let message = json!({
        "id": "msg_1", "type": "message", "role": "assistant", "model": "claude-sonnet-4-5",
        "content": [], "stop_reason": null, "stop_sequence": null, "usage": usage,
    });
    let opening = vec![
        event(&json!({"type": "message_start", "message": message})),
        // It may come at any time; once is enough.
        event(&json!({"type": "ping"})),
    ];
    let mut content = Vec::new();
    let mut blocks = 0;
    if talk.reasoning > 0 {
        let deltas =
            (0..talk.reasoning).map(|i| json!({"type": "thinking_delta", "thinking": thought(i)})).collect();
        let signature = json!({"type": "signature_delta", "signature": "EqQBCgIYAhIM"});
        let start = json!({"type": "thinking", "thinking": "", "signature": ""});
        content.extend(block(&mut blocks, &start, deltas, Some(signature)));
    }
    if talk.words > 0 {
        let deltas = (0..talk.words).map(|i| json!({"type": "text_delta", "text": word(i)})).collect();
        content.extend(block(&mut blocks, &json!({"type": "text", "text": ""}), deltas, None));
    }
    for (index, (name, arguments)) in talk.tools.iter().enumerate() {
        let arguments = arguments.to_string();
        let (begin, end) = arguments.split_at(arguments.floor_char_boundary(arguments.len() / 2));
        let deltas = ["", begin, end].map(|piece| json!({"type": "input_json_delta", "partial_json": piece}));
        let start = json!({"type": "tool_use", "id": format!("toolu_{index}"), "name": name, "input": {}});
        content.push(block(&mut blocks, &start, deltas.to_vec(), None).concat());
    }
    let whole = if talk.tools.is_empty() { "end_turn" } else { "tool_use" };
    let delta = json!({"stop_reason": talk.finish.as_deref().unwrap_or(whole), "stop_sequence": null});
    let mut ends = json!({"type": "message_delta", "delta": delta});
    if talk.usage {
        ends["usage"] = json!({"input_tokens": 11, "output_tokens": talk.output_tokens()});
    }
    Parts { opening, content, closing: vec![event(&ends), event(&json!({"type": "message_stop"}))] }
}

/// The deltas of a block; the first brings its start along, and the last its end.
fn block(blocks: &mut usize, start: &Value, deltas: Vec<Value>, last: Option<Value>) -> Vec<Vec<u8>> {
    let index = *blocks;
    *blocks += 1;
    let delta = |delta| event(&json!({"type": "content_block_delta", "index": index, "delta": delta}));
    let mut pieces: Vec<Vec<u8>> = deltas.into_iter().map(delta).collect();
    if let Some(first) = pieces.first_mut() {
        let start = event(&json!({"type": "content_block_start", "index": index, "content_block": start}));
        first.splice(0..0, start);
    }
    if let Some(end) = pieces.last_mut() {
        end.extend(last.map(delta).unwrap_or_default());
        end.extend(event(&json!({"type": "content_block_stop", "index": index})));
    }
    pieces
}

fn event(data: &Value) -> Vec<u8> {
    named(data["type"].as_str().unwrap_or_default(), data)
}
