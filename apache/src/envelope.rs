//! What the daemon is told about the request: one byte, one line of JSON, a newline. The payload follows.
//! Never: larger than [`BYTES_MAX`], whatever the client has sent.

use serde::Serialize;

/// No JSON begins with it, so a message without an envelope is never taken for one.
const MARK: u8 = 0x01;
const VERSION: u32 = 1;
/// Path and query, in bytes.
const URI_BYTES_MAX: usize = 8 * 1024;
/// Names and values of all forwarded headers together, in bytes; JSON may take six times as many.
const HEADERS_BYTES_MAX: usize = 8 * 1024;
/// Each of the other texts, in bytes.
const TEXT_BYTES_MAX: usize = 256;
/// The largest envelope.
pub(crate) const BYTES_MAX: usize = 128 * 1024;
const HEADERS_MAX: usize = 64;
const _: () = assert!(
    6 * (URI_BYTES_MAX + HEADERS_BYTES_MAX + 4 * TEXT_BYTES_MAX) + 16 * HEADERS_MAX + 256 < BYTES_MAX
);

/// One request, as Apache knows it.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Envelope {
    pub(crate) request_id: String,
    pub(crate) method: String,
    pub(crate) uri: String,
    pub(crate) proto: String,
    pub(crate) client: String,
    pub(crate) tls: bool,
    pub(crate) relay: bool,
    pub(crate) headers: Vec<(String, String)>,
}

#[derive(Serialize)]
struct Versioned<'a> {
    v: u32,
    #[serde(flatten)]
    envelope: &'a Envelope,
}

impl Envelope {
    /// As bytes, the newline included.
    pub(crate) fn bytes(mut self) -> Vec<u8> {
        cut(&mut self.uri, URI_BYTES_MAX);
        for text in [&mut self.request_id, &mut self.method, &mut self.proto, &mut self.client] {
            cut(text, TEXT_BYTES_MAX);
        }
        let mut room = HEADERS_BYTES_MAX;
        // A header that does not fit is left out whole: half of one would be another one.
        self.headers.retain(|(name, value)| {
            let rest = room.checked_sub(name.len() + value.len());
            room = rest.unwrap_or(room);
            rest.is_some()
        });
        self.headers.truncate(HEADERS_MAX);
        let mut bytes = vec![MARK];
        // Texts and numbers alone: there is nothing that JSON could not say.
        bytes.extend(serde_json::to_vec(&Versioned { v: VERSION, envelope: &self }).unwrap_or_default());
        bytes.push(b'\n');
        bytes
    }
}

fn cut(text: &mut String, bytes_max: usize) {
    let end = (0..=bytes_max.min(text.len())).rev().find(|end| text.is_char_boundary(*end));
    text.truncate(end.unwrap_or(0));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_envelope_is_one_line_behind_its_mark() {
        let envelope = Envelope {
            request_id: "r1".into(),
            method: "GET".into(),
            uri: "/chat.php?q=1".into(),
            proto: "HTTP/1.1".into(),
            client: "203.0.113.9".into(),
            headers: vec![("last-event-id".into(), "7\n8".into())],
            ..Envelope::default()
        };
        let expected = "\u{1}{\"v\":1,\"request_id\":\"r1\",\"method\":\"GET\",\"uri\":\"/chat.php?q=1\",\
            \"proto\":\"HTTP/1.1\",\"client\":\"203.0.113.9\",\"tls\":false,\"relay\":false,\
            \"headers\":[[\"last-event-id\",\"7\\n8\"]]}\n";
        assert_eq!(String::from_utf8(envelope.bytes()).unwrap(), expected);
    }

    #[test]
    fn whatever_a_client_sends_the_envelope_stays_small() {
        let envelope = Envelope {
            uri: "\u{1}".repeat(100_000),
            client: "é".repeat(1000),
            headers: vec![
                ("a".into(), "\u{1}".repeat(HEADERS_BYTES_MAX - 1)),
                ("b".into(), "x".into()),
                ("c".into(), "y".repeat(100_000)),
            ],
            ..Envelope::default()
        };
        let bytes = envelope.bytes();
        assert!(bytes.len() < BYTES_MAX, "{} bytes", bytes.len());
        let json: serde_json::Value = serde_json::from_slice(&bytes[1..]).unwrap();
        assert_eq!(json["headers"].as_array().unwrap().len(), 1);
    }
}
