//! A recorded answer, played again. In: a file, read before the process is confined. Out: the same pieces of the same
//! body, at the times that they had, or faster.
//!
//! A file that is no recording but a body alone (server-sent events) is played at once, as an answer in OpenAI's dialect.
//!
//! Never: touches the file again; makes an answer that broke off look whole.

use std::fs::File;
use std::io::{self, Read};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use handoff_config::backend::{Dialect, Replay};
use hyper::body::Bytes;
use tokio::time::{Instant, Sleep};

use super::recording::{End, Head, Line, RECORDING_BYTES_MAX, VERSION, dialect_of};

/// The longest wait for a piece, however slowly it is played.
const WAIT_MAX: Duration = Duration::from_secs(86_400);

/// An answer in memory.
#[derive(Debug)]
pub struct Recording {
    dialect: Dialect,
    status: u16,
    pieces: Vec<(Duration, Bytes)>,
    end: (Duration, End),
}

/// Why there is nothing to play.
#[derive(Debug, thiserror::Error)]
pub enum ReplayError {
    /// The file.
    #[error(transparent)]
    File(#[from] io::Error),
    /// Larger than a recording is.
    #[error("larger than {} MiB", RECORDING_BYTES_MAX / (1024 * 1024))]
    TooLarge,
    /// Its first line.
    #[error("line 1: neither a recording of version {VERSION} nor server-sent events")]
    NoRecording,
    /// An unknown word there.
    #[error("line 1: there is no dialect {name:?}; allowed: openai, responses, anthropic, ollama, langgraph")]
    Dialect {
        /// As written.
        name: String,
    },
    /// Another line.
    #[error("line {line}: must be an object with t_ms, and with text, base64 or end")]
    Line {
        /// From 1.
        line: usize,
    },
}

/// The recorded body broke off here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the recording breaks off: {}", match end {
    End::Clean => "it does not say how it ended",
    End::Broken => "the upstream's connection broke",
    End::Abandoned => "nobody wanted the rest",
    End::Cut => "the rest was not recorded",
})]
pub struct BrokeOff {
    /// How.
    pub end: End,
}

/// A recording that is being played.
#[derive(Debug)]
pub struct Playback {
    recording: Arc<Recording>,
    speed: f64,
    next: usize,
    is_over: bool,
    began_at: Option<Instant>,
    timer: Pin<Box<Sleep>>,
}

impl Recording {
    /// Reads the whole file.
    ///
    /// # Errors
    /// When it cannot be read, or is none.
    pub fn load(replay: &Replay) -> Result<Self, ReplayError> {
        let mut bytes = Vec::new();
        File::open(&replay.file)?.take(RECORDING_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)?;
        if bytes.len() > RECORDING_BYTES_MAX {
            return Err(ReplayError::TooLarge);
        }
        Self::parse(bytes)
    }

    /// Of the API that was recorded.
    #[must_use]
    pub fn dialect(&self) -> &Dialect {
        &self.dialect
    }

    fn parse(bytes: Vec<u8>) -> Result<Self, ReplayError> {
        match bytes.first() {
            Some(b'{') => Self::read(&bytes),
            Some(b'd' | b'e' | b'i' | b'r' | b':') => Ok(Self::body(bytes)),
            Some(_) | None => Err(ReplayError::NoRecording),
        }
    }

    fn read(bytes: &[u8]) -> Result<Self, ReplayError> {
        let text = std::str::from_utf8(bytes).map_err(|_| ReplayError::NoRecording)?;
        let mut lines = text.lines();
        let head: Head = lines
            .next()
            .and_then(|line| serde_json::from_str(line).ok())
            .filter(|head: &Head| head.handoffd_recording == VERSION)
            .ok_or(ReplayError::NoRecording)?;
        let Some(dialect) = dialect_of(&head.dialect) else {
            return Err(ReplayError::Dialect { name: head.dialect });
        };
        let mut pieces = Vec::new();
        let mut end = None;
        for (index, line) in lines.enumerate().filter(|(_, line)| !line.is_empty()) {
            let wrong = || ReplayError::Line { line: index + 2 };
            let line: Line<'_> = serde_json::from_str(line).map_err(|_| wrong())?;
            let at = Duration::from_millis(line.t_ms);
            match line {
                Line { text: Some(text), base64: None, end: None, .. } => {
                    pieces.push((at, Bytes::from(text.into_owned())));
                }
                Line { text: None, base64: Some(base64), end: None, .. } => {
                    let bytes = STANDARD.decode(base64.as_bytes()).map_err(|_| wrong())?;
                    pieces.push((at, Bytes::from(bytes)));
                }
                Line { text: None, base64: None, end: Some(how), .. } => {
                    end = Some((at, how));
                    break;
                }
                Line { .. } => return Err(wrong()),
            }
        }
        // A recording without its last line is one that was cut.
        let last = pieces.last().map_or(Duration::ZERO, |(at, _)| *at);
        Ok(Self { dialect, status: head.status, pieces, end: end.unwrap_or((last, End::Cut)) })
    }

    fn body(bytes: Vec<u8>) -> Self {
        let pieces = vec![(Duration::ZERO, Bytes::from(bytes))];
        Self { dialect: Dialect::OpenAi, status: 200, pieces, end: (Duration::ZERO, End::Clean) }
    }
}

impl Playback {
    /// At the answer's beginning. `speed`: how many times faster; 0: without any delay.
    #[must_use]
    pub fn new(recording: Arc<Recording>, speed: f64) -> Self {
        let timer = Box::pin(tokio::time::sleep(Duration::ZERO));
        Self { recording, speed, next: 0, is_over: false, began_at: None, timer }
    }

