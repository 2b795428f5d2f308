//! A successor takes our place: the next process that systemd starts, or our own next image. In: SIGTERM where
//! systemd keeps the workers, SIGUSR2. Out: nothing of ours that is not in a worker's hands, and then the end of
//! this image.
//!
//! Never: goes while a handoff is only in our hands, unless it has been answered; lets an upgrade that fails change
//! anything.

use std::os::fd::BorrowedFd;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use handoff_shared::limits::LEAVE_TIMEOUT;
use tokio::sync::oneshot;

use super::EventLoop;
use crate::fleet::Event;
use crate::inherit::{CONTROL, GENERATION, OWN_SOCKET};
use crate::listener::Kind;
use crate::preflight;
use crate::signals;

/// A peer that has said nothing for so long is dead: Apache's module gives up after half a second.
const PEERS_TIMEOUT: Duration = Duration::from_secs(1);
/// Clients that were refused may read for so long.
const REFUSED_TIMEOUT: Duration = Duration::from_millis(250);
/// The log's last lines may take so long.
const LOG_TIMEOUT: Duration = Duration::from_millis(100);
/// A roll that is running may take so long before an upgrade is given up.
const ROLL_TIMEOUT: Duration = Duration::from_secs(60);

/// Where we are on the way out.
#[derive(Debug)]
pub(super) enum Handover {
    /// The new binary is being asked whether it could take over.
    Checking(oneshot::Receiver<Result<String, String>>),
    /// It could; a roll has to end first.
    Waiting { since: Instant },
    /// Everything is put into workers' hands.
    Leaving { since: Instant, successor: Successor },
    /// Nothing is in ours. Signals wait for the new image from here on; one that came before is looked at first, and
    /// the log is written.
    Ready { since: Instant },
}

/// Who takes our place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Successor {
    /// Whom systemd starts after our end.
    Process,
    /// The binary on disk, in this process.
    Image,
}

impl EventLoop {
    /// SIGTERM, and the workers are kept for whoever comes next. If nobody does, they drain by themselves.
    pub(super) fn leave(&mut self) {
        tracing::info!("leaving: the workers are kept for a successor");
        self.parts.notify.stopping();
        self.give_up_upgrade();
        self.waiting.stopping();
        self.begin_leaving(Successor::Process);
    }

    /// SIGUSR2: the binary on disk takes our place.
    pub(super) fn begin_upgrade(&mut self) {
        if self.handover.is_some() || self.fleet.outline().stopping {
            return tracing::info!("an upgrade is on its way already, or this is the end");
        }
        tracing::info!(binary = %self.parts.invocation.binary.display(), "upgrade: checking the binary on disk");
        self.handover = Some(Handover::Checking(preflight::start(self.parts.invocation.clone())));
    }

    /// There will be no successor in this process.
    pub(super) fn give_up_upgrade(&mut self) {
        if let Some(Handover::Ready { .. }) = self.handover.take() {
            signals::unblock();
        }
        self.tell(Event::Stay);
    }

    /// Nothing but time keeps us.
    pub(super) fn is_leaving_for_good(&self) -> bool {
        matches!(self.handover, Some(Handover::Leaving { successor: Successor::Process, .. }))
    }

    fn begin_leaving(&mut self, successor: Successor) {
        self.handover = Some(Handover::Leaving { since: Instant::now(), successor });
        self.tell(Event::Leave);
    }

