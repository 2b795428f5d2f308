//! The question, as a run. In: a request. Out: one call, and before it another that makes the thread, if there is one.
//!
//! What is sent is what the example daemon for the same Apache module sends.

use std::collections::BTreeMap;

use handoff_config::backend::{LangGraph, OnDisconnect};
use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::ser::{Serialize, SerializeMap, Serializer};
use serde_json::value::RawValue;

use super::super::body::{Body, Members};
use super::super::conversation::{self, Content, Piece, Turn};
use super::super::openai::{DataUrl, headers};
use super::super::{Asking, Call, Question};
use crate::failure::Failure;
use crate::request::ChatRequest;

/// All but RFC 3986's unreserved characters.
const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Said<'a> {
    Text(&'a str),
    Parts(Vec<Part<'a>>),
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum Part<'a> {
    /// As the site wrote it.
    Own(&'a RawValue),
    Translated(Translated<'a>),
}

/// OpenAI's words, which LangChain understands for every model.
#[derive(serde::Serialize)]
#[serde(tag = "type", rename_all = "snake_case")]
enum Translated<'a> {
    Text { text: &'a str },
    ImageUrl { image_url: ImageUrl<'a> },
    File { file: File<'a> },
}

#[derive(serde::Serialize)]
#[serde(untagged)]
enum ImageUrl<'a> {
    Link { url: &'a str },
    Here { url: DataUrl<'a> },
}

#[derive(serde::Serialize)]
struct File<'a> {
    #[serde(skip_serializing_if = "Option::is_none")]
    filename: Option<&'a str>,
    file_data: DataUrl<'a>,
}

pub(in super::super) fn ask(config: &LangGraph, question: Question<'_>) -> Result<Asking, Failure> {
    let request = question.request;
    let options = &request.langgraph;
    let turns = conversation::read(request)?;
    let own = options.input.as_deref().map(Members::of).unwrap_or_default();

    let mut body = Body::new(request.extra_body.as_deref());
    body.member("assistant_id", options.assistant_id.as_ref().unwrap_or(&config.assistant_id));
    body.member("input", &Input { messages: turns.into_iter().map(Message).collect(), own });
    let modes = if options.stream_mode.is_empty() { &config.stream_mode } else { &options.stream_mode };
    body.member("stream_mode", modes);
    body.member("stream_subgraphs", &false);
    body.member("on_completion", &"delete");
    body.member("on_disconnect", &on_disconnect(question));

    let path = match &options.thread_id {
        Some(id) => format!("/threads/{}/runs/stream", utf8_percent_encode(id, SEGMENT)),
        None => "/runs/stream".to_owned(),
    };
    let before = options.thread_id.as_deref().map(|id| make_thread(request, id));
    Ok(Asking { before, call: post(request, path, body) })
}

/// The thread may be there already.
fn make_thread(request: &ChatRequest, id: &str) -> Call {
    let mut body = Body::new(None);
    body.member("thread_id", &id);
    body.member("if_exists", &"do_nothing");
    post(request, "/threads".to_owned(), body)
}

fn post(request: &ChatRequest, path: String, body: Body<'_>) -> Call {
    Call { method: Method::POST, path, headers: headers(request), body: body.end() }
}

/// What the platform does when our connection ends before the run does.
fn on_disconnect(question: Question<'_>) -> &'static str {
    match question.on_disconnect {
        OnDisconnect::Cancel => "cancel",
        OnDisconnect::DrainUsage | OnDisconnect::Continue => "continue",
    }
}

/// The messages, and what the site puts beside them, in alphabetical order.
struct Input<'a> {
    messages: Vec<Message<'a>>,
    own: Members<'a>,
}

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let own: BTreeMap<&str, &RawValue> = self.own.iter().collect();
        let mut map = serializer.serialize_map(None)?;
        if !own.contains_key("messages") {
            map.serialize_entry("messages", &self.messages)?;
        }
        for (name, value) in own {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The site's message with LangChain's word for who speaks; whatever else is in it stays.
struct Message<'a>(Turn<'a>);

impl Serialize for Message<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Self(turn) = self;
        let kind = match turn.role.as_ref() {
            "user" => "human",
            "assistant" => "ai",
            other => other,
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", kind)?;
        map.serialize_entry("content", &Said::from(&turn.content))?;
        let more = turn.json.map(Members::of).unwrap_or_default();
        for (name, value) in more.iter() {
            if !matches!(name, "role" | "type" | "content") && value.get() != "null" {
                map.serialize_entry(name, value)?;
            }
        }
        map.end()
    }
}

impl<'a> From<&'a Content<'a>> for Said<'a> {
    fn from(content: &'a Content<'a>) -> Self {
        match content {
            Content::Nothing => Self::Text(""),
            Content::Text(text) => Self::Text(text),
            Content::Pieces(pieces) => Self::Parts(pieces.iter().map(Part::from).collect()),
        }
    }
}

impl<'a> From<&'a Piece<'a>> for Part<'a> {
    fn from(piece: &'a Piece<'a>) -> Self {
        Self::Translated(match piece {
            Piece::Text { json: Some(json), .. } | Piece::Other(json) => return Self::Own(json),
            Piece::Text { text, json: None } => Translated::Text { text },
            Piece::Link(url) => Translated::ImageUrl { image_url: ImageUrl::Link { url } },
            Piece::Image { mime, base64 } => {
                Translated::ImageUrl { image_url: ImageUrl::Here { url: DataUrl { mime, base64 } } }
            }
            Piece::Document { mime, base64, name } => {
                let file = File { filename: name.as_deref(), file_data: DataUrl { mime, base64 } };
                Translated::File { file }
            }
        })
    }
}
