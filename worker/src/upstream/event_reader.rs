//! Events out of a body, however it is cut. In: bytes. Out: one event at a time, with its own bytes.
//!
//! Server-sent events as the WHATWG's HTML standard has them (9.2.6, "interpreting an event stream"), or one JSON
//! object a line. Never: looks into an event's data, holds more than one unfinished event, looks at a byte more than
//! twice, keeps memory between events.

#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::ops::Range;

use memchr::{memchr, memchr2};

/// May stand before the first event, and is no part of it.
const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";
/// A buffer that holds this much more than its bytes is given back.
const SPARE_BYTES_MAX: usize = 4096;

/// How events follow each other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// Fields in lines, and a blank line behind each event. LF, CR and CRLF all end a line.
    ServerSentEvents,
    /// Each line is an event; blank lines are none. LF and CRLF end a line.
    Lines,
}

/// One event, borrowed from the reader.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawEvent<'a> {
    /// The field `event`; none also when it is empty or not UTF-8.
    pub name: Option<&'a str>,
    /// All `data` fields, joined by LF; not UTF-8 is replaced. May be empty. For [`Framing::Lines`] the line.
    pub data: Cow<'a, str>,
    /// The event as it came, from its first known field to its blank line; those of several events, one behind the
    /// other, are the same events again. Comments before the first field belong to nobody, and so do events without
    /// data. For [`Framing::Lines`] the line with its end.
    pub raw: &'a [u8],
}

/// An event is larger than allowed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event is larger than {bytes_max} bytes")]
pub struct TooLarge {
    /// What is allowed.
    pub bytes_max: usize,
}

/// Reads events: after each [`push`](Self::push) call [`next`](Self::next) until there is none.
#[derive(Debug)]
pub struct EventReader {
    framing: Framing,
    bytes_max: usize,
    buffer: Vec<u8>,
    /// Where the unfinished event begins in the buffer.
    begin: usize,
    /// Where its unfinished line begins.
    line: usize,
    /// No line ends between the unfinished line's beginning and here.
    scanned: usize,
    /// The last byte before the unfinished line was a CR: an LF now belongs to it.
    after_cr: bool,
    /// The line before ended with a CR alone.
    ended_by_cr: bool,
    /// The unfinished event has a known field.
    has_field: bool,
    /// The unfinished event has data.
    has_data: bool,
    phase: Phase,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// There may be a byte order mark.
    Beginning,
    Reading,
    /// After an event that is too large nothing is read.
    Refusing,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Event,
    Data,
    /// `id` and `retry`: parts of an event that matter to browsers alone.
    Other,
    /// A comment, or a field that the standard does not know.
    Unknown,
}

impl EventReader {
    /// `bytes_max` bounds one event. The memory is at most twice that and the last piece, and nothing between events.
    #[must_use]
    pub fn new(framing: Framing, bytes_max: usize) -> Self {
        Self {
            framing,
            bytes_max,
            buffer: Vec::new(),
            begin: 0,
            line: 0,
            scanned: 0,
            after_cr: false,
            ended_by_cr: false,
            has_field: false,
            has_data: false,
            phase: Phase::Beginning,
        }
    }

    /// The next piece of the body.
    pub fn push(&mut self, bytes: &[u8]) {
        if self.phase != Phase::Refusing {
            self.buffer.extend_from_slice(bytes);
        }
    }

