//! The question, as Messages has it. In: a request. Out: one call.
//!
//! What is written in Anthropic's own form goes through as it is. What is written in OpenAI's (system messages, pictures
//! by `image_url`, calls of tools and their answers) is translated: a site may come here because OpenAI failed.

use std::borrow::Cow;

use handoff_config::backend::Anthropic;
use http::{HeaderName, HeaderValue, Method};
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::body::Body;
use super::super::conversation::{self, Content, Piece, Turn};
use super::super::openai::must_ask_something;
use super::super::{Asking, Call, Question};
use crate::failure::Failure;

/// One message.
#[derive(Serialize)]
#[serde(untagged)]
enum Message<'a> {
    /// As the site wrote it.
    Own(&'a RawValue),
    /// Translated.
    Translated { role: Cow<'a, str>, content: Said<'a> },
}

#[derive(Serialize)]
#[serde(untagged)]
enum Said<'a> {
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
        content: Said<'a>,
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
    let Question { request, model, .. } = question;
    must_ask_something(request)?;
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
    let mut body = Body::new(request.extra_body.as_deref());
    body.member("model", &model);
    body.member("max_tokens", &request.max_tokens.unwrap_or(config.max_tokens.get()));
    body.optional("system", join(system).as_ref());
    body.member("messages", &messages);
    body.fixed("stream", &true);
    body.optional("temperature", request.temperature.as_ref());

    let own = [("anthropic-version", Some(&config.version)), ("anthropic-beta", config.beta.as_ref())];
    let value = |text: &String| HeaderValue::from_str(text).ok();
    let headers =
        own.into_iter().filter_map(|(name, text)| Some((HeaderName::from_static(name), value(text?)?)));
    // Many write the base address with the version, as OpenAI has it.
    let path = if base.ends_with("/v1") { "/messages" } else { "/v1/messages" };
    let call =
        Call { method: Method::POST, path: path.to_owned(), headers: headers.collect(), body: body.end() };
    Ok(Asking { before: None, call })
}

/// The system's words: a text, or blocks when there are several.
fn join(mut system: Vec<Content<'_>>) -> Option<Said<'_>> {
    if system.len() == 1
        && let Some(Content::Text(text)) = system.pop_if(|content| matches!(content, Content::Text(_)))
    {
        return Some(Said::Text(text));
    }
    let blocks: Vec<_> = system.into_iter().flat_map(blocks).collect();
    (!blocks.is_empty()).then_some(Said::Blocks(blocks))
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
        return Ok(Message::Translated { role: turn.role, content: Said::Text(text) });
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
    Ok(Message::Translated { role: turn.role, content: Said::Blocks(content) })
}

/// What a tool has answered is said by the user here. All answers to one message must stand in one message.
fn push_result<'a>(messages: &mut Vec<Message<'a>>, turn: Turn<'a>) -> Result<(), Failure> {
    let Some(tool_use_id) = turn.tool_call_id.clone() else {
        return Err(turn.refuse(".tool_call_id", "there: it says which call is answered"));
    };
    let content = match turn.content {
        Content::Text(text) => Said::Text(text),
        content @ (Content::Nothing | Content::Pieces(_)) => Said::Blocks(blocks(content)),
    };
    let result = Block::Translated(Translated::ToolResult { tool_use_id, content });
    match messages.last_mut() {
        Some(Message::Translated { content: Said::Blocks(results), .. })
            if matches!(results.last(), Some(Block::Translated(Translated::ToolResult { .. }))) =>
        {
            results.push(result);
        }
        Some(_) | None => {
            messages.push(Message::Translated { role: "user".into(), content: Said::Blocks(vec![result]) });
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
