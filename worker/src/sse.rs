//! Writes server-sent events at the end of a buffer. An event is its fields in order: [`id`] and [`name`],
//! where it has them, then [`text`] or [`json`], which also ends it.
//! Never: lets a CR or LF of a value into a line, allocates for an event.

use memchr::memchr2;
use serde::Serialize;

use crate::json;

/// A comment that no client sees.
pub const KEEP_ALIVE: &[u8] = b": keep-alive\n\n";

/// `id: PREFIX:SUFFIX`.
pub fn id(out: &mut Vec<u8>, prefix: &str, suffix: &str) {
    out.extend_from_slice(b"id: ");
    if prefix.bytes().any(|byte| byte.is_ascii_control()) {
        out.extend(prefix.bytes().filter(|byte| !byte.is_ascii_control()));
    } else {
        out.extend_from_slice(prefix.as_bytes());
    }
    out.push(b':');
    out.extend_from_slice(suffix.as_bytes());
    out.push(b'\n');
}

/// `event: NAME`.
pub fn name(out: &mut Vec<u8>, name: &'static str) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.push(b'\n');
}

/// The data as it is; a line break in it, of whichever kind, becomes a further `data:` line.
pub fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(DATA);
    lines(out, text.as_bytes());
    out.extend_from_slice(b"\n\n");
}

/// The data as JSON.
pub fn json(out: &mut Vec<u8>, value: &impl Serialize) {
    out.extend_from_slice(DATA);
    let begin = out.len();
    json::write(&mut *out, value);
    // Only raw values inside may be spread over lines; a break there is only white space.
    if memchr2(b'\r', b'\n', &out[begin..]).is_some() {
        let json = out.split_off(begin);
        lines(out, &json);
    }
    out.extend_from_slice(b"\n\n");
}

const DATA: &[u8] = b"data: ";

/// Each line break begins a further `data:` line.
fn lines(out: &mut Vec<u8>, mut text: &[u8]) {
    while let Some(end) = memchr2(b'\r', b'\n', text) {
        out.extend_from_slice(&text[..end]);
        out.push(b'\n');
        out.extend_from_slice(DATA);
        let length = if text[end..].starts_with(b"\r\n") { 2 } else { 1 };
        text = &text[end + length..];
    }
    out.extend_from_slice(text);
}

#[cfg(test)]
pub(crate) mod reader {
    //! Reads events as a browser does, for tests.

    /// One dispatched event.
    #[derive(Clone, Debug, Default, PartialEq, Eq)]
    pub(crate) struct Seen {
        pub(crate) id: Option<String>,
        pub(crate) name: Option<String>,
        pub(crate) data: String,
    }

    /// The events of a whole stream; an unfinished one at its end is discarded.
    pub(crate) fn read(stream: &[u8]) -> Vec<Seen> {
        let stream = std::str::from_utf8(stream).unwrap().replace("\r\n", "\n").replace('\r', "\n");
        let mut events = Vec::new();
        let mut blocks: Vec<&str> = stream.split("\n\n").collect();
        blocks.pop();
        for block in blocks {
            let mut event = Seen::default();
            let mut data = Vec::new();
            for line in block.split('\n') {
                let (field, value) = line.split_once(':').unwrap_or((line, ""));
                let value = value.strip_prefix(' ').unwrap_or(value);
                match field {
                    "id" => event.id = Some(value.to_owned()),
                    "event" => event.name = Some(value.to_owned()),
                    "data" => data.push(value),
                    _ => {}
                }
            }
            event.data = data.join("\n");
            if !event.data.is_empty() {
                events.push(event);
            }
        }
        events
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn every_kind_of_line_break_becomes_a_further_data_line() {
        let mut out = Vec::new();
        text(&mut out, "a\nb\rc\r\nd\n\re");
        assert_eq!(out, b"data: a\ndata: b\ndata: c\ndata: d\ndata: \ndata: e\n\n");
    }

    #[test]
    fn raw_json_over_several_lines_stays_one_event() {
        let raw = RawValue::from_string("{\n\"a\":\r\n1}".to_owned()).unwrap();
        let mut out = Vec::new();
        json(&mut out, &raw);
        assert_eq!(out, b"data: {\ndata: \"a\":\ndata: 1}\n\n");
    }

    #[test]
    fn an_id_cannot_end_its_line() {
        let mut out = Vec::new();
        id(&mut out, "a\r\nevent: done\0", "3");
        assert_eq!(out, b"id: aevent: done:3\n");
    }

    proptest! {
        #[test]
        fn any_text_is_read_back_with_its_breaks_as_newlines(pieces: Vec<(String, bool, bool)>) {
            let mut source = "x".to_owned();
            for (piece, cr, lf) in &pieces {
                source.push_str(piece);
                source.push_str(if *cr { "\r" } else { "" });
                source.push_str(if *lf { "\n" } else { "" });
            }
            let mut out = Vec::new();
            text(&mut out, &source);
            let seen = reader::read(&out);
            prop_assert_eq!(seen.len(), 1);
            prop_assert_eq!(&seen[0].data, &source.replace("\r\n", "\n").replace('\r', "\n"));
        }
    }
}