    /// The next event that is whole.
    ///
    /// # Errors
    /// What is there already is larger than one event may be; from then on, always.
    #[expect(clippy::should_implement_trait, reason = "it lends from itself")]
    pub fn next(&mut self) -> Result<Option<RawEvent<'_>>, TooLarge> {
        self.skip_byte_order_mark();
        let found = match (self.phase, self.framing) {
            (Phase::Beginning, _) => Ok(None),
            (Phase::Reading, Framing::ServerSentEvents) => self.find_event(),
            (Phase::Reading, Framing::Lines) => self.find_line(),
            (Phase::Refusing, _) => Err(TooLarge { bytes_max: self.bytes_max }),
        };
        match found {
            Ok(Some(event)) => Ok(Some(read(self.framing, &self.buffer[event]))),
            Ok(None) => {
                self.forget_what_was_read();
                Ok(None)
            }
            Err(too_large) => {
                self.phase = Phase::Refusing;
                self.buffer = Vec::new();
                Err(too_large)
            }
        }
    }

    /// At the body's end: what is there of an event without its blank line, which is added to its bytes.
    ///
    /// The standard wants it discarded; whether it is enough is for whoever knows what it means.
    pub fn rest(&mut self) -> Option<RawEvent<'_>> {
        let rest = self.buffer.get(self.begin..)?;
        let has_content = match self.framing {
            Framing::ServerSentEvents => lines(rest).any(|line| field(line).0 == Field::Data),
            Framing::Lines => !is_blank(rest),
        };
        if !has_content {
            return None;
        }
        let missing: &[u8] = match rest {
            _ if self.framing == Framing::Lines => b"\n",
            // A blank line, although an LF may belong to it.
            [.., b'\n', b'\r'] => b"",
            [.., b'\n'] => b"\n",
            _ => b"\n\n",
        };
        self.buffer.extend_from_slice(missing);
        let event = self.begin..self.buffer.len();
        self.restart_at(event.end);
        Some(read(self.framing, &self.buffer[event]))
    }

    fn skip_byte_order_mark(&mut self) {
        let Self { phase: Phase::Beginning, buffer, .. } = self else { return };
        if buffer.starts_with(BYTE_ORDER_MARK) {
            self.restart_at(BYTE_ORDER_MARK.len());
        } else if BYTE_ORDER_MARK.starts_with(buffer) {
            return;
        }
        self.phase = Phase::Reading;
    }

    fn find_event(&mut self) -> Result<Option<Range<usize>>, TooLarge> {
        while let Some(line) = self.find_line_of_fields() {
            let begin = self.begin;
            self.check_size(self.scanned - begin)?;
            if line.is_empty() {
                let has_data = self.has_data;
                self.restart_at(self.scanned);
                if has_data {
                    return Ok(Some(begin..self.scanned));
                }
                continue;
            }
            match field(&self.buffer[line]).0 {
                Field::Data => (self.has_field, self.has_data) = (true, true),
                Field::Event | Field::Other => self.has_field = true,
                Field::Unknown if self.has_field => {}
                Field::Unknown => self.begin = self.scanned,
            }
        }
        self.check_size(self.buffer.len() - self.begin)?;
        Ok(None)
    }

    /// The next whole line, without its end.
    fn find_line_of_fields(&mut self) -> Option<Range<usize>> {
        if self.after_cr {
            let is_crlf = *self.buffer.get(self.scanned)? == b'\n';
            (self.after_cr, self.ended_by_cr) = (false, !is_crlf);
            if is_crlf {
                self.scanned += 1;
                if self.begin == self.line {
                    self.begin = self.scanned;
                }
                self.line = self.scanned;
            }
        }
        let Some(end) = self.find(line_end) else {
            self.scanned = self.buffer.len();
            return None;
        };
        let line = self.line..end;
        self.scanned = end + 1;
        self.after_cr = self.buffer[end] == b'\r';
        // An event should have all of its last CRLF. A CR alone ends it at once only where lines end like that.
        if self.after_cr && line.is_empty() && self.has_data && !self.ended_by_cr {
            match self.buffer.get(self.scanned) {
                None => {
                    (self.scanned, self.after_cr) = (end, false);
                    return None;
                }
                Some(b'\n') => (self.scanned, self.after_cr) = (self.scanned + 1, false),
                Some(_) => {}
            }
        }
        if !self.after_cr {
            self.ended_by_cr = false;
        }
        self.line = self.scanned;
        Some(line)
    }

    fn find_line(&mut self) -> Result<Option<Range<usize>>, TooLarge> {
        while let Some(end) = self.find(|unread| memchr(b'\n', unread)) {
            let line = self.begin..end + 1;
            self.check_size(line.len())?;
            self.restart_at(line.end);
            if !is_blank(&self.buffer[line.clone()]) {
                return Ok(Some(line));
            }
        }
        self.scanned = self.buffer.len();
        self.check_size(self.buffer.len() - self.begin)?;
        Ok(None)
    }

    fn find(&self, end: impl Fn(&[u8]) -> Option<usize>) -> Option<usize> {
        end(&self.buffer[self.scanned..]).map(|offset| self.scanned + offset)
    }

    fn check_size(&self, bytes: usize) -> Result<(), TooLarge> {
        if bytes > self.bytes_max { Err(TooLarge { bytes_max: self.bytes_max }) } else { Ok(()) }
    }

    fn restart_at(&mut self, index: usize) {
        (self.begin, self.line, self.scanned) = (index, index, index);
        (self.has_field, self.has_data) = (false, false);
    }

    fn forget_what_was_read(&mut self) {
        if self.begin > 0 {
            self.buffer.drain(..self.begin);
            self.line -= self.begin;
            self.scanned -= self.begin;
            self.begin = 0;
        }
        if self.buffer.is_empty() {
            self.buffer = Vec::new();
        } else if self.buffer.capacity() > self.buffer.len() * 2 + SPARE_BYTES_MAX {
            self.buffer.shrink_to_fit();
        }
    }
}

