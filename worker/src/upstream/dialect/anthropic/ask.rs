//! The question, as Messages has it. In: a request. Out: one call.
//!
//! What is written in Anthropic's own form goes through as it is. What is written in OpenAI's (system messages, pictures
//! by `image_url`, calls of tools and their answers) is translated: a site may come here because OpenAI failed.

use std::borrow::Cow;

use handoff_config::backend::Anthropic;
use http::Method;
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::conversation::{self, Content, Piece, Turn};
use super::super::object::{self, Object};
use super::super::{Asking, Call, Question};
use crate::failure::Failure;

/// One message.
#[derive(Serialize)]
#[serde(untagged)]
enum Message<'a> {
    /// As the site wrote it.
    Own(&'a RawValue),
    /// Translated.
    Translated { role: Cow<'a, str>, content: Body<'a> },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Text(Cow<'a, str>),
    Blocks(Vec<Block<'a>>),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Block<'a> {
    /// As the site wrote it.
    Own(&'a RawValue),
    Translated(Translated<'a>),
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Translated<'a> {
    Text {
        text: Cow<'a, str>,
    },
    Image {
        source: Source<'a>,
    },
    Document {
        source: Source<'a>,
        #[serde(skip_serializing_if = "Option::is_none")]
        title: Option<Cow<'a, str>>,
    },
    ToolUse {
        id: Cow<'a, str>,
        name: String,
        input: Box<RawValue>,
    },
    ToolResult {
        tool_use_id: Cow<'a, str>,
        content: Body<'a>,
    },
}

#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Source<'a> {
    Base64 { media_type: Cow<'a, str>, data: Cow<'a, str> },
    Url { url: Cow<'a, str> },
}

pub(in super::super) fn ask(
    config: &Anthropic,
    base: &str,
    question: Question<'_>,
) -> Result<Asking, Failure> {
    let request = question.request;
    let mut system = Vec::new();
    let mut messages = Vec::new();
    for turn in conversation::read(request)? {
        if turn.is_system() {
            system.push(turn.content);
        } else if turn.is_tool() {
            push_result(&mut messages, turn)?;
        } else {
            messages.push(translate(turn)?);
        }
    }
    let mut body = Object::default();
    body.set("model", &question.model);
    body.set("max_tokens", &request.max_tokens.unwrap_or(config.max_tokens.get()));
    body.set_some("system", join(system).as_ref());
    body.set("messages", &messages);
    body.set_some("temperature", request.temperature.as_ref());
    body.merge(&object::entries("extra_body", request.extra_body.as_deref())?);
    body.set("stream", &true);

    let mut headers = object::headers(request);
    object::add_header(&mut headers, "anthropic-version", Some(&config.version));
    object::add_header(&mut headers, "anthropic-beta", config.beta.as_deref());
    // Many write the base address with the version, as OpenAI has it.
    let path = if base.ends_with("/v1") { "/messages" } else { "/v1/messages" };
    let call = Call { method: Method::POST, path: path.to_owned(), headers, body: body.into_text() };
    Ok(Asking { before: None, call })
}

/// The system's words: a text, or blocks when there are several.
fn join(mut system: Vec<Content<'_>>) -> Option<Body<'_>> {
    if system.len() == 1
        && let Some(Content::Text(text)) = system.pop_if(|content| matches!(content, Content::Text(_)))
    {
        return Some(Body::Text(text));
    }
    let blocks: Vec<_> = system.into_iter().flat_map(blocks).collect();
    (!blocks.is_empty()).then_some(Body::Blocks(blocks))
}

/// A message of the user or the assistant; as it is, unless OpenAI's form must be translated.
fn translate(turn: Turn<'_>) -> Result<Message<'_>, Failure> {
    if let Some(json) = turn.json
        && turn.tool_calls.is_empty()
        && !turn.content.is_foreign()
    {
        return Ok(Message::Own(json));
    }
    if turn.tool_calls.is_empty()
        && let Content::Text(text) = turn.content
    {
        return Ok(Message::Translated { role: turn.role, content: Body::Text(text) });
    }
    let mut uses = Vec::with_capacity(turn.tool_calls.len());
    for (number, call) in turn.tool_calls.iter().enumerate() {
        let key = format!(".tool_calls[{number}].function.arguments");
        let input =
            call.arguments().ok_or_else(|| turn.refuse(&key, "a JSON object, written into a string"))?;
        let (id, name) = (call.id.clone(), call.name().to_owned());
        uses.push(Block::Translated(Translated::ToolUse { id, name, input }));
    }
    let mut content = blocks(turn.content);
    content.append(&mut uses);
    Ok(Message::Translated { role: turn.role, content: Body::Blocks(content) })
}

/// What a tool has answered is said by the user here. All answers to one message must stand in one message.
fn push_result<'a>(messages: &mut Vec<Message<'a>>, turn: Turn<'a>) -> Result<(), Failure> {
    let Some(tool_use_id) = turn.tool_call_id.clone() else {
        return Err(turn.refuse(".tool_call_id", "there: it says which call is answered"));
    };
    let content = match turn.content {
        Content::Text(text) => Body::Text(text),
        content @ (Content::Nothing | Content::Pieces(_)) => Body::Blocks(blocks(content)),
    };
    let result = Block::Translated(Translated::ToolResult { tool_use_id, content });
    match messages.last_mut() {
        Some(Message::Translated { content: Body::Blocks(results), .. })
            if matches!(results.last(), Some(Block::Translated(Translated::ToolResult { .. }))) =>
        {
            results.push(result);
        }
        Some(_) | None => {
            messages.push(Message::Translated { role: "user".into(), content: Body::Blocks(vec![result]) });
        }
    }
    Ok(())
}

/// An empty text is no block here.
fn blocks(content: Content<'_>) -> Vec<Block<'_>> {
    match content {
        Content::Nothing => Vec::new(),
        Content::Text(text) if text.is_empty() => Vec::new(),
        Content::Text(text) => vec![Block::Translated(Translated::Text { text })],
        Content::Pieces(pieces) => pieces.into_iter().map(Block::from).collect(),
    }
}

impl<'a> From<Piece<'a>> for Block<'a> {
    fn from(piece: Piece<'a>) -> Self {
        Self::Translated(match piece {
            // OpenAI's text parts are text blocks, whatever else is in them.
            Piece::Text { json: Some(json), .. } | Piece::Other(json) => return Self::Own(json),
            Piece::Text { text, json: None } => Translated::Text { text },
            Piece::Link(url) => Translated::Image { source: Source::Url { url } },
            Piece::Image { mime: media_type, base64: data } => {
                Translated::Image { source: Source::Base64 { media_type, data } }
            }
            Piece::Document { mime: media_type, base64: data, name: title } => {
                Translated::Document { source: Source::Base64 { media_type, data }, title }
            }
        })
    }
}
