//! The mock LLM API that users of Apache's `mod_socket_handoff` test their daemons with, as its README documents it. In:
//! a pace. Out: a server that answers `POST /v1/chat/completions` by the header `X-Test-Pattern`, and tells its health,
//! its models and its counts. Never: reads the question.
//!
//! | pattern | answer |
//! |---|---|
//! | none, or an unknown one | 18 pieces |
//! | `unicode` | emoji, Chinese, Japanese, Korean, characters of four bytes |
//! | `short` | pieces of a byte or two |
//! | `long` | three pieces of 4 KiB |
//! | `abort:N` | N pieces (5 if N is none), and a clean end without `finish_reason` and `[DONE]` |
//! | `finish:REASON` | a whole answer with this `finish_reason` (`stop` if there is none) |

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::{Value, json};

use super::answer::Answer;
use super::book::Request;
use super::{Options, Upstream};

const PIECES: usize = 18;
const LONG_BYTES: usize = 4096;
const APPLIED: &str = "x-test-pattern-applied";

/// What a question asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Pattern {
    Default,
    Unicode,
    Short,
    Long,
    Abort(usize),
    Finish(String),
}

impl Upstream {
    /// The mock API, with this pause before each piece but the first.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn mock_api(options: Options, pause: Duration) -> Self {
        let llm = Self::with(options);
        let mut counts = Counts::default();
        llm.answer_with(move |request| answer(request, pause, &mut counts));
        llm
    }
}

#[derive(Debug, Default)]
struct Counts {
    requests: u64,
    patterns: BTreeMap<&'static str, u64>,
}

fn answer(request: &Request, pause: Duration, counts: &mut Counts) -> Answer {
    match (request.method.as_str(), request.path.as_str()) {
        ("POST", "/v1/chat/completions") => {
            let pattern = Pattern::parse(request.header("x-test-pattern"));
            counts.requests += 1;
            *counts.patterns.entry(pattern.name()).or_default() += 1;
            pattern.answer(pause)
        }
        ("GET", "/v1/models") => {
            let model =
                json!({"id": "mock-model", "object": "model", "created": 0, "owned_by": "mock-llm-api"});
            Answer::json(200, &json!({"object": "list", "data": [model]}))
        }
        ("GET", "/health") => Answer::json(200, &json!({"status": "ok"})),
        ("GET", "/stats") => {
            Answer::json(200, &json!({"requests": counts.requests, "patterns": counts.patterns}))
        }
        ("POST", "/stats/reset") => {
            *counts = Counts::default();
            Answer::json(200, &json!({"status": "ok"}))
        }
        (_, "/v1/chat/completions" | "/v1/models" | "/health" | "/stats" | "/stats/reset") => {
            Answer::new(405).whole(Vec::new())
        }
        _ => Answer::new(404).whole(Vec::new()),
    }
}

impl Pattern {
    fn parse(header: Option<&str>) -> Self {
        let header = header.unwrap_or_default().trim();
        match (header, header.split_once(':')) {
            ("unicode", _) => Self::Unicode,
            ("short", _) => Self::Short,
            ("long", _) => Self::Long,
            (_, Some(("abort", count))) => Self::Abort(count.parse().unwrap_or(5)),
            (_, Some(("finish", ""))) => Self::Finish("stop".to_owned()),
            (_, Some(("finish", reason))) => Self::Finish(reason.to_owned()),
            _ => Self::Default,
        }
    }

    fn name(&self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Unicode => "unicode",
            Self::Short => "short",
            Self::Long => "long",
            Self::Abort(_) => "abort",
            Self::Finish(_) => "finish",
        }
    }

    fn pieces(&self) -> Vec<String> {
        let numbered = |count: usize| (0..count).map(|index| format!("w{index} ")).collect();
        match self {
            Self::Default | Self::Finish(_) => numbered(PIECES),
            Self::Abort(count) => numbered(*count),
            Self::Unicode => UNICODE.iter().map(|piece| (*piece).to_owned()).collect(),
            Self::Short => SHORT.chars().map(String::from).collect(),
            Self::Long => {
                (b'a'..=b'c').map(|letter| String::from(char::from(letter)).repeat(LONG_BYTES)).collect()
            }
        }
    }

    fn answer(&self, pause: Duration) -> Answer {
        let mut answer = Answer::new(200)
            .header("content-type", "text/event-stream")
            .header("cache-control", "no-cache")
            .header("x-accel-buffering", "no");
        if *self != Self::Default {
            answer = answer.header(APPLIED, self.name());
        }
        for (index, piece) in self.pieces().into_iter().enumerate() {
            if index > 0 && !pause.is_zero() {
                answer = answer.wait(pause);
            }
            answer = answer.event(&chunk(&json!({"content": piece}), &Value::Null));
        }
        let reason = match self {
            Self::Abort(_) => return answer,
            Self::Finish(reason) => reason.as_str(),
            Self::Default | Self::Unicode | Self::Short | Self::Long => "stop",
        };
        answer.event(&chunk(&json!({}), &json!(reason))).send("data: [DONE]\n\n")
    }
}

