//! A stream: events out of the upstream, in the client's format, into its socket.
//!
//! Never: reads more from the upstream before the last is written, holds back what the upstream has said, ends
//! a broken answer as if it were whole.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use handoff_shared::message::{Format, Outcome};
use handoff_shared::metric::{DURATION_FIRST_BOUND, FIRST_BYTE_FIRST_BOUND};

use super::clock::{Clock, Due, Limits};
use super::story::Story;
use super::{leash, outcome_of};
use crate::client::{Client, WriteError};
use crate::cut::Why;
use crate::event::Event;
use crate::failure::{Code, Failure};
use crate::format::{self, Writer};
use crate::head::Reply;
use crate::inbox::Room;
use crate::report::Held;
use crate::request::ChatRequest;
use crate::upstream::{Answer, MOCK};

/// Events that are ready together go out in one write of about this size.
const WRITE_BYTES: usize = 16 * 1024;

/// One stream on its way.
pub(super) struct Stream<'a> {
    room: &'a Room,
    held: &'a Held,
    client: Client,
    reply: Reply<'a>,
    upstream: Answer,
    story: &'a mut Story,
    writer: Writer,
    format: Format,
    clock: Clock,
    asked_at: Instant,
    out: Vec<u8>,
    /// Events in `out`.
    events: u64,
    /// The answer has begun: an error comes as an event from here on.
    content_begun: bool,
}

/// What a stream waits for.
enum Next {
    Event(Option<Result<Event, Failure>>),
    /// The upstream has nothing more for now.
    Flush,
    ClientGone,
    Due(Due),
    Cut(Why),
}

/// Why a stream ends before its end.
enum End {
    /// The client is told.
    Failed(Failure),
    /// There is nobody to tell.
    Lost(WriteError),
}

impl From<WriteError> for End {
    fn from(error: WriteError) -> Self {
        Self::Lost(error)
    }
}

impl<'a> Stream<'a> {
    pub(super) fn new(
        room: &'a Room,
        held: &'a Held,
        client: Client,
        request: &ChatRequest,
        reply: Reply<'a>,
        upstream: Answer,
        story: &'a mut Story,
    ) -> Self {
        let config = &room.configure.config;
        let heartbeat =
            request.heartbeat.map_or(config.client.heartbeat, |asked| asked.min(config.client.heartbeat));
        let limits = Limits {
            commit_after: config.client.commit_after,
            heartbeat,
            idle: config.backends.all[0].timeouts.idle,
            total: config.client.stream_max,
        };
        let created_secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let stream = format::Stream {
            format: request.format,
            include: request.include,
            request_id: reply.request_id.to_owned(),
            model: request.model.clone().unwrap_or_else(|| config.backends.default_model.clone()),
            created_secs,
        };
        let asked_at = Instant::now();
        room.counts.borrow_mut().backend(MOCK).requests += 1;
        Self {
            room,
            held,
            client,
            reply,
            upstream,
            story,
            writer: Writer::new(stream),
            format: request.format,
            clock: Clock::new(asked_at, limits),
            asked_at,
            out: Vec::new(),
            events: 0,
            content_begun: false,
        }
    }

    /// From the first event to the last.
    pub(super) async fn run(mut self) -> Outcome {
        let outcome = match self.pump().await {
            Ok(()) => Outcome::Complete,
            Err(End::Lost(error)) => outcome_of(&error),
            Err(End::Failed(failure)) => self.fail(&failure).await,
        };
        let took = self.asked_at.elapsed().as_secs_f64();
        self.room.counts.borrow_mut().backend(MOCK).duration.record(DURATION_FIRST_BOUND, took);
        if matches!(outcome, Outcome::ClientGone | Outcome::ClientTooSlow) {
            self.client.abort();
        } else {
            self.held.progress.ending();
            let linger = self.room.configure.config.client.linger;
            self.client.finish(linger, leash(self.room, self.held)).await;
        }
        outcome
    }

    async fn pump(&mut self) -> Result<(), End> {
        let mut cut = pin!(leash(self.room, self.held).pulled());
        loop {
            match self.next(cut.as_mut()).await {
                Next::Event(Some(Ok(event))) => self.add(&event),
                Next::Event(Some(Err(failure))) => return Err(End::Failed(failure)),
                Next::Event(None) => {
                    self.writer.end(&mut self.out);
                    return Ok(self.flush().await?);
                }
                // A slow upstream: the client gets the head, and heartbeats from here on.
                Next::Flush | Next::Due(Due::Head) => self.flush().await?,
                Next::ClientGone => return Err(End::Lost(WriteError::Gone)),
                Next::Due(Due::Heartbeat) => self.writer.heartbeat(&mut self.out),
                Next::Due(Due::Idle) => return Err(End::Failed(self.silence())),
                Next::Due(Due::End) => {
                    let failure = Failure::new(Code::StreamTooLong, "the answer took longer than allowed");
                    return Err(End::Failed(failure));
                }
                Next::Cut(Why::Canceled) => {
                    let failure = Failure::new(Code::Canceled, "the answer was ended by the site's operator");
                    return Err(End::Failed(failure));
                }
                Next::Cut(Why::Drain) => {
                    let failure = Failure::new(Code::ShuttingDown, "the server is restarting, please retry");
                    return Err(End::Failed(failure));
                }
            }
        }
    }

