//! One recording's file. In: lines. Out: a file under its last name, when it is complete.
//! Never: grows beyond its bound; leaves half a file under a name that looks whole.

use std::fs::File;
use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::recording::{End, Head, Line, RECORDING_BYTES_MAX};
use crate::files::Directory;
use crate::json;

/// Kept free for the last line.
const LAST_LINE_BYTES: usize = 128;

/// A file that is being written.
#[derive(Debug)]
pub(super) struct Tape {
    directory: Arc<Directory>,
    file: File,
    name: String,
    bytes: usize,
    is_full: bool,
}

impl Tape {
    pub(super) fn begin(directory: Arc<Directory>, name: String, head: &Head) -> io::Result<Self> {
        let file = directory.create(&unfinished(&name))?;
        let mut tape = Self { directory, file, name, bytes: 0, is_full: false };
        match tape.line(head) {
            Ok(()) => Ok(tape),
            Err(error) => {
                tape.discard();
                Err(error)
            }
        }
    }

    /// A line that does not fit is the first one that is missing.
    pub(super) fn write(&mut self, line: &Line<'_>) -> io::Result<()> {
        if self.is_full { Ok(()) } else { self.line(line) }
    }

    pub(super) fn end(mut self, at: Duration, end: End) -> io::Result<()> {
        let end = if self.is_full { End::Cut } else { end };
        let t_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
        let line = text_of(&Line { t_ms, end: Some(end), ..Line::default() });
        let written = self.file.write_all(&line);
        let named = written.and_then(|()| self.directory.rename(&unfinished(&self.name), &self.name));
        named.inspect_err(|_| self.discard())
    }

    /// As if it had never begun.
    pub(super) fn discard(&self) {
        let _ = self.directory.discard(&unfinished(&self.name));
    }

    fn line(&mut self, line: &impl Serialize) -> io::Result<()> {
        let text = text_of(line);
        if self.bytes + text.len() > RECORDING_BYTES_MAX - LAST_LINE_BYTES {
            self.is_full = true;
            return Ok(());
        }
        self.bytes += text.len();
        self.file.write_all(&text)
    }
}

fn text_of(line: &impl Serialize) -> Vec<u8> {
    let mut text = Vec::new();
    json::write(&mut text, line);
    text.push(b'\n');
    text
}

fn unfinished(name: &str) -> String {
    format!(".{name}.part")
}
