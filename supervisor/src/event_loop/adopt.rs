//! Taking over what an earlier supervisor has left. In: kept workers, and the pages of what they hold. Out: links
//! and leases of ours.

use std::os::fd::OwnedFd;
use std::time::Duration;

use handoff_shared::channel::Fds;
use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::limits::{ADOPTED_PAYLOADS_BYTES_MAX, SLOTS_MAX};
use handoff_shared::message::{
    Held, HeldLease as SaidLease, HeldStage as SaidStage, PROTOCOL_VERSION, ToWorker,
};

use super::{EventLoop, policy};
use crate::capacity::Capacity;
use crate::dispatcher::{Adopted, Message};
use crate::fleet::{Event, HeldLease, HeldPage, HeldStage};
use crate::generation::Recipe;
use crate::inherit::GENERATION;
use crate::link::{Link, Origin, Outgoing};

/// A worker may know of generations that we have never heard of, but not of so many.
const GENERATIONS_AHEAD_MAX: u32 = 1 << 20;
/// More leases than a million are in no worker.
const PAGES_MAX: u32 = 1 << 14;

impl EventLoop {
    /// Begins: with what is there, or from nothing.
    pub(super) fn begin(&mut self) {
        for name in std::mem::take(&mut self.parts.inherited.unknown) {
            tracing::warn!(name, "an fd that we were started with is none that we know; it is closed");
            self.parts.store.forget(&name);
        }
        self.keep_sockets();
        for (generation, kept) in std::mem::take(&mut self.parts.inherited.generations) {
            match Recipe::kept(&self.parts.cli, &kept) {
                Ok(recipe) => {
                    self.parts.metrics.configured(&recipe.config);
                    self.recipes.insert(generation, recipe);
                }
                Err(error) => {
                    tracing::warn!(%generation, %error, "a generation that was kept cannot be used");
                    self.parts.store.forget(&format!("{GENERATION}{generation}"));
                }
            }
        }
        let kept = std::mem::take(&mut self.parts.inherited.workers);
        if kept.is_empty() && self.recipes.is_empty() {
            self.register(Generation::FIRST, self.parts.recipe.clone());
            return self.tell(Event::Start);
        }
        let mut workers = Vec::new();
        for (number, kept) in (0..).zip(kept) {
            let (name, pid) = (kept.name.clone(), kept.pid);
            let adopted = Link::adopt(kept)
                .and_then(|link| self.ear.add(WorkerId(number), link.channel()).map(|()| link));
            match adopted {
                Ok(link) => {
                    link.fds().into_iter().for_each(|fd| self.parts.listener.note(fd));
                    tracing::info!(pid, name, "a running worker is taken over");
                    self.links.insert(WorkerId(number), link);
                    workers.push(WorkerId(number));
                }
                Err(error) => tracing::error!(pid, name, %error, "a running worker cannot be taken over"),
            }
        }
        let known = self.recipes.keys().copied().collect();
        self.tell(Event::Adopt { workers, known });
    }

    /// A socket that we have bound ourselves outlives us only if somebody keeps it.
    fn keep_sockets(&self) {
        for (socket, _, is_ours) in self.parts.listener.sockets() {
            if is_ours {
                self.parts.store.keep(crate::inherit::OWN_SOCKET, &[socket]);
            }
        }
    }

    /// What workers of this generation are made of; a successor will know it too.
    pub(super) fn register(&mut self, generation: Generation, recipe: Recipe) {
        self.parts.store.keep(&format!("{GENERATION}{generation}"), &recipe.fds());
        self.newest = self.newest.max(generation);
        self.parts.metrics.configured(&recipe.config);
        self.recipes.insert(generation, recipe);
    }

    /// Forgets one, whichever it is.
    pub(super) fn forget_recipe(&mut self, generation: Generation) {
        if self.recipes.remove(&generation).is_some() {
            self.parts.store.forget(&format!("{GENERATION}{generation}"));
        }
    }

    /// Forgets what workers are made of that will not be started any more.
    pub(super) fn forget_recipes(&mut self) {
        let (fleet, newest, store) = (&self.fleet, self.newest, &self.parts.store);
        self.recipes.retain(|generation, _| {
            let is_needed = fleet.is_generation_in_use(*generation) || *generation == newest;
            if !is_needed {
                store.forget(&format!("{GENERATION}{generation}"));
            }
            is_needed
        });
    }

    /// Asks a worker what it holds. Each may give back its part of what we can keep.
    pub(super) fn resync(&mut self, worker: WorkerId) {
        let share = self.parts.capacity.dups_max / self.links.len().max(1);
        let fd_budget = u32::try_from(share).unwrap_or(u32::MAX);
        let ticket = self.parts.start_number;
        if let Some(link) = self.links.get_mut(&worker) {
            link.fd_budget = share;
            link.payload_budget = ADOPTED_PAYLOADS_BYTES_MAX;
            link.push(Outgoing::Message(ToWorker::Resync { ticket, fd_budget }));
        }
    }

