//! A stream: events out of the upstream, in the client's format, into its socket.
//!
//! Never: reads more from the upstream before the last is written, holds back what the upstream has said, ends
//! a broken answer as if it were whole.

use std::future::poll_fn;
use std::pin::{Pin, pin};
use std::task::Poll;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use handoff_config::backend::OnDisconnect;
use handoff_shared::message::{Format, Outcome};
use tokio::time::timeout;

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
use crate::upstream::Answer;

/// Events that are ready together go out in one write of about this size.
const WRITE_BYTES: usize = 16 * 1024;

/// A client that Apache relays hears something at least this often, and its head not later: a quarter of the time
/// after which Apache by itself gives up a silent peer (`Timeout`, 60 s), and less than the 20 s of sites that are
/// stricter.
const RELAY_SILENCE_MAX: Duration = Duration::from_secs(15);

/// Apache's relay takes a side that is closed sooner behind the last byte for that of a daemon that has died.
const RELAY_LINGER_MIN: Duration = Duration::from_secs(1);

/// How long an answer without a client is read on for what it costs.
const DRAIN_USAGE_MAX: Duration = Duration::from_secs(30);

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
    /// How long the client is waited for at the end.
    linger: Duration,
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
        mut client: Client,
        request: &ChatRequest,
        reply: Reply<'a>,
        upstream: Answer,
        story: &'a mut Story,
    ) -> Self {
        let config = &room.configure.config;
        let timeouts = upstream.timeouts();
        if let Some(timeouts) = timeouts {
            client.write_timeout = timeouts.client_write;
        }
        let silence_max = if request.is_relayed() { RELAY_SILENCE_MAX } else { Duration::MAX };
        let linger_min = if request.is_relayed() { RELAY_LINGER_MIN } else { Duration::ZERO };
        let heartbeat =
            request.heartbeat.map_or(config.client.heartbeat, |own| own.min(config.client.heartbeat));
        let limits = Limits {
            commit_after: config.client.commit_after.min(silence_max),
            heartbeat: heartbeat.min(silence_max),
            total: timeouts.and_then(|timeouts| timeouts.total),
        };
        let created_secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let stream = format::Stream {
            format: request.format,
            include: request.include,
            request_id: reply.request_id.to_owned(),
            model: upstream.model().to_owned(),
            created_secs,
        };
        Self {
            room,
            held,
            client,
            reply,
            upstream,
            story,
            writer: Writer::new(stream),
            format: request.format,
            clock: Clock::new(Instant::now(), limits),
            linger: config.client.linger.max(linger_min),
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
        self.story.answered(&self.upstream);
        if matches!(outcome, Outcome::ClientGone | Outcome::ClientTooSlow) {
            self.client.abort();
            self.read_on().await;
            self.story.answered(&self.upstream);
        } else {
            // The upstream is let go before the client is waited for.
            drop(self.upstream);
            self.held.progress.ending();
            self.client.finish(self.linger, leash(self.room, self.held)).await;
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
                Next::Due(Due::End) => {
                    self.upstream.too_long();
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
        self.content_begun |= event.is_meaningful();
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
        let written = self.client.write(&self.out, leash(self.room, self.held)).await;
        if written.is_ok() {
            self.story.wrote(self.room, self.out.len(), self.events);
            self.held.progress.wrote(self.out.len());
        }
        self.clock.wrote(Instant::now());
        self.out.clear();
        self.events = 0;
        written
    }

    /// Nobody listens any more: the answer is cancelled, or read on for what it costs, or to its end.
    async fn read_on(&mut self) {
        let limit = match self.upstream.on_disconnect() {
            OnDisconnect::Cancel => return,
            // What was not begun, or has failed, need not be paid for.
            OnDisconnect::DrainUsage if !self.upstream.ask_no_more() => return,
            OnDisconnect::DrainUsage => Some(DRAIN_USAGE_MAX),
            OnDisconnect::Continue => None,
        };
        let limit = [limit, self.clock.remaining()].into_iter().flatten().min();
        let reading = async { while let Some(Ok(_)) = poll_fn(|cx| self.upstream.poll_next(cx)).await {} };
        let limited = async {
            match limit {
                Some(limit) => timeout(limit, reading).await.unwrap_or(()),
                None => reading.await,
            }
        };
        tokio::select! {
            biased;
            _ = leash(self.room, self.held).pulled() => {}
            () = limited => {}
        }
    }

    /// Tells the client: with a status where nothing has begun, else with one last event.
    async fn fail(&mut self, failure: &Failure) -> Outcome {
        self.story.fail(failure);
        let outcome = outcome_of_failure(failure.code);
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
        Code::InvalidRequest
        | Code::UpstreamAuth
        | Code::UpstreamUnavailable
        | Code::UpstreamError
        | Code::RateLimited
        | Code::Overloaded => Outcome::UpstreamFailed,
    }
}
