//! The conversation. Each message is checked for what every upstream needs, and otherwise left as it is.

use serde_json::value::RawValue;

use super::error::BadHandoff;
use super::raw::{Keys, List, Object, Value, decode, list, unquote};

/// One message, untouched.
#[derive(Clone, Debug)]
pub struct Message {
    /// Who speaks.
    pub role: Role,
    /// The whole message as the site wrote it: an object with a role.
    pub json: Box<RawValue>,
}

/// Who speaks, as far as it matters here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// `system` or `developer`.
    System,
    /// `user`.
    User,
    /// Assistants, tools, and whatever comes.
    Other,
}

impl Message {
    /// Its text; of several text parts, each on its own line.
    #[must_use]
    pub fn text(&self) -> String {
        let Some(message) = Object::read("", self.json.get(), Keys::Only(&["content"])) else {
            return String::new();
        };
        match message.value("content") {
            Value::Text(json) => decode(json).unwrap_or_default(),
            Value::Array(json) => {
                let texts: Vec<String> =
                    list(json).unwrap_or_default().into_iter().filter_map(part_text).collect();
                texts.join("\n")
            }
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => String::new(),
        }
    }

    /// Its content is text and nothing else.
    #[must_use]
    pub fn is_text(&self) -> bool {
        let Some(message) = Object::read("", self.json.get(), Keys::Only(&["content"])) else { return false };
        match message.value("content") {
            Value::Null | Value::Text(_) => true,
            Value::Array(json) => {
                list(json).is_some_and(|parts| parts.into_iter().all(|part| part_text(part).is_some()))
            }
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => false,
        }
    }

    fn read(index: usize, raw: &RawValue) -> Result<Self, BadHandoff> {
        let refuse = |allowed| BadHandoff::value(format!("messages[{index}]"), allowed);
        let message = Object::read("", raw.get(), Keys::Only(&["role", "content"]))
            .ok_or_else(|| refuse("an object with a role and a content"))?;
        let Value::Text(role) = message.value("role") else {
            return Err(refuse("an object with a role that is a string"));
        };
        match message.value("content") {
            Value::Null | Value::Text(_) | Value::Array(_) => {}
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => {
                return Err(refuse("an object with a content that is a string, null or an array of parts"));
            }
        }
        let role = match unquote(role).as_deref() {
            Some("system" | "developer") => Role::System,
            Some("user") => Role::User,
            Some(_) | None => Role::Other,
        };
        Ok(Self { role, json: raw.to_owned() })
    }
}

/// The payload's `messages`; absent ones are none.
pub(super) fn read(object: &Object<'_>) -> Result<Vec<Message>, BadHandoff> {
    match object.list() {
        List::Null => Ok(Vec::new()),
        List::Of(items) => items.iter().enumerate().map(|(index, raw)| Message::read(index, raw)).collect(),
        List::TooLong | List::Other => Err(object.refuse("messages", "an array of at most 10000 messages")),
    }
}

fn part_text(part: &str) -> Option<String> {
    match Object::read("", part, Keys::Only(&["text"]))?.value("text") {
        Value::Text(json) => decode(json),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
    }
}
