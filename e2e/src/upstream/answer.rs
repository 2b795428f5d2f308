//! What the scripted server answers: a status, headers, and steps that are taken one after another. In: what a test
//! wants. Out: an [`Answer`] that says so. Never: knows a protocol beyond the names of its faults.

use std::time::Duration;

use serde_json::{Value, json};

/// One answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Of the head.
    pub status: u16,
    /// Of the head; the framing ones are added by the protocol.
    pub headers: Vec<(String, String)>,
    /// The head goes out at [`Step::Head`], or before the first byte of the body. After the last step the body ends as it
    /// should.
    pub steps: Vec<Step>,
    /// How HTTP/1.1 says where the body ends.
    pub framing: Framing,
}

/// How HTTP/1.1 says where the body ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// In chunks: each [`Step::Send`] is one.
    Chunked,
    /// A `content-length` of this many bytes, whatever is sent then.
    Length(u64),
    /// With the connection.
    UntilClose,
    /// No head and no framing: the steps are all that is written. Over HTTP/2 as [`Framing::Chunked`].
    Raw,
}

/// A step of an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// The head goes out now.
    Head,
    /// These bytes go out as one write: one chunk, or as few DATA frames as the client's window allows.
    Send(Vec<u8>),
    /// Each of these bytes is a write, a chunk, a DATA frame of its own.
    SendBytewise(Vec<u8>),
    /// The same bytes again and again, with this pause after each, until the client leaves.
    SendForever(Vec<u8>, Duration),
    /// Nothing happens for so long.
    Wait(Duration),
    /// Nothing happens until the test opens the gate of this name.
    WaitFor(String),
    /// Nothing happens any more, until the client leaves.
    Hang,
    /// HTTP/2: RST_STREAM with this code (RFC 9113, section 7). HTTP/1.1: the connection is reset.
    Reset(u32),
    /// The connection is closed where it is: no end of the body, no GOAWAY, no `close_notify`.
    Cut,
    /// The connection is reset (RST), whatever else goes on there.
    ResetConnection,
    /// HTTP/2: GOAWAY with this code (RFC 9113, section 6.8); the connection goes on. No effect over HTTP/1.1.
    GoAway(LastStream, u32),
    /// HTTP/2: SETTINGS_MAX_CONCURRENT_STREAMS becomes this. No effect over HTTP/1.1.
    MaxStreams(u32),
}

/// What a GOAWAY names as the last stream that the server has looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LastStream {
    /// The one before this answer's: its request may be sent elsewhere.
    BeforeThis,
    /// This answer's: it goes on, later ones may be sent elsewhere.
    This,
    /// All that there could be (2^31-1): the announcement of a GOAWAY to come.
    All,
}

/// Codes of RFC 9113, section 7.
pub mod code {
    /// The connection or stream ends without an error.
    pub const NO_ERROR: u32 = 0;
    /// The peer broke the protocol.
    pub const PROTOCOL_ERROR: u32 = 1;
    /// The server failed.
    pub const INTERNAL_ERROR: u32 = 2;
    /// The server has not looked at the request.
    pub const REFUSED_STREAM: u32 = 7;
    /// The stream is not needed any longer.
    pub const CANCEL: u32 = 8;
    /// The peer does something too often.
    pub const ENHANCE_YOUR_CALM: u32 = 11;
    /// HTTP/1.1 is wanted.
    pub const HTTP_1_1_REQUIRED: u32 = 13;
}