fn chunk(delta: &Value, finish: &Value) -> Value {
    json!({
        "id": "chatcmpl-mock", "object": "chat.completion.chunk", "created": 0, "model": "mock-model",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
    })
}

/// With the characters that its users' tests look for.
const UNICODE: [&str; 12] = [
    "\u{1F600}",
    "\u{1F680}",
    "\u{2764}\u{FE0F}",
    "\u{4E2D}",
    "\u{6587}",
    "日本語",
    "한국어",
    "\u{1D400}",
    "\u{10348}",
    "👩‍💻",
    "🇨🇭",
    "e\u{301} ñ \"quoted\" \\ \n end",
];
const SHORT: &str = "One or two bytes at a time, né.";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::upstream::Protocol;

    fn body(pattern: &str) -> String {
        String::from_utf8(Pattern::parse(Some(pattern)).answer(Duration::ZERO).body()).unwrap()
    }

    #[test]
    fn each_pattern_is_what_its_users_expect() {
        for (pattern, applied) in [
            ("", None),
            ("unknown", None),
            ("unicode", Some("unicode")),
            ("short", Some("short")),
            ("long", Some("long")),
            ("finish:length", Some("finish")),
            ("abort:3", Some("abort")),
        ] {
            let answer = Pattern::parse(Some(pattern)).answer(Duration::ZERO);
            let header = answer.headers.iter().find(|(name, _)| name == APPLIED);
            assert_eq!(header.map(|(_, value)| value.as_str()), applied, "{pattern}");
            let body = body(pattern);
            assert!(body.lines().all(|line| line.is_empty() || line.starts_with("data: ")), "{body}");
            assert_eq!(body.ends_with("data: [DONE]\n\n"), applied != Some("abort"), "{body}");
        }
        assert!(["😀", "🚀", "中", "文", "𝐀"].iter().all(|text| body("unicode").contains(text)));
        assert_eq!(body("abort:3").matches("data: ").count(), 3);
        assert_eq!(body("abort:x").matches("data: ").count(), 5);
        assert_eq!(body("abort:0"), "");
        assert!(!body("abort:3").contains("\"stop\""));
        assert!(body("finish:length").contains("\"finish_reason\":\"length\""));
        assert!(body("finish:").contains("\"finish_reason\":\"stop\""));
        assert!(
            Pattern::Short.pieces().iter().all(|piece| piece.len() <= 2)
                && Pattern::Short.pieces().len() > 10
        );
        assert_eq!(Pattern::Long.pieces().iter().map(String::len).collect::<Vec<_>>(), [LONG_BYTES; 3]);
    }

    #[test]
    fn it_tells_its_health_its_models_and_what_was_asked() {
        use std::io::{Read, Write};
        let llm = Upstream::mock_api(Options::new(Protocol::H1AndH2c), Duration::ZERO);
        let ask = |line: &str, header: &str| {
            let mut stream = std::net::TcpStream::connect(llm.address()).unwrap();
            write!(stream, "{line} HTTP/1.1\r\nhost: x\r\nconnection: close\r\n{header}\r\n").unwrap();
            let mut text = String::new();
            stream.read_to_string(&mut text).unwrap();
            text
        };
        let chat = ask("POST /v1/chat/completions", "X-Test-Pattern: finish:length\r\n");
        assert!(chat.contains("x-test-pattern-applied: finish\r\n") && chat.contains("\"length\""), "{chat}");
        assert!(ask("GET /stats", "").ends_with(r#"{"patterns":{"finish":1},"requests":1}"#));
        assert!(ask("POST /stats/reset", "").starts_with("HTTP/1.1 200 "));
        assert!(ask("GET /stats", "").ends_with(r#"{"patterns":{},"requests":0}"#));
        assert!(ask("GET /health", "").ends_with(r#"{"status":"ok"}"#));
        assert!(ask("GET /v1/models", "").contains("mock-model"));
        assert!(ask("GET /stats/reset", "").starts_with("HTTP/1.1 405 "));
        assert!(ask("GET /nothing", "").starts_with("HTTP/1.1 404 "));
    }
}
