//! What became of one client. In: every byte that it got, and the whole answer that was meant for it.
//! Out: a verdict. Never: gives the benefit of the doubt.

use std::fmt;
use std::io::ErrorKind;

use serde_json::Value;

/// An error begins here, as an event of a stream.
const ERROR_EVENT: &str = "data: {\"error\":";
/// How a dead worker's stream goes on: the line that was cut ends, then its event.
const AFTER_A_CUT: &str = "\n\n";
/// Of a stream in the format `events`.
const NAMED: &str = "\nevent: delta\n";
const HEAD: &str = "HTTP/1.1 ";

/// What became of one client.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// The whole answer, to the byte, and the end of the connection.
    Complete,
    /// The beginning of the answer, then one error event with this code.
    Ended(String),
    /// The whole answer, then one error event: its worker died before it could say that all was done.
    CompleteThenEnded(String),
    /// A status of its own, with this code.
    Refused(u16, String),
    /// No answer, or one that stops without a word: a broken promise.
    Lost(String),
    /// More than one answer: a broken promise.
    Twice(String),
    /// Something else than what was meant for this client: a broken promise.
    Foreign(String),
}

impl Verdict {
    /// Whether a promise is broken.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        matches!(self, Self::Lost(_) | Self::Twice(_) | Self::Foreign(_))
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Complete => f.write_str("complete"),
            Self::Ended(code) => write!(f, "begun, ended by {code}"),
            Self::CompleteThenEnded(code) => write!(f, "complete, then {code}"),
            Self::Refused(status, code) => write!(f, "{status} {code}"),
            Self::Lost(_) => f.write_str("LOST"),
            Self::Twice(_) => f.write_str("ANSWERED TWICE"),
            Self::Foreign(_) => f.write_str("NOT ITS OWN ANSWER"),
        }
    }
}

/// Compares what came with what was meant. `broken` is how the connection ended, unless by a clean EOF.
#[must_use]
pub fn judge(meant: &str, bytes: &[u8], broken: Option<ErrorKind>) -> Verdict {
    let Ok(text) = str::from_utf8(bytes) else {
        return Verdict::Foreign(format!("not UTF-8: {}", String::from_utf8_lossy(bytes)));
    };
    let heads = text.matches(HEAD).count();
    if heads > 1 {
        return Verdict::Twice(format!("{heads} heads: {text}"));
    }
    if let Some(kind) = broken {
        return Verdict::Lost(format!("{kind} after {text:?}"));
    }
    if text == meant {
        return Verdict::Complete;
    }
    if let Some(refused) = refusal(text) {
        return refused;
    }
    match text.split_once(ERROR_EVENT) {
        Some((before, event)) => ended(meant, before, event, text),
        None if meant.starts_with(text) => Verdict::Lost(format!("cut without a word: {text:?}")),
        None if text.starts_with(meant) => Verdict::Twice(format!("bytes after the end: {text:?}")),
        None => Verdict::Foreign(format!("{text:?} instead of {meant:?}")),
    }
}

/// A whole answer with a status of its own.
fn refusal(text: &str) -> Option<Verdict> {
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix(HEAD)?.split(' ').next()?.parse().ok()?;
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: "))?;
    if length.parse() != Ok(body.len()) {
        return Some(Verdict::Lost(format!("of {length} bytes {} came: {text:?}", body.len())));
    }
    Some(Verdict::Refused(status, code(body)?))
}

/// A stream with an error event in it, whose JSON begins `event` but for its first key.
fn ended(meant: &str, before: &str, event: &str, text: &str) -> Verdict {
    // Where events have names, so has this one.
    let name = if meant.contains(NAMED) { "event: error\n" } else { "" };
    let Some(before) = before.strip_suffix(name) else {
        return Verdict::Foreign(format!("an error in another format: {text:?}"));
    };
    let (json, after) = event.split_once("\n\n").unwrap_or((event, "no empty line"));
    let Some(code) = code(&format!("{{\"error\":{json}")) else {
        return Verdict::Foreign(format!("not an error: {text:?}"));
    };
    if !after.is_empty() {
        return Verdict::Twice(format!("an error event is not the end: {text:?}"));
    }
    let begun = before.strip_suffix(AFTER_A_CUT).filter(|begun| meant.starts_with(begun)).unwrap_or(before);
    match meant.strip_prefix(begun) {
        Some("") => Verdict::CompleteThenEnded(code),
        // The head and the first event are one write: an error event without them answers nobody.
        Some(_) if begun.is_empty() => Verdict::Foreign(format!("no head: {text:?}")),
        Some(_) => Verdict::Ended(code),
        None => Verdict::Foreign(format!("{text:?} instead of {meant:?}")),
    }
}

