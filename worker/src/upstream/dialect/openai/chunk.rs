//! One chunk, as OpenAI's imitators write it: what is missing or null is nothing, what is unknown is ignored.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;
use serde_json::value::RawValue;

use crate::upstream::dialect::error::is_truthy;

#[derive(serde::Deserialize)]
pub(super) struct Chunk<'a> {
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub(super) choices: Vec<Choice<'a>>,
    #[serde(borrow)]
    pub(super) usage: Option<&'a RawValue>,
    #[serde(borrow)]
    error: Option<&'a RawValue>,
    #[serde(borrow)]
    object: Option<&'a RawValue>,
}

#[derive(serde::Deserialize)]
pub(super) struct Choice<'a> {
    #[serde(default, deserialize_with = "or_default")]
    pub(super) index: u64,
    #[serde(borrow, default, deserialize_with = "or_default")]
    pub(super) delta: Delta<'a>,
    #[serde(borrow, default, deserialize_with = "borrowed")]
    pub(super) finish_reason: Option<Cow<'a, str>>,
}

#[derive(Default, serde::Deserialize)]
#[serde(default)]
pub(super) struct Delta<'a> {
    pub(super) content: Text,
    pub(super) reasoning_content: Text,
    pub(super) reasoning: Text,
    pub(super) refusal: Text,
    #[serde(borrow, deserialize_with = "or_default")]
    pub(super) tool_calls: Vec<&'a RawValue>,
    #[serde(borrow)]
    pub(super) function_call: Option<&'a RawValue>,
}

/// A text, or a list of parts that have some (Mistral's), or nothing.
#[derive(Debug, Default)]
pub(super) struct Text {
    pub(super) text: String,
    pub(super) thinking: String,
}

impl Chunk<'_> {
    pub(super) fn is_error(&self) -> bool {
        let truthy =
            |raw: &RawValue| serde_json::from_str::<Value>(raw.get()).is_ok_and(|value| is_truthy(&value));
        self.error.is_some_and(truthy) || self.object.is_some_and(|object| object.get() == "\"error\"")
    }
}

impl Choice<'_> {
    pub(super) fn is_meaningful(&self) -> bool {
        let Delta { content, reasoning_content, reasoning, refusal, tool_calls, function_call } = &self.delta;
        let texts =
            [&content.text, &content.thinking, &reasoning_content.text, &reasoning.text, &refusal.text];
        let has_text = texts.iter().any(|text| !text.is_empty());
        has_text || !tool_calls.is_empty() || function_call.is_some() || self.has_ended()
    }

    pub(super) fn has_ended(&self) -> bool {
        self.finish_reason.as_deref().is_some_and(|reason| !reason.is_empty())
    }

    pub(super) fn ends_with(&self, reason: &str) -> bool {
        self.finish_reason.as_deref() == Some(reason)
    }
}

fn or_default<'de, D: Deserializer<'de>, T: Default + Deserialize<'de>>(
    deserializer: D,
) -> Result<T, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}

fn borrowed<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Cow<'de, str>>, D::Error> {
    #[derive(serde::Deserialize)]
    struct Borrowed<'a>(#[serde(borrow)] Cow<'a, str>);
    Ok(Option::<Borrowed<'de>>::deserialize(deserializer)?.map(|text| text.0))
}

impl<'de> Deserialize<'de> for Text {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(TextReader)
    }
}

struct TextReader;

impl<'de> Visitor<'de> for TextReader {
    type Value = Text;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, parts of one, or null")
    }

    fn visit_str<E>(self, text: &str) -> Result<Text, E> {
        Ok(Text { text: text.to_owned(), thinking: String::new() })
    }

    fn visit_string<E>(self, text: String) -> Result<Text, E> {
        Ok(Text { text, thinking: String::new() })
    }

    fn visit_unit<E>(self) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Text, E> {
        Ok(Text::default())
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut parts: S) -> Result<Text, S::Error> {
        let mut all = Text::default();
        while let Some(part) = parts.next_element::<Text>()? {
            all.text.push_str(&part.text);
            all.thinking.push_str(&part.thinking);
        }
        Ok(all)
    }

    fn visit_map<M: MapAccess<'de>>(self, mut part: M) -> Result<Text, M::Error> {
        let mut all = Text::default();
        while let Some(name) = part.next_key::<Cow<'de, str>>()? {
            match &*name {
                "text" => all.text = part.next_value::<Text>()?.text,
                "thinking" => all.thinking = part.next_value::<Text>()?.text,
                _ => _ = part.next_value::<IgnoredAny>()?,
            }
        }
        Ok(all)
    }
}
