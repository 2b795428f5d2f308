//! What backends need from files, read before a worker is confined: certificates, keys, recordings. In: the
//! configuration. Out: the means to reach every backend.
//! Never: connects, keeps a file open.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use handoff_config::Config;
use handoff_config::backend::Kind;

use super::replay::{Recording, ReplayError};
use super::tls::{self, TlsError};

/// Everything that was read.
#[derive(Debug, Default)]
pub struct Prepared {
    tls: HashMap<String, Arc<rustls::ClientConfig>>,
    recordings: HashMap<String, Rc<Recording>>,
}

/// Why a backend cannot be used. It names the key, never what it holds.
#[derive(Debug, thiserror::Error)]
pub enum PrepareError {
    /// Certificates or keys.
    #[error("backend {backend}: {source}")]
    Tls {
        /// Its name.
        backend: String,
        /// What is wrong.
        source: TlsError,
    },
    /// A recording.
    #[error("backend {backend}: {source}")]
    Replay {
        /// Its name.
        backend: String,
        /// What is wrong.
        source: ReplayError,
    },
    /// An address or a header that HTTP does not have.
    #[error("backend {backend}: its address, its key or one of its headers cannot stand in an HTTP request")]
    Address {
        /// Its name.
        backend: String,
    },
    /// Nobody has prepared it.
    #[error("backend {backend}: it was not prepared")]
    Unprepared {
        /// Its name.
        backend: String,
    },
}

/// Reads what the backends of this configuration need.
///
/// # Errors
/// When something cannot be read, or is not what it has to be.
pub fn prepare(config: &Config) -> Result<Prepared, PrepareError> {
    let mut prepared = Prepared::default();
    let mut roots = tls::Roots::default();
    for backend in &config.backends.all {
        let name = backend.name.clone();
        match &backend.kind {
            Kind::Mock(_) => {}
            Kind::Replay(replay) => {
                let recording = Recording::load(replay)
                    .map_err(|source| PrepareError::Replay { backend: name.clone(), source })?;
                prepared.recordings.insert(name, Rc::new(recording));
            }
            Kind::Api(api) => {
                let client = tls::client_config(&api.base, &api.connection, &mut roots)
                    .map_err(|source| PrepareError::Tls { backend: name.clone(), source })?;
                prepared.tls.insert(name, client);
            }
        }
    }
    Ok(prepared)
}

impl Prepared {
    pub(super) fn tls(&self, backend: &str) -> Result<Arc<rustls::ClientConfig>, PrepareError> {
        self.tls.get(backend).cloned().ok_or_else(|| unprepared(backend))
    }

    pub(super) fn recording(&self, backend: &str) -> Result<Rc<Recording>, PrepareError> {
        self.recordings.get(backend).cloned().ok_or_else(|| unprepared(backend))
    }
}

fn unprepared(backend: &str) -> PrepareError {
    PrepareError::Unprepared { backend: backend.to_owned() }
}
