//! HTTP/2 of one connection, as far as a server needs it that answers every request alike (RFC 9113).
//!
//! In: frames of a client. Out: frames for it, and which streams begin or go on. Never: decodes a header (what we send
//! refers to no dynamic table, and what comes is not looked at), sends beyond a window, opens more streams than announced.

mod frame;

use std::collections::{HashMap, VecDeque};

use frame::{Header, Setting};

use crate::script::{Pace, Progress, Script};
use crate::server::{Broken, Call, Next, OUTPUT_BYTES_ENOUGH};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const WINDOW_BYTES_MAX: i64 = (1 << 31) - 1;
const WINDOW_BYTES_DEFAULT: i64 = 65_535;
/// What a request's body may take of the connection's window before it is given back.
const RECEIVED_BYTES_MAX: u32 = 1 << 20;
/// The largest frame that we take and send.
const FRAME_BYTES_MAX: usize = 16_384;

/// `:status: 200`, `content-type: text/event-stream`, `cache-control: no-cache`, with names of the static table (RFC 7541,
/// appendix A) and without indexing.
const HEAD: &[u8] = b"\x88\x0f\x10\x11text/event-stream\x0f\x09\x08no-cache";

pub(crate) struct Http2 {
    began: bool,
    streams_max: Option<u32>,
    streams: HashMap<u32, Stream>,
    last_stream: u32,
    /// The stream whose header block goes on, and whether its request ends with it.
    continued: Option<(u32, bool)>,
    /// What the client lets us send: on the connection, and on a stream that begins.
    window: i64,
    window_of_new: i64,
    /// Of the connection's window, not given back yet.
    received: u32,
    /// Streams that wait for the connection, in order.
    stalled: VecDeque<u32>,
    chunk: Vec<u8>,
}

struct Stream {
    state: State,
    window: i64,
    progress: Progress,
    pace: Pace,
    /// What is due, but did not fit into a window.
    backlog: Vec<u8>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    /// Its request is not at its end.
    Asking,
    /// It goes on when its time comes, or is about to.
    Paced,
    /// It waits for the connection's window, or for the socket.
    Stalled,
    /// It waits for its own window.
    Full,
}

impl Http2 {
    pub(crate) fn new(streams_max: Option<u32>) -> Self {
        Self {
            began: false,
            streams_max,
            streams: HashMap::new(),
            last_stream: 0,
            continued: None,
            window: WINDOW_BYTES_DEFAULT,
            window_of_new: WINDOW_BYTES_DEFAULT,
            received: 0,
            stalled: VecDeque::new(),
            chunk: Vec::new(),
        }
    }

    /// Takes what has come, as far as it is whole; says how much that was.
    pub(crate) fn read(
        &mut self,
        input: &[u8],
        out: &mut Vec<u8>,
        calls: &mut Vec<Call>,
    ) -> Result<usize, Broken> {
        let mut rest = input;
        if !self.began {
            let Some((preface, after)) = rest.split_at_checked(PREFACE.len()) else { return Ok(0) };
            if preface != PREFACE {
                return Err(frame::protocol_error("what it speaks is not HTTP/2"));
            }
            self.began = true;
            self.greet(out);
            rest = after;
        }
        while let Some(first) = frame::split(rest, FRAME_BYTES_MAX)? {
            self.take(first.header, first.payload, out, calls)?;
            rest = first.rest;
        }
        Ok(input.len() - rest.len())
    }

    /// What to say to a client that breaks the protocol.
    pub(crate) fn farewell(&self, code: u32, out: &mut Vec<u8>) {
        frame::put(out, frame::GOAWAY, 0, 0, &[self.last_stream.to_be_bytes(), code.to_be_bytes()].concat());
    }

    fn greet(&self, out: &mut Vec<u8>) {
        let window = Setting { id: frame::INITIAL_WINDOW_SIZE, value: (1 << 31) - 1 };
        let streams = self.streams_max.map(|value| Setting { id: frame::MAX_CONCURRENT_STREAMS, value });
        let settings: Vec<u8> =
            [Some(window), streams].into_iter().flatten().flat_map(Setting::bytes).collect();
        frame::put(out, frame::SETTINGS, 0, 0, &settings);
        self.give_back(out, (1 << 31) - 1 - 65_535);
    }

