//! HTTP/1.1 of one connection (RFC 9112): one request after the other, answered in chunks.
//!
//! In: what a client sends. Out: heads and chunks, and when an answer begins. Never: reads a second request before the
//! first is answered, takes a body of unknown length.

use std::io::Write;

use crate::script::{Pace, Progress, Script};
use crate::server::{Broken, Call, Next, OUTPUT_BYTES_ENOUGH};

const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ncache-control: no-cache\r\n\
    transfer-encoding: chunked\r\n\r\n";
/// A request's head may be so long.
const HEAD_BYTES_MAX: usize = 65_536;

pub(crate) struct Http1 {
    state: State,
    /// Requests so far: the number of the one that is answered.
    number: u32,
    chunk: Vec<u8>,
}

enum State {
    /// For a head.
    Asking,
    /// For so many bytes of its body.
    Telling(u64),
    Answering {
        progress: Progress,
        stalled: bool,
    },
}

impl Http1 {
    pub(crate) fn new() -> Self {
        Self { state: State::Asking, number: 0, chunk: Vec::new() }
    }

    /// Takes one request, as far as it has come; says how much that was.
    pub(crate) fn read(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        calls: &mut Vec<Call>,
    ) -> Result<usize, Broken> {
        let mut used = 0;
        if let State::Asking = self.state {
            match input.windows(4).position(|bytes| bytes == b"\r\n\r\n") {
                Some(end) => {
                    self.state = State::Telling(body_bytes(&input[..end])?);
                    used = end + 4;
                }
                None if input.len() > HEAD_BYTES_MAX => return Err(bad("a head is longer than 64 KiB")),
                None => {}
            }
        }
        if let State::Telling(left) = &mut self.state {
            let here = (input.len() - used).min(usize::try_from(*left).unwrap_or(usize::MAX));
            used += here;
            *left -= here as u64;
            if *left == 0 {
                self.state = State::Answering { progress: Progress::Opening, stalled: false };
                self.number = self.number.wrapping_add(1);
                out.extend_from_slice(HEAD);
                calls.push(Call::Begin(self.number));
            }
        }
        if input.len() - used > HEAD_BYTES_MAX {
            return Err(bad("it asks again and again, and does not wait for an answer"));
        }
        Ok(used)
    }

    pub(crate) fn unstall(&mut self, unsent_bytes: usize) -> Option<u32> {
        match &mut self.state {
            State::Answering { stalled, .. } if *stalled && unsent_bytes < OUTPUT_BYTES_ENOUGH => {
                *stalled = false;
                Some(self.number)
            }
            State::Answering { .. } | State::Asking | State::Telling(_) => None,
        }
    }

    /// Sends what is due, and all that need not wait.
    pub(crate) fn go_on(&mut self, script: &Script, out: &mut Vec<u8>) -> Next {
        let State::Answering { progress, stalled } = &mut self.state else { return Next::Nothing };
        loop {
            if out.len() >= OUTPUT_BYTES_ENOUGH {
                *stalled = true;
                return Next::Nothing;
            }
            self.chunk.clear();
            let pace = script.next(progress, &mut self.chunk);
            let written = write!(out, "{:x}\r\n", self.chunk.len());
            debug_assert!(written.is_ok(), "a number into memory");
            out.extend_from_slice(&self.chunk);
            out.extend_from_slice(b"\r\n");
            match pace {
                Pace::AtOnce => {}
                Pace::AfterInterval => return Next::AfterInterval,
                Pace::Over => {
                    out.extend_from_slice(b"0\r\n\r\n");
                    self.state = State::Asking;
                    return Next::Nothing;
                }
            }
        }
    }
}

/// As the head says it.
fn body_bytes(head: &[u8]) -> Result<u64, Broken> {
    let text = str::from_utf8(head).map_err(|_| bad("its head is no text"))?;
    let mut length = 0;
    for (name, value) in text.split("\r\n").skip(1).filter_map(|line| line.split_once(':')) {
        if name.eq_ignore_ascii_case("content-length") {
            length = value.trim().parse().map_err(|_| bad("its Content-Length is no number"))?;
        } else if name.eq_ignore_ascii_case("transfer-encoding") {
            return Err(bad("it must say the length of its body"));
        }
    }
    Ok(length)
}

fn bad(what: &'static str) -> Broken {
    Broken { code: 0, what }
}