fn read(framing: Framing, raw: &[u8]) -> RawEvent<'_> {
    if framing == Framing::Lines {
        let line = raw.strip_suffix(b"\n").unwrap_or(raw);
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        return RawEvent { name: None, data: text(line), raw };
    }
    let (mut name, mut data) = (None, None::<Cow<'_, str>>);
    for line in lines(raw) {
        match field(line) {
            (Field::Event, value) => name = std::str::from_utf8(value).ok().filter(|name| !name.is_empty()),
            (Field::Data, value) => {
                let value = text(value);
                match &mut data {
                    None => data = Some(value),
                    Some(data) => {
                        let data = data.to_mut();
                        data.push('\n');
                        data.push_str(&value);
                    }
                }
            }
            (Field::Other | Field::Unknown, _) => {}
        }
    }
    RawEvent { name, data: data.unwrap_or_default(), raw }
}

/// UTF-8 as it is, which almost all is; what is none is replaced, for which the standard library is ten times as slow.
fn text(bytes: &[u8]) -> Cow<'_, str> {
    std::str::from_utf8(bytes).map_or_else(|_| String::from_utf8_lossy(bytes), Cow::Borrowed)
}

/// A line's field and value. One space behind the colon belongs to neither; without a colon there is no value.
fn field(line: &[u8]) -> (Field, &[u8]) {
    if let Some(value) = line.strip_prefix(b"data:") {
        return (Field::Data, value.strip_prefix(b" ").unwrap_or(value));
    }
    let colon = line.iter().take(b"event:".len()).position(|byte| *byte == b':');
    let (name, value) = match colon {
        Some(colon) => (&line[..colon], &line[colon + 1..]),
        None => (line, &line[line.len()..]),
    };
    let field = match name {
        b"event" => Field::Event,
        b"data" => Field::Data,
        b"id" | b"retry" => Field::Other,
        _ => Field::Unknown,
    };
    (field, value.strip_prefix(b" ").unwrap_or(value))
}

/// Lines, whichever way they end; the last one may have no end.
fn lines(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        if bytes.is_empty() {
            return None;
        }
        let end = line_end(bytes).unwrap_or(bytes.len());
        let (line, rest) = bytes.split_at(end);
        bytes = match rest {
            [b'\r', b'\n', rest @ ..] | [_, rest @ ..] => rest,
            [] => rest,
        };
        Some(line)
    })
}

fn line_end(bytes: &[u8]) -> Option<usize> {
    memchr2(b'\r', b'\n', bytes)
}

fn is_blank(line: &[u8]) -> bool {
    line.iter().all(u8::is_ascii_whitespace)
}