impl Answer {
    /// An empty answer.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), steps: Vec::new(), framing: Framing::Chunked }
    }

    /// The head of an event stream; its steps follow.
    #[must_use]
    pub fn sse() -> Self {
        Self::new(200).header("content-type", "text/event-stream; charset=utf-8")
    }

    /// A whole JSON document.
    #[must_use]
    pub fn json(status: u16, body: &Value) -> Self {
        let answer = Self::new(status).header("content-type", "application/json");
        answer.whole(body.to_string().into_bytes())
    }

    /// A whole HTML page, as a gateway's own error page.
    #[must_use]
    pub fn html(status: u16, body: &str) -> Self {
        Self::new(status).header("content-type", "text/html").whole(body.as_bytes().to_vec())
    }

    /// An error of OpenAI's API and of all that imitate it.
    #[must_use]
    pub fn openai_error(status: u16, kind: &str, code: &str, message: &str) -> Self {
        let error = json!({"message": message, "type": kind, "param": null, "code": code});
        Self::json(status, &json!({ "error": error }))
    }

    /// An error of Anthropic's API.
    #[must_use]
    pub fn anthropic_error(status: u16, kind: &str, message: &str) -> Self {
        let error = json!({"type": kind, "message": message});
        Self::json(status, &json!({"type": "error", "error": error, "request_id": "req_1"}))
    }

    /// An error of Ollama's API.
    #[must_use]
    pub fn ollama_error(status: u16, message: &str) -> Self {
        Self::json(status, &json!({ "error": message }))
    }

    /// Somewhere else.
    #[must_use]
    pub fn redirect(status: u16, location: &str) -> Self {
        Self::new(status).header("location", location).whole(Vec::new())
    }

    /// These bytes instead of an HTTP answer; over HTTP/2 they are the body of one.
    #[must_use]
    pub fn raw(bytes: impl Into<Vec<u8>>) -> Self {
        Self { framing: Framing::Raw, ..Self::new(200) }.send(bytes)
    }

    /// With one more header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Without a header.
    #[must_use]
    pub fn without_header(mut self, name: &str) -> Self {
        self.headers.retain(|(header, _)| !header.eq_ignore_ascii_case(name));
        self
    }

    /// With one more step.
    #[must_use]
    pub fn step(mut self, step: Step) -> Self {
        self.steps.push(step);
        self
    }

    /// The head goes out now.
    #[must_use]
    pub fn head(self) -> Self {
        self.step(Step::Head)
    }

    /// These bytes in one write.
    #[must_use]
    pub fn send(self, bytes: impl Into<Vec<u8>>) -> Self {
        self.step(Step::Send(bytes.into()))
    }

    /// An event with this document as its `data`.
    #[must_use]
    pub fn event(self, data: &Value) -> Self {
        self.send(format!("data: {data}\n\n"))
    }

    /// An event with a name.
    #[must_use]
    pub fn named_event(self, name: &str, data: &Value) -> Self {
        self.send(format!("event: {name}\ndata: {data}\n\n"))
    }

    /// Nothing happens for so long.
    #[must_use]
    pub fn wait(self, duration: Duration) -> Self {
        self.step(Step::Wait(duration))
    }

    /// Nothing happens until the test opens this gate.
    #[must_use]
    pub fn wait_for(self, gate: &str) -> Self {
        self.step(Step::WaitFor(gate.to_owned()))
    }

    /// Nothing happens any more.
    #[must_use]
    pub fn hang(self) -> Self {
        self.step(Step::Hang)
    }

    /// Ends by RST_STREAM with this code, or by a reset connection.
    #[must_use]
    pub fn reset(self, code: u32) -> Self {
        self.step(Step::Reset(code))
    }

    /// Ends with the connection, in the middle.
    #[must_use]
    pub fn cut(self) -> Self {
        self.step(Step::Cut)
    }

    /// The steps before all others.
    #[must_use]
    pub fn first(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        self.steps.splice(0..0, steps);
        self
    }

    /// A body of known length.
    #[must_use]
    pub fn whole(mut self, body: Vec<u8>) -> Self {
        self.framing = Framing::Length(u64::try_from(body.len()).unwrap_or(u64::MAX));
        if body.is_empty() { self.head() } else { self.send(body) }
    }

    /// With another framing.
    #[must_use]
    pub fn framed(mut self, framing: Framing) -> Self {
        self.framing = framing;
        self
    }

    /// All bytes of the body are sent one by one.
    #[must_use]
    pub fn bytewise(mut self) -> Self {
        for step in &mut self.steps {
            if let Step::Send(bytes) = step {
                *step = Step::SendBytewise(std::mem::take(bytes));
            }
        }
        self
    }

    /// The body is cut elsewhere: into writes of this many bytes, whatever they hold. Pauses move to its front.
    #[must_use]
    pub fn in_pieces_of(mut self, bytes: usize) -> Self {
        let body = self.body();
        self.steps.retain(|step| !matches!(step, Step::Send(_)));
        self.steps.extend(body.chunks(bytes.max(1)).map(|piece| Step::Send(piece.to_vec())));
        self
    }

    /// Lines end with this instead of `\n`.
    #[must_use]
    pub fn line_ends(self, with: &str) -> Self {
        self.replace("\n", with)
    }

    /// Another text in all of the body's writes.
    #[must_use]
    pub fn replace(mut self, from: &str, to: &str) -> Self {
        for step in &mut self.steps {
            if let Step::Send(bytes) = step {
                *bytes = String::from_utf8_lossy(bytes).replace(from, to).into_bytes();
            }
        }
        self
    }

    /// The body is compressed, in one write, and says so.
    #[must_use]
    pub fn gzip(mut self) -> Self {
        let body = gzip(&self.body());
        self.steps.clear();
        self.header("content-encoding", "gzip").send(body)
    }

    /// All that is sent, as far as it ends.
    #[must_use]
    pub fn body(&self) -> Vec<u8> {
        let mut body = Vec::new();
        for step in &self.steps {
            if let Step::Send(bytes) | Step::SendBytewise(bytes) = step {
                body.extend_from_slice(bytes);
            }
        }
        body
    }
}

