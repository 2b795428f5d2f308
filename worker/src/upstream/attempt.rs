//! One attempt at one backend, from the question to the last event. In: a question. Out: events as they come, then the
//! end, or a [`Trouble`]. Dropping it cancels it.
//!
//! Never: asks again, reads ahead of who asks, takes a stream that broke off for a complete one.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use handoff_shared::metric::FailureReason;
use http::Response;
use hyper::body::Bytes;
use tokio::task::spawn_local;
use tokio::time::timeout;

use super::backend::{Backend, Remote, Source};
use super::dialect::{self, Question, Wishes};
use super::event_reader::EventReader;
use super::mock::Playing;
use super::open::{self, Tag};
use super::pool::{Body, Patience};
use super::record::{About, End, Recorder, Slate};
use super::replay::Playback;
use super::scribe::{Native, Scribe};
use super::trouble::{Again, Trouble};
use super::watch::{Lapse, Watch};
use crate::alarm::Alarm;
use crate::event::Event;
use crate::failure::Code;
use crate::moment::Moment;
use crate::request::ChatRequest;

/// Pieces without an event are read on for this long; then others have their turn.
const PIECES_PER_TURN: u32 = 64;
/// What follows an answer's last event is read for this long, so that its connection can be used again.
const TAIL_PATIENCE: Duration = Duration::from_secs(1);
const TAIL_BYTES_MAX: usize = 64 * 1024;

/// What has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Progress {
    /// At least one event.
    Events,
    /// The whole answer.
    Complete,
}

/// An attempt on its way.
#[derive(Debug)]
pub(super) struct Attempt {
    phase: Phase,
    watch: Watch,
}

/// Each for itself elsewhere: what one of them needs, there are thousands that do not.
enum Phase {
    Mock(Box<Playing>),
    Opening(Box<Opening>),
    Streaming(Box<Streaming>),
    Over,
}

/// A question that has no answer yet.
struct Opening {
    opened: Pin<Box<dyn Future<Output = Result<Response<Body>, Trouble>>>>,
    remote: Rc<Remote>,
    tag: Rc<Tag>,
    patience: Patience,
    event_bytes_max: usize,
    slate: Option<Slate>,
    native: Native,
    wishes: Wishes,
}

/// A body that is read.
#[derive(Debug)]
struct Streaming {
    bytes: Pieces,
    reader: EventReader,
    scribe: Scribe,
    /// Where a call ends the answer.
    stop: Option<Box<Stop>>,
    recorder: Option<Recorder>,
}

/// For the call that ends an answer.
#[derive(Debug)]
struct Stop {
    remote: Rc<Remote>,
    tag: Rc<Tag>,
    patience: Patience,
}

#[derive(Debug)]
enum Pieces {
    Http(Body),
    Recorded(Box<Playback>),
}

impl Attempt {
    pub(super) fn begin(
        backend: &Rc<Backend>,
        request: &ChatRequest,
        model: &str,
        tag: &Rc<Tag>,
        native: Native,
    ) -> Result<Self, Trouble> {
        let config = &backend.config;
        let wishes = Wishes::of(request);
        let now = Moment::now();
        let timeouts = request.timeouts.lower(config.timeouts);
        let mut watch = Watch::new((&timeouts).into(), now);
        let event_bytes_max = config.event_bytes_max.get() as usize;
        let phase = match &backend.source {
            Source::Mock(mock) => {
                watch.opened(now);
                Phase::Mock(Box::new(Playing::new(mock, request)))
            }
            Source::Replay(recording, speed) => {
                watch.opened(now);
                let dialect = recording.dialect();
                Phase::Streaming(Box::new(Streaming {
                    reader: EventReader::new(dialect::framing(dialect), event_bytes_max),
                    scribe: Scribe::new(dialect, wishes, native),
                    bytes: Pieces::Recorded(Box::new(Playback::new(Arc::clone(recording), *speed))),
                    stop: None,
                    recorder: None,
                }))
            }
            Source::Api(remote) => {
                let allowed = config.on_disconnect;
                let on_disconnect = request.on_disconnect.map_or(allowed, |asked| asked.min(allowed));
                let asking = dialect::ask(&remote.api, Question { request, model, on_disconnect })
                    .map_err(|failure| Trouble::refused(&failure))?;
                let patience = Patience::from(&timeouts);
                let about = About { backend: config, model, request, id: &tag.request_id };
                let slate = backend.recordings.slate(&about);
                let opened = Box::pin(open::open(Rc::clone(remote), asking, Rc::clone(tag), patience));
                let (remote, tag) = (Rc::clone(remote), Rc::clone(tag));
                Phase::Opening(Box::new(Opening {
                    opened,
                    remote,
                    tag,
                    patience,
                    event_bytes_max,
                    slate,
                    native,
                    wishes,
                }))
            }
        };
        Ok(Self { phase, watch })
    }

