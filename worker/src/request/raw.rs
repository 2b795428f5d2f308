//! JSON kept raw. In: text. Out: slices of it, sorted by key and by type. A payload is read once as JSON; what is inside
//! of it is only cut out from there on.
//! Never: recurses (what is not asked for is skipped, however deep), keeps more than the caller's bound,
//! copies a value.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::scan::Items;

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
    /// Of JSON without white space around it.
    pub(super) fn of(json: &'a str) -> Self {
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
    unquote(json).map(Cow::into_owned)
}

/// The items of a [`Value::Array`]; none when they are more than [`LIST_ITEMS_MAX`].
pub(super) fn list(json: &str) -> Option<Vec<&str>> {
    let items: Vec<&str> = Items::of(json).take(LIST_ITEMS_MAX + 1).collect();
    (items.len() <= LIST_ITEMS_MAX).then_some(items)
}

/// The entries of one object. Of duplicate keys the last wins.
pub(super) struct Object<'a> {
    /// The way to this object, for errors: empty for the payload, else `key.`.
    path: &'static str,
    entries: Vec<(Cow<'a, str>, &'a str)>,
    /// The entry that was to be read as a list.
    list: List<'a>,
}

/// A value that should be an array, and is passed on item by item.
#[derive(Debug, Default)]
pub(super) enum List<'a> {
    /// `null`, or the key is absent.
    #[default]
    Null,
    Of(Vec<&'a RawValue>),
    /// More than [`LIST_ITEMS_MAX`].
    TooLong,
    /// Another type.
    Other,
}

/// Which entries are kept.
#[derive(Clone, Copy)]
pub(super) enum Keys {
    /// These; the others are ignored.
    Only(&'static [&'static str]),
    /// All; more of them are too many.
    AtMost(usize),
}

impl<'a> Object<'a> {
    /// Reads a payload. Of its entries these are kept; the value of `list` is at hand as [`Self::list`].
    pub(super) fn parse(
        json: &'a str,
        names: &'static [&'static str],
        list: &'static str,
    ) -> Result<Self, serde_json::Error> {
        let parse = |list| {
            let mut deserializer = serde_json::Deserializer::from_str(json);
            let object = deserializer.deserialize_map(Entries { names, list })?;
            deserializer.end()?;
            Ok(object)
        };
        // A value may be no list, and beside that be nothing that can be read: half a character, a number without bounds.
        parse(Some(list)).or_else(|_: serde_json::Error| {
            let mut object: Self = parse(None)?;
            object.list = if object.value(list).is_null() { List::Null } else { List::Other };
            Ok(object)
        })
    }

    /// Cuts a part of a payload into its entries. None: it is no object, or not within bounds.
    pub(super) fn read(path: &'static str, json: &'a str, keys: Keys) -> Option<Self> {
        if !json.starts_with('{') {
            return None;
        }
        let mut object = Self::empty(path);
        let mut items = Items::of(json);
        while let (Some(name), Some(value)) = (items.next(), items.next()) {
            let name = unquote(name)?;
            let name = match keys {
                Keys::Only(names) => match names.iter().find(|known| **known == name) {
                    Some(known) => Cow::Borrowed(*known),
                    None => continue,
                },
                Keys::AtMost(_) => name,
            };
            object.put(name, value);
            if let Keys::AtMost(limit) = keys
                && object.entries.len() > limit
            {
                return None;
            }
        }
        Some(object)
    }

    /// Without entries.
    pub(super) fn empty(path: &'static str) -> Self {
        Self { path, entries: Vec::new(), list: List::Null }
    }

    /// Takes over what is missing here, but for these keys.
    pub(super) fn fill_from(&mut self, other: &Object<'a>, but: &[&str]) {
        for (name, json) in &other.entries {
            if self.value(name).is_null() && !but.contains(&&**name) {
                self.entries.retain(|(known, _)| known != name);
                self.entries.push((name.clone(), json));
            }
        }
    }

    pub(super) fn value(&self, key: &str) -> Value<'a> {
        self.entries.iter().find(|(name, _)| name == key).map_or(Value::Null, |(_, json)| Value::of(json))
    }

    pub(super) fn list(&self) -> &List<'a> {
        &self.list
    }

    /// The key with its way from the payload's root.
    pub(super) fn path_of(&self, key: &str) -> String {
        format!("{}{key}", self.path)
    }

    /// In the order of their first appearance.
    pub(super) fn entries(&self) -> impl Iterator<Item = (&str, Value<'a>)> {
        self.entries.iter().map(|(name, json)| (&**name, Value::of(json)))
    }

    fn put(&mut self, name: Cow<'a, str>, json: &'a str) {
        match self.entries.iter_mut().find(|(known, _)| *known == name) {
            Some(earlier) => earlier.1 = json,
            None => self.entries.push((name, json)),
        }
    }
}

/// What is between the quotes; none when an escape in it is half a character.
pub(super) fn unquote(json: &str) -> Option<Cow<'_, str>> {
    match json.strip_prefix('"')?.strip_suffix('"')? {
        text if text.contains('\\') => serde_json::from_str(json).map(Cow::Owned).ok(),
        text => Some(Cow::Borrowed(text)),
    }
}

struct Entries {
    names: &'static [&'static str],
    /// Whose value is read as a list.
    list: Option<&'static str>,
}

impl<'de> Visitor<'de> for Entries {
    type Value = Object<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        #[derive(serde::Deserialize)]
        struct Name<'a>(#[serde(borrow)] Cow<'a, str>);

        let mut object = Object::empty("");
        while let Some(Name(name)) = map.next_key()? {
            match self.names.iter().find(|known| **known == name) {
                Some(known) if self.list == Some(known) => object.list = map.next_value()?,
                Some(known) => object.put(Cow::Borrowed(known), map.next_value::<&RawValue>()?.get()),
                None => _ = map.next_value::<IgnoredAny>()?,
            }
        }
        Ok(object)
    }
}

impl<'de> Deserialize<'de> for List<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ListReader)
    }
}

struct ListReader;

impl<'de> Visitor<'de> for ListReader {
    type Value = List<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array or null")
    }

    fn visit_unit<E>(self) -> Result<List<'de>, E> {
        Ok(List::Null)
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<List<'de>, S::Error> {
        let mut items = Vec::new();
        while items.len() < LIST_ITEMS_MAX {
            match seq.next_element()? {
                Some(item) => items.push(item),
                None => return Ok(List::Of(items)),
            }
        }
        match seq.next_element::<IgnoredAny>()? {
            Some(_) => while seq.next_element::<IgnoredAny>()?.is_some() {},
            None => return Ok(List::Of(items)),
        }
        Ok(List::TooLong)
    }
}
