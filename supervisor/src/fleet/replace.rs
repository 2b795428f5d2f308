//! An operator's wish: another worker in this slot. A successor starts beside the worker, which drains once the
//! successor is Ready. Never: two of one slot at a time, or while a roll does the same.

use std::time::Instant;

use handoff_shared::ids::SlotId;

use super::workers::{Slot, Stage};
use super::{Cause, Fleet};

/// Why a worker is not replaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotReplaced {
    #[error("there is no such slot; there are {slots}, from 0")]
    NoSlot { slots: usize },
    #[error("handoffd is stopping")]
    Stopping,
    #[error("handoffd itself is being replaced")]
    HandingOver,
    #[error("a roll, or another replacement, is running")]
    Rolling,
    #[error("it has no worker that is ready")]
    NotReady,
    #[error("the worker before this one still drains")]
    StillDraining,
    #[error("the successor before has died early; wait a moment")]
    DiedEarly,
    #[error("too many generations drain already")]
    TooManyGenerations,
}

impl NotReplaced {
    /// It may be possible later.
    pub(crate) fn is_about_now(self) -> bool {
        match self {
            Self::NoSlot { .. } => false,
            Self::Stopping
            | Self::HandingOver
            | Self::Rolling
            | Self::NotReady
            | Self::StillDraining
            | Self::DiedEarly
            | Self::TooManyGenerations => true,
        }
    }
}

impl Fleet {
    /// Whether [`super::Event::Replace`] would do something now.
    pub(crate) fn may_replace_worker(&self, now: Instant, slot: SlotId) -> Result<(), NotReplaced> {
        let place = self.slots.get(usize::from(slot.0));
        let place = place.ok_or(NotReplaced::NoSlot { slots: self.slots.len() })?;
        if self.stopping.is_some() {
            return Err(NotReplaced::Stopping);
        }
        if self.leaving || self.is_adopting() {
            return Err(NotReplaced::HandingOver);
        }
        if self.is_rolling() || self.loading || self.is_successor_due() {
            return Err(NotReplaced::Rolling);
        }
        let worker = place.current().and_then(|id| self.workers.get(&id));
        if worker.is_none_or(|worker| worker.stage != Stage::Ready) {
            return Err(NotReplaced::NotReady);
        }
        if self.workers.values().any(|other| other.slot == slot && other.is_departing()) {
            return Err(NotReplaced::StillDraining);
        }
        if place.successor_after.is_some_and(|after| now < after) {
            return Err(NotReplaced::DiedEarly);
        }
        match self.may_replace(place.current(), self.generation) {
            true => Ok(()),
            false => Err(NotReplaced::TooManyGenerations),
        }
    }

    pub(super) fn replace_worker(&mut self, now: Instant, slot: SlotId) {
        if self.may_replace_worker(now, slot).is_ok()
            && let Some(index) = self.slots.iter().position(|place: &Slot| place.id == slot)
        {
            self.start_successor(now, index, self.generation, Cause::Operator);
        }
    }
}