    /// What reads it: the values that only asking needs are empty.
    #[must_use]
    pub fn dialect(&self) -> &Dialect {
        &self.recording.dialect
    }

    /// The status that came with it.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.recording.status
    }

    /// The next piece of the body; none: its clean end. Time runs from the first call on.
    ///
    /// # Errors
    /// Once, where the recorded body broke off.
    pub fn poll_bytes(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, BrokeOff>>> {
        if self.is_over {
            return Poll::Ready(None);
        }
        let piece = self.recording.pieces.get(self.next).cloned();
        let at = piece.as_ref().map_or(self.recording.end.0, |(at, _)| *at);
        ready!(self.poll_due(at, cx));
        match (piece, self.recording.end.1) {
            (Some((_, bytes)), _) => {
                self.next += 1;
                Poll::Ready(Some(Ok(bytes)))
            }
            (None, End::Clean) => {
                self.is_over = true;
                Poll::Ready(None)
            }
            (None, end @ (End::Broken | End::Abandoned | End::Cut)) => {
                self.is_over = true;
                Poll::Ready(Some(Err(BrokeOff { end })))
            }
        }
    }

    fn poll_due(&mut self, at: Duration, cx: &mut Context<'_>) -> Poll<()> {
        let began_at = *self.began_at.get_or_insert_with(Instant::now);
        if self.speed <= 0.0 {
            return Poll::Ready(());
        }
        let wait = Duration::try_from_secs_f64(at.as_secs_f64() / self.speed).unwrap_or(WAIT_MAX);
        let due_at = began_at + wait.min(WAIT_MAX);
        if self.timer.deadline() != due_at {
            self.timer.as_mut().reset(due_at);
        }
        self.timer.as_mut().poll(cx)
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    const HEAD: &str =
        r#"{"handoffd_recording":1,"backend":"b","dialect":"anthropic","model":"m","status":200}"#;

    fn recording(lines: &[&str]) -> Result<Recording, ReplayError> {
        Recording::parse([&[HEAD], lines].concat().join("\n").into_bytes())
    }

    async fn play(recording: Recording, speed: f64) -> Vec<(u128, Result<Bytes, BrokeOff>)> {
        let mut playback = Playback::new(Arc::new(recording), speed);
        let began_at = Instant::now();
        let mut heard = Vec::new();
        while let Some(piece) = poll_fn(|cx| playback.poll_bytes(cx)).await {
            heard.push((began_at.elapsed().as_millis(), piece));
        }
        assert!(poll_fn(|cx| playback.poll_bytes(cx)).await.is_none());
        heard
    }

    const PIECES: [&str; 3] =
        [r#"{"t_ms":100,"text":"a\n"}"#, r#"{"t_ms":300,"base64":"4oI="}"#, r#"{"t_ms":400,"end":"clean"}"#];

    #[tokio::test(start_paused = true)]
    async fn pieces_come_when_they_came_or_faster() {
        for (speed, times) in [(1.0, [100, 300]), (2.0, [50, 150]), (0.0, [0, 0])] {
            let recording = recording(&PIECES).unwrap();
            assert!(matches!(recording.dialect, Dialect::Anthropic(_)));
            let heard = play(recording, speed).await;
            let pieces: Vec<&[u8]> = heard.iter().map(|(_, piece)| &piece.as_ref().unwrap()[..]).collect();
            assert_eq!(pieces, [&b"a\n"[..], b"\xe2\x82"]);
            // The timer counts whole milliseconds, and is never early.
            for ((at, _), expected) in heard.iter().zip(times) {
                assert!((expected..=expected + 1).contains(at), "{at} at speed {speed}");
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_broke_off_breaks_off() {
        for (last, end) in [
            (r#"{"t_ms":400,"end":"broken"}"#, End::Broken),
            (r#"{"t_ms":400,"end":"abandoned"}"#, End::Abandoned),
            ("", End::Cut),
        ] {
            let heard = play(recording(&[PIECES[0], last]).unwrap(), 1.0).await;
            assert_eq!(heard.len(), 2);
            assert_eq!(heard[1].1, Err(BrokeOff { end }), "{last}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_slowest_speed_is_no_panic() {
        let recording = recording(&[r#"{"t_ms":18446744073709551615,"end":"clean"}"#]).unwrap();
        assert!(play(recording, 1e-300).await.is_empty());
    }

    #[tokio::test]
    async fn a_body_alone_is_an_answer_in_openais_dialect() {
        let recording = Recording::parse(b"data: {}\n\ndata: [DONE]\n\n".to_vec()).unwrap();
        assert_eq!(recording.dialect, Dialect::OpenAi);
        assert_eq!(play(recording, 1.0).await[0].1.as_ref().unwrap().len(), 24);
    }

    #[test]
    fn a_file_that_is_no_recording_is_refused_with_its_line() {
        let refusal = |bytes: &[u8]| Recording::parse(bytes.to_vec()).unwrap_err().to_string();
        for bytes in [&b""[..], b"{}", b"{\"handoffd_recording\":2}", b"<html>", b"{\xff"] {
            let expected = "line 1: neither a recording of version 1 nor server-sent events";
            assert_eq!(refusal(bytes), expected, "{bytes:?}");
        }
        for line in ["{}", "[]", r#"{"t_ms":1}"#, r#"{"t_ms":1,"base64":"*"}"#, r#"{"t_ms":-1,"text":""}"#] {
            let error = recording(&[PIECES[0], "", line]).unwrap_err().to_string();
            assert_eq!(error, "line 4: must be an object with t_ms, and with text, base64 or end", "{line}");
        }
        let unknown = HEAD.replace("anthropic", "klingon");
        assert!(refusal(unknown.as_bytes()).starts_with("line 1: there is no dialect \"klingon\""));
    }
}
