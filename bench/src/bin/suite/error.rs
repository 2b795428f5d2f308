//! Why a measurement could not be made. Never: a figure that misses its target; that is a result.

use std::io;

/// What went wrong, and where.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Error {
    /// Somebody has pressed Ctrl-C.
    #[error("interrupted")]
    Interrupted,
    /// The kernel said no.
    #[error("{what}: {source}")]
    Io {
        /// What was tried, and with what.
        what: String,
        /// What the kernel said.
        source: io::Error,
    },
    /// Something that was started does not do what it should.
    #[error("{0}")]
    Said(String),
}

impl Error {
    /// For `map_err`: names what was tried.
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}
