//! A stream: events out of the upstream, in the client's format, into its socket.
//!
//! Never: reads more from the upstream before the last is written, holds back what the upstream has said, ends
//! a broken answer as if it were whole.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use handoff_config::backend::OnDisconnect;
use handoff_shared::message::Outcome;

use super::clock::{Clock, Due, Limits};
use super::story::Story;
use super::{leash, outcome_of};
use crate::alarm::Alarm;
use crate::client::{Client, WriteError};
use crate::cut::{Leash, Why};
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

/// Of most heads.
const HEAD_BYTES: usize = 256;

/// What is written for most events fits this.
const EVENT_BYTES: usize = 128;

/// A client that Apache relays hears something at least this often, and its head not later: a quarter of the time
/// after which Apache by itself gives up a silent peer (`Timeout`, 60 s), and less than the 20 s of sites that are
/// stricter.
const RELAY_SILENCE_MAX: Duration = Duration::from_secs(15);

/// Apache's relay takes a side that is closed sooner behind the last byte for that of a daemon that has died.
const RELAY_LINGER_MIN: Duration = Duration::from_secs(1);

/// How long an answer without a client is read on for what it costs.
const DRAIN_USAGE_MAX: Duration = Duration::from_secs(30);

/// One stream on its way.
#[derive(Debug)]
pub(super) struct Stream {
    client: Client,
    upstream: Option<Answer>,
    alarm: Alarm,
    clock: Clock,
    writer: Writer,
    /// What the site adds to the head, until that is written.
    response_headers: Vec<(String, String)>,
    /// How long the client is waited for at the end.
    linger: Duration,
    /// What is to be written. Between events it has no memory.
    out: Vec<u8>,
    /// Events in `out`.
    events: u64,
    /// The answer has begun: an error comes as an event from here on.
    content_begun: bool,
    /// Nobody has waited for anything yet, and so the client has not been looked after.
    is_fresh: bool,
}

/// What a stream waits for.
enum Next {
    /// There is something to write, and nothing more for now.
    Flush,
    /// The answer is complete.
    End,
    Failed(Failure),
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

impl Stream {
    pub(super) fn new(
        room: &Room,
        mut client: Client,
        request: &ChatRequest,
        request_id: Rc<str>,
        response_headers: Vec<(String, String)>,
        upstream: Answer,
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
            request_id,
            model: upstream.model().to_owned(),
            created_secs,
        };
        Self {
            client,
            upstream: Some(upstream),
            alarm: Alarm::default(),
            clock: Clock::new(Instant::now(), limits),
            writer: Writer::new(stream),
            response_headers,
            linger: config.client.linger.max(linger_min),
            out: Vec::new(),
            events: 0,
            content_begun: false,
            is_fresh: true,
        }
    }

    /// From the first event to the last.
    pub(super) async fn run(&mut self, room: &Room, held: &Held, story: &mut Story) -> Outcome {
        let outcome = match self.pump(room, held, story).await {
            Ok(()) => Outcome::Complete,
            Err(End::Lost(error)) => outcome_of(&error),
            Err(End::Failed(failure)) => Box::pin(self.fail(room, held, story, &failure)).await,
        };
        if matches!(outcome, Outcome::ClientGone | Outcome::ClientTooSlow) {
            self.client.abort();
            Box::pin(self.read_on(leash(room, held))).await;
        }
        // The upstream is let go before the client is waited for.
        if let Some(upstream) = self.upstream.take() {
            story.answered(&upstream);
        }
        if !matches!(outcome, Outcome::ClientGone | Outcome::ClientTooSlow) {
            held.progress.ending();
            // A short time for each, and room for few at a time.
            Box::pin(self.client.finish(self.linger, leash(room, held))).await;
        }
        outcome
    }

