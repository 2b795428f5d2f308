//! Values as somebody wrote them, by key, each with the place it came from. In: the file, then the
//! environment, then the command line. Out: the last word on each key.
//! Never: knows which keys exist or what they may hold.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;

use toml::de::DeValue;

/// A value is shown in an error up to this length.
const SHOWN_CHARS_MAX: usize = 80;

/// The last word on each key; keys are full paths, such as `backend.mock.length`.
#[derive(Default)]
pub(crate) struct Settings<'t> {
    last: BTreeMap<String, Setting<'t>>,
    /// Where each section of the file that is not empty begins.
    sections: BTreeMap<String, String>,
}

/// One value, unchecked.
pub(crate) struct Setting<'t> {
    /// What was written.
    pub(crate) value: Value<'t>,
    /// Where: file and line, environment variable, or option.
    pub(crate) place: String,
    /// The value as an error shows it.
    pub(crate) shown: String,
}

/// What was written.
pub(crate) enum Value<'t> {
    /// In the file, where a string differs from a number. TOML's own form, because it still tells `0o660`
    /// from `432`.
    Toml(DeValue<'t>),
    /// In the environment or on the command line, where everything is a word.
    Word(OsString),
}

impl<'t> Settings<'t> {
    /// Replaces what an earlier layer said about `key`.
    pub(crate) fn set(&mut self, key: impl Into<String>, setting: Setting<'t>) {
        self.last.insert(key.into(), setting);
    }

    /// The section `path` begins at `place`.
    pub(crate) fn open(&mut self, path: &str, place: String) {
        self.sections.insert(path.to_owned(), place);
    }

    /// The full paths of what is directly in the section `path`: sections and values.
    pub(crate) fn beneath(&self, path: &str) -> BTreeSet<String> {
        let start = format!("{path}.");
        let paths = self.last.keys().chain(self.sections.keys());
        let names = paths.filter_map(|path| path.strip_prefix(&start));
        names.map(|rest| format!("{start}{}", first_name(rest))).collect()
    }

    /// Where the section `path` begins.
    pub(crate) fn place(&self, path: &str) -> Option<&str> {
        let section = self.sections.get(path).map(String::as_str);
        section.or_else(|| self.find(path).map(|setting| setting.place.as_str()))
    }

    pub(crate) fn find(&self, key: &str) -> Option<&Setting<'t>> {
        self.last.get(key)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Setting<'t>)> {
        self.last.iter().map(|(key, setting)| (key.as_str(), setting))
    }
}

impl<'t> Setting<'t> {
    /// A word from `place`, a variable or an option.
    pub(crate) fn word(place: &str, word: OsString) -> Setting<'t> {
        let shown = shorten(&format!("{:?}", word.to_string_lossy()));
        Setting { value: Value::Word(word), place: place.to_owned(), shown }
    }

    /// A value from the file's line `place`, where it reads `source`.
    pub(crate) fn toml(place: String, value: DeValue<'t>, source: &str) -> Setting<'t> {
        Setting { value: Value::Toml(value), place, shown: shorten(source) }
    }
}

impl Value<'_> {
    /// From the environment, a credential or the command line.
    pub(crate) fn is_word(&self) -> bool {
        match self {
            Value::Toml(_) => false,
            Value::Word(_) => true,
        }
    }

    /// What kind of value it is, for an error that must not show it.
    pub(crate) fn type_name(&self) -> &'static str {
        match self {
            Value::Toml(value) => value.type_str(),
            Value::Word(_) => "word",
        }
    }

    /// A string.
    pub(crate) fn text(&self) -> Option<&str> {
        match self {
            Value::Toml(value) => value.as_str(),
            Value::Word(word) => word.to_str(),
        }
    }

    /// A whole number.
    pub(crate) fn whole(&self) -> Option<u64> {
        match self {
            Value::Toml(value) => {
                let integer = value.as_integer()?;
                u64::from_str_radix(integer.as_str(), integer.radix()).ok()
            }
            Value::Word(word) => word.to_str()?.parse().ok(),
        }
    }

    /// A number with or without a fraction, in decimal.
    pub(crate) fn number(&self) -> Option<f64> {
        let digits = match self {
            Value::Toml(value) => match (value.as_integer(), value.as_float()) {
                (Some(integer), _) if integer.radix() == 10 => integer.as_str(),
                (_, Some(float)) => float.as_str(),
                (_, None) => return None,
            },
            Value::Word(word) => word.to_str()?,
        };
        digits.parse().ok()
    }

    /// True or false; a word may also be `1` or `0`.
    pub(crate) fn flag(&self) -> Option<bool> {
        match self {
            Value::Toml(value) => value.as_bool(),
            Value::Word(word) => match word.to_str()? {
                "true" | "1" => Some(true),
                "false" | "0" => Some(false),
                _ => None,
            },
        }
    }

    /// The elements of a list.
    pub(crate) fn list(&self) -> Option<Vec<Value<'_>>> {
        match self {
            Value::Toml(value) => {
                let elements = value.as_array()?.iter();
                Some(elements.map(|element| Value::Toml(element.get_ref().clone())).collect())
            }
            Value::Word(_) => None,
        }
    }

    /// Octal digits, however they are quoted or prefixed.
    pub(crate) fn octal(&self) -> Option<u32> {
        let digits = match self {
            Value::Toml(DeValue::Integer(integer)) if matches!(integer.radix(), 8 | 10) => integer.as_str(),
            Value::Toml(_) | Value::Word(_) => self.text()?,
        };
        u32::from_str_radix(digits.strip_prefix("0o").unwrap_or(digits), 8).ok()
    }
}

/// The first name of a path, with its quotes if it has any.
fn first_name(path: &str) -> &str {
    let (mut is_quoted, mut is_escaped) = (false, false);
    let end = path.find(|c| {
        match (c, is_escaped) {
            (_, true) => is_escaped = false,
            ('\\', false) => is_escaped = true,
            ('"', false) => is_quoted = !is_quoted,
            (_, false) => return c == '.' && !is_quoted,
        }
        false
    });
    &path[..end.unwrap_or(path.len())]
}

/// On one line, without control characters, not longer than an error should be.
fn shorten(source: &str) -> String {
    let mut shown: String =
        source.chars().map(|c| if c.is_control() { ' ' } else { c }).take(SHOWN_CHARS_MAX).collect();
    if source.chars().nth(SHOWN_CHARS_MAX).is_some() {
        shown.push('…');
    }
    shown
}
