//! A generation: a worker binary, opened once, and a validated configuration. Replacing the file on disk
//! changes nothing until the next roll.

use std::fs::File;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use handoff_config::Config;

/// What a worker is made of.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) config: Rc<Config>,
    pub(crate) binary: Rc<File>,
}

/// The worker binary cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("workers.binary: {path}: {source}")]
pub(crate) struct BinaryError {
    path: PathBuf,
    source: io::Error,
}

impl Recipe {
    /// Opens the worker's binary: the configured one, or `handoffd-worker` beside ours.
    ///
    /// # Errors
    /// When there is none, or it is not executable.
    pub(crate) fn new(config: Config) -> Result<Self, BinaryError> {
        let path = match &config.workers.binary {
            Some(path) => path.clone(),
            None => beside_us().map_err(|source| BinaryError { path: "handoffd-worker".into(), source })?,
        };
        let binary = open_executable(&path).map_err(|source| BinaryError { path, source })?;
        Ok(Self { config: Rc::new(config), binary: Rc::new(binary) })
    }
}

fn beside_us() -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name("handoffd-worker"))
}

fn open_executable(path: &Path) -> io::Result<File> {
    // Looked at first: opening a FIFO would wait for a writer.
    let metadata = path.metadata()?;
    match metadata.is_file() && metadata.permissions().mode() & 0o111 != 0 {
        true => File::open(path),
        false => Err(io::Error::new(io::ErrorKind::PermissionDenied, "not an executable file")),
    }
}