    /// One step further. Ready: this process has done its part.
    pub(super) fn poll_handover(&mut self, cx: &mut Context<'_>, now: Instant) -> Poll<()> {
        match &mut self.handover {
            None => {}
            Some(Handover::Checking(answer)) => {
                if let Poll::Ready(answer) = std::pin::Pin::new(answer).poll(cx) {
                    self.checked(answer.unwrap_or_else(|_| Err("it could not be checked".to_owned())), now);
                    cx.waker().wake_by_ref();
                }
            }
            Some(Handover::Waiting { since }) => {
                let since = *since;
                if self.fleet.is_settled() {
                    self.begin_leaving(Successor::Image);
                    cx.waker().wake_by_ref();
                } else if now.duration_since(since) > ROLL_TIMEOUT {
                    self.upgrade_failed("a roll does not end");
                }
            }
            Some(Handover::Leaving { since, successor }) => {
                let (since, successor) = (*since, *successor);
                return self.try_to_leave(cx, now, since, successor);
            }
            Some(Handover::Ready { since }) if self.parts.log.is_flushed() || now - *since > LOG_TIMEOUT => {
                self.exec();
            }
            Some(Handover::Ready { .. }) => cx.waker().wake_by_ref(),
        }
        Poll::Pending
    }

    fn checked(&mut self, answer: Result<String, String>, now: Instant) {
        match answer {
            Ok(said) => {
                tracing::info!(said, "upgrade: the binary on disk can take over");
                self.handover = Some(Handover::Waiting { since: now });
            }
            Err(error) => self.upgrade_failed(&error),
        }
    }

    fn try_to_leave(
        &mut self,
        cx: &mut Context<'_>,
        now: Instant,
        since: Instant,
        successor: Successor,
    ) -> Poll<()> {
        let waited = now.duration_since(since);
        let is_empty = self.fleet.is_quiet() && self.links.values().all(crate::link::Link::is_flushed);
        let nobody_comes = self.parts.listener.is_idle() || waited > PEERS_TIMEOUT;
        let nobody_reads = self.refused.next_deadline().is_none() || waited > REFUSED_TIMEOUT;
        if is_empty && nobody_comes && nobody_reads {
            cx.waker().wake_by_ref();
            return match successor {
                Successor::Process => Poll::Ready(()),
                Successor::Image => {
                    signals::block();
                    self.handover = Some(Handover::Ready { since: now });
                    Poll::Pending
                }
            };
        }
        if waited > LEAVE_TIMEOUT || self.is_hurried {
            match successor {
                Successor::Image => self.upgrade_failed("there is always something in our hands"),
                Successor::Process => {
                    tracing::warn!("not everything could be put into workers' hands");
                    self.tell(Event::Abandon);
                    return Poll::Ready(());
                }
            }
        }
        Poll::Pending
    }

    /// Nothing has happened, and everything goes on.
    fn upgrade_failed(&mut self, why: &str) {
        tracing::error!(why, "upgrade failed; this process goes on as it was");
        self.last_upgrade = Some(format!("failed: {why}"));
        self.waiting.upgrade_failed(why);
        self.parts.metrics.upgraded("failed");
        self.handover = None;
        self.tell(Event::Stay);
    }

    /// A signal that came in the meantime changes nothing: this is the last look at the world.
    fn exec(&mut self) {
        if !self.fleet.is_quiet() {
            signals::unblock();
            self.handover = Some(Handover::Waiting { since: Instant::now() });
            return self.tell(Event::Stay);
        }
        let mut fds: Vec<(String, BorrowedFd<'_>)> = Vec::new();
        for (socket, kind, is_ours) in self.parts.listener.sockets() {
            let name = match (is_ours, kind) {
                (true, _) => OWN_SOCKET,
                (false, Kind::SeqPacket) => "handoff",
                (false, Kind::Stream) => "handoff-stream",
            };
            fds.push((name.to_owned(), socket));
        }
        if let Some(control) = &self.parts.control {
            fds.push((CONTROL.to_owned(), control.socket()));
        }
        for link in self.links.values() {
            fds.extend(link.fds().map(|fd| (link.name.clone(), fd)));
        }
        for (generation, recipe) in &self.recipes {
            fds.extend(recipe.fds().map(|fd| (format!("{GENERATION}{generation}"), fd)));
        }
        let error = self.parts.places.exec(&self.parts.invocation, &fds);
        signals::unblock();
        self.upgrade_failed(&format!("{}: {error}", self.parts.invocation.binary.display()));
    }
}
