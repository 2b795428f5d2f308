//! A request as a chat completion. In: a question. Out: the call. Never: touches a message that nothing is attached
//! to, lets `extra_body` turn the stream off.

use http::{HeaderMap, HeaderName, HeaderValue, Method};
use serde::ser::{Serialize, SerializeMap, SerializeSeq, Serializer};
use serde_json::value::RawValue;

use crate::failure::{Code, Failure};
use crate::request::{ChatRequest, Message, Part, Role};
use crate::upstream::dialect::body::{Body, Members};
use crate::upstream::dialect::{Asking, Call, Question};

pub(in super::super) fn ask(question: Question<'_>) -> Result<Asking, Failure> {
    let Question { request, model, .. } = question;
    must_ask_something(request)?;
    let mut body = Body::new(request.extra_body.as_deref());
    body.member("model", &model);
    body.member("messages", &Messages(request));
    body.fixed("stream", &true);
    let options = StreamOptions(body.extra("stream_options"));
    body.merged("stream_options", &options);
    // Newer models know the longer name alone, and refuse both at once.
    if body.extra("max_completion_tokens").is_none() {
        body.optional("max_tokens", request.max_tokens.as_ref());
    }
    body.optional("temperature", request.temperature.as_ref());
    let call = Call {
        method: Method::POST,
        path: "/chat/completions".to_owned(),
        headers: headers(request),
        body: body.end(),
    };
    Ok(Asking { before: None, call })
}

/// A question in no words, which only LangGraph understands.
pub(in super::super) fn must_ask_something(request: &ChatRequest) -> Result<(), Failure> {
    if request.prompt.is_none() && request.messages.is_empty() && request.parts.is_empty() {
        return Err(Failure::new(Code::BadHandoff, "prompt: this backend must have a prompt or messages"));
    }
    Ok(())
}

/// For the mock API that people test with.
pub(in super::super) fn headers(request: &ChatRequest) -> HeaderMap {
    let pattern = request.test_pattern.as_deref().and_then(|pattern| HeaderValue::from_str(pattern).ok());
    pattern.map(|pattern| (HeaderName::from_static("x-test-pattern"), pattern)).into_iter().collect()
}

/// `{"include_usage":true}`, and what the site says besides.
struct StreamOptions<'a>(Option<&'a RawValue>);

impl Serialize for StreamOptions<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let theirs = self.0.map(Members::of).unwrap_or_default();
        let mut map = serializer.serialize_map(None)?;
        if theirs.get("include_usage").is_none() {
            map.serialize_entry("include_usage", &true)?;
        }
        for (name, value) in theirs.iter() {
            map.serialize_entry(name, value)?;
        }
        map.end()
    }
}

/// The whole conversation.
struct Messages<'a>(&'a ChatRequest);

/// A message of our own making.
#[derive(serde::Serialize)]
struct Own<C> {
    role: &'static str,
    content: C,
}

/// A message with another content.
struct WithParts<'a>(&'a Message, &'a [Part]);

struct Parts<'a>(&'a [Part]);

impl Serialize for Messages<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let ChatRequest { system, messages, parts, prompt, .. } = self.0;
        let mut sequence = serializer.serialize_seq(None)?;
        if let Some(system) = system {
            sequence.serialize_element(&Own { role: "system", content: system })?;
        }
        let last = messages.iter().rposition(|message| message.role == Role::User);
        for (index, message) in messages.iter().enumerate() {
            if Some(index) == last && !parts.is_empty() {
                sequence.serialize_element(&WithParts(message, parts))?;
            } else {
                sequence.serialize_element(&message.json)?;
            }
        }
        if last.is_none() && !parts.is_empty() {
            sequence.serialize_element(&Own { role: "user", content: Parts(parts) })?;
        } else if let Some(prompt) = prompt.as_ref().filter(|_| messages.is_empty()) {
            sequence.serialize_element(&Own { role: "user", content: prompt })?;
        }
        sequence.end()
    }
}

impl Serialize for WithParts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        for (name, value) in Members::of(&self.0.json).iter().filter(|(name, _)| *name != "content") {
            map.serialize_entry(name, value)?;
        }
        map.serialize_entry("content", &Parts(self.1))?;
        map.end()
    }
}

impl Serialize for Parts<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(serde::Serialize)]
        #[serde(tag = "type", rename_all = "snake_case")]
        enum Chat<'a> {
            Text { text: &'a str },
            ImageUrl { image_url: Image<'a> },
            File { file: File<'a> },
        }
        #[derive(serde::Serialize)]
        struct Image<'a> {
            url: DataUrl<'a>,
        }
        #[derive(serde::Serialize)]
        struct File<'a> {
            filename: &'a str,
            file_data: DataUrl<'a>,
        }
        serializer.collect_seq(self.0.iter().map(|part| match part {
            Part::Text(text) => Chat::Text { text },
            Part::Image { mime, base64 } => {
                Chat::ImageUrl { image_url: Image { url: DataUrl { mime, base64 } } }
            }
            Part::Document { mime, base64, name } => {
                Chat::File { file: File { filename: name, file_data: DataUrl { mime, base64 } } }
            }
        }))
    }
}

/// `data:MIME;base64,…` (RFC 2397), without a copy of its content.
pub(in super::super) struct DataUrl<'a> {
    pub(in super::super) mime: &'a str,
    pub(in super::super) base64: &'a str,
}

impl Serialize for DataUrl<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("data:{};base64,{}", self.mime, self.base64))
    }
}
