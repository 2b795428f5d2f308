//! The configuration file. In: a path. Out: its settings, each with its line. Never: more than
//! [`FILE_BYTES_MAX`], a key dropped.

use std::fs::File;
use std::io::{self, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::de::{DeTable, DeValue};

use crate::ConfigError;
use crate::settings::{Setting, Settings};

/// Several times all keys with all their comments.
const FILE_BYTES_MAX: u64 = 1 << 16;

/// A configuration file's text, not looked at yet. The default one is empty.
#[derive(Default)]
pub struct ConfigFile {
    path: PathBuf,
    text: String,
}

impl ConfigFile {
    /// Reads the file whole.
    ///
    /// # Errors
    /// It cannot be read, or as [`ConfigFile::from_bytes`].
    pub fn read(path: &Path) -> Result<ConfigFile, ConfigError> {
        ConfigFile::from_bytes(path, ConfigFile::read_bytes(path)?)
    }

    /// Reads the file whole, or one byte more than it may have.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read_bytes(path: &Path) -> Result<Vec<u8>, ConfigError> {
        let mut bytes = Vec::new();
        File::open(path)
            .and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes))
            .map_err(|reason| ConfigError::Unreadable { path: path.to_owned(), reason })?;
        Ok(bytes)
    }

    /// Takes `bytes` for what the file `path` holds.
    ///
    /// # Errors
    /// It is larger than 64 KiB, or not UTF-8.
    pub fn from_bytes(path: &Path, bytes: Vec<u8>) -> Result<ConfigFile, ConfigError> {
        let unreadable = |reason| ConfigError::Unreadable { path: path.to_owned(), reason };
        if bytes.len() as u64 > FILE_BYTES_MAX {
            let reason = format!("it is larger than {FILE_BYTES_MAX} bytes");
            return Err(unreadable(io::Error::new(io::ErrorKind::FileTooLarge, reason)));
        }
        let text = String::from_utf8(bytes).map_err(|error| {
            let reason = format!("it is not UTF-8 after byte {}", error.utf8_error().valid_up_to());
            unreadable(io::Error::new(io::ErrorKind::InvalidData, reason))
        })?;
        Ok(ConfigFile { path: path.to_owned(), text })
    }

    /// Every value that is not a table, by its full path; a table only if it is empty.
    pub(crate) fn settings(&self) -> Result<Settings<'_>, ConfigError> {
        let document = DeTable::parse(&self.text).map_err(|error| ConfigError::Syntax {
            place: self.place(error.span()),
            // Not the error's own text: it quotes the line, and a secret may be on it.
            message: error.message().to_owned(),
        })?;
        let mut settings = Settings::default();
        let mut tables = vec![(String::new(), document.into_inner())];
        while let Some((path, table)) = tables.pop() {
            for (key, value) in table {
                let place = self.place(Some(key.span()));
                let path = join(&path, &key.into_inner());
                let source = self.text.get(value.span()).unwrap_or_default();
                let value = value.into_inner();
                if value.as_table().is_none_or(|table| table.is_empty()) {
                    settings.set(path, Setting::toml(place, value, source));
                } else if let DeValue::Table(table) = value {
                    settings.open(&path, place);
                    tables.push((path, table));
                }
            }
        }
        Ok(settings)
    }

    /// `file:line`, or the file alone.
    fn place(&self, span: Option<Range<usize>>) -> String {
        match span.and_then(|span| self.text.get(..span.start)) {
            Some(before) => format!("{}:{}", self.path.display(), before.matches('\n').count() + 1),
            None => self.path.display().to_string(),
        }
    }
}

/// Quotes what TOML would have to quote, so that the key `"a.b"` is not taken for `b` in the table `a`.
fn join(path: &str, key: &str) -> String {
    let bare = !key.is_empty() && key.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    let key = if bare { key.to_owned() } else { format!("{key:?}") };
    if path.is_empty() { key } else { format!("{path}.{key}") }
}
