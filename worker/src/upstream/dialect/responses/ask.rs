//! A request as a response to create. In: a question in the words of Chat Completions. Out: the call.
//! Never: touches a message whose content is a text, drops a part that it does not know.

use std::borrow::Cow;

use http::Method;
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;

use crate::failure::Failure;
use crate::request::{ChatRequest, Part, Role};
use crate::upstream::dialect::body::{Body, Members};
use crate::upstream::dialect::openai::{DataUrl, headers, must_ask_something};
use crate::upstream::dialect::{Asking, Call, Question};

pub(in super::super) fn ask(question: Question<'_>) -> Result<Asking, Failure> {
    let Question { request, model, .. } = question;
    must_ask_something(request)?;
    let mut body = Body::new(request.extra_body.as_deref());
    body.member("model", &model);
    body.optional("instructions", request.system.as_ref());
    body.member("input", &Input(request));
    body.fixed("stream", &true);
    body.optional("max_output_tokens", request.max_tokens.as_ref());
    body.optional("temperature", request.temperature.as_ref());
    let call = Call {
        method: Method::POST,
        path: "/responses".to_owned(),
        headers: headers(request),
        body: body.end(),
    };
    Ok(Asking { before: None, call })
}

/// The whole conversation: a text, or items.
struct Input<'a>(&'a ChatRequest);

/// One message in the words of Chat Completions, which are up to several items here.
struct Message<'a> {
    members: Members<'a>,
    role: String,
    /// Instead of its own content.
    parts: &'a [Part],
}

impl Serialize for Input<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ChatRequest { messages, parts, prompt, .. } = self.0;
        if let (Some(prompt), [], []) = (prompt, &messages[..], &parts[..]) {
            return serializer.serialize_str(prompt);
        }
        let mut items = serializer.serialize_seq(None)?;
        let last = messages.iter().rposition(|message| message.role == Role::User);
        for (index, message) in messages.iter().enumerate() {
            let members = Members::of(&message.json);
            let role = members.text("role").unwrap_or_default();
            let parts = if Some(index) == last { &parts[..] } else { &[] };
            let message_in_parts = Message { members, role, parts };
            message_in_parts.write(&mut items, &message.json)?;
        }
        if last.is_none() && !parts.is_empty() {
            items.serialize_element(&User { role: "user", content: Parts(parts) })?;
        }
        items.end()
    }
}

#[derive(serde::Serialize)]
struct User<'a> {
    role: &'static str,
    content: Parts<'a>,
}

impl Message<'_> {
    fn write<S: SerializeSeq>(&self, items: &mut S, json: &RawValue) -> Result<(), S::Error> {
        if self.role == "tool" {
            return items.serialize_element(&Output(self));
        }
        let calls = self.members.get("tool_calls").map(elements).unwrap_or_default();
        let content = self.members.get("content").map_or("null", RawValue::get);
        if calls.is_empty() && self.parts.is_empty() && !content.starts_with('[') {
            return items.serialize_element(json);
        }
        if !self.parts.is_empty() || !matches!(content, "null" | "\"\"" | "[]") {
            items.serialize_element(&Translated(self))?;
        }
        calls.into_iter().try_for_each(|call| items.serialize_element(&FunctionCall(call)))
    }
}

/// The message without its calls, its parts in the words of this API.
struct Translated<'a>(&'a Message<'a>);

impl Serialize for Translated<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Message { members, role, parts } = self.0;
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in members.iter() {
            match name {
                "tool_calls" => {}
                "content" if parts.is_empty() => map.serialize_entry(name, &Content { raw: value, role })?,
                "content" => map.serialize_entry(name, &Parts(parts))?,
                _ => map.serialize_entry(name, value)?,
            }
        }
        map.end()
    }
}

/// What a tool answered.
struct Output<'a>(&'a Message<'a>);

impl Serialize for Output<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Message { members, role, .. } = self.0;
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", "function_call_output")?;
        map.serialize_entry("call_id", &members.get("tool_call_id"))?;
        map.serialize_entry("output", &members.get("content").map(|raw| Content { raw, role }))?;
        map.end()
    }
}

/// One element of `tool_calls`.
struct FunctionCall<'a>(&'a RawValue);

impl Serialize for FunctionCall<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let call = Members::of(self.0);
        let function = call.get("function").map(Members::of).unwrap_or_default();
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", "function_call")?;
        map.serialize_entry("call_id", &call.get("id"))?;
        map.serialize_entry("name", &function.get("name"))?;
        map.serialize_entry("arguments", &function.get("arguments"))?;
        map.end()
    }
}

/// A content in the words of Chat Completions.
struct Content<'a> {
    raw: &'a RawValue,
    role: &'a str,
}

impl Serialize for Content<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if !self.raw.get().starts_with('[') {
            return self.raw.serialize(serializer);
        }
        serializer
            .collect_seq(elements(self.raw).into_iter().map(|part| ContentPart { part, role: self.role }))
    }
}

struct ContentPart<'a> {
    part: &'a RawValue,
    role: &'a str,
}

impl Serialize for ContentPart<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let part = Members::of(self.part);
        let kind = part.text("type").unwrap_or_default();
        let (kind, inner) = match kind.as_str() {
            "text" if self.role == "assistant" => ("output_text", None),
            "text" => ("input_text", None),
            "image_url" => ("input_image", part.get("image_url")),
            "file" => ("input_file", part.get("file")),
            _ => return self.part.serialize(serializer),
        };
        let mut map = serializer.serialize_map(None)?;
        map.serialize_entry("type", kind)?;
        let Some(inner) = inner else {
            for (name, value) in part.iter().filter(|(name, _)| *name != "type") {
                map.serialize_entry(name, value)?;
            }
            return map.end();
        };
        if !inner.get().starts_with('{') {
            map.serialize_entry("image_url", inner)?;
        }
        for (name, value) in Members::of(inner).iter() {
            map.serialize_entry(if name == "url" { "image_url" } else { name }, value)?;
        }
        map.end()
    }
}

struct Parts<'a>(&'a [Part]);

impl Serialize for Parts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        #[serde(tag = "type")]
        enum InputPart<'a> {
            #[serde(rename = "input_text")]
            Text { text: &'a str },
            #[serde(rename = "input_image")]
            Image { image_url: DataUrl<'a> },
            #[serde(rename = "input_file")]
            File { filename: &'a str, file_data: DataUrl<'a> },
        }
        serializer.collect_seq(self.0.iter().map(|part| match part {
            Part::Text(text) => InputPart::Text { text },
            Part::Image { mime, base64 } => InputPart::Image { image_url: DataUrl { mime, base64 } },
            Part::Document { mime, base64, name } => {
                InputPart::File { filename: name, file_data: DataUrl { mime, base64 } }
            }
        }))
    }
}

fn elements(array: &RawValue) -> Vec<&RawValue> {
    serde_json::from_str(array.get()).unwrap_or_default()
}

/// What stands for itself in a path (RFC 3986, unreserved), without the dots that lead elsewhere.
const SEGMENT: &percent_encoding::AsciiSet =
    &percent_encoding::NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'~');

/// A segment of a path, whatever is in it.
pub(super) fn segment(id: &str) -> Cow<'_, str> {
    percent_encoding::utf8_percent_encode(id, SEGMENT).into()
}
