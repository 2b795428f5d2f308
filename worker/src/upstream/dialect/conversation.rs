//! A conversation, part by part, for dialects that do not speak OpenAI's. In: the request's messages as the site wrote
//! them. Out: who speaks, and what.
//! Never: changes what it does not understand: that stays as it was written.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::body::Members;
use crate::failure::{Code, Failure};
use crate::request::{ChatRequest, Part, Role};

/// One message.
#[derive(Debug)]
pub(super) struct Turn<'a> {
    /// Its place in the payload's `messages`; none: not from there.
    place: Option<usize>,
    /// As the site wrote it, or as OpenAI calls it.
    pub(super) role: Cow<'a, str>,
    /// What is said.
    pub(super) content: Content<'a>,
    /// What an assistant wanted to be called.
    pub(super) tool_calls: Vec<ToolCall<'a>>,
    /// What a tool's message answers.
    pub(super) tool_call_id: Option<Cow<'a, str>>,
    /// The whole message, when it stands as it was written.
    pub(super) json: Option<&'a RawValue>,
}

/// What is said.
#[derive(Debug)]
pub(super) enum Content<'a> {
    /// Nothing.
    Nothing,
    /// Words.
    Text(Cow<'a, str>),
    /// Several parts.
    Pieces(Vec<Piece<'a>>),
}

/// A part of what is said.
#[derive(Debug)]
pub(super) enum Piece<'a> {
    /// Words.
    Text {
        text: Cow<'a, str>,
        /// As the site wrote it: there may be more to it than words.
        json: Option<&'a RawValue>,
    },
    /// A picture, by its address.
    Link(Cow<'a, str>),
    /// A picture.
    Image { mime: Cow<'a, str>, base64: Cow<'a, str> },
    /// A document that the model reads itself.
    Document { mime: Cow<'a, str>, base64: Cow<'a, str>, name: Option<Cow<'a, str>> },
    /// Of a kind that is not OpenAI's, or not known.
    Other(&'a RawValue),
}

/// A call of a tool, as OpenAI's assistants have it in `tool_calls`.
#[derive(Debug, Deserialize)]
pub(super) struct ToolCall<'a> {
    #[serde(borrow, default)]
    pub(super) id: Cow<'a, str>,
    #[serde(borrow)]
    function: Function<'a>,
}

#[derive(Debug, Deserialize)]
struct Function<'a> {
    #[serde(borrow)]
    name: Cow<'a, str>,
    #[serde(borrow, default)]
    arguments: Option<&'a RawValue>,
}

/// The whole conversation: the system's words first, then the messages, else the prompt. What is attached stands in
/// the last user message.
///
/// # Errors
/// When a message has a shape that no dialect has.
pub(super) fn read(request: &ChatRequest) -> Result<Vec<Turn<'_>>, Failure> {
    let mut turns = Vec::with_capacity(request.messages.len() + 2);
    if let Some(system) = &request.system {
        turns.push(Turn::new("system", Content::Text(system.into())));
    }
    for (place, message) in request.messages.iter().enumerate() {
        turns.push(Turn::read(place, &message.json)?);
    }
    if request.messages.is_empty() && (request.prompt.is_some() || !request.parts.is_empty()) {
        turns.push(Turn::new("user", Content::Text(request.prompt.as_deref().unwrap_or_default().into())));
    }
    attach(request, &mut turns);
    Ok(turns)
}

/// What is attached stands for the last user message's own content.
fn attach<'a>(request: &'a ChatRequest, turns: &mut [Turn<'a>]) {
    if request.parts.is_empty() {
        return;
    }
    let place = request.messages.iter().rposition(|message| message.role == Role::User);
    let last = turns.iter_mut().rev().find(|turn| turn.role == "user" && turn.place == place);
    if let Some(turn) = last {
        turn.content = Content::Pieces(request.parts.iter().map(Piece::from).collect());
        turn.json = None;
    }
}

impl<'a> Turn<'a> {
    fn new(role: &'static str, content: Content<'a>) -> Self {
        let (tool_calls, tool_call_id) = (Vec::new(), None);
        Self { place: None, role: role.into(), content, tool_calls, tool_call_id, json: None }
    }

    fn read(place: usize, json: &'a RawValue) -> Result<Self, Failure> {
        let refuse = |key: &str, allowed: &str| refuse(Some(place), key, allowed);
        let members = Members::of(json);
        let text = |key: &str| match members.get(key) {
            None => Ok(None),
            Some(raw) => read_as::<Option<Text<'a>>>(raw).map(|text| text.map(|Text(text)| text)),
        };
        let content = match members.get("content") {
            None => Content::Nothing,
            Some(raw) => Content::read(raw)
                .ok_or_else(|| refuse(".content", "a string, null or an array of parts with a type"))?,
        };
        let tool_calls = match members.get("tool_calls") {
            None => Vec::new(),
            Some(raw) => read_as::<Option<Vec<ToolCall<'a>>>>(raw)
                .map_err(|()| refuse(".tool_calls", "an array of objects with an id and a function"))?
                .unwrap_or_default(),
        };
        let role = text("role").map_err(|()| refuse(".role", "a string"))?.unwrap_or_default();
        let tool_call_id = text("tool_call_id").map_err(|()| refuse(".tool_call_id", "a string"))?;
        Ok(Self { place: Some(place), role, content, tool_calls, tool_call_id, json: Some(json) })
    }

    /// Speaks for the site, not for the user.
    pub(super) fn is_system(&self) -> bool {
        matches!(self.role.as_ref(), "system" | "developer")
    }

    /// Carries what a tool has answered.
    pub(super) fn is_tool(&self) -> bool {
        matches!(self.role.as_ref(), "tool" | "function")
    }

