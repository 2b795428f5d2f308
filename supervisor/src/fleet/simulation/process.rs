//! A simulated worker process. It does what a real one can do, nothing else: it reads its inbox in order, and
//! what it has written stays readable after its death.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use handoff_shared::ids::{Generation, LeaseId, SlotId, WorkerId};
use handoff_shared::limits::{BEAT_INTERVAL, DRAIN_GRACE};
use handoff_shared::message::{Format, Outcome};

use super::chance::Chance;
use crate::fleet::{Event, Exit};

/// One process, from spawn until its death is confirmed.
#[derive(Debug)]
pub(super) struct Process {
    pub(super) id: WorkerId,
    pub(super) slot: SlotId,
    pub(super) generation: Generation,
    /// None: it lives.
    pub(super) exit: Option<Exit>,
    /// SIGSTOP, or a busy loop, until then.
    pub(super) frozen_until: Option<Instant>,
    /// Sends no snapshots.
    pub(super) mute: bool,
    /// Takes nothing.
    pub(super) deaf: bool,
    /// Does not care for the drain's deadline.
    pub(super) stubborn: bool,
    pub(super) rss_bytes: u64,
    pub(super) ready: bool,
    pub(super) inbox: VecDeque<Packet>,
    /// Written, not yet read by the supervisor.
    pub(super) outbox: VecDeque<Event>,
    pub(super) sessions: BTreeMap<LeaseId, Session>,
    /// Takes no more; the deadline to finish by.
    pub(super) draining: Option<Instant>,
    pub(super) beat_due: Instant,
    /// Of what it holds: listed, not yet written. Nothing else is said meanwhile.
    pub(super) pages: VecDeque<Event>,
    /// It speaks another version than the supervisor.
    pub(super) foreign: bool,
    /// It died of this lease.
    pub(super) culprit: Option<LeaseId>,
}

/// From the supervisor.
#[derive(Debug)]
pub(super) enum Packet {
    /// With the time after which it kills its worker, if it is poison.
    Handoff {
        lease: LeaseId,
        attempt: u8,
        kills_after: Option<Duration>,
    },
    Epitaph(LeaseId),
    Drain(Instant),
    Resync {
        fd_budget: u64,
    },
}

/// A client in a worker.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) stage: Stage,
    pub(super) attempt: u8,
    pub(super) format: Format,
    commits_at: Option<Instant>,
    ends_at: Instant,
    kills_at: Option<Instant>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Epitaph,
    Quiet,
    /// `Committed` is written, the first byte is not.
    Announced,
    Streaming,
}

impl Process {
    pub(super) fn new(id: WorkerId, slot: SlotId, generation: Generation, now: Instant) -> Self {
        Self {
            id,
            slot,
            generation,
            exit: None,
            frozen_until: None,
            mute: false,
            deaf: false,
            stubborn: false,
            rss_bytes: 1,
            ready: false,
            inbox: VecDeque::new(),
            outbox: VecDeque::new(),
            sessions: BTreeMap::new(),
            draining: None,
            beat_due: now,
            pages: VecDeque::new(),
            foreign: false,
            culprit: None,
        }
    }

    pub(super) fn become_ready(&mut self, now: Instant) {
        self.ready = true;
        self.beat_due = now + BEAT_INTERVAL;
        self.outbox.push_back(Event::Ready { worker: self.id });
    }

    pub(super) fn die(&mut self, exit: Exit) {
        self.exit = Some(exit);
        self.inbox.clear();
        self.sessions.clear();
        self.pages.clear();
    }

    /// One turn of its loop. Returns the leases whose first byte went out.
    pub(super) fn turn(&mut self, now: Instant, chance: &mut Chance, hurry: bool) -> Vec<LeaseId> {
        if !self.ready {
            return Vec::new();
        }
        if self.write_pages(chance) {
            return Vec::new();
        }
        self.read(now, chance, hurry);
        if self.write_pages(chance) {
            return Vec::new();
        }
        let deadly = |session: &Session| session.kills_at.is_some_and(|kills_at| kills_at <= now);
        self.culprit = self.sessions.iter().find(|(_, session)| deadly(session)).map(|(lease, _)| *lease);
        if self.culprit.is_some() {
            self.die(Exit::Crashed);
            return Vec::new();
        }
        let written = self.serve(now, chance);
        if now >= self.beat_due && !self.mute {
            self.beat_due = now + BEAT_INTERVAL;
            let (worker, rss_bytes, draining) = (self.id, self.rss_bytes, self.draining.is_some());
            self.outbox.push_back(Event::Beat { worker, rss_bytes, draining });
        }
        if self.draining.is_some() && self.sessions.is_empty() && self.inbox.is_empty() && !self.stubborn {
            self.die(Exit::Clean);
        }
        written
    }

