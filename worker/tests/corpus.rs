//! Recorded answers of each dialect, made from the formats that their makers document, and the events in them.
//!
//! `corpus/DIALECT/NAME.sse` (or `.ndjson`) is a body, `NAME.expected` what becomes of it: a line for each of its events
//! with what [`Verdict`] says, the events in no dialect below it, and how it ends. `CORPUS_WRITE=1` writes what is
//! missing; read it before you keep it.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::fmt::Write as _;
use std::num::NonZeroU32;
use std::path::{Path, PathBuf};

use handoff_config::backend::{Anthropic, Dialect, LangGraph};
use handoff_worker::event::Event;
use handoff_worker::upstream::dialect::{Decoder, Pass, Verdict, Wishes, framing};
use handoff_worker::upstream::event_reader::{EventReader, RawEvent};
use handoff_worker::upstream::trouble::Trouble;
use proptest::prelude::*;

const BYTES_MAX: usize = 16 << 20;

struct Answer {
    path: PathBuf,
    dialect: Dialect,
    body: Vec<u8>,
}

/// All of them.
fn answers() -> Vec<Answer> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut answers = Vec::new();
    for directory in std::fs::read_dir(corpus).unwrap().map(|entry| entry.unwrap().path()) {
        let dialect = dialect(directory.file_name().unwrap().to_str().unwrap());
        for path in std::fs::read_dir(&directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.extension().is_some_and(|extension| extension == "sse" || extension == "ndjson") {
                answers.push(Answer { body: std::fs::read(&path).unwrap(), dialect: dialect.clone(), path });
            }
        }
    }
    assert!(!answers.is_empty());
    answers
}

fn dialect(name: &str) -> Dialect {
    match name {
        "openai" => Dialect::OpenAi,
        "responses" => Dialect::Responses,
        "anthropic" => Dialect::Anthropic(Anthropic {
            version: "2023-06-01".to_owned(),
            beta: None,
            max_tokens: NonZeroU32::new(4096).unwrap(),
        }),
        "ollama" => Dialect::Ollama,
        "langgraph" => Dialect::LangGraph(LangGraph {
            assistant_id: "agent".to_owned(),
            stream_mode: vec!["messages-tuple".to_owned()],
        }),
        other => panic!("corpus/{other} is no dialect"),
    }
}

/// What becomes of a body, in words.
struct Story {
    decoder: Decoder,
    text: String,
    failed: bool,
}

impl Story {
    fn of<'a>(dialect: &Dialect, pieces: impl Iterator<Item = &'a [u8]>) -> String {
        let mut reader = EventReader::new(framing(dialect), BYTES_MAX);
        let mut story =
            Self { decoder: Decoder::new(dialect, Wishes::default()), text: String::new(), failed: false };
        for piece in pieces {
            reader.push(piece);
            while let Some(event) = reader.next().unwrap() {
                story.event(&event);
            }
        }
        if let Some(event) = reader.rest() {
            story.text.push_str("rest ");
            story.event(&event);
        }
        let end = match (story.failed, story.decoder.is_answered(), story.decoder.ends_with_body()) {
            (true, ..) => "failed",
            (false, true, _) => "answered",
            (false, false, true) => "ends with its body",
            (false, false, false) => "incomplete",
        };
        writeln!(story.text, "{end}").unwrap();
        story.text
    }

    fn event(&mut self, event: &RawEvent<'_>) {
        if self.failed {
            return;
        }
        let mut events = Vec::new();
        match self.decoder.decode(event, &mut events) {
            Ok(verdict) => self.verdict(verdict),
            Err(trouble) => self.trouble(&trouble),
        }
        for event in &events {
            self.told(event);
        }
    }

    fn verdict(&mut self, verdict: Verdict) {
        let pass = match verdict.pass {
            Pass::On => "on",
            Pass::Usage => "usage",
            Pass::Terminator => "terminator",
        };
        let meaningful = if verdict.is_meaningful { " meaningful" } else { "" };
        let last = if verdict.is_last { " last" } else { "" };
        writeln!(self.text, "{pass}{meaningful}{last}").unwrap();
    }

    fn trouble(&mut self, trouble: &Trouble) {
        let Trouble { failure, again, .. } = trouble;
        writeln!(self.text, "trouble {trouble}\n  {failure}\n  again: {again:?}").unwrap();
        self.failed = true;
    }

    fn told(&mut self, event: &Event) {
        let told = match event {
            Event::Content(text) => format!("content {text:?}"),
            Event::Reasoning(text) => format!("reasoning {text:?}"),
            Event::Refusal(text) => format!("refusal {text:?}"),
            Event::ToolCall(json) => format!("tool_call {json}"),
            Event::Usage(usage) => format!("usage {}", serde_json::to_string(usage).unwrap()),
            Event::Finish { reason } => format!("finish {reason:?}"),
            Event::Native { .. } => "native".to_owned(),
        };
        assert!(!event.is_empty(), "{told}");
        writeln!(self.text, "  {told}").unwrap();
    }
}

#[test]
fn every_answer_is_read_as_it_was_meant() {
    for answer in answers() {
        let story = Story::of(&answer.dialect, std::iter::once(&answer.body[..]));
        let path = answer.path.with_extension("expected");
        if !path.exists() && std::env::var_os("CORPUS_WRITE").is_some() {
            std::fs::write(&path, &story).unwrap();
        }
        let expected =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        assert_eq!(story, expected, "{}", path.display());
    }
}

#[test]
fn an_answer_byte_by_byte_is_the_same_answer() {
    for answer in answers() {
        let whole = Story::of(&answer.dialect, std::iter::once(&answer.body[..]));
        assert_eq!(Story::of(&answer.dialect, answer.body.chunks(1)), whole, "{}", answer.path.display());
    }
}

/// A body that is cut off anywhere is complete only if its end was told: nothing truncated looks whole.
#[test]
fn an_answer_that_is_cut_off_before_its_finish_is_never_answered() {
    for answer in answers() {
        if matches!(answer.dialect, Dialect::LangGraph(_)) {
            continue;
        }
        for end in 0..answer.body.len() {
            let story = Story::of(&answer.dialect, std::iter::once(&answer.body[..end]));
            let says_so = story.contains("  finish ") || story.contains("terminator");
            let is_answered = story.ends_with("answered\n");
            assert!(says_so || !is_answered, "{} up to {end}: {story}", answer.path.display());
        }
    }
}

proptest! {
    #[test]
    fn any_cut_of_any_answer_gives_the_same_events(sizes in prop::collection::vec(1usize..200, 1..400)) {
        for answer in answers() {
            let whole = Story::of(&answer.dialect, std::iter::once(&answer.body[..]));
            let mut rest = &answer.body[..];
            let mut sizes = sizes.iter().cycle();
            let pieces = std::iter::from_fn(|| {
                let size = (*sizes.next()?).min(rest.len());
                let (piece, behind) = rest.split_at(size);
                rest = behind;
                (!piece.is_empty()).then_some(piece)
            });
            prop_assert_eq!(Story::of(&answer.dialect, pieces), whole, "{}", answer.path.display());
        }
    }
}
