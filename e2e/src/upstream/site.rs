//! What all connections of a scripted server share. In: the test's script and orders. Out: each request's answer, taken
//! step by step. Never: knows how an answer is written.

use std::collections::{HashSet, VecDeque};
use std::fmt;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use super::answer::{Answer, LastStream, Step};
use super::book::{Book, End, Request};
use super::{Opening, Options};

pub(super) type Script = Box<dyn FnMut(&Request) -> Answer + Send>;

/// What all connections share.
pub(super) struct Site {
    pub(super) options: Options,
    pub(super) book: Book,
    script: Mutex<Script>,
    openings: Mutex<VecDeque<Opening>>,
    gates: watch::Sender<HashSet<String>>,
}

/// How bytes of an answer go out; each protocol has its own way.
pub(super) trait Writer {
    /// The head.
    async fn head(&mut self, answer: &Answer) -> Result<(), End>;
    /// One write, one chunk, one DATA frame if the window allows it.
    async fn send(&mut self, bytes: &[u8]) -> Result<(), End>;
    /// The body ends as it should.
    async fn finish(&mut self) -> Result<(), End>;
    /// Ends when the client has given up, and says how.
    async fn gone(&mut self) -> End;
    /// The stream is reset, or the whole connection where there are no streams.
    async fn reset(&mut self, code: u32);
    /// The connection ends at once: by a reset, or without a word.
    async fn cut(&mut self, by_reset: bool);
    /// HTTP/2 only.
    fn go_away(&mut self, last_stream: LastStream, code: u32);
    /// HTTP/2 only.
    fn max_streams(&mut self, max: u32);
}

impl Site {
    pub(super) fn new(options: Options) -> Self {
        Self {
            options,
            book: Book::default(),
            script: Mutex::new(Box::new(|_| Answer::openai().answer())),
            openings: Mutex::default(),
            gates: watch::Sender::default(),
        }
    }

    pub(super) fn set_script(&self, script: Script) {
        *lock(&self.script) = script;
    }

    pub(super) fn open_next(&self, openings: impl IntoIterator<Item = Opening>) {
        lock(&self.openings).extend(openings);
    }

    pub(super) fn opening(&self) -> Opening {
        lock(&self.openings).pop_front().unwrap_or(self.options.opening)
    }

    pub(super) fn open_gate(&self, name: &str) {
        self.gates.send_modify(|open| {
            open.insert(name.to_owned());
        });
    }

    /// Answers a request whose number is known from now on; the end is noted.
    pub(super) async fn answer(&self, mut request: Request, writer: &mut impl Writer) -> End {
        self.book.arrived(&mut request);
        let number = request.number;
        let answer = (lock(&self.script))(&request);
        let end = match self.play(number, &answer, writer).await {
            Ok(()) => End::Complete,
            Err(end) => end,
        };
        self.book.ended(number, end);
        end
    }

    async fn play(&self, number: usize, answer: &Answer, writer: &mut impl Writer) -> Result<(), End> {
        let mut is_begun = false;
        for step in &answer.steps {
            match step {
                Step::Head => self.head(number, answer, writer, &mut is_begun).await?,
                Step::Send(bytes) => {
                    self.head(number, answer, writer, &mut is_begun).await?;
                    self.send(number, bytes, writer).await?;
                }
                Step::SendBytewise(bytes) => {
                    self.head(number, answer, writer, &mut is_begun).await?;
                    for byte in bytes {
                        self.send(number, &[*byte], writer).await?;
                        // What follows at once would be one packet with it.
                        tokio::task::yield_now().await;
                    }
                }
                Step::SendForever(bytes, pause) => {
                    self.head(number, answer, writer, &mut is_begun).await?;
                    loop {
                        self.send(number, bytes, writer).await?;
                        self.unless_gone(writer, tokio::time::sleep(*pause)).await?;
                    }
                }
                Step::Wait(duration) => self.unless_gone(writer, tokio::time::sleep(*duration)).await?,
                Step::WaitFor(gate) => {
                    let mut gates = self.gates.subscribe();
                    let is_open = gates.wait_for(|open| open.contains(gate));
                    self.unless_gone(writer, is_open).await?;
                }
                Step::Hang => return Err(writer.gone().await),
                Step::Reset(code) => {
                    writer.reset(*code).await;
                    return Err(End::Broken);
                }
                Step::Cut | Step::ResetConnection => {
                    writer.cut(*step == Step::ResetConnection).await;
                    return Err(End::Broken);
                }
                Step::GoAway(last_stream, code) => writer.go_away(*last_stream, *code),
                Step::MaxStreams(max) => writer.max_streams(*max),
            }
            self.book.about(number, |seen| seen.steps_done += 1);
        }
        self.head(number, answer, writer, &mut is_begun).await?;
        writer.finish().await
    }

    async fn head(
        &self,
        number: usize,
        answer: &Answer,
        writer: &mut impl Writer,
        is_begun: &mut bool,
    ) -> Result<(), End> {
        if !std::mem::replace(is_begun, true) {
            writer.head(answer).await?;
            self.book.about(number, |seen| seen.head_sent = Some(Instant::now()));
        }
        Ok(())
    }

    async fn send(&self, number: usize, bytes: &[u8], writer: &mut impl Writer) -> Result<(), End> {
        // In parts, so that the book says how far it has come when the client does not read.
        const PART_BYTES: usize = 16_384;
        let parts = if bytes.len() > 4 * PART_BYTES { PART_BYTES } else { bytes.len().max(1) };
        for part in bytes.chunks(parts) {
            writer.send(part).await?;
            self.book.about(number, |seen| seen.bytes_sent += u64::try_from(part.len()).unwrap_or(0));
        }
        Ok(())
    }

    async fn unless_gone<T>(
        &self,
        writer: &mut impl Writer,
        wait: impl Future<Output = T>,
    ) -> Result<(), End> {
        tokio::select! {
            biased;
            end = writer.gone() => Err(end),
            _ = wait => Ok(()),
        }
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Site")
            .field("options", &self.options)
            .field("book", &self.book)
            .finish_non_exhaustive()
    }
}

/// Nothing that is locked here is left half changed by a panic.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// For pauses that nobody ends.
pub(super) const FOR_EVER: Duration = Duration::from_secs(1 << 30);
