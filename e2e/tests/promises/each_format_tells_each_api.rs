//! Whatever API answers, or has answered once, each format is the documented bytes: what an API says is told in the same
//! words as all others' answers, or in its own, untouched.

use std::fmt::Write as _;
use std::fs;
use std::os::unix::fs::PermissionsExt;

use handoff_e2e::upstream::{Dialect, Protocol, Upstream};
use handoff_e2e::{Answer, Daemon};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::an_answer_comes_from_a_real_api::confined;

/// What an answer says, in the order in which it does.
#[derive(Clone, Copy)]
enum Said {
    Reasoning(&'static str),
    Content(&'static str),
    Call(&'static str),
    Usage(&'static str),
    Finish(&'static str),
}

struct Case {
    dialect: Dialect,
    path: &'static str,
    /// What the API sends, as its documentation has it, with white space of its own.
    body: &'static str,
    said: &'static [Said],
    /// Whole events, for `raw`.
    events: &'static [&'static str],
}

const OPENAI: [&str; 8] = [
    "data: {\"id\":\"c\", \"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"},\"finish_reason\":null}],\"usage\":null,\"obfuscation\":\"aX\"}\n\n",
    "data: {\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"reasoning_content\":\"Hm\"} , \"finish_reason\":null}]}\n\n",
    "data:{\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Gr\\u00fc\"}}]}\n\n",
    "id: 7\ndata: {\"choices\" : [{\"index\":0,\"delta\":{\"content\":\"ezi\\n\"}}],\"x_unknown\":[1.0,2]}\r\n\r\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{\"tool_calls\":[{\"index\":0,\"id\":\"call_1\",\"type\":\"function\",\"function\":{\"name\":\"f\",\"arguments\":\"{}\"}}]}}]}\n\n",
    "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"tool_calls\"}]}\n\n",
    "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":4,\"total_tokens\":7}}\n\n",
    "data: [DONE]\n\n",
];

const RESPONSES: [&str; 7] = [
    "event: response.created\ndata: {\"type\":\"response.created\",\"sequence_number\":0,\"response\":{\"id\":\"resp_1\",\"status\":\"in_progress\"}}\n\n",
    "event: response.reasoning_summary_text.delta\ndata: {\"type\":\"response.reasoning_summary_text.delta\",\"delta\":\"Hm\"}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Gr\\u00fc\"}\n\n",
    "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\", \"delta\":\"ezi\\n\" }\n\n",
    "event: response.output_item.added\ndata: {\"type\":\"response.output_item.added\",\"output_index\":1,\"item\":{\"id\":\"fc_1\",\"type\":\"function_call\",\"call_id\":\"call_1\",\"name\":\"f\",\"arguments\":\"\"}}\n\n",
    "event: response.function_call_arguments.delta\ndata: {\"type\":\"response.function_call_arguments.delta\",\"output_index\":1,\"item_id\":\"fc_1\",\"delta\":\"{}\"}\n\n",
    "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"status\":\"completed\",\"usage\":{\"input_tokens\":3,\"output_tokens\":4,\"total_tokens\":7}}}\n\n",
];

const ANTHROPIC: [&str; 10] = [
    "event: message_start\ndata: {\"type\":\"message_start\",\"message\":{\"id\":\"msg_1\",\"role\":\"assistant\",\"content\":[],\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}   }\n\n",
    "event: ping\ndata: {\"type\": \"ping\"}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"thinking_delta\",\"thinking\":\"Hm\"}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"Gr\\u00fc\"}  }\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":1,\"delta\":{\"type\":\"text_delta\",\"text\":\"ezi\\n\"}}\n\n",
    "event: content_block_start\ndata: {\"type\":\"content_block_start\",\"index\":2,\"content_block\":{\"type\":\"tool_use\",\"id\":\"call_1\",\"name\":\"f\",\"input\":{}}}\n\n",
    "event: content_block_delta\ndata: {\"type\":\"content_block_delta\",\"index\":2,\"delta\":{\"type\":\"input_json_delta\",\"partial_json\":\"{}\"}}\n\n",
    "event: content_block_stop\ndata: {\"type\":\"content_block_stop\",\"index\":2}\n\n",
    "event: message_delta\ndata: {\"type\":\"message_delta\",\"delta\":{\"stop_reason\":\"tool_use\",\"stop_sequence\":null},\"usage\":{\"output_tokens\":4}}\n\n",
    "event: message_stop\ndata: {\"type\":\"message_stop\"  }\n\n",
];

/// For `raw` each line is an event's data.
const OLLAMA: [&str; 5] = [
    "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\",\"thinking\":\"Hm\"},\"done\":false}",
    "{\"model\":\"m\", \"message\":{\"role\":\"assistant\",\"content\":\"Gr\\u00fc\"},\"done\":false}",
    "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"ezi\\n\"},\"done\":false}",
    "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{\"id\":\"call_1\",\"function\":{\"name\":\"f\",\"arguments\":{}}}]},\"done\":false}",
    "{\"model\":\"m\",\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":true,\"done_reason\":\"stop\",\"prompt_eval_count\":3,\"eval_count\":4}",
];

const LANGGRAPH: [&str; 5] = [
    "event: metadata\ndata: {\"run_id\":\"1\",\"attempt\":1}\n\n",
    "event: messages\r\ndata: [{\"id\":\"a\",\"type\":\"AIMessageChunk\",\"content\":[{\"type\":\"thinking\",\"thinking\":\"Hm\"}]},{}]\r\n\r\n",
    "event: messages\ndata: [{\"id\":\"a\",\"type\":\"AIMessageChunk\",\"content\":\"Gr\\u00fc\"},{\"langgraph_node\":\"agent\"}]\n\n",
    "event: messages\ndata: [{\"id\":\"a\",\"type\":\"AIMessageChunk\",\"content\":\"ezi\\n\",\"usage_metadata\":{\"input_tokens\":3,\"output_tokens\":4,\"total_tokens\":7}},{}]\n\n",
    "event: end\ndata: null\n\n",
];

const CALL: &str = r#"{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":"{}"}}"#;
const CALL_BEGINS: &str =
    r#"{"index":0,"id":"call_1","type":"function","function":{"name":"f","arguments":""}}"#;
const CALL_GOES_ON: &str = r#"{"index":0,"function":{"arguments":"{}"}}"#;
const USAGE: &str = r#"{"prompt_tokens":3,"completion_tokens":4,"total_tokens":7}"#;

const WORDS: [Said; 3] = [Said::Reasoning("Hm"), Said::Content("Grü"), Said::Content("ezi\n")];
const ENDS: [Said; 2] = [Said::Finish("tool_calls"), Said::Usage(USAGE)];
const WHOLE_CALL: &[Said] = &[WORDS[0], WORDS[1], WORDS[2], Said::Call(CALL), ENDS[0], ENDS[1]];
const CALL_IN_PIECES: &[Said] =
    &[WORDS[0], WORDS[1], WORDS[2], Said::Call(CALL_BEGINS), Said::Call(CALL_GOES_ON), ENDS[0], ENDS[1]];
/// Calls of tools are the platform's own.
const RUN: &[Said] = &[WORDS[0], WORDS[1], WORDS[2], Said::Usage(USAGE), Said::Finish("stop")];

fn case(dialect: Dialect) -> Case {
    let (path, said, events): (_, _, &[&str]) = match dialect {
        Dialect::OpenAi => ("/v1/chat/completions", WHOLE_CALL, &OPENAI),
        Dialect::Responses => ("/v1/responses", CALL_IN_PIECES, &RESPONSES),
        Dialect::Anthropic => ("/v1/messages", CALL_IN_PIECES, &ANTHROPIC),
        Dialect::Ollama => ("/api/chat", WHOLE_CALL, &OLLAMA),
        Dialect::LangGraph => ("/runs/stream", RUN, &LANGGRAPH),
    };
    // Comments are nobody's; they are not passed on.
    let between = if dialect == Dialect::Ollama { "\n" } else { ": keep-alive\n\n" };
    let body = events.iter().flat_map(|event| [*event, between]).collect::<String>();
    Case { dialect, path, body: Box::leak(body.into_boxed_str()), said, events }
}

impl Case {
    /// What a client gets of it, from a backend that speaks it.
    fn told(&self, format: &str, is_all_included: bool, created: &Value) -> String {
        match (format, self.dialect) {
            ("raw", Dialect::Ollama) => self.events.iter().map(|line| format!("data: {line}\n\n")).collect(),
            ("raw", _) => self.events.concat(),
            ("openai", Dialect::OpenAi) => self.own_chunks(is_all_included),
            ("openai", _) => self.chunks(is_all_included, created),
            ("content", _) => self.content(is_all_included),
            ("text", _) => self.text(),
            _ => self.typed(),
        }
    }

    /// The data of OpenAI's own chunks, byte for byte. The usage alone, which we have asked for, is for who wants it.
    fn own_chunks(&self, has_usage: bool) -> String {
        let data = self.events.iter().map(|event| {
            let line = event.lines().find_map(|line| line.strip_prefix("data:")).expect("data");
            line.strip_prefix(' ').unwrap_or(line)
        });
        let told = data.filter(|data| has_usage || !data.contains("\"choices\":[]"));
        told.map(|data| format!("data: {data}\n\n")).collect()
    }

    fn chunks(&self, has_usage: bool, created: &Value) -> String {
        let mut out = String::new();
        let mut role = r#""role":"assistant","#;
        for said in self.said {
            let (delta, finish) = match said {
                Said::Reasoning(text) => (format!("\"reasoning_content\":{}", json!(text)), "null".into()),
                Said::Content(text) => (format!("\"content\":{}", json!(text)), "null".into()),
                Said::Call(call) => (format!("\"tool_calls\":[{call}]"), "null".into()),
                Said::Finish(reason) => (String::new(), json!(reason).to_string()),
                Said::Usage(_) => (String::new(), String::new()),
            };
            let rest = match said {
                Said::Usage(_) if !has_usage => continue,
                Said::Usage(usage) => format!("[],\"usage\":{usage}"),
                Said::Reasoning(_) | Said::Content(_) | Said::Call(_) | Said::Finish(_) => {
                    let role = std::mem::take(&mut role);
                    format!(r#"[{{"index":0,"delta":{{{role}{delta}}},"finish_reason":{finish}}}]"#)
                }
            };
            let _ = write!(
                out,
                "data: {{\"id\":\"chatcmpl-r\",\"object\":\"chat.completion.chunk\",\"created\":{created},\
                 \"model\":\"m\",\"choices\":{rest}}}\n\n"
            );
        }
        out + "data: [DONE]\n\n"
    }

    fn content(&self, is_all_included: bool) -> String {
        let told = self.said.iter().filter_map(|said| match said {
            Said::Content(text) => Some(format!("{{\"content\":{}}}", json!(text))),
            _ if !is_all_included => None,
            Said::Reasoning(text) => Some(format!("{{\"reasoning\":{}}}", json!(text))),
            Said::Call(call) => Some(format!("{{\"tool_calls\":[{call}]}}")),
            Said::Usage(usage) => Some(format!("{{\"usage\":{usage}}}")),
            Said::Finish(reason) => Some(format!("{{\"finish_reason\":{}}}", json!(reason))),
        });
        let mut out = String::new();
        for (number, data) in told.chain(["[DONE]".to_owned()]).enumerate() {
            let _ = write!(out, "id: r:{}\ndata: {data}\n\n", number + 1);
        }
        out + "id: r:end\nevent: done\ndata: [DONE]\n\n"
    }

    fn text(&self) -> String {
        "id: r:1\ndata: Grü\n\nid: r:2\ndata: ezi\ndata: \n\nid: r:end\nevent: done\ndata: [DONE]\n\n"
            .to_owned()
    }

    fn typed(&self) -> String {
        let mut out = String::new();
        let mut number = 0;
        let mut reason = "";
        for said in self.said {
            let (name, data) = match said {
                Said::Reasoning(text) => ("reasoning", format!("{{\"content\":{}}}", json!(text))),
                Said::Content(text) => ("delta", format!("{{\"content\":{}}}", json!(text))),
                Said::Call(call) => ("tool_call", (*call).to_owned()),
                Said::Usage(usage) => ("usage", (*usage).to_owned()),
                Said::Finish(word) => {
                    reason = word;
                    continue;
                }
            };
            number += 1;
            let _ = write!(out, "id: r:{number}\nevent: {name}\ndata: {data}\n\n");
        }
        out + &format!("id: r:end\nevent: done\ndata: {{\"finish_reason\":\"{reason}\"}}\n\n")
    }
}

/// All APIs, live and as recordings: `openai-live` and `openai-again`.
fn site(llm: &Upstream) -> (Daemon, TempDir) {
    let directory = tempfile::tempdir().expect("a directory");
    fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("a file to play");
    let cases = Dialect::ALL.map(case);
    let mut toml = String::new();
    for case in &cases {
        let kind = case.dialect.kind();
        let file = directory.path().join(kind);
        let lines = [
            json!({"handoffd_recording": 1, "backend": "b", "dialect": kind, "model": "m", "status": 200}),
            json!({"t_ms": 0, "text": case.body}),
            json!({"t_ms": 0, "end": "clean"}),
        ];
        fs::write(&file, lines.map(|line| line.to_string()).join("\n")).expect("a file to play");
        toml += &llm.backend_toml(&format!("{kind}-live"), case.dialect);
        let _ = write!(toml, "[backends.{kind}-again]\nkind = \"replay\"\nfile = \"{}\"\n", file.display());
    }
    llm.answer_with(move |request| {
        let case = cases.iter().find(|case| case.path == request.path).expect("a path of an API");
        let kind = if case.dialect == Dialect::Ollama { "application/x-ndjson" } else { "text/event-stream" };
        let answer = Answer::new(200).header("content-type", kind).send(case.body);
        // However it is cut.
        match request.number % 3 {
            0 => answer,
            1 => answer.bytewise(),
            _ => answer.in_pieces_of(29),
        }
    });
    (confined(&toml), directory)
}

fn ask(daemon: &Daemon, backend: &str, format: &str, include: &Value) -> handoff_e2e::Response {
    let payload = json!({
        "prompt": "x", "request_id": "r", "model": "m",
        "backend": backend, "format": format, "include": include,
    });
    daemon.hand_over(payload.to_string()).response()
}

#[test]
fn live_or_recorded_to_the_byte() {
    let llm = Upstream::start(Protocol::H1);
    let (daemon, _directory) = site(&llm);
    let all = json!(["reasoning", "tool_calls", "finish_reason", "usage"]);
    for case in Dialect::ALL.map(case) {
        for backend in ["live", "again"].map(|how| format!("{}-{how}", case.dialect.kind())) {
            for format in ["content", "text", "openai", "events", "raw"] {
                for include in [&json!([]), &all] {
                    let response = ask(&daemon, &backend, format, include);
                    assert_eq!((response.status, response.broken), (200, None), "{response:?}");
                    let first =
                        response.data().first().and_then(|data| serde_json::from_str::<Value>(data).ok());
                    let created = first.map(|chunk| chunk["created"].clone()).unwrap_or_default();
                    let expected = case.told(format, include == &all, &created);
                    assert_eq!(response.body, expected, "{backend} as {format}, with {include}");
                }
            }
        }
    }
}

#[test]
fn the_mock_has_no_bytes_of_its_own_to_pass_on() {
    let daemon = confined("");
    let response = ask(&daemon, "mock", "raw", &json!([]));
    assert_eq!((response.status, response.error_code().as_deref()), (400, Some("bad_handoff")));
    assert!(
        response.body.contains("format: raw needs a backend whose bytes can be passed on"),
        "{response:?}"
    );
}
