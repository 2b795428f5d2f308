//! The scripted LLM server's HTTP/2, frame by frame: what it announces, and what it never sends.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod started;

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;

use started::{PATIENCE, Started};

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const CONTINUATION: u8 = 9;

const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

/// `:method: POST`, `:scheme: http`, `:path: /`.
const REQUEST: &[u8] = b"\x83\x86\x84";

#[derive(Debug, PartialEq, Eq)]
struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
    payload: Vec<u8>,
}

struct Client {
    stream: TcpStream,
    _upstream: Started,
}

impl Client {
    /// With these as its settings: id and value.
    fn new(arguments: &[&str], settings: &[(u16, u32)]) -> Self {
        let mut client = Self::connected(arguments);
        client.stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
        let bytes = settings
            .iter()
            .flat_map(|(id, value)| [&id.to_be_bytes()[..], &value.to_be_bytes()[..]].concat());
        client.send(SETTINGS, 0, 0, &bytes.collect::<Vec<u8>>());
        client
    }

    fn connected(arguments: &[&str]) -> Self {
        let mut upstream = Started::new(env!("CARGO_BIN_EXE_upstream"), arguments);
        let line = upstream.line();
        let stream = TcpStream::connect(line.strip_prefix("upstream listens on http://").unwrap()).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, _upstream: upstream }
    }

    fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut frame = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        frame.extend([kind, flags]);
        frame.extend(stream.to_be_bytes());
        frame.extend(payload);
        self.stream.write_all(&frame).unwrap();
    }

    fn ask(&mut self, stream: u32) {
        self.send(HEADERS, END_STREAM | END_HEADERS, stream, REQUEST);
    }

    fn widen(&mut self, stream: u32, bytes: u32) {
        self.send(WINDOW_UPDATE, 0, stream, &bytes.to_be_bytes());
    }

    /// None: the connection is closed.
    fn frame(&mut self) -> Option<Frame> {
        let mut head = [0; 9];
        match self.stream.read_exact(&mut head) {
            Err(error) if matches!(error.kind(), ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset) => {
                return None;
            }
            other => other.unwrap(),
        }
        let mut payload = vec![0; u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize];
        self.stream.read_exact(&mut payload).unwrap();
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some(Frame { kind: head[3], flags: head[4], stream, payload })
    }

    /// All that it sends until it has seen all that we have sent.
    fn settled(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        // What follows from our last frame goes out behind the answer to the first PING, and before that to a second.
        for _ in 0..2 {
            self.send(PING, 0, 0, b"all seen");
            loop {
                let frame = self.frame().unwrap();
                if frame.kind == PING {
                    assert_eq!((frame.flags, &frame.payload[..]), (ACK, &b"all seen"[..]));
                    break;
                }
                frames.push(frame);
            }
        }
        frames
    }

    /// Until this stream is at its end.
    fn ended(&mut self, stream: u32) -> Vec<Frame> {
        let mut frames = Vec::new();
        loop {
            let frame = self.frame().unwrap();
            let is_last = frame.stream == stream && frame.kind == DATA && frame.flags & END_STREAM != 0;
            frames.push(frame);
            if is_last {
                return frames;
            }
        }
    }
}

fn data_bytes(frames: &[Frame], stream: u32) -> usize {
    frames
        .iter()
        .filter(|frame| frame.kind == DATA && frame.stream == stream)
        .map(|frame| frame.payload.len())
        .sum()
}

fn has(frames: &[Frame], kind: u8, stream: u32) -> bool {
    frames.iter().any(|frame| frame.kind == kind && frame.stream == stream)
}

const INITIAL_WINDOW: u16 = 4;

#[test]
fn a_stream_never_has_more_than_its_window() {
    let mut client = Client::new(&["--events", "100"], &[(INITIAL_WINDOW, 100)]);
    client.ask(1);
    client.ask(3);
    let frames = client.settled();
    assert_eq!((data_bytes(&frames, 1), data_bytes(&frames, 3)), (100, 100));
    client.widen(3, 1000);
    let frames = client.settled();
    assert_eq!((data_bytes(&frames, 1), data_bytes(&frames, 3)), (0, 1000));
    // Settings count for streams that are open, too: narrower first, so that there is a debt, then wider.
    client.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 50]);
    let frames = client.settled();
    assert_eq!((data_bytes(&frames, 1), data_bytes(&frames, 3)), (0, 0));
    client.send(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 130]);
    let frames = client.settled();
    assert_eq!((data_bytes(&frames, 1), data_bytes(&frames, 3)), (30, 30));
    client.widen(1, 1 << 20);
    assert_eq!(client.ended(1).last().unwrap().payload.len(), 0);
}

#[test]
fn all_streams_together_never_have_more_than_the_connections_window() {
    let mut client = Client::new(&["--events", "1000"], &[(INITIAL_WINDOW, 1 << 30)]);
    for stream in [1, 3, 5] {
        client.ask(stream);
    }
    let frames = client.settled();
    let all = |frames: &[Frame]| [1, 3, 5].iter().map(|id| data_bytes(frames, *id)).sum::<usize>();
    assert_eq!(all(&frames), 65_535);
    client.widen(0, 1000);
    assert_eq!(all(&client.settled()), 1000);
    client.widen(0, 1 << 30);
    let mut ended = 0;
    while ended < 3 {
        let frame = client.frame().unwrap();
        ended += usize::from(frame.kind == DATA && frame.flags & END_STREAM != 0);
    }
}

