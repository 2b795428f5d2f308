//! What the fleet decides, done. In: actions. Out: processes, messages, answers.

use std::time::Instant;

use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::message::ToWorker;

use super::{EventLoop, policy};
use crate::capacity::Capacity;
use crate::fleet::{Action, Cause, Event, RollResult};
use crate::inherit::WORKER;
use crate::link::{Link, Outgoing};
use crate::poison::Fingerprint;

impl EventLoop {
    pub(super) fn tell(&mut self, event: Event) {
        self.tell_at(Instant::now(), event);
    }

    pub(super) fn tell_at(&mut self, now: Instant, event: Event) {
        self.fleet.handle(now, event);
        while let Some(action) = self.fleet.poll_action() {
            self.perform(action);
        }
    }

    pub(super) fn perform(&mut self, action: Action) {
        match action {
            Action::Spawn { worker, slot, generation, cause } => self.spawn(worker, slot, generation, cause),
            Action::Resync { worker } => self.resync(worker),
            Action::Adopted { generation } => self.adopted(generation),
            Action::Lend { lease, worker, attempt } => self.lend(lease, worker, attempt),
            Action::LendEpitaph { lease, worker, format } => {
                self.ear.enliven();
                self.dispatcher.keep_fd(lease);
                if let Some(link) = self.links.get_mut(&worker) {
                    self.parts.metrics.epitaph(link.slot);
                    link.push(Outgoing::Epitaph { lease, format });
                }
            }
            Action::ForgetPayload { lease } => {
                let dropped = self.dispatcher.forget_payload(lease);
                self.drop_dup(dropped);
            }
            Action::Poison { lease } => self.convict(lease),
            Action::Refuse { lease, refusal } => {
                self.parts.metrics.refused(refusal);
                self.waiting.lease_ended(lease, None);
                if let Some(Some(client)) = self.dispatcher.remove(lease) {
                    self.refused.answer(Instant::now(), client, refusal);
                }
            }
            Action::Close { lease, ending } => {
                self.parts.metrics.ended(ending);
                self.waiting.lease_ended(lease, Some(ending));
                if self.dispatcher.remove(lease).is_none() {
                    self.parts.metrics.ended_between();
                }
            }
            Action::Drain { worker, remaining } => {
                let remaining_ms = u64::try_from(remaining.as_millis()).unwrap_or(u64::MAX);
                if let Some(link) = self.links.get_mut(&worker) {
                    link.push(Outgoing::Message(ToWorker::Drain { remaining_ms }));
                }
            }
            Action::Kill { worker, cause } => self.kill(worker, cause),
            Action::Load => self.load(),
            Action::RollEnded { generation, result } => self.end_roll(generation, result),
            Action::Exit => self.over_at = Some(Instant::now()),
        }
    }

    /// A lease has lost its dup: it would get no epitaph.
    pub(super) fn drop_dup(&mut self, dropped: Option<LeaseId>) {
        if let Some(lease) = dropped {
            self.parts.metrics.dup_dropped();
            self.tell(Event::FdDropped { lease });
        }
    }

    /// The payload is still there: the constant answer comes next.
    fn convict(&mut self, lease: LeaseId) {
        self.parts.metrics.poisoned();
        let Some(fingerprint) = self.dispatcher.fingerprint(lease) else { return };
        let Fingerprint { bytes, hash } = fingerprint;
        tracing::error!(%lease, bytes, hash = format!("{hash:016x}"), "poison: a handoff kills every worker that tries it");
        let memory = self.parts.recipe.config.server.poison_memory;
        self.poisons.convict(Instant::now(), lease, fingerprint, memory);
    }

    /// Only with `server.poison_memory_secs`: this payload has killed workers a short while ago.
    pub(super) fn is_known_poison(&mut self, lease: LeaseId) -> bool {
        if !self.poisons.remembers_any() || self.parts.recipe.config.server.poison_memory.is_none() {
            return false;
        }
        let fingerprint = self.dispatcher.fingerprint(lease);
        fingerprint.is_some_and(|fingerprint| self.poisons.remembers(Instant::now(), fingerprint))
    }

    fn lend(&mut self, lease: LeaseId, worker: WorkerId, attempt: u8) {
        let Some(link) = self.links.get_mut(&worker) else { return };
        self.ear.enliven();
        if attempt > 0 {
            self.parts.metrics.redispatched(link.slot);
            tracing::info!(%lease, slot = %link.slot, attempt, "handoff goes to another worker");
        }
        link.push(Outgoing::Lend { lease, attempt });
        // At once, not at the end of the turn: until then it is in nobody's hands but ours, and we may be killed. What
        // the socket has no room for waits as ever.
        let _ = link.flush(&self.dispatcher);
    }

