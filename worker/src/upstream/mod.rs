//! Events out of an LLM API, whatever its dialect. In: a request. Out: events, one at a time, then the end.
//! Never: reads ahead of who asks, commits anything to the client.

pub mod dialect;
pub mod event_reader;
pub mod mock;
pub mod pool;
pub mod trouble;

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use handoff_config::Backends;
use handoff_config::backend::Kind;
use tokio::time::{Instant, Sleep};

use crate::event::Event;
use crate::failure::{Code, Failure};
use crate::request::ChatRequest;

/// The embedded backend's name, for requests, logs and metrics.
pub const MOCK: &str = "mock";

/// An answer on its way.
#[derive(Debug)]
pub enum Answer {
    /// The embedded backend's.
    Mock(MockAnswer),
}

/// The embedded backend's answer, with its delays.
#[derive(Debug)]
pub struct MockAnswer {
    steps: mock::Answer,
    waiting: Option<mock::Step>,
    delay: Pin<Box<Sleep>>,
}

impl Answer {
    /// Asks the backend that the request names, or the default one.
    ///
    /// # Errors
    /// When there is no such backend.
    pub fn ask(backends: &Backends, request: &ChatRequest) -> Result<Self, Failure> {
        let name = request.backend.as_deref().unwrap_or(&backends.default);
        match backends.find(name).map(|backend| &backend.kind) {
            Some(Kind::Mock(mock)) => Ok(Self::Mock(MockAnswer {
                steps: mock::Answer::new(mock, &request.mock, &request.last_user_text()),
                waiting: None,
                delay: Box::pin(tokio::time::sleep_until(Instant::now())),
            })),
            Some(_) | None => Err(Failure::new(Code::BadHandoff, "backend: no such backend; allowed: mock")),
        }
    }

    /// The next event; `None` after the last.
    pub fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Failure>>> {
        match self {
            Self::Mock(answer) => answer.poll_next(cx),
        }
    }
}

impl MockAnswer {
    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Event, Failure>>> {
        if self.waiting.is_none() {
            let Some(step) = self.steps.next() else { return Poll::Ready(None) };
            if step.delay.is_zero() {
                return Poll::Ready(Some(step.event));
            }
            self.delay.as_mut().reset(Instant::now() + step.delay);
            self.waiting = Some(step);
        }
        ready!(Future::poll(self.delay.as_mut(), cx));
        Poll::Ready(self.waiting.take().map(|step| step.event))
    }
}
