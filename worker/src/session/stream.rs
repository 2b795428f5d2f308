//! A stream: events out of the upstream, in the client's format, into its socket.
//!
//! Never: reads more from the upstream before the last is written, holds back what the upstream has said, ends
//! a broken answer as if it were whole.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handoff_config::backend::OnDisconnect;
use handoff_shared::message::Outcome;

use super::clock::{Clock, Due, Limits};
use super::{Session, outcome_of};
use crate::alarm::Alarm;
use crate::client::{Client, WriteError};
use crate::cut::Why;
use crate::event::Event;
use crate::failure::{Code, Failure};
use crate::format::{self, Writer};
use crate::head::Reply;
use crate::moment::{Millis, Moment};
use crate::request::ChatRequest;
use crate::runner::Part;
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
    session: Session,
    client: Client,
    upstream: Option<Answer>,
    clock: Clock,
    writer: Writer,
    /// What the site adds to the head, until that is written.
    response_headers: Box<[(String, String)]>,
    /// How long the client is waited for at the end.
    linger: Millis,
    /// What is to be written. Between events it has no memory.
    out: Vec<u8>,
    /// Events in `out`.
    events: u32,
    /// The answer has begun: an error comes as an event from here on.
    content_begun: bool,
    /// Nobody has waited for anything yet, and so the client has not been looked after.
    is_fresh: bool,
    /// What was written last was as much as is written at once.
    is_full: bool,
}

/// What a stream waits for.
enum Next {
    /// There is something to write, and nothing more for now.
    Flush,
    /// The answer is complete.
    End,
    Failed(Box<Failure>),
    ClientGone,
    Due(Due),
    Cut(Why),
}