    fn spawn(&mut self, worker: WorkerId, slot: SlotId, generation: Generation, cause: Cause) {
        self.parts.metrics.spawned(slot, cause);
        let spawned = match self.recipes.get(&generation) {
            Some(recipe) => Link::spawn(recipe, self.name_of(worker), slot, generation),
            None => Err(std::io::Error::from(std::io::ErrorKind::NotFound)),
        };
        match spawned {
            Ok(mut link) => {
                if let Some(level) = self.log_level.clone().filter(|_| generation == self.active) {
                    link.push(Outgoing::Message(ToWorker::LogLevel { directives: level }));
                }
                tracing::info!(%slot, %generation, pid = link.pid, ?cause, "worker started");
                link.fds().into_iter().for_each(|fd| self.parts.listener.note(fd));
                if let Err(error) = self.ear.add(worker, link.channel()) {
                    tracing::error!(%slot, %generation, pid = link.pid, %error, "worker cannot be listened to");
                    link.kill();
                }
                self.links.insert(worker, link);
            }
            Err(error) => {
                tracing::error!(%slot, %generation, %error, "worker cannot be started");
                self.stillborn.push(worker);
            }
        }
    }

    /// What tells this worker's fds from all others, also from those of earlier supervisors.
    fn name_of(&self, worker: WorkerId) -> String {
        format!("{WORKER}{:08x}-{worker}", self.parts.start_number)
    }

    fn kill(&mut self, worker: WorkerId, cause: Cause) {
        match self.links.get(&worker) {
            Some(link) => {
                tracing::warn!(slot = %link.slot, pid = link.pid, ?cause, "worker is killed");
                link.kill();
            }
            None => self.stillborn.push(worker),
        }
    }

    fn load(&mut self) {
        self.parts.notify.reloading();
        match (self.parts.reload)() {
            Ok(recipe) => {
                let generation = self.newest.next();
                let capacity = Capacity::of(&recipe.config, self.parts.fd_limit);
                capacity.log(&recipe.config, self.parts.fd_limit);
                let policy = Box::new(policy(&recipe.config, &capacity));
                tracing::info!(%generation, "configuration is valid; rolling");
                self.parts.disk_error = None;
                self.register(generation, recipe);
                self.waiting.loaded(generation);
                self.tell(Event::Loaded { generation, policy });
            }
            Err(error) => {
                tracing::error!(%error, "reload refused; the old generation stays");
                self.parts.metrics.reloaded("refused");
                self.waiting.load_refused(&error);
                self.reload_ended(format!("refused: {error}"));
                self.tell(Event::LoadRefused);
            }
        }
    }

    fn end_roll(&mut self, generation: Generation, result: RollResult) {
        let word = match result {
            RollResult::Done => "done",
            RollResult::CannotStart => "cannot_start",
            RollResult::Superseded => "superseded",
            RollResult::Stopped => "stopped",
        };
        self.parts.metrics.reloaded(word);
        self.waiting.roll_ended(generation, result);
        self.reload_ended(format!("generation {generation}: {word}"));
        if result != RollResult::Done && !self.fleet.is_generation_in_use(generation) {
            // Also the newest one: nothing will be started of it.
            self.forget_recipe(generation);
        }
        self.forget_recipes();
        match result {
            RollResult::Done => {
                tracing::info!(%generation, "roll ended: every slot has the new generation");
            }
            RollResult::Superseded | RollResult::Stopped => {
                tracing::info!(%generation, result = word, "roll ended");
            }
            RollResult::CannotStart => {
                tracing::error!(%generation, "no worker of the new generation could start; the old one stays");
            }
        }
    }

    /// For `/status` and systemd.
    fn reload_ended(&mut self, how: String) {
        self.last_reload = Some(how);
        self.shown = None;
        self.parts.notify.reloaded();
    }

    /// A new generation is the active one: its configuration holds for the supervisor too, as far as it can
    /// change while it runs.
    pub(super) fn settle(&mut self, generation: Generation) {
        let Some(recipe) = self.recipes.get(&generation).cloned() else { return };
        let (old, new) = (&self.parts.recipe.config, &recipe.config);
        let fixed = [
            ("server.socket_path", old.server.socket_path != new.server.socket_path),
            ("server.stream_socket_path", old.server.stream_socket_path != new.server.stream_socket_path),
            ("server.control_socket_path", old.server.control_socket_path != new.server.control_socket_path),
            ("server.socket_mode", old.server.socket_mode != new.server.socket_mode),
            ("server.socket_owner", old.server.socket_owner != new.server.socket_owner),
            ("server.socket_group", old.server.socket_group != new.server.socket_group),
            ("server.user and server.group", old.server.run_as != new.server.run_as),
            ("metrics.listen_addr", old.metrics != new.metrics),
            ("logging.format (of the supervisor)", old.logging.format != new.logging.format),
        ];
        for (key, _) in fixed.into_iter().filter(|(_, differs)| *differs) {
            tracing::warn!(key, "this change takes effect at the next restart");
        }
        self.log_level = None;
        if let Err(error) = self.parts.log.set_level(&new.logging.level) {
            tracing::warn!(%error, "the log level stays");
        }
        self.parts.notify.reloaded();
        self.parts.listener.configure(&new.server);
        self.parts.recipe = recipe;
    }
}
