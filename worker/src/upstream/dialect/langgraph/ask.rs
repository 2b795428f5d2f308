//! The question, as a run. In: a request. Out: one call, and before it another that makes the thread, if there is one.
//!
//! What is sent is what the example daemon for the same Apache module sends.

use std::borrow::Cow;

use handoff_config::backend::{LangGraph, OnDisconnect};
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use serde_json::value::RawValue;

use super::super::conversation::{self, Content, Piece, Turn};
use super::super::object::{self, Object};
use super::super::{Asking, Call, Question};
use crate::failure::Failure;
use crate::request::ChatRequest;

/// All but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(Serialize)]
#[serde(untagged)]
enum Body<'a> {
    Text(Cow<'a, str>),
    Parts(Vec<Part<'a>>),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Part<'a> {
    /// As the site wrote it.
    Own(&'a RawValue),
    Translated(Translated<'a>),
}

/// OpenAI's words, which LangChain understands for every model.
#[derive(Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Translated<'a> {
    Text { text: Cow<'a, str> },
    ImageUrl { image_url: ImageUrl<'a> },
    File { file: File<'a> },
}

#[derive(Serialize)]
struct ImageUrl<'a> {
    url: Cow<'a, str>,
}

#[derive(Serialize)]
struct File<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    filename: Option<Cow<'a, str>>,
    file_data: String,
}

pub(in super::super) fn ask(config: &LangGraph, question: Question<'_>) -> Result<Asking, Failure> {
    let request = question.request;
    let options = &request.langgraph;
    let mut messages = Vec::new();
    for turn in conversation::read(request)? {
        messages.push(message(turn)?);
    }
    let mut input = Object::default();
    input.set("messages", &messages);
    // A null among them is a value of the graph's.
    input.merge(&object::entries("langgraph_input", options.input.as_deref())?);

    let mut body = Object::default();
    body.set("assistant_id", options.assistant_id.as_ref().unwrap_or(&config.assistant_id));
    body.set("input", &input);
    let modes = if options.stream_mode.is_empty() { &config.stream_mode } else { &options.stream_mode };
    body.set("stream_mode", modes);
    body.set("stream_subgraphs", &false);
    body.set("on_completion", &"delete");
    body.set("on_disconnect", &on_disconnect(request));
    body.merge(&object::entries("extra_body", request.extra_body.as_deref())?);

    let path = match &options.thread_id {
        Some(id) => format!("/threads/{}/runs/stream", utf8_percent_encode(id, SEGMENT)),
        None => "/runs/stream".to_owned(),
    };
    let before = options.thread_id.as_deref().map(|id| make_thread(request, id));
    Ok(Asking { before, call: post(request, path, body) })
}

/// The thread may be there already.
fn make_thread(request: &ChatRequest, id: &str) -> Call {
    let mut body = Object::default();
    body.set("thread_id", &id);
    body.set("if_exists", &"do_nothing");
    post(request, "/threads".to_owned(), body)
}

fn post(request: &ChatRequest, path: String, body: Object) -> Call {
    let mut headers = object::headers(request);
    object::add_header(&mut headers, "x-test-pattern", request.test_pattern.as_deref());
    Call { method: Method::POST, path, headers, body: body.into_text() }
}

/// What the platform does when our connection ends before the run does.
fn on_disconnect(request: &ChatRequest) -> &'static str {
    match request.on_disconnect.unwrap_or(OnDisconnect::Cancel) {
        OnDisconnect::Cancel => "cancel",
        OnDisconnect::DrainUsage | OnDisconnect::Continue => "continue",
    }
}

/// The site's message with LangChain's word for who speaks; whatever else is in it stays.
fn message(turn: Turn<'_>) -> Result<Object, Failure> {
    let kind = match turn.role.as_ref() {
        "user" => "human",
        "assistant" => "ai",
        other => other,
    };
    let mut message = Object::default();
    message.set("type", &kind);
    if turn.is_changed() {
        message.set("content", &body(turn.content));
    } else if let Some(json) = turn.json {
        message.set("content", &"");
        let mut own = object::entries("messages", Some(json))?;
        own.retain(|key, value| !matches!(key.as_str(), "role" | "type") && value.get() != "null");
        message.merge(&own);
    }
    Ok(message)
}

fn body(content: Content<'_>) -> Body<'_> {
    match content {
        Content::Nothing => Body::Text("".into()),
        Content::Text(text) => Body::Text(text),
        Content::Pieces(pieces) => Body::Parts(pieces.into_iter().map(Part::from).collect()),
    }
}

impl<'a> From<Piece<'a>> for Part<'a> {
    fn from(piece: Piece<'a>) -> Self {
        let data_url = |mime: &str, base64: &str| format!("data:{mime};base64,{base64}");
        Self::Translated(match piece {
            Piece::Text { json: Some(json), .. } | Piece::Other(json) => return Self::Own(json),
            Piece::Text { text, json: None } => Translated::Text { text },
            Piece::Link(url) => Translated::ImageUrl { image_url: ImageUrl { url } },
            Piece::Image { mime, base64 } => {
                Translated::ImageUrl { image_url: ImageUrl { url: data_url(&mime, &base64).into() } }
            }
            Piece::Document { mime, base64, name: filename } => {
                Translated::File { file: File { filename, file_data: data_url(&mime, &base64) } }
            }
        })
    }
}
