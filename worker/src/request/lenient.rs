//! Reads values as sites write them: numbers as strings, strings as numbers (PHP's `JSON_NUMERIC_CHECK`),
//! `null` and `""` for absent, `[]` for an empty object. What cannot be meant is refused, never guessed.

use std::str::FromStr;

use super::error::BadHandoff;
use super::raw::{Object, Value, decode, list};

/// A token is this long at most: it goes into headers and event ids.
const TOKEN_BYTES_MAX: usize = 128;
/// A label is this long at most: it goes into every log line of the session.
const LABEL_BYTES_MAX: usize = 256;

impl<'a> Object<'a> {
    /// Any text.
    pub(super) fn text(&self, key: &str) -> Result<Option<String>, BadHandoff> {
        let text = match self.value(key) {
            Value::Null => None,
            Value::Number(literal) => Some(literal.to_owned()),
            Value::Text(json) => Some(decode(json).ok_or_else(|| self.refuse(key, "valid Unicode text"))?),
            Value::Bool(_) | Value::Array(_) | Value::Object(_) => return Err(self.refuse(key, "a string")),
        };
        Ok(text.filter(|text| !text.is_empty()))
    }

    /// A short text that can stand in a log line.
    pub(super) fn label(&self, key: &str) -> Result<Option<String>, BadHandoff> {
        self.checked_text(key, "a string of at most 256 bytes without control characters", |text| {
            text.len() <= LABEL_BYTES_MAX && !text.contains(char::is_control)
        })
    }

    /// A short text that can stand in a header.
    pub(super) fn token(&self, key: &str) -> Result<Option<String>, BadHandoff> {
        self.checked_text(key, "a string of at most 128 visible ASCII characters", is_token)
    }

    /// A number, also as a string.
    pub(super) fn number<T: FromStr>(
        &self,
        key: &str,
        allowed: &'static str,
        is_valid: impl Fn(&T) -> bool,
    ) -> Result<Option<T>, BadHandoff> {
        let Some(literal) = self.text(key).map_err(|_| self.refuse(key, allowed))? else {
            return Ok(None);
        };
        let number = literal.trim().parse().ok().filter(is_valid);
        number.map(Some).ok_or_else(|| self.refuse(key, allowed))
    }

    /// An object's JSON.
    pub(super) fn object(&self, key: &str) -> Result<Option<&'a str>, BadHandoff> {
        match self.value(key) {
            Value::Null => Ok(None),
            Value::Object(json) => Ok(Some(json)),
            // PHP writes an empty associative array like this.
            Value::Array(json) if list(json).is_some_and(|items| items.is_empty()) => Ok(None),
            Value::Bool(_) | Value::Number(_) | Value::Text(_) | Value::Array(_) => {
                Err(self.refuse(key, "an object"))
            }
        }
    }

    /// The refusal of this key's value.
    pub(super) fn refuse(&self, key: &str, allowed: &'static str) -> BadHandoff {
        BadHandoff::value(self.path_of(key), allowed)
    }

    fn checked_text(
        &self,
        key: &str,
        allowed: &'static str,
        is_valid: impl Fn(&str) -> bool,
    ) -> Result<Option<String>, BadHandoff> {
        match self.text(key)? {
            Some(text) if !is_valid(&text) => Err(self.refuse(key, allowed)),
            text => Ok(text),
        }
    }
}

/// Short visible ASCII.
pub(super) fn is_token(text: &str) -> bool {
    text.len() <= TOKEN_BYTES_MAX && text.bytes().all(|byte| byte.is_ascii_graphic())
}
