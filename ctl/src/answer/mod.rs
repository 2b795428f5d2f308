//! An HTTP answer, read as it comes. In: bytes, split anywhere. Out: its head, then its events.
//! Never: knows sockets, a clock, or what an event means to a person (that is [`Format`]'s).

mod format;
mod head;
mod sse;

pub(crate) use format::{ErrorMessage, Format, Meaning};
pub(crate) use head::Head;
pub(crate) use sse::Event;

/// The largest body of an answer that is no stream: a JSON error, a status.
const BODY_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What the bytes so far have completed.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// The status line and headers: first, and once.
    Head(Head),
    /// Bytes of an event stream as they came, before the events that they complete; of [`Decoder::verbatim`] alone.
    Bytes(Vec<u8>),
    /// One server-sent event.
    Event(Event),
}

/// Bytes that no HTTP/1 server should have sent.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum BadAnswer {
    #[error("this is no HTTP/1 response head")]
    NoHead,
    #[error("the response head is longer than {} bytes", head::HEAD_BYTES_MAX)]
    HeadTooLong,
    #[error("an event is longer than {} bytes", sse::EVENT_BYTES_MAX)]
    EventTooLong,
    #[error("the body is longer than {BODY_BYTES_MAX} bytes")]
    BodyTooLong,
    #[error("the answer is not an event stream (Content-Type: {0})")]
    NoStream(String),
}

/// Decodes one answer.
#[derive(Debug)]
pub(crate) struct Decoder {
    state: State,
    is_verbatim: bool,
}

#[derive(Debug)]
enum State {
    Head(Vec<u8>),
    Events(sse::Parser),
    Body(Vec<u8>),
}

impl Decoder {
    /// A decoder that awaits the first byte of a head.
    pub(crate) fn new() -> Self {
        Self { state: State::Head(Vec::new()), is_verbatim: false }
    }

    /// The same, for who wants the stream's own bytes too.
    pub(crate) fn verbatim() -> Self {
        Self { is_verbatim: true, ..Self::new() }
    }

    /// Takes the next bytes, hands out what they complete.
    pub(crate) fn feed(&mut self, bytes: &[u8]) -> Result<Vec<Piece>, BadAnswer> {
        match &mut self.state {
            State::Head(seen) => {
                seen.extend_from_slice(bytes);
                let Some((head, length)) = Head::parse(seen)? else { return Ok(Vec::new()) };
                let rest = seen.split_off(length);
                self.state = if head.is_event_stream() {
                    State::Events(sse::Parser::default())
                } else {
                    State::Body(Vec::new())
                };
                let mut pieces = vec![Piece::Head(head)];
                pieces.extend(self.feed(&rest)?);
                Ok(pieces)
            }
            State::Events(parser) => {
                let own = (self.is_verbatim && !bytes.is_empty()).then(|| Piece::Bytes(bytes.to_vec()));
                Ok(own.into_iter().chain(parser.feed(bytes)?.into_iter().map(Piece::Event)).collect())
            }
            State::Body(body) => {
                body.extend_from_slice(bytes);
                if body.len() > BODY_BYTES_MAX { Err(BadAnswer::BodyTooLong) } else { Ok(Vec::new()) }
            }
        }
    }

    /// The body so far of an answer that is no event stream; else empty.
    pub(crate) fn body(&self) -> &[u8] {
        match &self.state {
            State::Body(body) => body,
            State::Head(_) | State::Events(_) => &[],
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nX-Request-Id: r-1\r\n\r\n\
        id: r-1:1\ndata: {\"content\":\"gr\u{fc}n\"}\n\n: keep-alive\n\ndata: a\r\ndata: b\r\n\r\n\
        event: done\nid: r-1:end\ndata: [DONE]\n\n";

    fn decode(chunks: &[&[u8]]) -> Vec<Piece> {
        let mut decoder = Decoder::new();
        chunks.iter().flat_map(|chunk| decoder.feed(chunk).unwrap()).collect()
    }

    #[test]
    fn any_split_of_the_bytes_gives_the_same_pieces() {
        let whole = decode(&[STREAM.as_bytes()]);
        assert_eq!(whole.len(), 4);
        for cut in 0..=STREAM.len() {
            let (left, right) = STREAM.as_bytes().split_at(cut);
            assert_eq!(decode(&[left, right]), whole, "split at {cut}");
        }
        let single: Vec<&[u8]> = STREAM.as_bytes().chunks(1).collect();
        assert_eq!(decode(&single), whole);
    }

    #[test]
    fn a_verbatim_stream_is_all_its_bytes_however_it_is_cut() {
        let body = STREAM.split_once("\r\n\r\n").map(|(_, body)| body.as_bytes());
        for length in [1, 7, STREAM.len()] {
            let mut decoder = Decoder::verbatim();
            let pieces: Vec<Piece> =
                STREAM.as_bytes().chunks(length).flat_map(|chunk| decoder.feed(chunk).unwrap()).collect();
            let bytes = pieces.iter().flat_map(|piece| match piece {
                Piece::Bytes(bytes) => bytes.as_slice(),
                Piece::Head(_) | Piece::Event(_) => &[],
            });
            assert_eq!(Some(bytes.copied().collect::<Vec<u8>>().as_slice()), body);
            assert_eq!(pieces.iter().filter(|piece| matches!(piece, Piece::Event(_))).count(), 3);
        }
    }

    #[test]
    fn the_body_of_a_json_error_is_kept() {
        let mut decoder = Decoder::new();
        let answer =
            b"HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/json\r\n\r\n{\"error\":1}";
        for byte in answer {
            decoder.feed(&[*byte]).unwrap();
        }
        assert_eq!(decoder.body(), b"{\"error\":1}");
    }

    #[test]
    fn an_endless_body_is_refused() {
        let mut decoder = Decoder::new();
        decoder.feed(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
        assert_eq!(decoder.feed(&vec![0; BODY_BYTES_MAX + 1]), Err(BadAnswer::BodyTooLong));
    }
}
