//! The question, as Ollama has it. In: a request. Out: one call.
//!
//! Its messages are OpenAI's but for three things: a content is always one text, pictures stand beside it, and the
//! arguments of a call are an object.

use std::borrow::Cow;
use std::collections::HashMap;

use http::{HeaderMap, Method};
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::body::Body;
use super::super::conversation::{self, Content, Piece, Turn};
use super::super::openai::must_ask_something;
use super::super::{Asking, Call, Question};
use crate::failure::{Code, Failure};
use crate::request::ChatRequest;

/// One message.
#[derive(Serialize)]
#[serde(untagged)]
enum Message<'a> {
    /// As the site wrote it.
    Own(&'a RawValue),
    Translated(Translated<'a>),
}

#[derive(Serialize)]
struct Translated<'a> {
    role: Cow<'a, str>,
    content: Cow<'a, str>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    images: Vec<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_call_id: Option<Cow<'a, str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_name: Option<String>,
}

#[derive(Serialize)]
struct ToolCall<'a> {
    #[serde(skip_serializing_if = "str::is_empty")]
    id: Cow<'a, str>,
    function: Function,
}

#[derive(Serialize)]
struct Function {
    name: String,
    arguments: Box<RawValue>,
}

pub(in super::super) fn ask(question: Question<'_>) -> Result<Asking, Failure> {
    let Question { request, model, .. } = question;
    must_ask_something(request)?;
    let turns = conversation::read(request)?;
    // Whom a tool's message answers, it says by an id; Ollama wants the tool's name.
    let calls = turns.iter().flat_map(|turn| &turn.tool_calls);
    let names: HashMap<String, String> =
        calls.map(|call| (call.id.clone().into_owned(), call.name().to_owned())).collect();
    let messages: Result<Vec<_>, Failure> = turns.into_iter().map(|turn| translate(turn, &names)).collect();

    let mut body = Body::new(request.extra_body.as_deref());
    body.member("model", &model);
    body.member("messages", &messages?);
    if let Some(options) = options(request, body.extra("options"))? {
        body.merged("options", &options);
    }
    body.fixed("stream", &true);
    let (path, headers) = ("/api/chat".to_owned(), HeaderMap::new());
    Ok(Asking { before: None, call: Call { method: Method::POST, path, headers, body: body.end() } })
}

/// The site's own `options` stand beside ours, rather than in their place. None: there are none.
fn options(request: &ChatRequest, own: Option<&RawValue>) -> Result<Option<Box<RawValue>>, Failure> {
    if own.is_some_and(|own| own.get() != "null" && !own.get().starts_with('{')) {
        return Err(Failure::new(Code::BadHandoff, "extra_body.options: must be an object"));
    }
    let mut options = Body::new(own);
    options.optional("temperature", request.temperature.as_ref());
    options.optional("num_predict", request.max_tokens.as_ref());
    let text = String::from_utf8(options.end()).unwrap_or_default();
    Ok(RawValue::from_string(text).ok().filter(|options| options.get() != "{}"))
}

/// As it is, unless it must be translated.
fn translate<'a>(turn: Turn<'a>, names: &HashMap<String, String>) -> Result<Message<'a>, Failure> {
    let is_plain = matches!(turn.content, Content::Text(_));
    let answers = turn.tool_call_id.as_deref().filter(|_| turn.is_tool());
    if let Some(json) = turn.json
        && is_plain
        && turn.tool_calls.is_empty()
        && answers.is_none()
        && turn.role != "developer"
    {
        return Ok(Message::Own(json));
    }
    let tool_name = answers.and_then(|id| names.get(id)).cloned();
    let mut tool_calls = Vec::with_capacity(turn.tool_calls.len());
    for (number, call) in turn.tool_calls.iter().enumerate() {
        let key = format!(".tool_calls[{number}].function.arguments");
        let arguments = call
            .arguments()
            .ok_or_else(|| turn.refuse(&key, "a JSON object, or one written into a string"))?;
        let function = Function { name: call.name().to_owned(), arguments };
        tool_calls.push(ToolCall { id: call.id.clone(), function });
    }
    let (content, images) = flatten(&turn)?;
    let role = if turn.role == "developer" { "system".into() } else { turn.role };
    let tool_call_id = turn.tool_call_id;
    Ok(Message::Translated(Translated { role, content, images, tool_calls, tool_call_id, tool_name }))
}

/// One text, each of several on its own line, and the pictures.
fn flatten<'a>(turn: &Turn<'a>) -> Result<(Cow<'a, str>, Vec<Cow<'a, str>>), Failure> {
    let pieces = match &turn.content {
        Content::Nothing => return Ok(("".into(), Vec::new())),
        Content::Text(text) => return Ok((text.clone(), Vec::new())),
        Content::Pieces(pieces) => pieces,
    };
    let mut texts: Vec<&str> = Vec::new();
    let mut images = Vec::new();
    for (number, piece) in pieces.iter().enumerate() {
        match piece {
            Piece::Text { text, .. } => texts.push(text),
            Piece::Image { base64, .. } => images.push(base64.clone()),
            Piece::Link(_) | Piece::Document { .. } | Piece::Other(_) => {
                let key = format!(".content[{number}]");
                return Err(turn.refuse(&key, "text or a picture in a data: URL: Ollama takes nothing else"));
            }
        }
    }
    Ok((texts.join("\n").into(), images))
}
