//! A stream's answer, read as it comes, for as little CPU as can be. In: bytes, split anywhere. Out: how many events and
//! tokens they completed; at the end, whether the answer was whole.
//! Never: copies a line that came in one piece, keeps one that is complete, judges what an event says.

use memchr::memmem::Finder;

use super::tally::Kind;

/// The longest line that is kept while its end has not come.
const LINE_BYTES_MAX: usize = 16 * 1024 * 1024;

/// What the bytes of one read have completed.
#[derive(Debug)]
pub(super) struct Seen {
    /// Events with data, less those that say that the answer is over.
    pub(super) events: u32,
    /// Events that brought a word.
    pub(super) tokens: u32,
    /// The moments that the upstream has written into events (`@` and nanoseconds), where somebody asks for them.
    pub(super) stamps: Vec<u64>,
    is_stamped: bool,
    content: Finder<'static>,
    text: Finder<'static>,
}

/// One answer.
#[derive(Debug)]
pub(super) struct Reader {
    /// The beginning of a line whose end has not come.
    carry: Vec<u8>,
    status: u16,
    part: Part,
    event: Event,
    is_done: bool,
    has_error: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    Status,
    Headers,
    Body,
    /// No HTTP/1, or an endless line.
    Bad,
}

/// The event whose empty line has not come.
#[derive(Clone, Copy, Debug, Default)]
struct Event {
    has_data: bool,
    has_content: bool,
    is_end: bool,
    is_error: bool,
}

impl Seen {
    /// For reading one answer after the other.
    pub(super) fn new(is_stamped: bool) -> Self {
        let (content, text) = (Finder::new(b"\"content\":"), Finder::new(b"\"text\":"));
        Self { events: 0, tokens: 0, stamps: Vec::new(), is_stamped, content, text }
    }

    fn clear(&mut self) {
        self.events = 0;
        self.tokens = 0;
        self.stamps.clear();
    }
}

impl Reader {
    /// One that awaits the first byte of a head.
    pub(super) fn new() -> Self {
        let (carry, event) = (Vec::new(), Event::default());
        Self { carry, status: 0, part: Part::Status, event, is_done: false, has_error: false }
    }

    /// Takes the next bytes; `seen` is about them alone.
    pub(super) fn feed(&mut self, mut bytes: &[u8], seen: &mut Seen) {
        seen.clear();
        if !self.carry.is_empty() {
            let Some(end) = memchr::memchr(b'\n', bytes) else { return self.keep(bytes) };
            let mut line = std::mem::take(&mut self.carry);
            line.extend_from_slice(&bytes[..end]);
            self.line(&line, seen);
            bytes = &bytes[end + 1..];
        }
        while let Some(end) = memchr::memchr(b'\n', bytes) {
            self.line(&bytes[..end], seen);
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
    }

    /// The answer is over: what is wrong with it, if anything is.
    pub(super) fn verdict(&self) -> Result<(), Kind> {
        match self.part {
            Part::Bad => Err(Kind::BadAnswer),
            Part::Status | Part::Headers => Err(Kind::Cut),
            Part::Body if self.status != 200 => Err(Kind::Status(self.status)),
            Part::Body if self.has_error => Err(Kind::ErrorEvent),
            Part::Body if !self.is_done => Err(Kind::Cut),
            Part::Body => Ok(()),
        }
    }

    fn keep(&mut self, rest: &[u8]) {
        if self.carry.len() + rest.len() > LINE_BYTES_MAX {
            self.part = Part::Bad;
        }
        match self.part {
            Part::Bad => self.carry = Vec::new(),
            Part::Status | Part::Headers | Part::Body => self.carry.extend_from_slice(rest),
        }
    }

    fn line(&mut self, line: &[u8], seen: &mut Seen) {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        match self.part {
            Part::Body if self.status == 200 => self.body_line(line, seen),
            Part::Body | Part::Bad => {}
            Part::Headers if line.is_empty() => self.part = Part::Body,
            Part::Headers => {}
            Part::Status => match status(line) {
                Some(status) => (self.status, self.part) = (status, Part::Headers),
                None => self.part = Part::Bad,
            },
        }
    }

    fn body_line(&mut self, line: &[u8], seen: &mut Seen) {
        if line.is_empty() {
            self.end_event(seen);
        } else if let Some(value) = line.strip_prefix(b"data:") {
            self.data(value.strip_prefix(b" ").unwrap_or(value), seen);
        } else if let Some(name) = line.strip_prefix(b"event:") {
            match name.trim_ascii_start() {
                b"done" => self.event.is_end = true,
                b"error" => self.event.is_error = true,
                _ => {} // names of the formats `events` and `raw`, whose data decides
            }
        }
    }

    fn data(&mut self, value: &[u8], seen: &mut Seen) {
        self.event.has_data = true;
        if value == b"[DONE]" {
            self.event.is_end = true;
            return;
        }
        if value.starts_with(b"{\"error\":{") {
            self.event.is_error = true;
        } else if !self.event.has_content {
            self.event.has_content = has_content(value, seen);
        }
        if seen.is_stamped {
            seen.stamps.extend(stamp(value));
        }
    }

    fn end_event(&mut self, seen: &mut Seen) {
        let event = std::mem::take(&mut self.event);
        if !event.has_data {
            return;
        }
        if event.is_end {
            self.is_done = true;
        } else if event.is_error {
            self.has_error = true;
        } else {
            seen.events += 1;
            seen.tokens += u32::from(event.has_content);
        }
    }
}

/// The status of `HTTP/1.1 200 OK`.
fn status(line: &[u8]) -> Option<u16> {
    let rest = line.strip_prefix(b"HTTP/1.")?.get(2..5)?;
    std::str::from_utf8(rest).ok()?.parse().ok()
}

/// Whether a word is in it: the daemon's own `{"content":"…"}`, an API's `"content":"…"` or `"text":"…"` deeper down, or
/// anything that is not JSON.
fn has_content(value: &[u8], seen: &Seen) -> bool {
    if let Some(rest) = value.strip_prefix(b"{\"content\":") {
        return is_word(rest);
    }
    if !value.starts_with(b"{") {
        return !value.is_empty();
    }
    let word = |key: &Finder<'_>| {
        key.find(value).is_some_and(|at| is_word(value.get(at + key.needle().len()..).unwrap_or_default()))
    };
    word(&seen.content) || word(&seen.text)
}

