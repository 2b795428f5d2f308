//! Cooldowns, carried from the worker that has met them to all others. In: a worker's word. Out: the same word in the
//! others' channels, and all that last in the channel of a worker that begins.
//!
//! Never: speaks to a worker of another version, or to one that is not Ready.

use std::time::Instant;

use handoff_shared::ids::WorkerId;
use handoff_shared::message::{Cooldown, ToWorker};

use super::EventLoop;
use crate::cooldowns::Heard;
use crate::fleet::Event;
use crate::link::{Origin, Outgoing};

impl EventLoop {
    /// Before it was Ready it can have asked nobody; one that is taken over was Ready long ago.
    pub(super) fn hear_cooldown(&mut self, worker: WorkerId, cooldown: Cooldown) {
        let Some(link) = self.links.get(&worker) else { return };
        let is_adopted = link.origin == Origin::Adopted;
        let is_backend =
            |name: &str| self.recipes.values().any(|recipe| recipe.config.backends.find(name).is_some());
        let heard = match is_backend(&cooldown.backend) {
            true if link.hears_cooldowns || is_adopted => {
                self.cooldowns.hear(Instant::now(), worker, cooldown)
            }
            // Its generation may be one that we cannot read.
            false if is_adopted => Heard::Nothing,
            true | false => Heard::Impossible,
        };
        match heard {
            Heard::Nothing => {}
            Heard::Impossible => {
                tracing::error!("worker speaks of a cooldown that cannot be");
                self.tell(Event::Misbehaved { worker });
            }
            Heard::News(news) => {
                let (backend, model, ms) = (&news.backend, news.model.as_deref(), news.remaining_ms);
                tracing::info!(backend, model, remaining_ms = ms, "a backend is left alone for a while");
                let others =
                    self.links.iter_mut().filter(|(id, link)| **id != worker && link.hears_cooldowns);
                for (_, link) in others {
                    link.push(Outgoing::Message(ToWorker::Cooldown(news.clone())));
                }
            }
        }
    }

    /// It is Ready, and knows of none yet: first these, then its first handoff.
    pub(super) fn tell_cooldowns(&mut self, worker: WorkerId) {
        let Some(link) = self.links.get_mut(&worker).filter(|link| link.speaks_ours) else { return };
        if !std::mem::replace(&mut link.hears_cooldowns, true) {
            for cooldown in self.cooldowns.lasting(Instant::now()) {
                link.push(Outgoing::Message(ToWorker::Cooldown(cooldown)));
            }
        }
    }
}
