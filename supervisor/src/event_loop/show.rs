//! The fleet, shown: to the admin endpoint, to systemd, to the metrics.

use std::task::{Context, Poll};
use std::time::Instant;

use handoff_shared::fdpass;

use super::EventLoop;
use crate::admin::{Answer, Topic};
use crate::status::{self, History};

impl EventLoop {
    pub(super) fn answer_questions(&mut self, cx: &mut Context<'_>, now: Instant) {
        let mut is_heard = false;
        while let Some(Poll::Ready(Some(question))) =
            self.parts.questions.as_mut().map(|asked| asked.poll_recv(cx))
        {
            // What has been said counts, also when nobody has listened yet.
            if !std::mem::replace(&mut is_heard, true) {
                self.hear_everybody();
            }
            let _ = question.reply.send(self.answer(question.topic, now));
        }
    }

    fn answer(&self, topic: Topic, now: Instant) -> Answer {
        const TEXT: &str = "text/plain; charset=utf-8";
        match topic {
            Topic::Health => Answer { ok: true, content_type: TEXT, body: "OK\n".to_owned() },
            Topic::Ready => {
                let state = status::state(&self.fleet.outline());
                let ok = state == status::READY;
                Answer { ok, content_type: TEXT, body: format!("{state}\n") }
            }
            Topic::Metrics => {
                let (lines_dropped, is_refused) =
                    (self.parts.log.lines_dropped(), self.parts.disk_error.is_some());
                let (report, cooling) = (self.fleet.report(now), self.cooldowns.by_backend(now));
                let body = self.parts.metrics.render(&report, &cooling, lines_dropped, is_refused);
                Answer { ok: true, content_type: "text/plain; version=0.0.4; charset=utf-8", body }
            }
            Topic::Status => {
                let body = serde_json::to_string_pretty(&self.status(now)).unwrap_or_default();
                Answer { ok: true, content_type: "application/json", body: body + "\n" }
            }
        }
    }

    pub(super) fn status(&self, now: Instant) -> handoff_shared::status::Status {
        let pid = |worker| self.links.get(&worker).map(|link| link.pid);
        let history = History {
            reload: self.last_reload.clone(),
            upgrade: self.last_upgrade.clone(),
            config_error: self.parts.disk_error.clone(),
            poison: self.poisons.status(now),
            cooldowns: self.cooldowns.status(now),
        };
        let mut status = status::status(&self.fleet.report(now), self.started_at, now, history, pid);
        for worker in &mut status.workers {
            let own = self.links.iter().find(|(_, link)| Some(link.pid) == worker.pid);
            worker.sandbox = own.and_then(|(id, _)| self.parts.metrics.sandbox(*id));
        }
        status
    }

    /// Tells systemd when there is news.
    pub(super) fn show(&mut self, now: Instant) {
        let outline = self.fleet.outline();
        self.parts.notify.turn(now, outline.stopping || outline.ready > 0, outline.stopping);
        if self.shown == Some(outline) {
            return;
        }
        self.shown = Some(outline);
        if self.active != outline.generation {
            self.active = outline.generation;
            self.settle(outline.generation);
        }
        if status::state(&outline) == status::READY && !self.is_ready {
            self.is_ready = true;
            self.parts.notify.ready();
            tracing::info!(workers = outline.ready, "ready");
            fdpass::forget_code();
        }
        let config_error = self.parts.disk_error.as_deref();
        self.parts.notify.status(status::line(&outline, config_error, self.last_reload.as_deref()));
    }
}