    async fn pump(&mut self, room: &Room, held: &Held, story: &mut Story) -> Result<(), End> {
        loop {
            match poll_fn(|cx| self.poll_next(cx, leash(room, held))).await {
                Next::End => {
                    self.writer.end(&mut self.out);
                    return Ok(self.flush(room, held, story).await?);
                }
                // A slow upstream: the client gets the head, and heartbeats from here on.
                Next::Flush | Next::Due(Due::Head) => self.flush(room, held, story).await?,
                Next::Due(Due::Heartbeat) => self.writer.heartbeat(&mut self.out),
                Next::ClientGone => return Err(End::Lost(WriteError::Gone)),
                Next::Failed(failure) => return Err(End::Failed(failure)),
                Next::Due(Due::End) => {
                    self.upstream.iter_mut().for_each(Answer::too_long);
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

    /// What comes first: a full buffer, the drain's end, the client's end, events, time to write what the events before
    /// have left, time for something else.
    fn poll_next(&mut self, cx: &mut Context<'_>, leash: Leash<'_>) -> Poll<Next> {
        self.alarm.begin();
        if let Poll::Ready(why) = leash.poll_pulled(cx) {
            return Poll::Ready(Next::Cut(why));
        }
        // A client that nobody had to wait for yet shows by the first write whether it is there.
        if !self.is_fresh && self.client.poll_gone(cx).is_ready() {
            return Poll::Ready(Next::ClientGone);
        }
        if self.out.is_empty() && self.clock.is_over(self.alarm.now()) {
            return Poll::Ready(Next::Due(Due::End));
        }
        while self.out.len() < WRITE_BYTES {
            let Some(upstream) = &mut self.upstream else { return Poll::Ready(Next::End) };
            match upstream.poll_next(cx, &self.alarm) {
                Poll::Ready(Some(Ok(event))) => self.add(&event),
                Poll::Ready(Some(Err(failure))) => return Poll::Ready(Next::Failed(failure)),
                Poll::Ready(None) => return Poll::Ready(Next::End),
                Poll::Pending if self.may_write() => return Poll::Ready(Next::Flush),
                Poll::Pending => return self.wait(cx),
            }
        }
        Poll::Ready(Next::Flush)
    }

    /// There is nothing to do until somebody wakes us.
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if std::mem::take(&mut self.is_fresh) && self.client.poll_gone(cx).is_ready() {
            return Poll::Ready(Next::ClientGone);
        }
        if let Poll::Ready(due) = self.clock.poll(&self.alarm) {
            return Poll::Ready(Next::Due(due));
        }
        if self.alarm.poll(cx).is_ready() {
            cx.waker().wake_by_ref();
        }
        Poll::Pending
    }

    /// Nothing goes out before the answer has begun, or `commit_after` has passed.
    fn may_write(&self) -> bool {
        !self.out.is_empty() && (self.content_begun || self.clock.head_sent)
    }

    fn add(&mut self, event: &Event) {
        self.content_begun |= event.is_meaningful();
        if self.out.capacity() == 0 {
            self.out.reserve(EVENT_BYTES);
        }
        let before = self.out.len();
        self.writer.event(&mut self.out, event);
        self.events += u64::from(self.out.len() > before);
    }

    /// Head and first event are one write.
    async fn flush(&mut self, room: &Room, held: &Held, story: &mut Story) -> Result<(), WriteError> {
        if !self.clock.head_sent {
            self.put_head_first();
            held.commit(self.writer.format()).await;
        }
        let is_full = self.out.len() >= WRITE_BYTES;
        let written = self.client.write_now(&self.out)?;
        if written < self.out.len() {
            // Few clients are that slow, and what it takes to wait for them is large.
            Box::pin(self.client.write_slowly(&self.out[written..], leash(room, held))).await?;
        }
        self.wrote(room, held, story);
        if is_full {
            // An upstream that is always ready must not keep the others waiting.
            tokio::task::yield_now().await;
        }
        Ok(())
    }

    fn put_head_first(&mut self) {
        self.clock.head_out(self.alarm.now());
        let events = std::mem::take(&mut self.out);
        let response_headers = std::mem::take(&mut self.response_headers);
        self.out.reserve(HEAD_BYTES + events.len());
        reply(self.writer.request_id(), &response_headers).stream_head(&mut self.out);
        self.out.extend_from_slice(&events);
    }

    /// All that was to be written is.
    fn wrote(&mut self, room: &Room, held: &Held, story: &mut Story) {
        story.wrote(room, self.out.len(), self.events);
        held.progress.wrote(self.out.len());
        self.clock.wrote(Instant::now());
        self.out = Vec::new();
        self.events = 0;
    }

    /// Nobody listens any more: the answer is cancelled, or read on for what it costs, or to its end.
    async fn read_on(&mut self, leash: Leash<'_>) {
        let Some(upstream) = &mut self.upstream else { return };
        let limit = match upstream.on_disconnect() {
            OnDisconnect::Cancel => return,
            // What was not begun, or has failed, need not be paid for.
            OnDisconnect::DrainUsage if !upstream.ask_no_more() => return,
            OnDisconnect::DrainUsage => Some(DRAIN_USAGE_MAX),
            OnDisconnect::Continue => None,
        };
        let limit = [limit, self.clock.remaining()].into_iter().flatten().min();
        let until = limit.map(|limit| Instant::now() + limit);
        let alarm = &mut self.alarm;
        poll_fn(|cx| {
            alarm.begin();
            if leash.poll_pulled(cx).is_ready() {
                return Poll::Ready(());
            }
            loop {
                if until.is_some_and(|until| alarm.poll_until(until).is_ready()) {
                    return Poll::Ready(());
                }
                match upstream.poll_next(cx, alarm) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            if alarm.poll(cx).is_ready() {
                cx.waker().wake_by_ref();
            }
            Poll::Pending
        })
        .await;
    }

    /// Tells the client: with a status where nothing has begun, else with one last event.
    async fn fail(&mut self, room: &Room, held: &Held, story: &mut Story, failure: &Failure) -> Outcome {
        story.fail(failure);
        let outcome = outcome_of_failure(failure.code);
        let told = if self.content_begun || self.clock.head_sent {
            self.writer.error(&mut self.out, failure);
            self.flush(room, held, story).await
        } else {
            self.out.clear();
            reply(self.writer.request_id(), &self.response_headers).error(&mut self.out, failure);
            held.commit(self.writer.format()).await;
            let written = self.client.write(&self.out, leash(room, held)).await;
            written.map(|()| self.wrote(room, held, story))
        };
        match told {
            Ok(()) => outcome,
            Err(error) => outcome_of(&error),
        }
    }
}

fn reply<'a>(request_id: &'a str, response_headers: &'a [(String, String)]) -> Reply<'a> {
    Reply { request_id, response_headers, head_only: false }
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