    /// A page of what a worker holds.
    pub(super) fn hear_held(&mut self, worker: WorkerId, held: Held, fds: Fds) {
        let Some(link) = self.links.get_mut(&worker) else { return };
        if link.origin == Origin::Adopted && held.ticket != self.parts.start_number {
            // An earlier supervisor has asked, and did not live to hear it.
            return;
        }
        let is_expected = held.page == link.next_page && held.page < PAGES_MAX;
        if link.origin != Origin::Adopted || !is_expected || fds.received.len() > link.fd_budget {
            let (page, fds) = (held.page, fds.received.len());
            tracing::error!(page, fds, "worker says what it holds without being asked, or more than it may");
            return self.tell(Event::Misbehaved { worker });
        }
        let newest = self.recipes.keys().copied().max().unwrap_or(Generation::FIRST);
        let has_place = held.slot.0 < SLOTS_MAX || held.slot == SlotId::QUARANTINE;
        let is_future = held.leases.iter().any(|said| said.lease.is_of(self.parts.start_number));
        if is_future || !has_place || held.generation.0 > newest.0.saturating_add(GENERATIONS_AHEAD_MAX) {
            tracing::error!("worker claims a lease, a slot or a generation that cannot be");
            return self.tell(Event::Misbehaved { worker });
        }
        fds.received.iter().for_each(|fd| self.parts.listener.note(fd));
        link.next_page += 1;
        link.fd_budget -= fds.received.len();
        (link.slot, link.generation) = (held.slot, held.generation);
        link.speaks_ours = held.protocol_version == PROTOCOL_VERSION;
        let (slot, generation, pid) = (held.slot, held.generation, link.pid);
        if held.page == 0 {
            self.parts.metrics.adopted_worker(slot);
        }
        if fds.lost {
            tracing::warn!(%slot, pid, "too few fds to take all clients back: some lose their last event");
        }
        let page = HeldPage {
            last: held.last,
            speaks_ours: held.protocol_version == PROTOCOL_VERSION,
            slot,
            generation,
            drain_remaining: held.drain_remaining_ms.map(Duration::from_millis),
            leases: self.readmit(worker, held.leases, fds),
        };
        if held.last {
            tracing::info!(%slot, %generation, pid, pages = held.page + 1, version = held.protocol_version, "worker has said what it holds");
            self.tell_cooldowns(worker);
        }
        self.tell(Event::Held { worker, page });
    }

    /// Its leases are ours again. Fds are in the order of the leases; what was lost on the way was at the end.
    fn readmit(&mut self, worker: WorkerId, leases: Vec<SaidLease>, fds: Fds) -> Vec<HeldLease> {
        let mut fds = fds.received.into_iter();
        let mut room = self.links.get(&worker).map_or(0, |link| link.payload_budget);
        let mut admitted = Vec::new();
        let mut dropped = Vec::new();
        for said in leases {
            let (stage, adopted) = split(said.stage, said.has_fd, &mut fds, &mut room);
            let mut has_fd = adopted.client.is_some();
            if self.dispatcher.knows(said.lease) {
                // The fleet will say what it thinks of a lease that two workers hold.
                has_fd = false;
            } else {
                self.parts.metrics.adopted_lease(has_fd);
                dropped.extend(self.dispatcher.readmit(said.lease, adopted));
            }
            admitted.push(HeldLease { lease: said.lease, attempt: said.attempt, stage, has_fd });
        }
        if let Some(link) = self.links.get_mut(&worker) {
            link.payload_budget = room;
        }
        for lease in &mut admitted {
            lease.has_fd &= !dropped.contains(&lease.lease);
        }
        self.tell_dropped(dropped);
        admitted
    }

    fn tell_dropped(&mut self, dropped: Vec<LeaseId>) {
        for lease in dropped {
            self.drop_dup(Some(lease));
        }
    }

    /// Everybody is known: new workers are of this generation. What is on disk may want another one.
    pub(super) fn adopted(&mut self, generation: Generation) {
        let candidate = self.parts.recipe.clone();
        // A number that a worker still has is not given to anything else.
        let living = self.links.values().map(|link| link.generation);
        self.newest = self.recipes.keys().copied().chain(living).fold(generation, Generation::max);
        self.active = generation;
        match self.recipes.get(&generation) {
            None => self.register(generation, candidate),
            Some(current) if current.is_same(&candidate) => self.parts.recipe = current.clone(),
            Some(_) if self.parts.disk_error.is_some() => {}
            Some(_) => self.is_roll_due = true,
        }
        tracing::info!(%generation, workers = self.links.len(), leases = self.fleet.load().0, "taken over");
    }

    /// The configuration or the binary on disk is not what the workers that we took over are made of.
    pub(super) fn start_due_roll(&mut self) {
        if !std::mem::take(&mut self.is_roll_due) {
            return;
        }
        let recipe = self.parts.recipe.clone();
        let generation = self.newest.next();
        let capacity = Capacity::of(&recipe.config, self.parts.fd_limit);
        let policy = Box::new(policy(&recipe.config, &capacity));
        tracing::info!(%generation, "binary or configuration have changed since; rolling");
        self.register(generation, recipe);
        self.tell(Event::Loaded { generation, policy });
        self.forget_recipes();
    }
}

/// What the fleet must know, and what the dispatcher keeps. A payload for which there is no room is not kept: its
/// lease has no second try.
fn split(
    stage: SaidStage,
    has_fd: bool,
    fds: &mut impl Iterator<Item = OwnedFd>,
    room: &mut usize,
) -> (HeldStage, Adopted) {
    let client = if has_fd { fds.next() } else { None };
    match stage {
        SaidStage::Taken { truncated, inline, memfd_bytes, written } => {
            let memfd = memfd_bytes.filter(|_| has_fd).and_then(|bytes| Some((fds.next()?, bytes)));
            // Without its payload nobody else can serve it.
            let is_whole = (memfd_bytes.is_none() || memfd.is_some()) && inline.0.len() <= *room;
            let client = client.filter(|_| is_whole);
            if client.is_some() {
                *room -= inline.0.len();
            }
            let payload = client.is_some().then_some(Message { inline: inline.0, memfd, truncated });
            (HeldStage::Taken, Adopted { client, payload, written })
        }
        SaidStage::Committed { format } => {
            (HeldStage::Committed(format), Adopted { client, payload: None, written: None })
        }
        SaidStage::Epitaph => (HeldStage::Epitaph, Adopted { client, payload: None, written: None }),
    }
}
