//! What a site asks of a LangGraph platform beside the question.

use serde_json::value::RawValue;

use super::error::BadHandoff;
use super::lenient::is_token;
use super::raw::{Object, Value, decode, list};

/// Stream modes at most; there are fewer than ten.
const STREAM_MODES_MAX: usize = 16;

/// What a run needs to know; other backends do not look at it.
#[derive(Clone, Debug, Default)]
pub struct LangGraphOptions {
    /// The conversation that the platform keeps; visible ASCII, no way through directories. None: it keeps none.
    pub thread_id: Option<String>,
    /// Who answers; none: whom the backend names.
    pub assistant_id: Option<String>,
    /// What is streamed; empty: what the backend names.
    pub stream_mode: Vec<String>,
    /// A JSON object whose entries stand beside the messages in the run's input.
    pub input: Option<Box<RawValue>>,
}

impl Object<'_> {
    pub(super) fn langgraph(&self) -> Result<LangGraphOptions, BadHandoff> {
        Ok(LangGraphOptions {
            thread_id: self.thread_id()?,
            assistant_id: self.label("assistant_id")?,
            stream_mode: self.stream_mode()?,
            input: self.raw_object("langgraph_input")?,
        })
    }

    /// It becomes a segment of a path, in which a dot or two are directories however they are written.
    fn thread_id(&self) -> Result<Option<String>, BadHandoff> {
        match self.token("thread_id")? {
            Some(id) if id == "." || id == ".." => {
                Err(self.refuse("thread_id", "the id of a thread, not a directory"))
            }
            id => Ok(id),
        }
    }

    /// One mode or an array of them.
    fn stream_mode(&self) -> Result<Vec<String>, BadHandoff> {
        let refuse = || self.refuse("stream_mode", "an array of at most 16 names of stream modes");
        let modes = match self.value("stream_mode") {
            Value::Null => Vec::new(),
            Value::Array(json) => list(json).ok_or_else(refuse)?.into_iter().map(Value::of).collect(),
            mode @ Value::Text(_) => vec![mode],
            Value::Bool(_) | Value::Number(_) | Value::Object(_) => return Err(refuse()),
        };
        if modes.len() > STREAM_MODES_MAX {
            return Err(refuse());
        }
        let name = |mode| match mode {
            Value::Text(json) => decode(json).filter(|name| is_token(name) && !name.is_empty()),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) | Value::Object(_) => None,
        };
        modes.into_iter().map(|mode| name(mode).ok_or_else(refuse)).collect()
    }
}
