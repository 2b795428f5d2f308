//! What workers say, and their deaths. In: messages, pidfds. Out: events for the fleet.
//!
//! Never: argues with a worker that breaks the protocol, looks at a dead worker's leases before its last words are
//! read.

use std::collections::BTreeMap;
use std::task::{Context, Poll};
use std::time::Instant;

use handoff_shared::channel::ReceiveError;
use handoff_shared::codec::DecodeError;
use handoff_shared::ids::WorkerId;
use handoff_shared::message::{PROTOCOL_VERSION, ToSupervisor};
use nix::sys::wait::WaitStatus;

use super::EventLoop;
use crate::fleet::{Event, Exit};
use crate::link::{Heard, Link, Origin};

/// Messages of one worker in one turn.
const MESSAGES_PER_TURN: usize = 64;
/// Messages that a worker may have said since it was heard last: more than its leases can give rise to in the
/// room that the socket has.
const WORDS_MAX: usize = 16 * 1024;

impl EventLoop {
    /// Deaths first, then words, if it is time to listen.
    pub(super) fn poll_workers(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut any = false;
        for worker in std::mem::take(&mut self.stillborn) {
            any = true;
            self.tell(Event::Dead { worker, exit: Exit::Crashed, written: BTreeMap::new() });
        }
        let mut dead = Vec::new();
        for (worker, link) in &mut self.links {
            if let Poll::Ready(status) = link.poll_death(cx) {
                dead.push((*worker, status));
            }
        }
        for (worker, status) in dead {
            any = true;
            self.bury(worker, status);
        }
        if self.ear.poll(cx, now) {
            self.hear_speakers(now);
        }
        any
    }

    /// Of each worker that has said something a bounded number of words, so that one that never stops talking cannot keep
    /// the others from being heard.
    pub(super) fn hear_speakers(&mut self, now: Instant) {
        let mut is_behind = false;
        for worker in self.ear.speakers() {
            is_behind |= (0..MESSAGES_PER_TURN).all(|_| self.hear_next(worker));
        }
        self.ear.heard(now, is_behind);
        self.measure_load();
    }

    /// Only here the numbers of leases and streams are exact: what has ended is known to have ended.
    fn measure_load(&mut self) {
        let (leases, streams) = self.fleet.load();
        self.parts.metrics.load(leases, streams);
    }

    /// Reads every channel dry.
    pub(super) fn hear_everybody(&mut self) {
        for worker in self.links.keys().copied().collect::<Vec<_>>() {
            let is_dry = (0..WORDS_MAX).any(|_| !self.hear_next(worker));
            if !is_dry {
                tracing::error!("worker does not stop talking");
                self.tell(Event::Misbehaved { worker });
            }
        }
        self.measure_load();
    }

    fn hear_next(&mut self, worker: WorkerId) -> bool {
        let message = self.links.get_mut(&worker).and_then(Link::try_message);
        message.map(|message| self.hear(worker, message)).is_some()
    }

