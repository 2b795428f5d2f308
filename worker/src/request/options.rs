//! The payload's choices: each from a closed list, or within bounds.

use std::num::NonZeroU32;
use std::time::Duration;

use handoff_config::backend::OnDisconnect;
use handoff_shared::message::Format;
use serde_json::value::RawValue;

use super::error::BadHandoff;
use super::raw::{Keys, Object, Value, decode, list};

/// A heartbeat more often than this would be most of the stream.
const HEARTBEAT_SECS_MIN: f64 = 0.1;
const HEARTBEAT_SECS_MAX: f64 = 86_400.0;
const MOCK_DELAY_MS_MAX: u64 = 3_600_000;

/// The request's method, as far as it matters here.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Method {
    /// The default.
    #[default]
    Get,
    /// Wants the head alone.
    Head,
    /// POST and the like: answered as GET is.
    Other,
}

impl Method {
    /// The method of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Self {
        if name.eq_ignore_ascii_case("HEAD") {
            Self::Head
        } else if name.eq_ignore_ascii_case("GET") {
            Self::Get
        } else {
            Self::Other
        }
    }
}

/// What events carry besides the answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Include {
    /// The model's thinking.
    pub reasoning: bool,
    /// Calls of the site's tools.
    pub tool_calls: bool,
    /// Why the answer ended.
    pub finish_reason: bool,
    /// Tokens spent.
    pub usage: bool,
}

/// What a developer asks of the mock; in force only where the configuration allows it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MockOptions {
    /// Words of the answer.
    pub length: Option<NonZeroU32>,
    /// Between two words.
    pub token_delay: Option<Duration>,
    /// Before the first word.
    pub first_token_delay: Option<Duration>,
    /// Fail instead of this event, counted from 1.
    pub fail_at: Option<NonZeroU32>,
}

impl Object<'_> {
    pub(super) fn format(&self) -> Result<Format, BadHandoff> {
        match self.text("format")?.as_deref() {
            None | Some("content") => Ok(Format::Content),
            Some("text") => Ok(Format::Text),
            Some("openai") => Ok(Format::OpenAi),
            Some("events") => Ok(Format::Events),
            Some("raw") => Ok(Format::Raw),
            Some(_) => Err(self.refuse("format", "content, text, openai, events or raw")),
        }
    }

    /// One flag or an array of them; unknown ones are somebody else's.
    pub(super) fn include(&self) -> Result<Include, BadHandoff> {
        let refuse = || self.refuse("include", "an array of reasoning, tool_calls, finish_reason, usage");
        let flags = match self.value("include") {
            Value::Null => Vec::new(),
            Value::Array(json) => list(json).ok_or_else(refuse)?.into_iter().map(Value::of).collect(),
            flag @ Value::Text(_) => vec![flag],
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => return Err(refuse()),
        };
        let mut include = Include::default();
        for flag in flags {
            let Value::Text(json) = flag else { return Err(refuse()) };
            match decode(json).as_deref() {
                Some("reasoning") => include.reasoning = true,
                Some("tool_calls") => include.tool_calls = true,
                Some("finish_reason") => include.finish_reason = true,
                Some("usage") => include.usage = true,
                Some(_) | None => {}
            }
        }
        Ok(include)
    }

    pub(super) fn heartbeat(&self) -> Result<Option<Duration>, BadHandoff> {
        let allowed = "a number of seconds from 0.1 to 86400";
        let secs = self
            .number("heartbeat", allowed, |secs| (HEARTBEAT_SECS_MIN..=HEARTBEAT_SECS_MAX).contains(secs))?;
        Ok(secs.map(Duration::from_secs_f64))
    }

    pub(super) fn on_disconnect(&self) -> Result<Option<OnDisconnect>, BadHandoff> {
        match self.text("on_disconnect")?.as_deref() {
            None => Ok(None),
            Some("cancel") => Ok(Some(OnDisconnect::Cancel)),
            Some("drain_usage") => Ok(Some(OnDisconnect::DrainUsage)),
            Some("continue") => Ok(Some(OnDisconnect::Continue)),
            Some(_) => Err(self.refuse("on_disconnect", "cancel, drain_usage or continue")),
        }
    }

    /// An object, as the site wrote it.
    pub(super) fn raw_object(&self, key: &str) -> Result<Option<Box<RawValue>>, BadHandoff> {
        let Some(json) = self.object(key)? else {
            return Ok(None);
        };
        RawValue::from_string(json.to_owned()).map(Some).map_err(|_| self.refuse(key, "an object"))
    }

    pub(super) fn mock(&self) -> Result<MockOptions, BadHandoff> {
        let Some(json) = self.object("mock")? else {
            return Ok(MockOptions::default());
        };
        let keys = Keys::Only(&["length", "token_delay_ms", "first_token_delay_ms", "fail_at"]);
        let mock = Object::read("mock.", json, keys).ok_or_else(|| self.refuse("mock", "an object"))?;
        let count = |key| mock.number(key, "a whole number from 1", |_| true);
        let delay = |key| {
            let millis = mock
                .number(key, "a whole number of milliseconds up to 3600000", |ms| *ms <= MOCK_DELAY_MS_MAX)?;
            Ok(millis.map(Duration::from_millis))
        };
        Ok(MockOptions {
            length: count("length")?,
            token_delay: delay("token_delay_ms")?,
            first_token_delay: delay("first_token_delay_ms")?,
            fail_at: count("fail_at")?,
        })
    }
}
