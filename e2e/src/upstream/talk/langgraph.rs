//! A run of the LangGraph platform in the mode `messages-tuple`: a message's piece and where it comes from.

use serde_json::{Value, json};

use super::{Parts, Talk, named, thought, word};

pub(super) fn parts(talk: &Talk) -> Parts {
    let piece = |content: Value, further: Value| {
        let message = json!({
            "id": "run--1", "type": "AIMessageChunk", "content": content, "name": null,
            "additional_kwargs": {}, "response_metadata": {}, "example": false, "tool_calls": [],
            "invalid_tool_calls": [], "tool_call_chunks": further, "usage_metadata": null,
        });
        let origin = json!({"run_id": "1", "thread_id": "1", "langgraph_step": 1, "langgraph_node": "agent"});
        named("messages", &json!([message, origin]))
    };
    let opening = vec![named("metadata", &json!({"run_id": "1", "attempt": 1})), b": heartbeat\n\n".to_vec()];
    let mut content: Vec<_> = (0..talk.reasoning)
        .map(|i| piece(json!([{"type": "thinking", "thinking": thought(i), "index": 0}]), json!([])))
        .collect();
    content.extend((0..talk.words).map(|i| piece(json!(word(i)), json!([]))));
    content.extend(talk.tools.iter().enumerate().map(|(index, (name, arguments))| {
        let call = json!({"index": index, "id": format!("call_{index}"), "name": name, "args": arguments.to_string()});
        piece(json!(""), json!([call]))
    }));
    Parts { opening, content, closing: vec![named("end", &Value::Null)] }
}