    /// What comes first: a full buffer, the drain's end, the client's end, an event, time to write what the
    /// events before have left, time for something else.
    async fn next(&mut self, mut cut: Pin<&mut impl Future<Output = Why>>) -> Next {
        poll_fn(|cx| {
            if self.out.len() >= WRITE_BYTES {
                return Poll::Ready(Next::Flush);
            }
            if let Poll::Ready(why) = cut.as_mut().poll(cx) {
                return Poll::Ready(Next::Cut(why));
            }
            if self.client.poll_gone(cx).is_ready() {
                return Poll::Ready(Next::ClientGone);
            }
            if self.out.is_empty() && self.clock.is_over() {
                return Poll::Ready(Next::Due(Due::End));
            }
            match self.upstream.poll_next(cx) {
                Poll::Ready(event) => Poll::Ready(Next::Event(event)),
                Poll::Pending if self.may_write() => Poll::Ready(Next::Flush),
                Poll::Pending => self.clock.poll(cx).map(Next::Due),
            }
        })
        .await
    }

    /// Nothing goes out before the answer has begun, or `commit_after` has passed.
    fn may_write(&self) -> bool {
        !self.out.is_empty() && (self.content_begun || self.clock.head_sent)
    }

    fn add(&mut self, event: &Event) {
        let now = Instant::now();
        self.clock.heard(now);
        if event.is_meaningful() && !self.content_begun {
            self.content_begun = true;
            let waited = now.duration_since(self.asked_at).as_secs_f64();
            self.room.counts.borrow_mut().backend(MOCK).first_byte.record(FIRST_BYTE_FIRST_BOUND, waited);
        }
        let before = self.out.len();
        self.writer.event(&mut self.out, event);
        self.events += u64::from(self.out.len() > before);
    }

    /// Head and first event are one write.
    async fn flush(&mut self) -> Result<(), WriteError> {
        if !self.clock.head_sent {
            self.clock.head_out(Instant::now());
            let events = std::mem::take(&mut self.out);
            self.reply.stream_head(&mut self.out);
            self.out.extend_from_slice(&events);
            self.held.commit(self.format).await;
        }
        let is_full = self.out.len() >= WRITE_BYTES;
        self.write().await?;
        if is_full {
            // An upstream that is always ready must not keep the others waiting.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    async fn write(&mut self) -> Result<(), WriteError> {
        let began_at = Instant::now();
        let written = self.client.write(&self.out, leash(self.room, self.held)).await;
        if written.is_ok() {
            self.story.wrote(self.room, self.out.len(), self.events);
            self.held.progress.wrote(self.out.len());
        }
        self.clock.wrote(began_at, Instant::now());
        self.out.clear();
        self.events = 0;
        written
    }

    fn silence(&self) -> Failure {
        match self.content_begun {
            true => Failure::new(Code::StreamIdleTimeout, "the upstream stopped answering"),
            false => Failure::new(Code::FirstTokenTimeout, "the upstream did not begin to answer in time"),
        }
    }

    /// Tells the client: with a status where nothing has begun, else with one last event.
    async fn fail(&mut self, failure: &Failure) -> Outcome {
        self.story.fail(failure);
        let outcome = outcome_of_failure(failure.code);
        if !matches!(outcome, Outcome::ShuttingDown | Outcome::Canceled) {
            self.room.counts.borrow_mut().backend(MOCK).errors += 1;
        }
        let told = if self.content_begun || self.clock.head_sent {
            self.writer.error(&mut self.out, failure);
            self.flush().await
        } else {
            self.out.clear();
            self.reply.error(&mut self.out, failure);
            self.held.commit(self.format).await;
            self.write().await
        };
        match told {
            Ok(()) => outcome,
            Err(error) => outcome_of(&error),
        }
    }
}

fn outcome_of_failure(code: Code) -> Outcome {
    match code {
        Code::ShuttingDown => Outcome::ShuttingDown,
        Code::Canceled => Outcome::Canceled,
        Code::UpstreamTimeout | Code::FirstTokenTimeout | Code::StreamIdleTimeout => Outcome::UpstreamTimeout,
        Code::StreamIncomplete => Outcome::StreamIncomplete,
        Code::StreamTooLong => Outcome::StreamTooLong,
        Code::ClientTooSlow => Outcome::ClientTooSlow,
        Code::BadHandoff | Code::PayloadTooLarge => Outcome::Refused,
        Code::WorkerCrashed => Outcome::Internal,
        Code::UpstreamAuth
        | Code::UpstreamUnavailable
        | Code::UpstreamError
        | Code::RateLimited
        | Code::Overloaded => Outcome::UpstreamFailed,
    }
}
