//! The end that comes from outside: of all sessions at a drain's deadline, or of one when an operator cancels it. In:
//! the moment. Out: the same to whoever waits for it.
//!
//! Never: waits for more than last words.

use std::cell::Cell;
use std::future::poll_fn;
use std::task::Poll;

use handoff_shared::limits::LAST_WORDS;

use crate::drain::Drain;
use crate::moment::Moment;

/// It comes once. Whoever lets it fall wakes those whom it concerns.
#[derive(Debug, Default)]
pub(crate) struct Cut(Cell<Option<Moment>>);

impl Cut {
    /// Now; the first one counts.
    pub(crate) fn fall(&self) {
        if !self.has_fallen() {
            self.0.set(Some(Moment::now()));
        }
    }

    pub(crate) fn has_fallen(&self) -> bool {
        self.0.get().is_some()
    }
}

/// What may end one session.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Leash<'a> {
    pub(crate) drain: &'a Drain,
    pub(crate) own: &'a Cut,
}

/// Why a session is ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// The drain's deadline.
    Drain,
    /// An operator.
    Canceled,
}

impl Leash<'_> {
    /// Ready when the session has to end. It is called then.
    pub(crate) fn poll_pulled(self) -> Poll<Why> {
        match self.fallen() {
            Some((why, _)) => Poll::Ready(why),
            None => Poll::Pending,
        }
    }

    /// Resolves when the session has to end.
    pub(crate) async fn pulled(self) -> Why {
        poll_fn(|_| self.poll_pulled()).await
    }

    /// Resolves when also the time for last words is over.
    pub(crate) async fn silence(self) -> Why {
        let why = self.pulled().await;
        if let Some((_, at)) = self.fallen() {
            tokio::time::sleep_until((at + LAST_WORDS).instant().into()).await;
        }
        why
    }

    /// The first of the two.
    fn fallen(self) -> Option<(Why, Moment)> {
        let own = self.own.0.get().map(|at| (Why::Canceled, at));
        let drain = self.drain.cut.0.get().map(|at| (Why::Drain, at));
        own.into_iter().chain(drain).min_by_key(|(_, at)| *at)
    }
}
