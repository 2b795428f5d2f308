//! OpenAI's Responses: numbered events, each with its type twice.

use serde_json::{Value, json};

use super::{Parts, Talk, named, thought, word};

pub(super) fn parts(talk: &Talk) -> Parts {
    let mut writer = Writer { sequence: 0 };
    let mut output = Vec::new();
    let opening = ["response.created", "response.in_progress"]
        .map(|kind| writer.event(kind, json!({"response": response("in_progress", &[], Value::Null)})))
        .to_vec();
    let mut content = Vec::new();
    if talk.reasoning > 0 {
        content.extend(writer.reasoning(talk, &mut output));
    }
    if talk.words > 0 {
        content.extend(writer.message(talk, &mut output));
    }
    for (name, arguments) in &talk.tools {
        content.push(writer.call(name, arguments, &mut output));
    }
    let usage = if talk.usage {
        let count = talk.output_tokens();
        json!({
            "input_tokens": 11, "input_tokens_details": {"cached_tokens": 3},
            "output_tokens": count, "output_tokens_details": {"reasoning_tokens": talk.reasoning},
            "total_tokens": 11 + count,
        })
    } else {
        Value::Null
    };
    let closing = match talk.finish.as_deref() {
        None => {
            writer.event("response.completed", json!({"response": response("completed", &output, usage)}))
        }
        Some(reason) => {
            let mut response = response("incomplete", &output, usage);
            response["incomplete_details"] = json!({ "reason": reason });
            writer.event("response.incomplete", json!({ "response": response }))
        }
    };
    Parts { opening, content, closing: vec![closing] }
}

struct Writer {
    sequence: u64,
}

impl Writer {
    fn event(&mut self, kind: &str, mut data: Value) -> Vec<u8> {
        data["type"] = json!(kind);
        data["sequence_number"] = json!(self.sequence);
        self.sequence += 1;
        named(kind, &data)
    }

    fn reasoning(&mut self, talk: &Talk, output: &mut Vec<Value>) -> Vec<Vec<u8>> {
        let index = output.len();
        let at = |data: Value| place(data, "rs_1", index, "summary_index");
        let item = |summary: Value| json!({"id": "rs_1", "type": "reasoning", "summary": summary});
        let text: String = (0..talk.reasoning).map(thought).collect();
        let part = |text: &str| json!({"type": "summary_text", "text": text});
        let mut before =
            self.event("response.output_item.added", json!({"output_index": index, "item": item(json!([]))}));
        before.extend(self.event("response.reasoning_summary_part.added", at(json!({"part": part("")}))));
        let mut pieces = Vec::new();
        for i in 0..talk.reasoning {
            let delta = self.event("response.reasoning_summary_text.delta", at(json!({"delta": thought(i)})));
            pieces.push([std::mem::take(&mut before), delta].concat());
        }
        let done = item(json!([part(&text)]));
        if let Some(last) = pieces.last_mut() {
            last.extend(self.event("response.reasoning_summary_text.done", at(json!({"text": text}))));
            last.extend(self.event("response.reasoning_summary_part.done", at(json!({"part": part(&text)}))));
            last.extend(
                self.event("response.output_item.done", json!({"output_index": index, "item": done})),
            );
        }
        output.push(done);
        pieces
    }

    fn message(&mut self, talk: &Talk, output: &mut Vec<Value>) -> Vec<Vec<u8>> {
        let index = output.len();
        let at = |data: Value| place(data, "msg_1", index, "content_index");
        let item = |status: &str, content: Value| json!({"id": "msg_1", "type": "message", "role": "assistant", "status": status, "content": content});
        let part = |text: &str| json!({"type": "output_text", "text": text, "annotations": []});
        let added = item("in_progress", json!([]));
        let mut before =
            self.event("response.output_item.added", json!({"output_index": index, "item": added}));
        before.extend(self.event("response.content_part.added", at(json!({"part": part("")}))));
        let mut pieces = Vec::new();
        for i in 0..talk.words {
            let delta =
                self.event("response.output_text.delta", at(json!({"delta": word(i), "logprobs": []})));
            pieces.push([std::mem::take(&mut before), delta].concat());
        }
        let text = talk.text();
        let done = item("completed", json!([part(&text)]));
        if let Some(last) = pieces.last_mut() {
            last.extend(self.event("response.output_text.done", at(json!({"text": text, "logprobs": []}))));
            last.extend(self.event("response.content_part.done", at(json!({"part": part(&text)}))));
            last.extend(
                self.event("response.output_item.done", json!({"output_index": index, "item": done})),
            );
        }
        output.push(done);
        pieces
    }

    fn call(&mut self, name: &str, arguments: &Value, output: &mut Vec<Value>) -> Vec<u8> {
        let index = output.len();
        let id = format!("fc_{index}");
        let arguments = arguments.to_string();
        let item = |status: &str, arguments: &str| json!({"id": id, "type": "function_call", "status": status, "call_id": format!("call_{index}"), "name": name, "arguments": arguments});
        let at = |mut data: Value| {
            data["item_id"] = json!(id);
            data["output_index"] = json!(index);
            data
        };
        let (begin, end) = arguments.split_at(arguments.floor_char_boundary(arguments.len() / 2));
        let added = json!({"output_index": index, "item": item("in_progress", "")});
        let mut events = self.event("response.output_item.added", added);
        for piece in [begin, end] {
            events
                .extend(self.event("response.function_call_arguments.delta", at(json!({ "delta": piece }))));
        }
        let done = item("completed", &arguments);
        let whole = at(json!({"name": name, "arguments": arguments}));
        events.extend(self.event("response.function_call_arguments.done", whole));
        events.extend(self.event("response.output_item.done", json!({"output_index": index, "item": done})));
        output.push(done);
        events
    }
}

fn place(mut data: Value, item: &str, index: usize, part: &str) -> Value {
    data["item_id"] = json!(item);
    data["output_index"] = json!(index);
    data[part] = json!(0);
    data
}

fn response(status: &str, output: &[Value], usage: Value) -> Value {
    json!({
        "id": "resp_1", "object": "response", "created_at": 1_755_137_933, "status": status,
        "error": null, "incomplete_details": null, "model": "gpt-5-nano-2025-08-07", "output": output,
        "usage": usage, "metadata": {},
    })
}
