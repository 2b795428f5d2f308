//! What a simulated worker answers to `Resync`: the pages of what it holds at one instant, and what is in its hands
//! when a supervisor has ended.

use std::collections::{BTreeSet, VecDeque};
use std::time::Instant;

use handoff_shared::ids::{LeaseId, WorkerId};

use super::chance::Chance;
use super::process::{Packet, Process, Stage};
use crate::fleet::{Event, HeldLease, HeldPage, HeldStage};

impl Process {
    /// Uncommitted leases get their fds first, then the youngest committed ones; an epitaph's stays.
    pub(super) fn list(&self, now: Instant, fd_budget: u64, chance: &mut Chance) -> VecDeque<Event> {
        let mut held: Vec<HeldLease> = Vec::new();
        for (&lease, session) in self.sessions.iter().rev() {
            let stage = match session.stage {
                Stage::Quiet => HeldStage::Taken,
                Stage::Announced | Stage::Streaming => HeldStage::Committed(session.format),
                Stage::Epitaph => HeldStage::Epitaph,
            };
            held.push(HeldLease { lease, attempt: session.attempt, stage, has_fd: false });
        }
        held.sort_by_key(|held| match held.stage {
            HeldStage::Taken => 0,
            HeldStage::Committed(_) => 1,
            HeldStage::Epitaph => 2,
        });
        for (held, _) in held.iter_mut().zip(0..fd_budget) {
            held.has_fd = held.stage != HeldStage::Epitaph;
        }
        let each = held.len() / (1 + usize::try_from(chance.below(4)).unwrap_or(0)) + 1;
        let mut chunks: Vec<Vec<HeldLease>> = held.chunks(each).map(<[HeldLease]>::to_vec).collect();
        if chunks.is_empty() {
            chunks.push(Vec::new());
        }
        let count = chunks.len();
        let page = |(number, leases)| HeldPage {
            last: number + 1 == count,
            speaks_ours: !self.foreign,
            slot: self.slot,
            generation: self.generation,
            drain_remaining: self.draining.map(|deadline| deadline.saturating_duration_since(now)),
            leases,
        };
        let pages = chunks.into_iter().enumerate().map(page);
        pages.map(|page| Event::Held { worker: self.id, page }).collect()
    }

    /// As many as there is room for. Whether there were any.
    pub(super) fn write_pages(&mut self, chance: &mut Chance) -> bool {
        let had_pages = !self.pages.is_empty();
        while let Some(page) = self.pages.pop_front() {
            self.outbox.push_back(page);
            if chance.one_in(2) {
                break;
            }
        }
        had_pages
    }

    /// Every lease in its hands, or in the socket on the way there.
    pub(super) fn holds(&self) -> BTreeSet<LeaseId> {
        let sent = self.inbox.iter().filter_map(|packet| match packet {
            Packet::Handoff { lease, .. } | Packet::Epitaph(lease) => Some(*lease),
            Packet::Drain(_) | Packet::Resync { .. } => None,
        });
        sent.chain(self.sessions.keys().copied()).collect()
    }

    pub(super) fn forget(&mut self, lease: LeaseId) {
        self.sessions.remove(&lease);
        self.inbox.retain(|packet| match packet {
            Packet::Handoff { lease: sent, .. } | Packet::Epitaph(sent) => *sent != lease,
            Packet::Drain(_) | Packet::Resync { .. } => true,
        });
    }

    /// A new supervisor calls it by another number; what an earlier one has asked is of no interest any more.
    pub(super) fn rename(&mut self, id: WorkerId) {
        self.id = id;
        self.pages.clear();
        self.inbox.retain(|packet| !matches!(packet, Packet::Resync { .. }));
        self.outbox.retain(|event| !matches!(event, Event::Held { .. }));
        for event in &mut self.outbox {
            if let Event::Ready { worker }
            | Event::Taken { worker, .. }
            | Event::Committed { worker, .. }
            | Event::Released { worker, .. }
            | Event::Beat { worker, .. }
            | Event::Misbehaved { worker } = event
            {
                *worker = id;
            }
        }
    }
}
