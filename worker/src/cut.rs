//! The end that comes from outside: of all sessions at a drain's deadline, or of one when an operator cancels it. In:
//! the moment. Out: the same to whoever waits for it.
//!
//! Never: waits for more than last words.

use std::cell::Cell;
use std::time::Instant;

use handoff_shared::limits::LAST_WORDS;
use tokio::sync::Notify;

use crate::drain::Drain;

/// It comes once.
#[derive(Debug, Default)]
pub(crate) struct Cut {
    at: Cell<Option<Instant>>,
    news: Notify,
}

impl Cut {
    /// Now; the first one counts.
    pub(crate) fn fall(&self) {
        if self.at.get().is_none() {
            self.at.set(Some(Instant::now()));
        }
        self.news.notify_waiters();
    }

    pub(crate) fn has_fallen(&self) -> bool {
        self.at.get().is_some()
    }

    /// Resolves when it comes.
    pub(crate) async fn fallen(&self) {
        let news = self.news.notified();
        if self.at.get().is_none() {
            news.await;
        }
    }

    /// Resolves when also the time for last words is over.
    pub(crate) async fn silence(&self) {
        self.fallen().await;
        if let Some(at) = self.at.get() {
            tokio::time::sleep_until((at + LAST_WORDS).into()).await;
        }
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
    /// Resolves when the session has to end.
    pub(crate) async fn pulled(self) -> Why {
        tokio::select! {
            biased;
            () = self.own.fallen() => Why::Canceled,
            () = self.drain.cut.fallen() => Why::Drain,
        }
    }

    /// Resolves when also the time for last words is over.
    pub(crate) async fn silence(self) -> Why {
        tokio::select! {
            biased;
            () = self.own.silence() => Why::Canceled,
            () = self.drain.cut.silence() => Why::Drain,
        }
    }
}