    fn give_back(&self, out: &mut Vec<u8>, bytes: u32) {
        frame::put(out, frame::WINDOW_UPDATE, 0, 0, &bytes.to_be_bytes());
    }

    fn take(
        &mut self,
        header: Header,
        payload: &[u8],
        out: &mut Vec<u8>,
        calls: &mut Vec<Call>,
    ) -> Result<(), Broken> {
        if self.continued.is_some() && header.kind != frame::CONTINUATION {
            return Err(frame::protocol_error("a header block is not continued"));
        }
        match header.kind {
            frame::HEADERS => self.take_headers(header, out, calls)?,
            frame::CONTINUATION => {
                let ends_request =
                    self.continued.filter(|(id, _)| *id == header.stream).map(|(_, ends)| ends);
                let Some(ends_request) = ends_request else {
                    return Err(frame::protocol_error("there is nothing to continue"));
                };
                self.end_headers(header, ends_request, out, calls);
            }
            frame::DATA => self.take_data(header, out, calls)?,
            frame::RST_STREAM => {
                self.known(header.stream)?;
                self.streams.remove(&header.stream);
            }
            frame::SETTINGS => self.take_settings(header, payload, out, calls)?,
            frame::PING if payload.len() != 8 => return Err(frame::size_error("a PING has 8 bytes")),
            frame::PING if header.has(frame::ACK) => {}
            frame::PING => frame::put(out, frame::PING, frame::ACK, 0, payload),
            frame::WINDOW_UPDATE => self.take_window(header, payload, calls)?,
            frame::PUSH_PROMISE => return Err(frame::protocol_error("a client promises nothing")),
            // GOAWAY: the client closes when its streams are at their ends. Others: as the RFC wants it.
            _ => {}
        }
        Ok(())
    }

    fn take_headers(
        &mut self,
        header: Header,
        out: &mut Vec<u8>,
        calls: &mut Vec<Call>,
    ) -> Result<(), Broken> {
        if header.stream.is_multiple_of(2) {
            return Err(frame::protocol_error("a client's streams have odd numbers"));
        }
        if header.stream > self.last_stream {
            self.last_stream = header.stream;
            let open = u32::try_from(self.streams.len()).unwrap_or(u32::MAX);
            if self.streams_max.is_some_and(|max| open >= max) {
                frame::put(out, frame::RST_STREAM, 0, header.stream, &frame::REFUSED_STREAM.to_be_bytes());
            } else {
                self.streams.insert(header.stream, Stream::new(self.window_of_new));
            }
        }
        self.end_headers(header, header.has(frame::END_STREAM), out, calls);
        Ok(())
    }

    fn end_headers(&mut self, header: Header, ends_request: bool, out: &mut Vec<u8>, calls: &mut Vec<Call>) {
        if !header.has(frame::END_HEADERS) {
            self.continued = Some((header.stream, ends_request));
            return;
        }
        self.continued = None;
        if ends_request {
            self.end_request(header.stream, out, calls);
        }
    }

    fn take_data(&mut self, header: Header, out: &mut Vec<u8>, calls: &mut Vec<Call>) -> Result<(), Broken> {
        self.known(header.stream)?;
        self.received += header.length;
        if self.received >= RECEIVED_BYTES_MAX {
            self.give_back(out, self.received);
            self.received = 0;
        }
        if header.has(frame::END_STREAM) {
            self.end_request(header.stream, out, calls);
        }
        Ok(())
    }

    fn end_request(&mut self, id: u32, out: &mut Vec<u8>, calls: &mut Vec<Call>) {
        let Some(stream) = self.streams.get_mut(&id).filter(|stream| stream.state == State::Asking) else {
            return;
        };
        stream.state = State::Paced;
        frame::put(out, frame::HEADERS, frame::END_HEADERS, id, HEAD);
        calls.push(Call::Begin(id));
    }

    fn take_settings(
        &mut self,
        header: Header,
        payload: &[u8],
        out: &mut Vec<u8>,
        calls: &mut Vec<Call>,
    ) -> Result<(), Broken> {
        if header.has(frame::ACK) {
            return Ok(());
        }
        for setting in frame::settings(payload)? {
            if setting.id == frame::INITIAL_WINDOW_SIZE {
                let window = i64::from(setting.value);
                let grown = window - self.window_of_new;
                self.window_of_new = window;
                for (id, stream) in &mut self.streams {
                    stream.grow(*id, grown, calls)?;
                }
            }
        }
        frame::put(out, frame::SETTINGS, frame::ACK, 0, &[]);
        Ok(())
    }

