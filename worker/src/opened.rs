//! What a worker opens while it still may: before it is another user, and before Landlock and seccomp.
//! In: the configuration. Out: directories, and recordings that are read already.
//!
//! Never: opens anything for writing; creates what is not there.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use handoff_config::Backends;

use crate::files::Directory;

/// What is open for the whole life of a worker.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// Files that sites attach are beneath it.
    pub files: Option<Arc<Directory>>,
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
}

impl Opened {
    /// Opens all that these backends need.
    ///
    /// # Errors
    /// When one of it is not there.
    pub fn open(backends: &Backends) -> Result<Self, OpenError> {
        let files = backends.files_directory.as_ref().map(|path| directory("backends.files_directory", path));
        Ok(Self { files: files.transpose()? })
    }
}

fn directory(key: &str, path: &Path) -> Result<Arc<Directory>, OpenError> {
    let opened = Directory::open(path).map(Arc::new);
    opened.map_err(|reason| OpenError::Directory { key: key.to_owned(), path: path.to_owned(), reason })
}