    fn hear(&mut self, worker: WorkerId, message: Heard) {
        if let Some(link) = self.links.get(&worker).filter(|link| link.is_silent()) {
            self.ear.remove(link.channel());
        }
        let is_adopted = self.links.get(&worker).is_some_and(|link| link.origin == Origin::Adopted);
        let (message, fds) = match message {
            Ok(message) => message,
            Err(ReceiveError::Closed) => return self.tell(Event::Closed { worker }),
            Err(ReceiveError::Decode(DecodeError::Version { .. })) if is_adopted => {
                // What only its own version understands; it lives.
                return self.tell(Event::Beat { worker, rss_bytes: 0, draining: false });
            }
            Err(error) => {
                tracing::error!(%error, "worker broke the protocol");
                return self.tell(Event::Misbehaved { worker });
            }
        };
        match message {
            ToSupervisor::Held(held) => self.hear_held(worker, held, fds),
            _ if fds.lost || !fds.received.is_empty() => {
                tracing::error!("worker sends fds that nobody asked for");
                self.tell(Event::Misbehaved { worker });
            }
            ToSupervisor::Ready { protocol_version, .. }
                if protocol_version == PROTOCOL_VERSION || is_adopted =>
            {
                self.hear_ready(worker);
            }
            ToSupervisor::Ready { protocol_version, build } => {
                tracing::error!(protocol_version, build, "worker speaks another protocol version");
                self.tell(Event::Misbehaved { worker });
            }
            ToSupervisor::Sessions { ticket, last, sessions } => {
                self.show_page(worker, ticket, last, sessions);
            }
            ToSupervisor::Cooldown(cooldown) => self.hear_cooldown(worker, cooldown),
            ToSupervisor::Taken { leases } => {
                self.ear.enliven();
                self.tell(Event::Taken { worker, leases });
            }
            ToSupervisor::Committed { leases } => {
                self.ear.enliven();
                for (lease, format) in leases {
                    self.tell(Event::Committed { worker, lease, format });
                }
            }
            ToSupervisor::Released { endings } => {
                self.ear.enliven();
                for ending in endings {
                    self.tell(Event::Released { worker, lease: ending.lease, outcome: ending.outcome });
                }
            }
            ToSupervisor::Snapshot(snapshot) => {
                let (rss_bytes, draining) = (snapshot.rss_bytes, snapshot.draining);
                self.parts.metrics.snapshot(worker, *snapshot);
                if self.links.get(&worker).is_some_and(|link| !link.is_being_kept) {
                    self.tell(Event::Beat { worker, rss_bytes, draining });
                }
            }
        }
    }

    /// A worker gets its first handoff when a successor would find it, not before.
    fn hear_ready(&mut self, worker: WorkerId) {
        if let Some(link) = self.links.get_mut(&worker)
            && link.origin == Origin::Spawned
            && !link.is_being_kept
            && self.parts.store.keep(&link.name, &link.fds())
        {
            link.is_being_kept = true;
            return;
        }
        self.tell_cooldowns(worker);
        self.tell(Event::Ready { worker });
    }

    pub(super) fn poll_kept(&mut self, cx: &mut Context<'_>) -> bool {
        let mut any = false;
        while let Poll::Ready(name) = self.parts.store.poll_kept(cx) {
            any = true;
            let kept = self.links.iter_mut().find(|(_, link)| link.is_being_kept && link.name == name);
            if let Some((&worker, link)) = kept {
                link.is_being_kept = false;
                self.tell_cooldowns(worker);
                self.tell(Event::Ready { worker });
            }
        }
        any
    }

    /// Dead for sure: its last words first, then its leases.
    fn bury(&mut self, worker: WorkerId, status: WaitStatus) {
        while self.hear_next(worker) {}
        let Some(link) = self.links.remove(&worker) else { return };
        self.ear.remove(link.channel());
        let is_clean = matches!(status, WaitStatus::Exited(_, 0));
        let exit = if is_clean { Exit::Clean } else { Exit::Crashed };
        match exit {
            Exit::Crashed if status == WaitStatus::StillAlive => {
                tracing::info!(slot = %link.slot, generation = %link.generation, pid = link.pid, "worker of an earlier supervisor is gone");
            }
            Exit::Clean => {
                tracing::info!(slot = %link.slot, generation = %link.generation, pid = link.pid, "worker ended")
            }
            Exit::Crashed => {
                tracing::warn!(slot = %link.slot, generation = %link.generation, pid = link.pid, ?status, "worker died")
            }
        }
        let held = self.fleet.held_by(worker);
        let written =
            held.into_iter().filter_map(|lease| Some((lease, self.dispatcher.written(lease)?))).collect();
        self.parts.metrics.bury(worker);
        self.cooldowns.bury(worker);
        self.waiting.worker_died(worker);
        self.parts.store.forget(&link.name);
        self.tell(Event::Dead { worker, exit, written });
        self.forget_recipes();
    }
}