fn code(json: &str) -> Option<String> {
    let json: Value = serde_json::from_str(json).ok()?;
    Some(json["error"]["code"].as_str()?.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEANT: &str =
        "HTTP/1.1 200 OK\r\nX-Request-Id: a\r\n\r\nid: a:1\ndata: one\n\nid: a:2\ndata: [DONE]\n\n";
    const CRASHED: &str = "data: {\"error\":{\"code\":\"worker_crashed\"}}\n\n";

    fn verdict(text: &str) -> Verdict {
        judge(MEANT, text.as_bytes(), None)
    }

    #[test]
    fn only_the_whole_answer_is_complete() {
        assert_eq!(verdict(MEANT), Verdict::Complete);
        for cut in 0..MEANT.len() {
            assert!(matches!(verdict(&MEANT[..cut]), Verdict::Lost(_)), "{cut} bytes");
        }
        assert!(matches!(judge(MEANT, MEANT.as_bytes(), Some(ErrorKind::ConnectionReset)), Verdict::Lost(_)));
    }

    #[test]
    fn a_begun_answer_may_end_with_one_error_event_wherever_it_was_cut() {
        let head = MEANT.find("id: a:1").unwrap();
        for cut in head..MEANT.len() {
            let text = [&MEANT[..cut], "\n\n", CRASHED].concat();
            assert_eq!(verdict(&text), Verdict::Ended("worker_crashed".to_owned()), "{text:?}");
        }
        let named = MEANT.replace("a:1\n", "a:1\nevent: delta\n");
        let of = |begun: &str, name: &str| [begun, "\n\n", name, CRASHED].concat();
        let with_name = judge(&named, of(&named[..head + 30], "event: error\n").as_bytes(), None);
        assert_eq!(with_name, Verdict::Ended("worker_crashed".to_owned()));
        assert!(matches!(judge(&named, of(&named[..head + 30], "").as_bytes(), None), Verdict::Foreign(_)));
        assert!(matches!(verdict(&of(&MEANT[..head + 10], "event: error\n")), Verdict::Foreign(_)));
        let late = [MEANT, "\n\n", CRASHED].concat();
        assert_eq!(verdict(&late), Verdict::CompleteThenEnded("worker_crashed".to_owned()));
        let twice = [&MEANT[..head + 20], "\n\n", CRASHED, CRASHED].concat();
        assert!(matches!(verdict(&twice), Verdict::Twice(_)));
        assert!(matches!(verdict(&format!("\n\n{CRASHED}")), Verdict::Foreign(_)));
    }

    #[test]
    fn two_answers_are_never_one() {
        for text in [[MEANT, MEANT].concat(), [&MEANT[..60], MEANT].concat(), [MEANT, "x"].concat()] {
            assert!(matches!(verdict(&text), Verdict::Twice(_)), "{text:?}");
        }
    }

    #[test]
    fn somebody_elses_bytes_are_seen() {
        for text in [MEANT.replace("a:2", "b:2"), [&MEANT[..60], "\n\nid: b\n\n", CRASHED].concat()] {
            assert!(matches!(verdict(&text), Verdict::Foreign(_)), "{text:?}");
        }
    }

    #[test]
    fn a_refusal_is_whole_or_lost() {
        let text = "HTTP/1.1 503 Service Unavailable\r\nContent-Length: 31\r\n\r\n{\"error\":{\"code\":\"overloaded\"}}";
        assert_eq!(verdict(text), Verdict::Refused(503, "overloaded".to_owned()));
        assert!(matches!(verdict(&text[..text.len() - 1]), Verdict::Lost(_)));
    }
}