/// RFC 1952, with stored blocks: valid, and needs no encoder.
fn gzip(bytes: &[u8]) -> Vec<u8> {
    const BLOCK_BYTES_MAX: usize = 65_535;
    let mut out = vec![0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 255];
    for block in bytes.chunks(BLOCK_BYTES_MAX) {
        let length = u16::try_from(block.len()).unwrap_or(u16::MAX);
        out.push(0);
        out.extend(length.to_le_bytes());
        out.extend((!length).to_le_bytes());
        out.extend_from_slice(block);
    }
    // The last block is empty.
    out.extend([1, 0, 0, 0xff, 0xff]);
    out.extend(crc32(bytes).to_le_bytes());
    out.extend(u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_le_bytes());
    out
}

fn crc32(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    for byte in bytes {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0xedb8_8320 } else { crc >> 1 };
        }
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_compressed_body_is_what_gunzip_reads() {
        use std::io::Write;
        use std::process::{Command, Stdio};
        let text = "data: {}\n\n".repeat(20_000);
        let answer = Answer::sse().send(text.clone()).gzip();
        let mut child = Command::new("gzip")
            .arg("-dc")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("gzip(1)");
        let mut input = child.stdin.take().expect("its input");
        let body = answer.body();
        let writer = std::thread::spawn(move || input.write_all(&body));
        let output = child.wait_with_output().expect("its output");
        writer.join().expect("a writer").expect("its input is read");
        assert!(output.status.success());
        assert_eq!(output.stdout, text.into_bytes());
    }

    #[test]
    fn the_same_body_is_cut_elsewhere() {
        let answer = Answer::sse().event(&json!({"a": 1})).wait(Duration::from_secs(1)).event(&json!(2));
        let cut = answer.clone().in_pieces_of(3);
        assert_eq!(cut.body(), answer.body());
        assert_eq!(cut.steps.len(), 1 + answer.body().len().div_ceil(3));
        assert_eq!(answer.line_ends("\r\n").body(), b"data: {\"a\":1}\r\n\r\ndata: 2\r\n\r\n");
    }
}