#[test]
fn more_streams_than_announced_are_refused() {
    let options = ["--max-concurrent-streams", "2", "--events", "2", "--interval-ms", "3600000"];
    let mut client = Client::new(&options, &[]);
    for stream in [1, 3, 5] {
        client.ask(stream);
    }
    let frames = client.settled();
    let settings = &frames.iter().find(|frame| frame.kind == SETTINGS).unwrap().payload;
    assert!(settings.chunks(6).any(|setting| setting == [0, 3, 0, 0, 0, 2]), "{settings:?}");
    assert!(data_bytes(&frames, 1) > 0 && data_bytes(&frames, 3) > 0);
    assert!(!has(&frames, HEADERS, 5));
    let refused = Frame { kind: RST_STREAM, flags: 0, stream: 5, payload: vec![0, 0, 0, 7] };
    assert!(frames.contains(&refused), "{frames:?}");
    // Whoever gives up a stream may have another.
    client.send(RST_STREAM, 0, 3, &[0, 0, 0, 8]);
    client.ask(7);
    client.ask(9);
    let frames = client.settled();
    assert!(has(&frames, HEADERS, 7) && has(&frames, RST_STREAM, 9), "{frames:?}");
}

#[test]
fn a_stream_that_is_given_up_says_nothing_more() {
    let mut client = Client::new(&["--events", "3", "--interval-ms", "100"], &[]);
    client.ask(1);
    client.ask(3);
    let frames = client.settled();
    assert!(has(&frames, DATA, 1) && has(&frames, DATA, 3));
    client.send(RST_STREAM, 0, 1, &[0, 0, 0, 8]);
    client.settled();
    let frames = client.ended(3);
    assert_eq!(data_bytes(&frames, 1), 0);
}

#[test]
fn a_question_is_at_its_end_when_its_last_frame_says_so() {
    let mut client = Client::new(&["--events", "1"], &[]);
    // A header block in two frames, a body in two, trailers.
    client.send(HEADERS, 0, 1, &REQUEST[..1]);
    client.send(CONTINUATION, END_HEADERS, 1, &REQUEST[1..]);
    client.send(DATA, 0, 1, b"{");
    client.send(DATA, 0, 1, b"}");
    assert!(!has(&client.settled(), HEADERS, 1));
    client.send(HEADERS, END_STREAM | END_HEADERS, 1, b"\x00\x01a\x01b");
    assert!(has(&client.ended(1), HEADERS, 1));
    // No body at all, but a header block in two frames: the first says that the request ends with it.
    client.send(HEADERS, END_STREAM, 3, &REQUEST[..1]);
    client.send(CONTINUATION, END_HEADERS, 3, &REQUEST[1..]);
    assert!(has(&client.ended(3), HEADERS, 3));
}

#[test]
fn what_a_client_sends_it_may_send_again() {
    let mut client = Client::new(&["--events", "1"], &[]);
    client.send(HEADERS, END_HEADERS, 1, REQUEST);
    let mut given_back = 0;
    for _ in 0..200 {
        client.send(DATA, 0, 1, &[b' '; 16_384]);
    }
    for frame in client.settled() {
        if frame.kind == WINDOW_UPDATE {
            given_back += i64::from(u32::from_be_bytes(frame.payload.try_into().unwrap()));
        }
    }
    // As much as there can be, less what has not been worth a frame.
    let outstanding = (1i64 << 31) - 1 - (65_535 + given_back - 200 * 16_384);
    assert!((0..1 << 20).contains(&outstanding), "{outstanding}");
}

#[test]
fn whoever_breaks_the_protocol_is_told_and_cut_off() {
    let breaches: [(&str, u32, u8, u32, &[u8]); 5] = [
        ("a stream of the server's", 1, HEADERS, 2, REQUEST),
        ("a body without a head", 1, DATA, 9, b"{}"),
        ("a window that grows by nothing", 1, WINDOW_UPDATE, 0, &[0; 4]),
        ("a window beyond all bounds", 3, WINDOW_UPDATE, 0, &[0x7f, 0xff, 0xff, 0xff]),
        ("a PING of another size", 6, PING, 0, b"short"),
    ];
    for (what, code, kind, stream, payload) in breaches {
        let mut client = Client::new(&[], &[]);
        client.send(kind, END_HEADERS, stream, payload);
        let mut said = None;
        while let Some(frame) = client.frame() {
            if frame.kind == GOAWAY {
                said = frame.payload.last_chunk().map(|bytes| u32::from_be_bytes(*bytes));
            }
        }
        assert_eq!(said, Some(code), "{what}");
    }
    let mut client = Client::connected(&[]);
    client.stream.write_all(b"GET / HTTP/1.1\r\nHost: llm.test\r\n\r\n").unwrap();
    assert_eq!(client.frame().unwrap().kind, GOAWAY);
    assert_eq!(client.frame(), None);
}
