//! Orders, carried out and answered in a turn of the loop. What takes longer is remembered here, and answered when
//! it has ended.

use std::collections::BTreeMap;
use std::task::{Context, Poll};
use std::time::Instant;

use handoff_shared::control::{Refusal, Reply, Request};
use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::limits::SESSIONS_PER_PAGE_MAX;
use handoff_shared::message::{SessionView, ToWorker};
use tokio::sync::oneshot;

use super::EventLoop;
use crate::control::{Order, Page, WorkerView, refused};
use crate::fleet::{Event, LeaseEnding, RollResult};
use crate::link::Outgoing;

/// Orders in one turn.
const ORDERS_PER_TURN: usize = 16;
/// Waiting for the ends of reloads, and for the ends of streams: of each at most so many.
const WAITING_MAX: usize = 16;

type Answer = oneshot::Sender<Reply>;

/// Who waits for what.
#[derive(Debug, Default)]
pub(super) struct Waiting {
    /// For a configuration to be read.
    loads: Vec<Answer>,
    /// For this generation's roll to end.
    rolls: Vec<(Generation, Answer)>,
    /// For this lease to end.
    ends: Vec<(LeaseId, Answer)>,
    /// For an upgrade to fail.
    upgrade: Option<Answer>,
    /// For a page of a worker's sessions.
    pages: BTreeMap<u32, (WorkerId, oneshot::Sender<Page>)>,
    next_ticket: u32,
}

impl EventLoop {
    pub(super) fn poll_orders(&mut self, cx: &mut Context<'_>, now: Instant) -> bool {
        for _ in 0..ORDERS_PER_TURN {
            match self.parts.control.as_mut().map(|control| control.orders.poll_recv(cx)) {
                Some(Poll::Ready(Some(order))) => {
                    // What has been said counts, also when nobody has listened yet.
                    self.hear_everybody();
                    self.carry_out(order, now);
                }
                Some(Poll::Ready(None) | Poll::Pending) | None => return false,
            }
        }
        true
    }

    fn carry_out(&mut self, order: Order, now: Instant) {
        match order {
            Order::Request { request, reply } => match request {
                Request::Status {} => answer(reply, Reply::Status { status: Box::new(self.status(now)) }),
                Request::Streams {} => answer(reply, refused(Refusal::BadRequest, "asked for page by page")),
                Request::Reload { wait, .. } => self.reload(wait, reply),
                Request::Upgrade { wait, .. } => self.upgrade(wait, reply),
                Request::Drain { slot } => answer(reply, self.drain(SlotId(slot))),
                Request::Kill { stream } => self.end_stream(&stream, reply),
                Request::Log { level } => answer(reply, self.log_at(&level)),
            },
            Order::Workers { reply } => drop(reply.send(self.holders(now))),
            Order::Page { worker, after, reply } => self.ask_for_page(worker, after, reply),
        }
    }

    /// The workers that have leases.
    fn holders(&self, now: Instant) -> Vec<WorkerView> {
        let report = self.fleet.report(now);
        let holders = report.workers.iter().filter(|worker| worker.leases > 0);
        let views = holders.filter_map(|worker| {
            let link = self.links.get(&worker.worker?)?;
            let (slot, generation) = (link.slot.0, link.generation.0);
            let speaks_ours = link.speaks_ours;
            Some(WorkerView { worker: worker.worker?, slot, generation, pid: link.pid, speaks_ours })
        });
        views.collect()
    }

    /// Also by SIGHUP, but for the answer.
    fn reload(&mut self, wait: bool, reply: Answer) {
        if self.fleet.outline().stopping {
            return answer(reply, refused(Refusal::Stopping, "handoffd is stopping"));
        }
        if !wait {
            self.tell(Event::Reload);
            return answer(reply, done("a reload begins, or waits for the one before"));
        }
        self.waiting.prune();
        if self.waiting.loads.len() + self.waiting.rolls.len() >= WAITING_MAX {
            return answer(reply, refused(Refusal::Busy, "too many wait for reloads already"));
        }
        // First, since the configuration may be read before the call returns.
        self.waiting.loads.push(reply);
        self.tell(Event::Reload);
    }

    /// As SIGUSR2, but for the answer. Whoever waits hears of a failure; if it works, our successor knows nobody who
    /// waits, and the connection ends.
    fn upgrade(&mut self, wait: bool, reply: Answer) {
        if self.fleet.outline().stopping {
            return answer(reply, refused(Refusal::Stopping, "handoffd is stopping"));
        }
        if self.handover.is_some() {
            return answer(reply, refused(Refusal::Busy, "an upgrade is on its way already"));
        }
        match wait {
            true => self.waiting.upgrade = Some(reply),
            false => answer(
                reply,
                done("an upgrade begins: the binary on disk is checked, and takes over if it can"),
            ),
        }
        self.begin_upgrade();
    }

    fn drain(&mut self, slot: SlotId) -> Reply {
        if let Err(reason) = self.fleet.may_replace_worker(Instant::now(), slot) {
            let code = if reason.is_about_now() { Refusal::Busy } else { Refusal::NotFound };
            return refused(code, format!("slot {slot}: {reason}"));
        }
        self.tell(Event::Replace { slot });
        done(&format!("slot {slot}: a successor starts; when it is ready the worker drains"))
    }