    fn read(&mut self, now: Instant, chance: &mut Chance, hurry: bool) {
        let mut taken = Vec::new();
        let most = 8 + chance.below(40);
        for _ in 0..most {
            if self.deaf {
                break;
            }
            let (lease, attempt, stage, kills_after) = match self.inbox.pop_front() {
                None => break,
                Some(Packet::Drain(deadline)) => {
                    self.draining = Some(self.draining.map_or(deadline, |earlier| earlier.min(deadline)));
                    continue;
                }
                Some(Packet::Resync { fd_budget }) => {
                    if !taken.is_empty() {
                        let leases = std::mem::take(&mut taken);
                        self.outbox.push_back(Event::Taken { worker: self.id, leases });
                    }
                    self.pages = self.list(now, fd_budget, chance);
                    break;
                }
                Some(Packet::Handoff { lease, attempt, kills_after }) => {
                    (lease, attempt, Stage::Quiet, kills_after)
                }
                Some(Packet::Epitaph(lease)) => (lease, 0, Stage::Epitaph, None),
            };
            taken.push(lease);
            let kills_at = kills_after.map(|after| now + after);
            let commits = !chance.one_in(8) && kills_at.is_none();
            let commits_at = commits.then(|| now + chance.millis(0, 300));
            let longest = if chance.one_in(10) && !hurry { 30_000 } else { 1_500 };
            let ends_at = kills_at.or(commits_at).unwrap_or(now) + chance.millis(0, longest);
            let format = Format::default();
            self.sessions.insert(lease, Session { stage, attempt, format, commits_at, ends_at, kills_at });
            if chance.one_in(4) {
                self.outbox.push_back(Event::Taken { worker: self.id, leases: std::mem::take(&mut taken) });
            }
        }
        if !taken.is_empty() {
            self.outbox.push_back(Event::Taken { worker: self.id, leases: taken });
        }
    }

    fn serve(&mut self, now: Instant, chance: &mut Chance) -> Vec<LeaseId> {
        let cut = self.draining.is_some_and(|deadline| deadline <= now) && !self.stubborn;
        let worker = self.id;
        let mut written = Vec::new();
        let mut ended = Vec::new();
        for (&lease, session) in &mut self.sessions {
            let due = session.commits_at.is_some_and(|commits_at| commits_at <= now);
            if session.stage == Stage::Announced {
                session.stage = Stage::Streaming;
                written.push(lease);
            }
            if session.stage == Stage::Quiet && due {
                let format = chance.pick(&[Format::Content, Format::Text, Format::Raw]).unwrap_or_default();
                session.format = format;
                self.outbox.push_back(Event::Committed { worker, lease, format });
                session.stage = Stage::Announced;
                if !chance.one_in(4) {
                    session.stage = Stage::Streaming;
                    written.push(lease);
                }
            }
            if cut || session.ends_at <= now {
                ended.push((lease, session.stage));
            }
        }
        for (lease, stage) in ended {
            self.sessions.remove(&lease);
            let outcome = match stage {
                Stage::Epitaph => Outcome::EpitaphWritten,
                Stage::Quiet | Stage::Announced => Outcome::ClientGone,
                Stage::Streaming => Outcome::Complete,
            };
            self.outbox.push_back(Event::Released { worker, lease, outcome });
        }
        written
    }

    /// Everybody's patience ends: no session goes on for long.
    pub(super) fn hurry(&mut self, now: Instant) {
        for session in self.sessions.values_mut() {
            session.ends_at = session.ends_at.min(now + Duration::from_secs(2));
        }
    }

    /// It decides by itself to end (SIGTERM from outside).
    pub(super) fn leave(&mut self, now: Instant) {
        self.draining.get_or_insert(now + DRAIN_GRACE);
        self.beat_due = now;
    }

    /// Says something that no worker may say.
    pub(super) fn lie(&mut self, chance: &mut Chance) {
        let worker = self.id;
        let known = self.sessions.keys().copied().collect::<Vec<_>>();
        let lease = chance.pick(&known).unwrap_or(LeaseId::first(0));
        let stranger = LeaseId::first(0);
        let last = self.inbox.iter().rev().find_map(|packet| match packet {
            Packet::Handoff { lease, .. } | Packet::Epitaph(lease) => Some(*lease),
            Packet::Drain(_) | Packet::Resync { .. } => None,
        });
        self.outbox.push_back(match chance.below(11) {
            0 => Event::Misbehaved { worker },
            1 => Event::Ready { worker },
            2 => Event::Taken { worker, leases: vec![lease] },
            3 => Event::Taken { worker, leases: vec![stranger] },
            4 => Event::Released { worker, lease: stranger, outcome: Outcome::Complete },
            5 => Event::Committed { worker, lease: stranger, format: Format::Text },
            6 => Event::Taken { worker, leases: vec![last.unwrap_or(stranger)] },
            7 => Event::Released { worker, lease: last.unwrap_or(stranger), outcome: Outcome::Internal },
            8 => Event::Committed { worker, lease: last.unwrap_or(lease), format: Format::Text },
            9 => Event::Committed { worker, lease, format: Format::Text },
            _ => Event::Beat { worker, rss_bytes: 1, draining: false },
        });
    }
}
