//! Plays a recorded answer.

use std::convert::Infallible;
use std::task::{Context, Poll};

use handoff_config::backend::{Dialect, Replay};
use hyper::body::Bytes;

/// Why a recording cannot be played.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {}

/// A recorded answer.
#[derive(Debug)]
pub struct Recording {
    dialect: Dialect,
}

/// A recording being played.
#[derive(Debug)]
pub struct Playback {}

impl Recording {
    /// Reads it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn load(_replay: &Replay) -> Result<Self, ReplayError> {
        Ok(Self { dialect: Dialect::OpenAi })
    }

    /// Of the API that was recorded.
    pub fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    /// From the beginning.
    pub fn play(&self) -> Playback {
        Playback {}
    }
}

impl Playback {
    /// The next piece, in its time.
    pub fn poll_bytes(&mut self, _cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Infallible>>> {
        Poll::Ready(None)
    }
}
