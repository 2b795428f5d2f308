//! When it is enough. In: a drain's deadline, from the supervisor, a signal or the channel's end. Out: the
//! moment at which every stream left is cut. Never: moves a deadline back.

use std::cell::Cell;
use std::future::pending;
use std::time::{Duration, Instant};

use crate::cut::Cut;

/// The worker's end, as far as it is known.
#[derive(Debug, Default)]
pub(crate) struct Drain {
    deadline: Cell<Option<Instant>>,
    /// Falls at the deadline, for every stream.
    pub(crate) cut: Cut,
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
            Some(deadline) if !self.cut.has_fallen() => tokio::time::sleep_until(deadline.into()).await,
            _ => pending().await,
        }
    }
}
