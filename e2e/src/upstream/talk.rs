//! Whole, correct answers in each API's language. In: how many words, and what else. Out: an [`Answer`], or its parts,
//! for a test that breaks it somewhere.
//!
//! Words are numbered (`w0 w1 w2 …`), so that whoever reads the answer sees whether one is missing.

mod anthropic;
mod langgraph;
mod ollama;
mod openai;
mod responses;

use std::time::Duration;

use serde_json::Value;

use super::answer::{Answer, Step};

/// The languages of the APIs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Chat Completions.
    OpenAi,
    /// OpenAI's Responses.
    Responses,
    /// Anthropic's Messages.
    Anthropic,
    /// Ollama's `/api/chat`.
    Ollama,
    /// Runs of the LangGraph platform.
    LangGraph,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::OpenAi, Self::Responses, Self::Anthropic, Self::Ollama, Self::LangGraph];

    /// The `kind` of a backend.
    #[must_use]
    pub fn kind(self) -> &'static str {
        match self {
            Self::OpenAi => "openai",
            Self::Responses => "responses",
            Self::Anthropic => "anthropic",
            Self::Ollama => "ollama",
            Self::LangGraph => "langgraph",
        }
    }

    /// What stands between the server's address and the paths of this API.
    #[must_use]
    pub fn base_path(self) -> &'static str {
        match self {
            Self::OpenAi | Self::Responses => "/v1",
            Self::Anthropic | Self::Ollama | Self::LangGraph => "",
        }
    }
}

/// A correct answer, as it is described.
#[derive(Clone, Debug, PartialEq)]
pub struct Talk {
    /// Its language.
    pub dialect: Dialect,
    /// How many words it has.
    pub words: usize,
    /// How many pieces of reasoning come before them.
    pub reasoning: usize,
    /// Calls of tools, after the words: a name and its arguments.
    pub tools: Vec<(String, Value)>,
    /// How long before each piece of content.
    pub pause: Duration,
    /// Whether it ends with a count of tokens.
    pub usage: bool,
    /// Why it ends; none: what this API says of a whole answer.
    pub finish: Option<String>,
}

/// A correct answer's writes, in their order; each is a whole event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Parts {
    /// Before anything meaningful.
    pub opening: Vec<Vec<u8>>,
    /// A piece of reasoning, a word, or a call of a tool, each.
    pub content: Vec<Vec<u8>>,
    /// What makes the answer whole.
    pub closing: Vec<Vec<u8>>,
}

/// The text of a number of words.
#[must_use]
pub fn words(count: usize) -> String {
    (0..count).map(word).collect()
}

fn word(index: usize) -> String {
    format!("w{index} ")
}

fn thought(index: usize) -> String {
    format!("t{index} ")
}

impl Answer {
    /// A Chat Completions answer of 10 words.
    #[must_use]
    pub fn openai() -> Talk {
        Talk::new(Dialect::OpenAi)
    }

    /// A Responses answer of 10 words.
    #[must_use]
    pub fn responses() -> Talk {
        Talk::new(Dialect::Responses)
    }

    /// A Messages answer of 10 words.
    #[must_use]
    pub fn anthropic() -> Talk {
        Talk::new(Dialect::Anthropic)
    }

    /// An Ollama answer of 10 words.
    #[must_use]
    pub fn ollama() -> Talk {
        Talk::new(Dialect::Ollama)
    }

    /// A LangGraph run of 10 words.
    #[must_use]
    pub fn langgraph() -> Talk {
        Talk::new(Dialect::LangGraph)
    }
}

impl Talk {
    /// An answer of 10 words.
    #[must_use]
    pub fn new(dialect: Dialect) -> Self {
        let (pause, tools) = (Duration::ZERO, Vec::new());
        Self { dialect, words: 10, reasoning: 0, tools, pause, usage: true, finish: None }
    }

    /// With so many words.
    #[must_use]
    pub fn words(self, words: usize) -> Self {
        Self { words, ..self }
    }

    /// With so many pieces of reasoning before them (`t0 t1 …`).
    #[must_use]
    pub fn reasoning(self, reasoning: usize) -> Self {
        Self { reasoning, ..self }
    }

    /// With a call of a tool.
    #[must_use]
    pub fn tool(mut self, name: &str, arguments: Value) -> Self {
        self.tools.push((name.to_owned(), arguments));
        self
    }

    /// So long before each piece of content.
    #[must_use]
    pub fn pause_ms(self, milliseconds: u64) -> Self {
        Self { pause: Duration::from_millis(milliseconds), ..self }
    }

    /// Without a count of tokens.
    #[must_use]
    pub fn without_usage(self) -> Self {
        Self { usage: false, ..self }
    }

    /// It ends for this reason, in the API's own words.
    #[must_use]
    pub fn finish(self, reason: &str) -> Self {
        Self { finish: Some(reason.to_owned()), ..self }
    }

    /// The text of its words.
    #[must_use]
    pub fn text(&self) -> String {
        words(self.words)
    }

    /// The tokens that it counts in its words.
    #[must_use]
    pub fn output_tokens(&self) -> usize {
        self.words + self.reasoning
    }

    /// Its writes.
    #[must_use]
    pub fn parts(&self) -> Parts {
        match self.dialect {
            Dialect::OpenAi => openai::parts(self),
            Dialect::Responses => responses::parts(self),
            Dialect::Anthropic => anthropic::parts(self),
            Dialect::Ollama => ollama::parts(self),
            Dialect::LangGraph => langgraph::parts(self),
        }
    }

    /// The whole answer.
    #[must_use]
    pub fn answer(&self) -> Answer {
        let count = self.parts().content.len();
        self.with_after(count, [])
    }

    /// After so many pieces of content these steps instead of the rest: of a clean end of the body, if there are none.
    #[must_use]
    pub fn broken_after(&self, pieces: usize, steps: impl IntoIterator<Item = Step>) -> Answer {
        let parts = self.parts();
        let mut answer = self.started();
        answer.steps.extend(parts.opening.into_iter().map(Step::Send));
        answer.steps.extend(self.paced(parts.content.into_iter().take(pieces)));
        answer.steps.extend(steps);
        answer
    }

    /// After so many pieces of content these steps, and then the rest.
    #[must_use]
    pub fn with_after(&self, pieces: usize, steps: impl IntoIterator<Item = Step>) -> Answer {
        let parts = self.parts();
        let mut answer = self.broken_after(pieces, steps);
        answer.steps.extend(self.paced(parts.content.into_iter().skip(pieces)));
        answer.steps.extend(parts.closing.into_iter().map(Step::Send));
        answer
    }

    fn started(&self) -> Answer {
        match self.dialect {
            Dialect::Ollama => Answer::new(200).header("content-type", "application/x-ndjson"),
            Dialect::OpenAi | Dialect::Responses | Dialect::Anthropic | Dialect::LangGraph => Answer::sse(),
        }
        .header("x-request-id", "req_1")
    }

    fn paced(&self, pieces: impl Iterator<Item = Vec<u8>>) -> impl Iterator<Item = Step> {
        let pause = (!self.pause.is_zero()).then_some(Step::Wait(self.pause));
        pieces.flat_map(move |piece| pause.clone().into_iter().chain([Step::Send(piece)]))
    }
}

impl From<Talk> for Answer {
    fn from(talk: Talk) -> Self {
        talk.answer()
    }
}

fn unnamed(data: &Value) -> Vec<u8> {
    format!("data: {data}\n\n").into_bytes()
}

fn named(name: &str, data: &Value) -> Vec<u8> {
    format!("event: {name}\ndata: {data}\n\n").into_bytes()
}
