//! Writes JSON at the end of a buffer.

use std::io::Write;

use serde::Serialize;

/// Appends a value. The types written here have string keys only, and the buffers are in memory: nothing can
/// fail, so there is nothing to return.
pub(crate) fn write(out: impl Write, value: &impl Serialize) {
    let written = serde_json::to_writer(out, value);
    debug_assert!(written.is_ok(), "JSON of our own types into memory");
}