/// Why a stream ends before its end.
enum End {
    /// The client is told.
    Failed(Box<Failure>),
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
        session: Session,
        mut client: Client,
        request: &ChatRequest,
        request_id: Rc<str>,
        response_headers: Vec<(String, String)>,
        upstream: Answer,
    ) -> Self {
        let config = session.config();
        let timeouts = upstream.timeouts();
        client.wait_for(timeouts.client_write);
        let silence_max = if request.is_relayed() { RELAY_SILENCE_MAX } else { Duration::MAX };
        let linger_min = if request.is_relayed() { RELAY_LINGER_MIN } else { Duration::ZERO };
        let heartbeat =
            request.heartbeat.map_or(config.client.heartbeat, |own| own.min(config.client.heartbeat));
        let limits = Limits {
            commit_after: config.client.commit_after.min(silence_max),
            heartbeat: heartbeat.min(silence_max),
            total: timeouts.total,
        };
        let created_secs = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let stream = format::Stream {
            format: request.format,
            include: request.include,
            request_id,
            model: upstream.model(),
            created_secs,
        };
        let linger = config.client.linger.max(linger_min).into();
        Self {
            session,
            client,
            upstream: Some(upstream),
            clock: Clock::new(Moment::now(), limits),
            writer: Writer::new(stream),
            response_headers: response_headers.into(),
            linger,
            out: Vec::new(),
            events: 0,
            content_begun: false,
            is_fresh: true,
            is_full: false,
        }
    }

    /// To its end.
    pub(super) fn serve(mut self) -> Part {
        Part::new(async move {
            let outcome = self.run().await;
            self.session.end(outcome);
            None
        })
    }

    /// From the first event to the last.
    async fn run(&mut self) -> Outcome {
        let outcome = match self.pump().await {
            Ok(()) => Outcome::Complete,
            Err(End::Lost(error)) => outcome_of(&error),
            Err(End::Failed(failure)) => Box::pin(self.fail(&failure)).await,
        };
        if matches!(outcome, Outcome::ClientGone | Outcome::ClientTooSlow) {
            self.client.abort();
            Box::pin(self.read_on()).await;
        }
        // The upstream is let go before the client is waited for.
        if let Some(upstream) = self.upstream.take() {
            self.session.story.answered(&upstream);
        }
        if !matches!(outcome, Outcome::ClientGone | Outcome::ClientTooSlow) {
            self.session.held.port.progress.ending();
            // A short time for each, and room for few at a time.
            Box::pin(self.client.finish(self.linger.duration(), self.session.leash())).await;
        }
        outcome
    }

    async fn pump(&mut self) -> Result<(), End> {
        loop {
            match poll_fn(|cx| self.poll_next(cx)).await {
                Next::End => {
                    self.writer.end(&mut self.out);
                    return Ok(self.flush().await?);
                }
                // A slow upstream: the client gets the head, and heartbeats from here on.
                Next::Flush | Next::Due(Due::Head) => self.flush().await?,
                Next::Due(Due::Heartbeat) => self.writer.heartbeat(&mut self.out),
                Next::ClientGone => return Err(End::Lost(WriteError::Gone)),
                Next::Failed(failure) => return Err(End::Failed(failure)),
                Next::Due(Due::End) => {
                    self.upstream.iter_mut().for_each(Answer::too_long);
                    return Err(failed(Code::StreamTooLong, "the answer took longer than allowed"));
                }
                Next::Cut(Why::Canceled) => {
                    return Err(failed(Code::Canceled, "the answer was ended by the site's operator"));
                }
                Next::Cut(Why::Drain) => {
                    return Err(failed(Code::ShuttingDown, "the server is restarting, please retry"));
                }
            }
        }
    }

    /// What comes first: a full buffer, the drain's end, the client's end, events, time to write what the events before
    /// have left, time for something else.
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Next> {
        if let Poll::Ready(why) = self.session.leash().poll_pulled() {
            return Poll::Ready(Next::Cut(why));
        }
        if std::mem::take(&mut self.is_full) {
            // An upstream that is always ready must not keep the others waiting.
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let alarm = Alarm::begin();
        // A client that nobody had to wait for yet shows by the first write whether it is there.
        if !self.is_fresh && self.client.poll_gone().is_ready() {
            return Poll::Ready(Next::ClientGone);
        }
        if self.out.is_empty() && self.clock.is_over(alarm.now()) {
            return Poll::Ready(Next::Due(Due::End));
        }
        while self.out.len() < WRITE_BYTES {
            let Some(upstream) = &mut self.upstream else { return Poll::Ready(Next::End) };
            match upstream.poll_next(cx, &alarm) {
                Poll::Ready(Some(Ok(event))) => self.add(&event),
                Poll::Ready(Some(Err(failure))) => return Poll::Ready(Next::Failed(Box::new(failure))),
                Poll::Ready(None) => return Poll::Ready(Next::End),
                Poll::Pending if self.may_write() => return Poll::Ready(Next::Flush),
                Poll::Pending => return self.wait(&alarm),
            }
        }
        Poll::Ready(Next::Flush)
    }

    /// There is nothing to do until somebody wakes us.
    fn wait(&mut self, alarm: &Alarm) -> Poll<Next> {
        if std::mem::take(&mut self.is_fresh) && self.client.poll_gone().is_ready() {
            return Poll::Ready(Next::ClientGone);
        }
        if let Poll::Ready(due) = self.clock.poll(alarm) {
            return Poll::Ready(Next::Due(due));
        }
        alarm.wanted().into_iter().for_each(|at| self.session.held.port.wake_by(at));
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
        self.events += u32::from(self.out.len() > before);
    }

    /// Head and first event are one write.
    async fn flush(&mut self) -> Result<(), WriteError> {
        if !self.clock.head_sent {
            self.put_head_first();
            self.session.held.commit(self.writer.format()).await;
        }
        self.is_full = self.out.len() >= WRITE_BYTES;
        let written = self.client.write_now(&self.out)?;
        if written < self.out.len() {
            // Few clients are that slow, and what it takes to wait for them is large.
            Box::pin(self.client.write_slowly(&self.out[written..], self.session.leash())).await?;
        }
        self.wrote();
        Ok(())
    }

    fn put_head_first(&mut self) {
        self.clock.head_out(Moment::now());
        let events = std::mem::take(&mut self.out);
        let response_headers = std::mem::take(&mut self.response_headers);
        self.out.reserve(HEAD_BYTES + events.len());
        reply(self.writer.request_id(), &response_headers).stream_head(&mut self.out);
        self.out.extend_from_slice(&events);
    }

    /// All that was to be written is.
    fn wrote(&mut self) {
        self.session.wrote(self.out.len(), self.events.into());
        self.clock.wrote(Moment::now());
        self.out = Vec::new();
        self.events = 0;
    }

    /// Nobody listens any more: the answer is cancelled, or read on for what it costs, or to its end.
    async fn read_on(&mut self) {
        let Some(upstream) = &mut self.upstream else { return };
        let limit = match upstream.on_disconnect() {
            OnDisconnect::Cancel => return,
            // What was not begun, or has failed, need not be paid for.
            OnDisconnect::DrainUsage if !upstream.ask_no_more() => return,
            OnDisconnect::DrainUsage => Some(DRAIN_USAGE_MAX),
            OnDisconnect::Continue => None,
        };
        let limit = [limit, self.clock.remaining()].into_iter().flatten().min();
        let until = limit.map(|limit| Moment::now() + limit);
        let session = &self.session;
        poll_fn(|cx| {
            let alarm = Alarm::begin();
            if session.leash().poll_pulled().is_ready() {
                return Poll::Ready(());
            }
            loop {
                if until.is_some_and(|until| alarm.poll_until(until).is_ready()) {
                    return Poll::Ready(());
                }
                match upstream.poll_next(cx, &alarm) {
                    Poll::Ready(Some(Ok(_))) => {}
                    Poll::Ready(_) => return Poll::Ready(()),
                    Poll::Pending => break,
                }
            }
            alarm.wanted().into_iter().for_each(|at| session.held.port.wake_by(at));
            Poll::Pending
        })
        .await;
    }

    /// Tells the client: with a status where nothing has begun, else with one last event.
    async fn fail(&mut self, failure: &Failure) -> Outcome {
        self.session.story.fail(failure);
        let outcome = outcome_of_failure(failure.code);
        let told = if self.content_begun || self.clock.head_sent {
            self.writer.error(&mut self.out, failure);
            self.flush().await
        } else {
            self.out.clear();
            reply(self.writer.request_id(), &self.response_headers).error(&mut self.out, failure);
            self.session.held.commit(self.writer.format()).await;
            let written = self.client.write(&self.out, self.session.leash()).await;
            written.map(|()| self.wrote())
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

fn failed(code: Code, message: &'static str) -> End {
    End::Failed(Box::new(Failure::new(code, message)))
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
