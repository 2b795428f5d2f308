//! JSON kept raw. In: text. Out: slices of it, sorted by key and by type.
//! Never: recurses (what is not asked for is skipped, however deep), keeps more than the caller's bound,
//! copies a value.

use std::fmt;

use serde::Deserializer as _;
use serde::de::{Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

/// Items of one array at most, which no conversation needs.
pub(super) const LIST_ITEMS_MAX: usize = 10_000;

/// One value, its type known from its first byte and its content unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Value<'a> {
    /// `null`, or the key is absent.
    Null,
    Bool(bool),
    /// The literal.
    Number(&'a str),
    /// With its quotes; [`decode`] reads it.
    Text(&'a str),
    Array(&'a str),
    Object(&'a str),
}

impl<'a> Value<'a> {
    pub(super) fn of(raw: &'a RawValue) -> Self {
        let json = raw.get();
        match json.as_bytes().first() {
            None | Some(b'n') => Self::Null,
            Some(b't') => Self::Bool(true),
            Some(b'f') => Self::Bool(false),
            Some(b'"') => Self::Text(json),
            Some(b'[') => Self::Array(json),
            Some(b'{') => Self::Object(json),
            Some(_) => Self::Number(json),
        }
    }

    pub(super) fn is_null(self) -> bool {
        self == Self::Null
    }
}

/// The text of a [`Value::Text`]; none when an escape in it is half a character.
pub(super) fn decode(json: &str) -> Option<String> {
    serde_json::from_str(json).ok()
}

/// The items of a [`Value::Array`]; none when they are more than [`LIST_ITEMS_MAX`].
pub(super) fn list(json: &str) -> Option<Vec<&RawValue>> {
    serde_json::Deserializer::from_str(json).deserialize_seq(Items).ok()
}

/// The entries of one object. Of duplicate keys the last wins.
pub(super) struct Object<'a> {
    /// The way to this object, for errors: empty for the payload, else `key.`.
    path: &'static str,
    entries: Vec<(String, &'a RawValue)>,
}

/// Which entries are kept.
#[derive(Clone, Copy)]
pub(super) enum Keys {
    /// These; the others are ignored.
    Only(&'static [&'static str]),
    /// All; more of them are an error.
    AtMost(usize),
}

impl<'a> Object<'a> {
    pub(super) fn read(path: &'static str, json: &'a str, keys: Keys) -> Result<Self, serde_json::Error> {
        let mut deserializer = serde_json::Deserializer::from_str(json);
        let entries = deserializer.deserialize_map(Entries(keys))?;
        deserializer.end()?;
        Ok(Self { path, entries })
    }

    /// Without entries.
    pub(super) fn empty(path: &'static str) -> Self {
        Self { path, entries: Vec::new() }
    }

    /// Takes over what is missing here, but for these keys.
    pub(super) fn fill_from(&mut self, other: &Object<'a>, but: &[&str]) {
        for (name, raw) in &other.entries {
            if self.value(name).is_null() && !but.contains(&name.as_str()) {
                self.entries.retain(|(known, _)| known != name);
                self.entries.push((name.clone(), *raw));
            }
        }
    }

    pub(super) fn value(&self, key: &str) -> Value<'a> {
        self.entries.iter().find(|(name, _)| name == key).map_or(Value::Null, |(_, raw)| Value::of(raw))
    }

    /// The key with its way from the payload's root.
    pub(super) fn path_of(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// In the order of their first appearance.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, Value<'a>)> {
        self.entries.iter().map(|(name, raw)| (name.as_str(), Value::of(raw)))
    }
}

struct Entries(Keys);

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut entries: Self::Value = Vec::new();
        while let Some(name) = map.next_key::<String>()? {
            if let Keys::Only(names) = self.0
                && !names.contains(&name.as_str())
            {
                map.next_value::<IgnoredAny>()?;
                continue;
            }
            let raw = map.next_value()?;
            if let Some(earlier) = entries.iter_mut().find(|(known, _)| *known == name) {
                earlier.1 = raw;
                continue;
            }
            if let Keys::AtMost(limit) = self.0
                && entries.len() == limit
            {
                return Err(M::Error::custom("too many keys"));
            }
            entries.push((name, raw));
        }
        Ok(entries)
    }
}

struct Items;

impl<'de> Visitor<'de> for Items {
    type Value = Vec<&'de RawValue>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Self::Value, S::Error> {
        let mut items = Vec::new();
        while let Some(item) = seq.next_element()? {
            if items.len() == LIST_ITEMS_MAX {
                return Err(S::Error::custom("too many items"));
            }
            items.push(item);
        }
        Ok(items)
    }
}