    /// Ready when events were added to `events`, when the answer is complete, or when it failed.
    pub(super) fn poll(
        &mut self,
        cx: &mut Context<'_>,
        alarm: &Alarm,
        events: &mut VecDeque<Event>,
    ) -> Poll<Result<Progress, Trouble>> {
        let now = alarm.now();
        self.watch.back(now);
        match self.poll_source(cx, alarm, events) {
            Poll::Ready(progress) => {
                self.watch.left(now);
                Poll::Ready(progress)
            }
            Poll::Pending => self.watch.poll(alarm).map(|lapse| self.lapse(lapse)),
        }
    }

    fn poll_source(
        &mut self,
        cx: &mut Context<'_>,
        alarm: &Alarm,
        events: &mut VecDeque<Event>,
    ) -> Poll<Result<Progress, Trouble>> {
        let now = alarm.now();
        loop {
            match &mut self.phase {
                Phase::Mock(mock) => {
                    let step = ready!(mock.poll_next(cx, alarm));
                    return Poll::Ready(self.mocked(step, now, events));
                }
                Phase::Opening(opening) => {
                    let response = ready!(opening.opened.as_mut().poll(cx))?;
                    let streaming = opening.begins(response);
                    self.watch.opened(now);
                    self.phase = Phase::Streaming(Box::new(streaming));
                }
                Phase::Streaming(streaming) => {
                    let progress = ready!(streaming.poll(cx, now, &mut self.watch, events));
                    // One that broke stays as it is: dropping it tells the upstream.
                    if matches!(progress, Ok(Progress::Complete)) {
                        self.end();
                    }
                    return Poll::Ready(progress);
                }
                Phase::Over => return Poll::Ready(Ok(Progress::Complete)),
            }
        }
    }

    /// What the embedded backend says.
    fn mocked(
        &mut self,
        step: Option<Result<Event, crate::failure::Failure>>,
        now: Moment,
        events: &mut VecDeque<Event>,
    ) -> Result<Progress, Trouble> {
        match step {
            None => Ok(Progress::Complete),
            Some(Ok(event)) => {
                self.watch.heard(now);
                if event.is_meaningful() {
                    self.watch.content(now);
                }
                events.push_back(event);
                Ok(Progress::Events)
            }
            Some(Err(failure)) => {
                let detail = failure.to_string();
                Err(Trouble { failure, reason: FailureReason::ErrorEvent, again: Again::Elsewhere, detail })
            }
        }
    }

    /// What follows the last event is read by somebody else: the connection is worth keeping.
    fn end(&mut self) {
        if let Phase::Streaming(streaming) = std::mem::replace(&mut self.phase, Phase::Over)
            && let Pieces::Http(body) = streaming.bytes
            && streaming.scribe.decoder.is_answered()
        {
            spawn_local(timeout(TAIL_PATIENCE, tail(body)));
        }
    }

    fn lapse(&mut self, lapse: Lapse) -> Result<Progress, Trouble> {
        let (reason, code, message) = match lapse {
            Lapse::Over => return Ok(Progress::Complete),
            Lapse::FirstContent => (
                FailureReason::FirstContentTimeout,
                Code::FirstTokenTimeout,
                "the upstream did not begin to answer in time",
            ),
            Lapse::Idle if !self.watch.has_content() => (
                FailureReason::IdleTimeout,
                Code::FirstTokenTimeout,
                "the upstream did not begin to answer in time",
            ),
            Lapse::Idle => {
                (FailureReason::IdleTimeout, Code::StreamIdleTimeout, "the upstream stopped answering")
            }
            Lapse::Content => {
                (FailureReason::ContentTimeout, Code::StreamIdleTimeout, "the upstream stopped answering")
            }
        };
        Err(Trouble::new(reason, code, message, Again::Elsewhere, message))
    }
}

impl Opening {
    /// The head of the answer has come.
    fn begins(&mut self, response: Response<Body>) -> Streaming {
        let Self { remote, tag, patience, event_bytes_max, slate, native, wishes, .. } = self;
        let dialect = &remote.api.dialect;
        let scribe = Scribe::new(dialect, *wishes, *native);
        let stop = Stop { remote: Rc::clone(remote), tag: Rc::clone(tag), patience: *patience };
        Streaming {
            reader: EventReader::new(dialect::framing(dialect), *event_bytes_max),
            stop: scribe.decoder.may_be_cancelled().then(|| Box::new(stop)),
            recorder: slate.take().and_then(|slate| record(slate, &response)),
            bytes: Pieces::Http(response.into_body()),
            scribe,
        }
    }
}

