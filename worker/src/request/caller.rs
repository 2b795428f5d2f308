//! Who asks, for the log and for a refusal. In: what Apache says of the client's request, else the payload. Out: short
//! texts that can stand in a line.
//! Never: a query, which may be the question; a control character; a header that nobody has configured.

use std::collections::BTreeMap;

use super::envelope::Envelope;
use super::{ChatRequest, Method, envelope, trim};

/// Of one value, in characters.
const VALUE_CHARS_MAX: usize = 256;
/// Of a client's address, a method, a protocol's version.
const WORD_CHARS_MAX: usize = 64;

/// What is known of a client, also where its payload makes no sense.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Caller {
    /// As the payload calls the request, else as Apache does: visible ASCII.
    pub request_id: Option<String>,
    /// Whether an answer has a body.
    pub method: Method,
    /// What a line in the log says of it.
    pub said: Said,
}

/// What a line in the log says of a client. Absent is what nobody has said.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Said {
    /// Its address.
    pub client: Option<String>,
    /// Of its request.
    pub method: Option<String>,
    /// Of its request, without the query.
    pub path: Option<String>,
    /// `HTTP/1.1`.
    pub proto: Option<String>,
    /// It came by TLS.
    pub tls: Option<bool>,
    /// Apache passes the answer on.
    pub relay: Option<bool>,
    /// Those of its headers that are to be logged: a JSON object.
    pub request_headers: Option<String>,
}

impl Caller {
    /// Of a message whose payload nobody need understand. `logged`: names of headers, in lower case.
    #[must_use]
    pub fn of_message(message: &[u8], logged: &[String]) -> Self {
        match envelope::split(trim(message)) {
            Ok((Some(envelope), _)) => Self::of_envelope(&envelope, logged),
            Ok((None, _)) | Err(_) => Self::default(),
        }
    }

    /// Of a request that makes sense. `logged`: names of headers, in lower case.
    #[must_use]
    pub fn of(request: &ChatRequest, logged: &[String]) -> Self {
        let request_id = request.request_id.clone();
        if let Some(envelope) = &request.envelope {
            return Self { request_id, ..Self::of_envelope(envelope, logged) };
        }
        let origin = |name: &str| request.origin.as_deref().filter(|_| name == "origin");
        let said = Said {
            client: word(request.client_ip.as_deref()),
            method: (request.method == Method::Head).then(|| "HEAD".to_owned()),
            proto: word(request.proto.as_deref()),
            request_headers: headers(logged, origin),
            ..Said::default()
        };
        Self { request_id, method: request.method, said }
    }

    fn of_envelope(envelope: &Envelope, logged: &[String]) -> Self {
        let path = envelope.uri.as_deref().and_then(|uri| uri.split(['?', '#']).next());
        let said = Said {
            client: word(envelope.client.as_deref()),
            method: word(envelope.method.as_deref()),
            path: path.map(|path| clean(path, VALUE_CHARS_MAX)),
            proto: word(envelope.proto.as_deref()),
            tls: Some(envelope.tls),
            relay: Some(envelope.relay),
            request_headers: headers(logged, |name| envelope.header(name)),
        };
        Self { request_id: envelope.request_id.clone(), method: envelope.method(), said }
    }
}

fn word(text: Option<&str>) -> Option<String> {
    text.map(|text| clean(text, WORD_CHARS_MAX))
}

fn headers<'a>(logged: &[String], value: impl Fn(&str) -> Option<&'a str>) -> Option<String> {
    let shown: BTreeMap<&str, String> = logged
        .iter()
        .filter_map(|name| Some((name.as_str(), clean(value(name)?, VALUE_CHARS_MAX))))
        .collect();
    if shown.is_empty() { None } else { serde_json::to_string(&shown).ok() }
}

