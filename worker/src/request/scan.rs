//! Steps through JSON that was read as a whole before. In: an array or an object. Out: slices of it.
//! Never: checks anything, recurses, looks into a value. What is no JSON gives slices without a meaning, and ends.

use memchr::memchr;

/// The items of an array; of an object its names, with their quotes, and its values in turn.
pub(super) struct Items<'a> {
    json: &'a str,
    /// Where the next one is looked for.
    at: usize,
}

impl<'a> Items<'a> {
    /// Of an array or object without white space around it.
    pub(super) fn of(json: &'a str) -> Self {
        Self { json, at: 1 }
    }

    fn peek(&self) -> Option<u8> {
        self.json.as_bytes().get(self.at).copied()
    }

    /// A quote ends a string unless it is escaped: behind an odd number of backslashes.
    fn skip_string(&mut self) {
        self.at += 1;
        while let Some(rest) = self.json.as_bytes().get(self.at..)
            && let Some(found) = memchr(b'"', rest)
        {
            self.at += found + 1;
            let backslashes = rest[..found].iter().rev().take_while(|byte| **byte == b'\\').count();
            if backslashes % 2 == 0 {
                return;
            }
        }
        self.at = self.json.len();
    }

    /// To behind the bracket that closes the one which is here.
    fn skip_nested(&mut self) {
        let mut depth = 0usize;
        while let Some(byte) = self.peek() {
            match byte {
                b'"' => {
                    self.skip_string();
                    continue;
                }
                b'[' | b'{' => depth += 1,
                b']' | b'}' => depth = depth.saturating_sub(1),
                _ => {}
            }
            self.at += 1;
            if depth == 0 {
                return;
            }
        }
    }

    fn skip_literal(&mut self) {
        while let Some(byte) = self.peek()
            && !matches!(byte, b',' | b':' | b']' | b'}' | b' ' | b'\t' | b'\n' | b'\r')
        {
            self.at += 1;
        }
    }
}

impl<'a> Iterator for Items<'a> {
    type Item = &'a str;

    fn next(&mut self) -> Option<&'a str> {
        while let b',' | b':' | b' ' | b'\t' | b'\n' | b'\r' = self.peek()? {
            self.at += 1;
        }
        let begin = self.at;
        match self.peek()? {
            b'"' => self.skip_string(),
            b'[' | b'{' => self.skip_nested(),
            b']' | b'}' => return None,
            _ => self.skip_literal(),
        }
        self.json.get(begin..self.at)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn items(json: &str) -> Vec<&str> {
        Items::of(json).collect()
    }

    fn read(json: &str) -> Value {
        serde_json::from_str(json).unwrap()
    }

    #[test]
    fn values_are_cut_out_as_they_are() {
        assert_eq!(items("[]"), [""; 0]);
        assert_eq!(
            items("[ 1 ,\n\"a,]\\\"\\\\\" , [ [ ] , \"]\" ],null,{\"}\":{}} ]"),
            ["1", "\"a,]\\\"\\\\\"", "[ [ ] , \"]\" ]", "null", "{\"}\":{}}"]
        );
        assert_eq!(items("{\"a\" : 1.5e3,\"\\u0062\":[true]}"), ["\"a\"", "1.5e3", "\"\\u0062\"", "[true]"]);
    }

    fn value() -> impl Strategy<Value = Value> {
        let scalar = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<f64>().prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        scalar.prop_recursive(4, 32, 6, |inner| {
            let object = proptest::collection::vec((any::<String>(), inner.clone()), 0..6);
            prop_oneof![
                proptest::collection::vec(inner, 0..6).prop_map(Value::from),
                object.prop_map(|entries| Value::Object(entries.into_iter().collect())),
            ]
        })
    }

    proptest! {
        #[test]
        fn the_items_of_any_array_are_its_items(values in proptest::collection::vec(value(), 0..6), pretty: bool) {
            let array = Value::from(values);
            let json = if pretty { format!("{array:#}") } else { array.to_string() };
            let items: Vec<Value> = items(&json).into_iter().map(read).collect();
            prop_assert_eq!(Value::from(items), read(&json));
        }

        #[test]
        fn the_items_of_any_object_are_its_names_and_values(
            entries in proptest::collection::btree_map(any::<String>(), value(), 0..6), pretty: bool,
        ) {
            let object = Value::Object(entries.into_iter().collect());
            let json = if pretty { format!("{object:#}") } else { object.to_string() };
            let Value::Object(object) = read(&json) else { unreachable!() };
            let items: Vec<Value> = items(&json).into_iter().map(read).collect();
            let entries: Vec<Value> = object.into_iter().flat_map(|(name, value)| [Value::from(name), value]).collect();
            prop_assert_eq!(items, entries);
        }

        #[test]
        fn any_text_at_all_comes_to_an_end(text in "[\\[\\]{}\",:\\\\ a1é]{0,40}") {
            prop_assert!(items(&text).len() <= text.len());
        }
    }
}
