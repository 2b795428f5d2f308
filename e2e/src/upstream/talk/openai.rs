//! Chat Completions: chunks as OpenAI's API writes them.

use serde_json::{Value, json};

use super::{Parts, Talk, thought, unnamed, word};

pub(super) fn parts(talk: &Talk) -> Parts {
    let chunk = |choices: Value, usage: Value| {
        unnamed(&json!({
            "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1_755_137_933,
            "model": "gpt-5-nano-2025-08-07", "service_tier": "default", "system_fingerprint": null,
            "choices": choices, "usage": usage, "obfuscation": "nX",
        }))
    };
    let delta = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish});
        chunk(json!([choice]), Value::Null)
    };
    let say = |said: Value| delta(said, Value::Null);

    let opening = vec![say(json!({"role": "assistant", "content": "", "refusal": null}))];
    let mut content: Vec<_> =
        (0..talk.reasoning).map(|i| say(json!({"reasoning_content": thought(i)}))).collect();
    content.extend((0..talk.words).map(|i| say(json!({"content": word(i)}))));
    for (index, (name, arguments)) in talk.tools.iter().enumerate() {
        let function = json!({"name": name, "arguments": ""});
        let call =
            json!({"index": index, "id": format!("call_{index}"), "type": "function", "function": function});
        let mut events = say(json!({ "tool_calls": [call] }));
        // The arguments come in pieces; here in two.
        let arguments = arguments.to_string();
        let (begin, end) = arguments.split_at(arguments.floor_char_boundary(arguments.len() / 2));
        for piece in [begin, end] {
            let call = json!({"index": index, "function": {"arguments": piece}});
            events.extend(say(json!({ "tool_calls": [call] })));
        }
        content.push(events);
    }
    let whole = if talk.tools.is_empty() { "stop" } else { "tool_calls" };
    let mut closing = vec![delta(json!({}), json!(talk.finish.as_deref().unwrap_or(whole)))];
    if talk.usage {
        let output = talk.output_tokens();
        closing.push(chunk(
            json!([]),
            json!({
                "prompt_tokens": 11, "completion_tokens": output, "total_tokens": 11 + output,
                "prompt_tokens_details": {"cached_tokens": 3, "audio_tokens": 0},
                "completion_tokens_details": {
                    "reasoning_tokens": talk.reasoning, "audio_tokens": 0,
                    "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
                },
            }),
        ));
    }
    closing.push(b"data: [DONE]\n\n".to_vec());
    Parts { opening, content, closing }
}
