//! A generation: a worker binary, opened once, and a validated configuration. Replacing the file on disk
//! changes nothing until the next roll.
//!
//! A successor gets both as fds: the binary as it is, and the configuration as a sealed memfd with the file's text.
//! The text, not its meaning: a newer version must be able to read it.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::rc::Rc;

use handoff_config::cli::Cli;
use handoff_config::{Config, ConfigFile};
use handoff_shared::codec::{self, EncodeError};
use handoff_shared::memfd;

use crate::inherit::KeptGeneration;
use crate::privileges;

/// Before the file's text: what the configuration came to, with environment and command line.
const FINGERPRINT_BYTES: usize = 8;

/// What a worker is made of.
#[derive(Clone, Debug)]
pub(crate) struct Recipe {
    pub(crate) config: Rc<Config>,
    pub(crate) binary: Rc<File>,
    /// The configuration for a successor.
    sealed: Rc<OwnedFd>,
    fingerprint: u64,
}

/// The worker binary cannot be used.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RecipeError {
    /// Not there, or not executable.
    #[error("workers.binary: {path}: {source}")]
    Binary { path: PathBuf, source: io::Error },
    /// The kernel has no memory for it.
    #[error("configuration cannot be kept for a successor: {0}")]
    Seal(#[from] io::Error),
    /// It is larger than a message.
    #[error("configuration cannot be sent to a worker: {0}")]
    Encode(#[from] EncodeError),
}

impl Recipe {
    /// Reads the configuration, and opens the worker's binary: the configured one, or `handoffd-worker` beside ours.
    ///
    /// # Errors
    /// What is wrong with the configuration, or with the binary.
    pub(crate) fn load(cli: &Cli) -> Result<Self, String> {
        let mut text = Vec::new();
        if let Some(path) = &cli.config {
            text = ConfigFile::read_bytes(path).map_err(|error| error.to_string())?;
        }
        let config = read(cli, text.clone())?;
        privileges::check(&config)?;
        Self::new(config, &text).map_err(|error| error.to_string())
    }

    fn new(config: Config, text: &[u8]) -> Result<Self, RecipeError> {
        let path = match &config.workers.binary {
            Some(path) => path.clone(),
            None => beside_us()
                .map_err(|source| RecipeError::Binary { path: "handoffd-worker".into(), source })?,
        };
        let binary = open_executable(&path).map_err(|source| RecipeError::Binary { path, source })?;
        let fingerprint = codec::fingerprint(&config)?;
        let sealed = memfd::seal(&[&fingerprint.to_le_bytes(), text].concat())?;
        Ok(Self { config: Rc::new(config), binary: Rc::new(binary), sealed: Rc::new(sealed), fingerprint })
    }

    /// What workers of an earlier supervisor were made of.
    ///
    /// # Errors
    /// When this version cannot read it.
    pub(crate) fn kept(cli: &Cli, kept: &KeptGeneration) -> Result<Self, String> {
        let bytes = memfd::sealed_bytes(kept.sealed.as_fd()).unwrap_or(0);
        let mut text = Vec::new();
        memfd::read_into(&kept.sealed, usize::try_from(bytes).unwrap_or(0), &mut text)
            .map_err(|error| error.to_string())?;
        let (fingerprint, text) =
            text.split_first_chunk::<FINGERPRINT_BYTES>().ok_or("it is cut off".to_owned())?;
        Ok(Self {
            config: Rc::new(read(cli, text.to_vec())?),
            binary: Rc::clone(&kept.binary),
            sealed: Rc::clone(&kept.sealed),
            fingerprint: u64::from_le_bytes(*fingerprint),
        })
    }

    /// What a successor needs.
    pub(crate) fn fds(&self) -> [BorrowedFd<'_>; 2] {
        [self.sealed.as_fd(), self.binary.as_fd()]
    }

    /// Workers made of either are the same.
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        let identity = |file: &File| {
            let metadata = file.metadata().ok()?;
            Some((metadata.dev(), metadata.ino(), metadata.size(), metadata.mtime(), metadata.mtime_nsec()))
        };
        self.fingerprint == other.fingerprint && identity(&self.binary) == identity(&other.binary)
    }
}

fn read(cli: &Cli, text: Vec<u8>) -> Result<Config, String> {
    let path = cli.config.clone().unwrap_or_default();
    let file = ConfigFile::from_bytes(&path, text).map_err(|error| error.to_string())?;
    let config =
        Config::from_file(&file, cli, &|name| std::env::var_os(name)).map_err(|error| error.to_string())?;
    handoff_shared::log::filter(&config.logging.level).map_err(|error| error.to_string())?;
    Ok(config)
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