    fn take_window(&mut self, header: Header, payload: &[u8], calls: &mut Vec<Call>) -> Result<(), Broken> {
        let grown = frame::window(payload)?;
        if header.stream == 0 {
            self.window += grown;
            return if self.window > WINDOW_BYTES_MAX { Err(frame::flow_control_error()) } else { Ok(()) };
        }
        self.known(header.stream)?;
        match self.streams.get_mut(&header.stream) {
            Some(stream) => stream.grow(header.stream, grown, calls),
            None => Ok(()),
        }
    }

    /// A stream that is, or has been.
    fn known(&self, id: u32) -> Result<(), Broken> {
        if id == 0 || id > self.last_stream {
            return Err(frame::protocol_error("no such stream has begun"));
        }
        Ok(())
    }

    /// A stream that waits for the connection, when it need not any more.
    pub(crate) fn unstall(&mut self, unsent_bytes: usize) -> Option<u32> {
        while self.window > 0 && unsent_bytes < OUTPUT_BYTES_ENOUGH {
            let id = self.stalled.pop_front()?;
            if let Some(stream) = self.streams.get_mut(&id) {
                stream.state = State::Paced;
                return Some(id);
            }
        }
        None
    }

    /// Sends what is due on a stream, and all that need not wait.
    pub(crate) fn go_on(&mut self, id: u32, script: &Script, out: &mut Vec<u8>) -> Next {
        let Some(stream) = self.streams.get_mut(&id) else { return Next::Nothing };
        loop {
            if stream.backlog.is_empty() {
                if out.len() >= OUTPUT_BYTES_ENOUGH {
                    stream.state = State::Stalled;
                    self.stalled.push_back(id);
                    return Next::Nothing;
                }
                self.chunk.clear();
                stream.pace = script.next(&mut stream.progress, &mut self.chunk);
                let sent = stream.send(id, &self.chunk, &mut self.window, out);
                stream.backlog.extend_from_slice(&self.chunk[sent..]);
            } else {
                let backlog = std::mem::take(&mut stream.backlog);
                let sent = stream.send(id, &backlog, &mut self.window, out);
                stream.backlog.extend_from_slice(&backlog[sent..]);
            }
            if !stream.backlog.is_empty() {
                stream.state = if self.window > 0 { State::Full } else { State::Stalled };
                if stream.state == State::Stalled {
                    self.stalled.push_back(id);
                }
                return Next::Nothing;
            }
            match stream.pace {
                Pace::AtOnce => {}
                Pace::AfterInterval => return Next::AfterInterval,
                Pace::Over => {
                    frame::put(out, frame::DATA, frame::END_STREAM, id, &[]);
                    self.streams.remove(&id);
                    return Next::Nothing;
                }
            }
        }
    }
}

impl Stream {
    fn new(window: i64) -> Self {
        let (progress, pace) = (Progress::Opening, Pace::AtOnce);
        Self { state: State::Asking, window, progress, pace, backlog: Vec::new() }
    }

    /// The client takes more, or less.
    fn grow(&mut self, id: u32, bytes: i64, calls: &mut Vec<Call>) -> Result<(), Broken> {
        self.window += bytes;
        if self.window > WINDOW_BYTES_MAX {
            return Err(frame::flow_control_error());
        }
        if self.state == State::Full && self.window > 0 {
            self.state = State::Paced;
            calls.push(Call::GoOn(id));
        }
        Ok(())
    }

    /// Sends as much as both windows allow; says how much that was.
    fn send(&mut self, id: u32, bytes: &[u8], connection: &mut i64, out: &mut Vec<u8>) -> usize {
        let allowed = usize::try_from(self.window.min(*connection)).unwrap_or(0).min(bytes.len());
        for part in bytes[..allowed].chunks(FRAME_BYTES_MAX) {
            frame::put(out, frame::DATA, 0, id, part);
            self.window -= part.len() as i64;
            *connection -= part.len() as i64;
        }
        allowed
    }
}