/// Without what moves a terminal's cursor, ends a line or turns the direction of reading.
fn clean(text: &str, chars_max: usize) -> String {
    let is_shown = |c: &char| {
        !c.is_control()
            && !matches!(c, '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200e}' | '\u{200f}' | '\u{61c}')
    };
    text.chars().filter(is_shown).take(chars_max).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request::parse;

    fn said(message: &str, logged: &[&str]) -> Said {
        let logged: Vec<String> = logged.iter().map(|name| (*name).to_owned()).collect();
        Caller::of(&parse(message.as_bytes()).unwrap(), &logged).said
    }

    #[test]
    fn the_query_is_never_part_of_it() {
        for uri in ["/chat.php?q=secret", "/chat.php#secret", "/chat.php?a?secret#secret", "/chat.php"] {
            let message = format!("\x01{{\"v\":1,\"uri\":\"{uri}\"}}\n{{\"prompt\":\"hi\"}}");
            assert_eq!(said(&message, &[]).path.as_deref(), Some("/chat.php"));
        }
    }

    #[test]
    fn values_are_short_and_without_control_characters() {
        let long = "x".repeat(1000);
        let message = format!(
            "\x01{{\"v\":1,\"client\":\"1.2.3.4\\u001b[2J\\n\",\"method\":\"{long}\",\"uri\":\"/a\\u0007{long}\",\
             \"headers\":[[\"user-agent\",\"{long}\"]]}}\n{{\"prompt\":\"hi\"}}"
        );
        let said = said(&message, &["user-agent"]);
        assert_eq!(said.client.as_deref(), Some("1.2.3.4[2J"));
        assert_eq!(said.method.unwrap().len(), WORD_CHARS_MAX);
        assert!(said.path.is_some_and(|path| path.starts_with("/ax") && path.len() == VALUE_CHARS_MAX));
        let headers = format!("{{\"user-agent\":\"{}\"}}", &long[..VALUE_CHARS_MAX]);
        assert_eq!(said.request_headers, Some(headers));
    }

    #[test]
    fn nothing_turns_the_direction_of_reading() {
        // Unicode 16, Bidi_Control, and the two separators.
        let odd = "\u{61c}\u{200e}\u{200f}\u{202a}\u{202b}\u{202c}\u{202d}\u{202e}\u{2028}\u{2029}\
                   \u{2066}\u{2067}\u{2068}\u{2069}";
        for odd in odd.chars() {
            assert_eq!(clean(&format!("a{odd}b"), 9), "ab", "{odd:?}");
        }
        assert_eq!(clean("grüße, 你好 \u{1f600}", 99), "grüße, 你好 \u{1f600}");
    }

    #[test]
    fn only_configured_headers_are_told() {
        let message = "\x01{\"v\":1,\"headers\":[[\"User-Agent\",\"a\"],[\"Cookie\",\"secret\"],[\"origin\",\"o\"]]}\n\
                       {\"prompt\":\"hi\"}";
        assert_eq!(said(message, &[]).request_headers, None);
        let headers = said(message, &["user-agent", "referer", "origin"]).request_headers;
        assert_eq!(headers.as_deref(), Some(r#"{"origin":"o","user-agent":"a"}"#));
    }

    #[test]
    fn without_an_envelope_it_is_what_the_payload_says() {
        let payload =
            r#"{"prompt":"hi","client_ip":"::1","proto":"HTTP/2","origin":"https://a","method":"HEAD"}"#;
        let said = said(payload, &["origin", "user-agent"]);
        let text = |value: &str| Some(value.to_owned());
        let expected = Said {
            client: text("::1"),
            method: text("HEAD"),
            proto: text("HTTP/2"),
            request_headers: text(r#"{"origin":"https://a"}"#),
            ..Said::default()
        };
        assert_eq!(said, expected);
    }

    #[test]
    fn a_client_is_known_also_where_its_payload_makes_no_sense() {
        let message =
            b"\x01{\"v\":1,\"method\":\"HEAD\",\"request_id\":\"a-1\",\"client\":\"::1\"}\nnonsense";
        let caller = Caller::of_message(message, &[]);
        assert_eq!((caller.method, caller.request_id.as_deref()), (Method::Head, Some("a-1")));
        assert_eq!(caller.said.client.as_deref(), Some("::1"));
        assert_eq!(Caller::of_message(b"nonsense", &[]), Caller::default());
    }
}
