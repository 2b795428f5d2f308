//! The body of a call, written out of raw values. In: what the dialect wants to say, and the request's `extra_body`.
//! Out: JSON. Never: parses a value into a tree, reorders or rounds what passes through.

use std::fmt;

use serde::Serialize;
use serde::de::{Deserializer as _, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::json;

/// An object that is being written. What `extra_body` says of a member wins; `null` there leaves the member out.
#[derive(Debug)]
pub(super) struct Body<'a> {
    out: Vec<u8>,
    /// What was not written yet.
    extra: Members<'a>,
}

/// Members of an object, in their order; of duplicates the last one counts.
#[derive(Debug, Default)]
pub(super) struct Members<'a>(Vec<(String, &'a RawValue)>);

impl<'a> Body<'a> {
    pub(super) fn new(extra_body: Option<&'a RawValue>) -> Self {
        Self { out: b"{".to_vec(), extra: extra_body.map(Members::of).unwrap_or_default() }
    }

    /// One that nobody may change.
    pub(super) fn fixed(&mut self, name: &str, value: &impl Serialize) {
        self.extra.take(name);
        self.write(name, value);
    }

    pub(super) fn member(&mut self, name: &str, value: &impl Serialize) {
        match self.extra.take(name) {
            Some(theirs) if is_null(theirs) => {}
            Some(theirs) => self.write(name, &theirs),
            None => self.write(name, value),
        }
    }

    /// One whose value has what `extra_body` says of it already; `null` there leaves it out all the same.
    pub(super) fn merged(&mut self, name: &str, value: &impl Serialize) {
        if !self.extra.take(name).is_some_and(is_null) {
            self.write(name, value);
        }
    }

    pub(super) fn optional(&mut self, name: &str, value: Option<&impl Serialize>) {
        if let Some(value) = value {
            self.member(name, value);
        }
    }

    /// `extra_body` has this member, and it is not yet written.
    pub(super) fn extra(&self, name: &str) -> Option<&'a RawValue> {
        self.extra.get(name)
    }

    /// With the rest of `extra_body`, its nulls too.
    pub(super) fn end(mut self) -> Vec<u8> {
        for (name, value) in std::mem::take(&mut self.extra.0) {
            self.write(&name, &value);
        }
        self.out.push(b'}');
        self.out
    }

    fn write(&mut self, name: &str, value: &impl Serialize) {
        if self.out.len() > 1 {
            self.out.push(b',');
        }
        json::write(&mut self.out, &name);
        self.out.push(b':');
        json::write(&mut self.out, value);
    }
}

impl<'a> Members<'a> {
    /// Those of an object; of anything else none.
    pub(super) fn of(object: &'a RawValue) -> Self {
        serde_json::Deserializer::from_str(object.get()).deserialize_map(Reader).unwrap_or_default()
    }

    pub(super) fn get(&self, name: &str) -> Option<&'a RawValue> {
        self.0.iter().rfind(|(known, _)| known == name).map(|(_, value)| *value)
    }

    /// Its text, where it is one.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        serde_json::from_str(self.get(name)?.get()).ok()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (&str, &'a RawValue)> {
        self.0.iter().map(|(name, value)| (name.as_str(), *value))
    }

    fn take(&mut self, name: &str) -> Option<&'a RawValue> {
        let value = self.get(name)?;
        self.0.retain(|(known, _)| known != name);
        Some(value)
    }
}

fn is_null(value: &RawValue) -> bool {
    value.get() == "null"
}

struct Reader;

impl<'de> Visitor<'de> for Reader {
    type Value = Members<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Self::Value, M::Error> {
        let mut members = Members::default();
        while let Some((name, value)) = map.next_entry::<String, &RawValue>()? {
            members.0.push((name, value));
        }
        Ok(members)
    }
}