    /// The refusal of a part of this message, with its way from the payload's root.
    pub(super) fn refuse(&self, key: &str, allowed: &str) -> Failure {
        refuse(self.place, key, allowed)
    }
}

fn refuse(place: Option<usize>, key: &str, allowed: &str) -> Failure {
    let message = match place {
        Some(place) => format!("messages[{place}]{key}: must be {allowed}"),
        None => format!("prompt: must be {allowed}"),
    };
    Failure::new(Code::BadHandoff, message)
}

impl<'a> Content<'a> {
    /// A part of it is in OpenAI's form, and in no other's.
    pub(super) fn is_foreign(&self) -> bool {
        match self {
            Self::Nothing | Self::Text(_) => false,
            Self::Pieces(pieces) => pieces.iter().any(|piece| match piece {
                Piece::Text { json, .. } => json.is_none(),
                Piece::Link(_) | Piece::Image { .. } | Piece::Document { .. } => true,
                Piece::Other(_) => false,
            }),
        }
    }

    fn read(raw: &'a RawValue) -> Option<Self> {
        match raw.get().as_bytes().first() {
            Some(b'"') => Some(Self::Text(read_as::<Text<'a>>(raw).ok()?.0)),
            Some(b'[') => {
                let parts = read_as::<Vec<&'a RawValue>>(raw).ok()?;
                Some(Self::Pieces(parts.into_iter().map(Piece::read).collect::<Option<_>>()?))
            }
            Some(b'n') => Some(Self::Nothing),
            Some(_) | None => None,
        }
    }
}

impl<'a> Piece<'a> {
    fn read(raw: &'a RawValue) -> Option<Self> {
        let part = Members::of(raw);
        let Text(kind) = read_as(part.get("type")?).ok()?;
        let text = |key: &str| part.get(key).and_then(|raw| read_as(raw).ok()).map(|Text(text)| text);
        let known = match kind.as_ref() {
            "text" => text("text").map(|text| Self::Text { text, json: Some(raw) }),
            "refusal" => text("refusal").map(|text| Self::Text { text, json: None }),
            "image_url" => part.get("image_url").and_then(Self::picture),
            "file" => part.get("file").and_then(Self::file),
            _ => None,
        };
        Some(known.unwrap_or(Self::Other(raw)))
    }

    /// `{"url":…}`, or the address alone, which some servers accept too.
    fn picture(raw: &'a RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct Picture<'a> {
            #[serde(borrow)]
            url: Cow<'a, str>,
        }
        let url = match read_as::<Picture<'a>>(raw) {
            Ok(Picture { url }) => url,
            Err(()) => read_as::<Text<'a>>(raw).ok()?.0,
        };
        Some(match split_data_url(url) {
            Ok((mime, base64)) => Self::Image { mime, base64 },
            Err(url) => Self::Link(url),
        })
    }

    fn file(raw: &'a RawValue) -> Option<Self> {
        #[derive(Deserialize)]
        struct File<'a> {
            #[serde(borrow)]
            file_data: Cow<'a, str>,
            #[serde(borrow, default)]
            filename: Option<Cow<'a, str>>,
        }
        let File { file_data, filename: name } = read_as(raw).ok()?;
        let (mime, base64) = split_data_url(file_data).ok()?;
        Some(Self::Document { mime, base64, name })
    }
}

impl<'a> From<&'a Part> for Piece<'a> {
    fn from(part: &'a Part) -> Self {
        match part {
            Part::Text(text) => Self::Text { text: text.into(), json: None },
            Part::Image { mime, base64 } => Self::Image { mime: mime.into(), base64: base64.into() },
            Part::Document { mime, base64, name } => {
                Self::Document { mime: mime.into(), base64: base64.into(), name: Some(name.into()) }
            }
        }
    }
}

impl<'a> ToolCall<'a> {
    pub(super) fn name(&self) -> &str {
        &self.function.name
    }

    /// The arguments as an object, which OpenAI writes into a string; none: they are no object.
    pub(super) fn arguments(&self) -> Option<Box<RawValue>> {
        let text = match self.function.arguments {
            None => Cow::Borrowed(""),
            Some(raw) => match read_as::<Text<'_>>(raw) {
                Ok(Text(text)) => text,
                Err(()) => Cow::Borrowed(raw.get()),
            },
        };
        let text = text.trim();
        let object = if text.is_empty() { "{}" } else { text };
        object.starts_with('{').then(|| RawValue::from_string(object.to_owned()).ok()).flatten()
    }
}

/// A string, borrowed where it has no escapes.
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

fn read_as<'a, T: Deserialize<'a>>(raw: &'a RawValue) -> Result<T, ()> {
    serde_json::from_str(raw.get()).map_err(|_| ())
}

/// Type and base64 of a `data:` URL (RFC 2397); else the URL again.
fn split_data_url(url: Cow<'_, str>) -> Result<(Cow<'_, str>, Cow<'_, str>), Cow<'_, str>> {
    let split = |url: &str| -> Option<(usize, usize)> {
        let comma = url.find(',')?;
        let head = url.get(..comma)?;
        (head.get(..5)?.eq_ignore_ascii_case("data:") && head.ends_with(";base64")).then_some(())?;
        Some((5 + head.get(5..)?.find(';')?, comma))
    };
    let Some((type_end, comma)) = split(&url) else { return Err(url) };
    Ok(match url {
        Cow::Borrowed(url) => (url[5..type_end].into(), url[comma + 1..].into()),
        Cow::Owned(url) => (url[5..type_end].to_owned().into(), url[comma + 1..].to_owned().into()),
    })
}