    fn end_stream(&mut self, stream: &str, reply: Answer) {
        let Some(lease) = LeaseId::parse(stream) else {
            let reason =
                format!("{stream:?} is no stream's id: 16 hexadecimal digits, as `streams` shows them");
            return answer(reply, refused(Refusal::BadRequest, reason));
        };
        let link = self.fleet.holder(lease).and_then(|worker| self.links.get_mut(&worker));
        let Some(link) = link else {
            let reason = format!("no worker has a stream {lease}; it may have ended");
            return answer(reply, refused(Refusal::NotFound, reason));
        };
        if !link.speaks_ours {
            let reason = "its worker is of another version, and does not understand that";
            return answer(reply, refused(Refusal::Unsupported, reason));
        }
        self.waiting.prune();
        if self.waiting.ends.len() >= WAITING_MAX {
            return answer(reply, refused(Refusal::Busy, "too many wait for the ends of streams already"));
        }
        link.push(Outgoing::Message(ToWorker::Cancel { lease }));
        self.waiting.ends.push((lease, reply));
    }

    fn log_at(&mut self, level: &str) -> Reply {
        if let Err(allowed) = handoff_config::check_log_level(level) {
            return refused(Refusal::BadRequest, format!("{level:?}: {allowed}"));
        }
        if let Err(error) = self.parts.log.set_level(level) {
            return refused(Refusal::BadRequest, error.to_string());
        }
        for link in self.links.values_mut().filter(|link| link.speaks_ours) {
            link.push(Outgoing::Message(ToWorker::LogLevel { directives: level.to_owned() }));
        }
        self.log_level = Some(level.to_owned());
        done(&format!("log level {level}, of handoffd and all workers, until the next roll or restart"))
    }

    fn ask_for_page(&mut self, worker: WorkerId, after: Option<LeaseId>, reply: oneshot::Sender<Page>) {
        // Dropped, the reply says that the worker is gone.
        let Some(link) = self.links.get_mut(&worker) else { return };
        self.waiting.prune();
        let ticket = self.waiting.next_ticket;
        self.waiting.next_ticket = ticket.wrapping_add(1);
        self.waiting.pages.insert(ticket, (worker, reply));
        link.push(Outgoing::Message(ToWorker::Sessions { ticket, after }));
    }

    /// A page that nobody waits for any more is no fault.
    pub(super) fn show_page(&mut self, by: WorkerId, ticket: u32, last: bool, sessions: Vec<SessionView>) {
        let is_asked = self.waiting.pages.get(&ticket).is_some_and(|(worker, _)| *worker == by);
        if !is_asked || sessions.len() > SESSIONS_PER_PAGE_MAX {
            return;
        }
        if let Some((_, reply)) = self.waiting.pages.remove(&ticket) {
            let _ = reply.send(Page { sessions, last });
        }
    }
}

impl Waiting {
    /// Forgets those who have hung up, or waited long enough.
    fn prune(&mut self) {
        self.loads.retain(|reply| !reply.is_closed());
        self.rolls.retain(|(_, reply)| !reply.is_closed());
        self.ends.retain(|(_, reply)| !reply.is_closed());
        self.pages.retain(|_, (_, reply)| !reply.is_closed());
    }

    /// The configuration was read.
    pub(super) fn loaded(&mut self, generation: Generation) {
        self.rolls.extend(self.loads.drain(..).map(|reply| (generation, reply)));
    }

    /// The configuration cannot be used.
    pub(super) fn load_refused(&mut self, error: &str) {
        for reply in self.loads.drain(..) {
            answer(reply, refused(Refusal::Refused, error));
        }
    }

    pub(super) fn roll_ended(&mut self, generation: Generation, result: RollResult) {
        for (_, reply) in self.rolls.extract_if(.., |(of, _)| *of == generation) {
            answer(
                reply,
                match result {
                    RollResult::Done => done(&format!("generation {generation} is in every slot")),
                    RollResult::CannotStart => refused(
                        Refusal::CannotStart,
                        format!(
                            "no worker of generation {generation} could start; the old one stays (the log says why)"
                        ),
                    ),
                    RollResult::Superseded => refused(
                        Refusal::Superseded,
                        format!("a newer generation took the place of generation {generation}"),
                    ),
                    RollResult::Stopped => refused(Refusal::Stopping, "handoffd is stopping"),
                },
            );
        }
    }

    /// No configuration is read any more, and no binary takes over.
    pub(super) fn stopping(&mut self) {
        for reply in self.loads.drain(..).chain(self.upgrade.take()) {
            answer(reply, refused(Refusal::Stopping, "handoffd is stopping"));
        }
    }

    pub(super) fn upgrade_failed(&mut self, why: &str) {
        if let Some(reply) = self.upgrade.take() {
            answer(reply, refused(Refusal::Refused, format!("upgrade failed: {why}")));
        }
    }

    pub(super) fn worker_died(&mut self, dead: WorkerId) {
        self.pages.retain(|_, (worker, _)| *worker != dead);
    }

    /// `ending`: none, when the supervisor itself has answered the client.
    pub(super) fn lease_ended(&mut self, lease: LeaseId, ending: Option<LeaseEnding>) {
        for (_, reply) in self.ends.extract_if(.., |(of, _)| *of == lease) {
            let outcome = match ending {
                Some(LeaseEnding::Released(outcome)) => outcome.as_str(),
                Some(LeaseEnding::EpitaphLost) => "epitaph_lost",
                None => "refused",
            };
            answer(reply, done(&format!("stream {lease} has ended: {outcome}")));
        }
    }
}

fn done(text: &str) -> Reply {
    Reply::Done { text: text.to_owned() }
}

fn answer(reply: Answer, with: Reply) {
    let _ = reply.send(with);
}