/// Whether a JSON string that is not empty begins here.
fn is_word(json: &[u8]) -> bool {
    json.trim_ascii_start().strip_prefix(b"\"").is_some_and(|rest| !rest.starts_with(b"\""))
}

/// The nanoseconds behind an `@`.
fn stamp(value: &[u8]) -> Option<u64> {
    let digits = &value[memchr::memchr(b'@', value)? + 1..];
    let length = digits.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&digits[..length]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";

    /// Events, tokens, stamps, and the verdict.
    fn read(chunks: &[&[u8]]) -> (u32, u32, Vec<u64>, Result<(), Kind>) {
        let (mut reader, mut seen) = (Reader::new(), Seen::new(true));
        let (mut events, mut tokens, mut stamps) = (0, 0, Vec::new());
        for chunk in chunks {
            reader.feed(chunk, &mut seen);
            events += seen.events;
            tokens += seen.tokens;
            stamps.append(&mut seen.stamps);
        }
        (events, tokens, stamps, reader.verdict())
    }

    fn body(text: &str) -> (u32, u32, Vec<u64>, Result<(), Kind>) {
        read(&[HEAD.as_bytes(), text.as_bytes()])
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_counts() {
        let answer = format!(
            "{HEAD}id: a:1\ndata: {{\"content\":\"gr\u{fc}n @17\"}}\n\n: keep-alive\n\ndata: {{\"choices\":[{{\"delta\":\
             {{\"content\": \"b\"}}}}]}}\r\n\r\ndata: {{\"usage\":{{}}}}\n\ndata: [DONE]\n\nevent: done\ndata: [DONE]\n\n"
        );
        let whole = read(&[answer.as_bytes()]);
        assert_eq!(whole, (3, 2, vec![17], Ok(())));
        for cut in 0..=answer.len() {
            let (left, right) = answer.as_bytes().split_at(cut);
            assert_eq!(read(&[left, right]), whole, "split at {cut}");
        }
        assert_eq!(read(&answer.as_bytes().chunks(1).collect::<Vec<_>>()), whole);
    }

    #[test]
    fn only_what_says_done_is_whole() {
        assert_eq!(body("data: a\n\n").3, Err(Kind::Cut));
        assert_eq!(body("data: [DONE]\n").3, Err(Kind::Cut), "no empty line");
        assert_eq!(body("data: [DONE]\n\n").3, Ok(()));
        assert_eq!(body("event: done\ndata: {}\n\n").3, Ok(()));
        assert_eq!(read(&[HEAD.as_bytes().split_at(20).0]).3, Err(Kind::Cut));
        assert_eq!(read(&[]).3, Err(Kind::Cut));
    }

    #[test]
    fn an_error_event_is_an_error_also_before_done() {
        let error = "event: error\ndata: {\"error\":{\"message\":\"no\"}}\n\n";
        assert_eq!(body(error).3, Err(Kind::ErrorEvent));
        assert_eq!(body(&format!("{error}data: [DONE]\n\n")).3, Err(Kind::ErrorEvent));
        assert_eq!(body("data: {\"error\":{\"message\":\"no\"}}\n\n").3, Err(Kind::ErrorEvent));
    }

    #[test]
    fn a_refusal_is_its_status_and_its_body_is_no_event() {
        let refusal = b"HTTP/1.1 503 Service Unavailable\r\n\r\ndata: x\n\ndata: [DONE]\n\n";
        assert_eq!(read(&[refusal]), (0, 0, vec![], Err(Kind::Status(503))));
        assert_eq!(read(&[b"SSH-2.0\n"]).3, Err(Kind::BadAnswer));
    }

    #[test]
    fn an_event_without_a_word_is_no_token() {
        let deltas = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":null}}]}\n\ndata: {\"content\":\"\"}\n\ndata: a word\n\n";
        assert_eq!((body(deltas).0, body(deltas).1), (4, 1));
    }
}