impl Streaming {
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        now: Moment,
        watch: &mut Watch,
        events: &mut VecDeque<Event>,
    ) -> Poll<Result<Progress, Trouble>> {
        for _ in 0..PIECES_PER_TURN {
            match ready!(self.bytes.poll(cx)) {
                Some(Ok(piece)) => {
                    watch.heard(now);
                    if let Some(recorder) = &mut self.recorder {
                        recorder.piece(&piece);
                    }
                    self.reader.push(&piece);
                    let before = events.len();
                    let is_last = self.read(now, watch, events)?;
                    if is_last {
                        self.recorded(End::Clean);
                        return Poll::Ready(Ok(Progress::Complete));
                    }
                    if events.len() > before {
                        return Poll::Ready(Ok(Progress::Events));
                    }
                }
                end => {
                    let broken = end.and_then(Result::err);
                    self.recorded(if broken.is_none() { End::Clean } else { End::Broken });
                    return Poll::Ready(self.ended(broken, now, watch, events));
                }
            }
        }
        // Others have their turn, and the watch is looked at.
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn recorded(&mut self, end: End) {
        if let Some(recorder) = self.recorder.take() {
            recorder.finish(end);
        }
    }

    /// All events that are whole. Whether the last one is among them.
    fn read(
        &mut self,
        now: Moment,
        watch: &mut Watch,
        events: &mut VecDeque<Event>,
    ) -> Result<bool, Trouble> {
        while let Some(event) = self.reader.next().map_err(|error| Trouble::too_large(&error))? {
            if self.scribe.take(&event, now, watch, events)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// The body has ended, or broken off. What is left of an event without its blank line counts if it is one.
    fn ended(
        &mut self,
        broken: Option<String>,
        now: Moment,
        watch: &mut Watch,
        events: &mut VecDeque<Event>,
    ) -> Result<Progress, Trouble> {
        let is_known_end = broken.is_none() && self.bytes.has_known_end();
        let mut is_half = false;
        if !self.scribe.decoder.is_answered()
            && let Some(event) = self.reader.rest()
        {
            let mut rest = VecDeque::new();
            let taken = self.scribe.take(&event, now, watch, &mut rest);
            let is_over = is_known_end && self.scribe.decoder.ends_with_body();
            match taken {
                Ok(_) if self.scribe.decoder.is_answered() || is_over => {
                    tracing::debug!("the upstream's last event came without its end");
                    events.append(&mut rest);
                }
                Err(trouble) if trouble.reason == FailureReason::ErrorEvent => return Err(trouble),
                Ok(_) | Err(_) => is_half = true,
            }
        }
        match broken {
            _ if self.scribe.decoder.is_answered() => Ok(Progress::Complete),
            None if is_known_end && self.scribe.decoder.ends_with_body() && !is_half => {
                Ok(Progress::Complete)
            }
            None => Err(Trouble::incomplete("the body ended without the answer's end")),
            Some(error) => Err(Trouble::incomplete(format!("the body broke off: {error}"))),
        }
    }
}

impl Pieces {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, String>>> {
        match self {
            Self::Http(body) => body.poll_bytes(cx).map_err(|error| error.to_string()),
            Self::Recorded(playback) => playback.poll_bytes(cx).map_err(|error| error.to_string()),
        }
    }

    /// Its end is not only that of a connection, which breaks like that too.
    fn has_known_end(&self) -> bool {
        match self {
            Self::Http(body) => body.has_known_end(),
            Self::Recorded(_) => true,
        }
    }
}

/// The answer is recorded from its head on.
fn record(slate: Slate, response: &Response<Body>) -> Option<Recorder> {
    let content_type =
        response.headers().get(http::header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    slate.begin(response.status().as_u16(), content_type)
}

/// The end of a body whose answer is complete.
async fn tail(mut body: Body) {
    let mut bytes = 0;
    while bytes < TAIL_BYTES_MAX {
        match poll_fn(|cx| body.poll_bytes(cx)).await {
            Some(Ok(piece)) => bytes += piece.len(),
            Some(Err(_)) | None => return,
        }
    }
}

impl std::fmt::Debug for Phase {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Mock(_) => "Mock",
            Self::Opening(_) => "Opening",
            Self::Streaming(_) => "Streaming",
            Self::Over => "Over",
        })
    }
}

/// An answer that nobody wants any more: where dropping the connection does not end it, the upstream is told.
impl Drop for Attempt {
    fn drop(&mut self) {
        if let Phase::Streaming(streaming) = &mut self.phase
            && let Some(stop) = streaming.stop.take()
            && !streaming.scribe.decoder.is_answered()
            && let Some(call) = streaming.scribe.decoder.cancel()
            && let Ok(place) = Arc::clone(&stop.remote.cancels).try_acquire_owned()
        {
            let Stop { remote, tag, patience } = *stop;
            spawn_local(async move {
                open::cancel(remote, call, tag, patience).await;
                drop(place);
            });
        }
    }
}
