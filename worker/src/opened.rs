//! What a worker opens while it still may: before it is another user, and before Landlock and seccomp.
//! In: the configuration. Out: directories; recordings, certificates and keys that are read already.
//!
//! Never: opens anything for writing; creates what is not there.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handoff_config::Backends;
use handoff_config::backend::{Api, Kind, Replay};
use rustls::ClientConfig;

use crate::files::Directory;
use crate::upstream::replay::{Recording, ReplayError};
use crate::upstream::tls::{self, TlsError, Trust};

/// What is open for the whole life of a worker.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Files that sites attach are beneath it.
    pub files: Option<Arc<Directory>>,
    /// Answers are recorded there; by the path that is configured.
    pub records: BTreeMap<PathBuf, Arc<Directory>>,
    /// By the name of the backend that plays it.
    pub replays: BTreeMap<String, Arc<Recording>>,
    /// Who is trusted, and who we are; by the name of the backend.
    pub tls: BTreeMap<String, Arc<ClientConfig>>,
}

/// Something that the configuration names is not there.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory.
    #[error("{key}: {} cannot be opened as a directory: {reason}", path.display())]
    Directory {
        /// Of the configuration.
        key: String,
        /// As configured.
        path: PathBuf,
        /// What the kernel says.
        reason: io::Error,
    },
    /// A recorded answer.
    #[error("{key}: {}: {reason}", path.display())]
    Replay {
        /// Of the configuration.
        key: String,
        /// As configured.
        path: PathBuf,
        /// What is wrong with it.
        reason: ReplayError,
    },
    /// An address, which the configuration should have refused.
    #[error("backends.{name}.api_base: no address")]
    Address {
        /// The backend's.
        name: String,
    },
    /// Certificates or keys.
    #[error("backends.{name}: {}", crate::failure::chain(reason.as_ref()))]
    Tls {
        /// The backend's.
        name: String,
        /// What is wrong with them.
        reason: Box<TlsError>,
    },
}

impl Opened {
    /// Opens all that these backends need.
    ///
    /// # Errors
    /// When one of it is not there.
    pub fn open(backends: &Backends) -> Result<Self, OpenError> {
        let files = backends
            .files_directory
            .as_ref()
            .map(|path| directory("backend.files_directory", path, Directory::open_to_read(path)));
        let mut opened = Self { files: files.transpose()?, ..Self::default() };
        for backend in &backends.all {
            if let Some(path) = &backend.record
                && !opened.records.contains_key(path)
            {
                let key = format!("backends.{}.record", backend.name);
                opened.records.insert(path.clone(), directory(&key, path, Directory::open(path))?);
            }
            if let Kind::Replay(replay) = &backend.kind {
                opened.replays.insert(backend.name.clone(), recording(&backend.name, replay)?);
            }
            if let Kind::Api(api) = &backend.kind {
                let trust = if backends.is_unused(backend) { Trust::Nobody } else { Trust::Configured };
                opened.tls.insert(backend.name.clone(), client_config(&backend.name, api, trust)?);
            }
        }
        Ok(opened)
    }
}

fn recording(name: &str, replay: &Replay) -> Result<Arc<Recording>, OpenError> {
    Recording::load(replay).map(Arc::new).map_err(|reason| OpenError::Replay {
        key: format!("backends.{name}.file"),
        path: replay.file.clone(),
        reason,
    })
}

fn client_config(name: &str, api: &Api, trust: Trust) -> Result<Arc<ClientConfig>, OpenError> {
    let base = api.base.parse().map_err(|_| OpenError::Address { name: name.to_owned() })?;
    tls::client_config(&base, &api.connection, trust)
        .map_err(|reason| OpenError::Tls { name: name.to_owned(), reason: Box::new(reason) })
}

fn directory(key: &str, path: &Path, opened: io::Result<Directory>) -> Result<Arc<Directory>, OpenError> {
    let failed = |reason| OpenError::Directory { key: key.to_owned(), path: path.to_owned(), reason };
    opened.map(Arc::new).map_err(failed)
}
