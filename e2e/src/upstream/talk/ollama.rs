//! Ollama's own `/api/chat`: a JSON document a line.

use serde_json::{Value, json};

use super::{Parts, Talk, thought, word};

pub(super) fn parts(talk: &Talk) -> Parts {
    let line = |mut data: Value| {
        data["model"] = json!("gemma4");
        data["created_at"] = json!("2025-10-26T17:15:24.097767Z");
        format!("{data}\n").into_bytes()
    };
    let say = |message: Value| line(json!({"message": message, "done": false}));
    let mut content: Vec<_> = (0..talk.reasoning)
        .map(|i| say(json!({"role": "assistant", "content": "", "thinking": thought(i)})))
        .collect();
    content.extend((0..talk.words).map(|i| say(json!({"role": "assistant", "content": word(i)}))));
    content.extend(talk.tools.iter().map(|(name, arguments)| {
        let call = json!({"function": {"name": name, "arguments": arguments}});
        say(json!({"role": "assistant", "content": "", "tool_calls": [call]}))
    }));
    let reason = talk.finish.as_deref().unwrap_or("stop");
    let mut done = json!({
        "message": {"role": "assistant", "content": ""}, "done": true, "done_reason": reason,
        "total_duration": 174_560_334, "load_duration": 101_397_084,
    });
    if talk.usage {
        done["prompt_eval_count"] = json!(11);
        done["prompt_eval_duration"] = json!(13_074_791);
        done["eval_count"] = json!(talk.output_tokens());
        done["eval_duration"] = json!(52_479_709);
    }
    Parts { opening: Vec::new(), content, closing: vec![line(done)] }
}
