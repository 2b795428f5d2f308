//! When it is enough. In: a drain's deadline, from the supervisor, a signal or the channel's end. Out: the
//! moment at which every stream left is cut. Never: moves a deadline back.

use std::cell::Cell;
use std::future::pending;
use std::time::{Duration, Instant};

use handoff_shared::limits::LAST_WORDS;
use tokio::sync::Notify;

/// The worker's end, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    deadline: Cell<Option<Instant>>,
    cut_at: Cell<Option<Instant>>,
    cut: Notify,
}

impl Drain {
    /// Takes no more from here on; the earlier deadline stays.
    pub(crate) fn begin(&self, deadline: Instant) {
        let earlier = self.deadline.get().map_or(deadline, |own| own.min(deadline));
        self.deadline.set(Some(earlier));
    }

    /// A drain has begun.
    pub(crate) fn is_draining(&self) -> bool {
        self.deadline.get().is_some()
    }

    /// How long until the deadline; none: there is none.
    pub(crate) fn remaining(&self) -> Option<Duration> {
        Some(self.deadline.get()?.saturating_duration_since(Instant::now()))
    }

    /// Resolves at the deadline; never while there is none.
    pub(crate) async fn deadline(&self) {
        match self.deadline.get() {
            Some(deadline) if self.cut_at.get().is_none() => tokio::time::sleep_until(deadline.into()).await,
            _ => pending().await,
        }
    }

    /// Ends every stream.
    pub(crate) fn cut(&self) {
        self.cut_at.set(Some(Instant::now()));
        self.cut.notify_waiters();
    }

    /// Resolves when streams are cut.
    pub(crate) async fn is_over(&self) {
        let cut = self.cut.notified();
        if self.cut_at.get().is_none() {
            cut.await;
        }
    }

    /// Resolves when also the time for last words is over.
    pub(crate) async fn is_silent(&self) {
        self.is_over().await;
        if let Some(cut_at) = self.cut_at.get() {
            tokio::time::sleep_until((cut_at + LAST_WORDS).into()).await;
        }
    }
}
