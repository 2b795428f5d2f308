//! What this worker holds: every lease from its arrival to its end, with what another worker would need to go on.
//! In: leases that come, commit and end. Out: the pages of `Held` that answer a `Resync`.
//!
//! Never: closes a client's socket or reads it, keeps a payload longer than until its lease is committed.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Bound;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::rc::Rc;
use std::sync::Arc;

use handoff_shared::fdpass;
use handoff_shared::ids::LeaseId;
use handoff_shared::limits::{
    HELD_BYTES_MAX, HELD_LEASES_PER_PAGE_MAX, PACKET_FDS_MAX, SESSIONS_PER_PAGE_MAX,
};
use handoff_shared::message::{Format, Handoff, Held, HeldLease, HeldStage, SessionView};

use crate::poller::Port;

/// A handoff as it was received.
#[derive(Debug)]
pub(crate) struct Task {
    pub(crate) handoff: Handoff,
    pub(crate) memfd: Option<Arc<OwnedFd>>,
}

/// One lease in our hands.
#[derive(Clone, Debug)]
pub(crate) struct Holding {
    pub(crate) stage: Stage,
    pub(crate) port: Rc<Port>,
}

/// How far it is.
#[derive(Clone, Debug)]
pub(crate) enum Stage {
    /// No byte can be out.
    Taken(Rc<Task>),
    /// The supervisor knows that bytes may be out.
    Committed { attempt: u8, format: Format },
    /// A dead worker's stream, to be ended.
    Epitaph,
}

/// All of them.
#[derive(Debug, Default)]
pub(crate) struct Holdings(BTreeMap<LeaseId, Holding>);

impl Holdings {
    /// False: it is here already.
    pub(crate) fn add(&mut self, lease: LeaseId, holding: Holding) -> bool {
        self.0.insert(lease, holding).is_none()
    }

    pub(crate) fn remove(&mut self, lease: LeaseId) {
        self.0.remove(&lease);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The supervisor has been told: from here on the payload is of no use.
    pub(crate) fn commit(&mut self, lease: LeaseId, format: Format) {
        if let Some(holding) = self.0.get_mut(&lease)
            && let Stage::Taken(task) = &holding.stage
        {
            holding.stage = Stage::Committed { attempt: task.handoff.attempt, format };
            holding.port.progress.is_committed.set(true);
            holding.port.wake();
        }
    }

    /// Something has happened that concerns everybody.
    pub(crate) fn wake_all(&self) {
        self.0.values().for_each(|holding| holding.port.wake());
    }

    /// An operator ends this one. One that is not here has ended already.
    pub(crate) fn cancel(&self, lease: LeaseId) {
        if let Some(holding) = self.0.get(&lease) {
            holding.port.progress.cut.fall();
            holding.port.wake();
        }
    }

    /// The sessions behind `after`, as many as fit a page, and whether these are the last.
    pub(crate) fn show(&self, after: Option<LeaseId>) -> (Vec<SessionView>, bool) {
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let mut rest = self.0.range((start, Bound::Unbounded));
        let page = rest.by_ref().take(SESSIONS_PER_PAGE_MAX);
        let page = page.map(|(lease, holding)| holding.port.progress.view(*lease)).collect();
        (page, rest.next().is_none())
    }

    /// The list of this instant. `about`: the first page, without leases. Fds go to the uncommitted leases first,
    /// then to the youngest committed ones, as far as the budget goes.
    pub(crate) fn list(&self, about: Held, fd_budget: u32) -> Inventory {
        let rank = |stage: &Stage| match stage {
            Stage::Taken(_) => 0,
            Stage::Committed { .. } => 1,
            Stage::Epitaph => 2,
        };
        // The youngest first: within the uncommitted ones the order does not matter.
        let mut listed: Vec<(LeaseId, &Holding)> =
            self.0.iter().rev().map(|(id, held)| (*id, held)).collect();
        listed.sort_by_key(|(_, holding)| rank(&holding.stage));
        let mut budget = fd_budget as usize;
        let listed = listed.into_iter().map(|(lease, holding)| Listed::new(lease, holding, &mut budget));
        Inventory { about, listed: listed.collect(), is_said: false }
    }
}

/// A list that is being said, page by page.
#[derive(Debug)]
pub(crate) struct Inventory {
    about: Held,
    listed: VecDeque<Listed>,
    is_said: bool,
}

#[derive(Debug)]
struct Listed {
    lease: LeaseId,
    holding: Holding,
    written: Option<u64>,
    has_fd: bool,
}

impl Inventory {
    /// The next page with its fds, and how many leases are on it; none: all is said.
    pub(crate) fn page(&self) -> Option<(Held, Vec<BorrowedFd<'_>>)> {
        if self.is_said {
            return None;
        }
        let (mut leases, mut fds, mut bytes) = (Vec::new(), Vec::new(), 0);
        for listed in &self.listed {
            let own_fds = listed.fds();
            bytes += listed.bytes();
            let fits = leases.len() < HELD_LEASES_PER_PAGE_MAX
                && fds.len() + own_fds.len() <= PACKET_FDS_MAX
                && bytes <= HELD_BYTES_MAX;
            // One alone always fits.
            if !fits && !leases.is_empty() {
                break;
            }
            leases.push(listed.as_held());
            fds.extend(own_fds);
        }
        let last = leases.len() == self.listed.len();
        Some((Held { last, leases, ..self.about.clone() }, fds))
    }

    /// That page has left.
    pub(crate) fn turn(&mut self, leases: usize) {
        self.listed.drain(..leases);
        self.is_said = self.listed.is_empty();
        self.about.page += 1;
    }
}

impl Listed {
    fn new(lease: LeaseId, holding: &Holding, budget: &mut usize) -> Self {
        let mut listed = Self { lease, holding: holding.clone(), written: None, has_fd: true };
        let needed = listed.fds().len();
        listed.has_fd = needed > 0 && needed <= *budget;
        if listed.has_fd {
            *budget -= needed;
        }
        if let Stage::Taken(_) = &holding.stage {
            listed.written = fdpass::tcp_written(holding.port.as_fd());
        }
        listed
    }

    fn fds(&self) -> Vec<BorrowedFd<'_>> {
        if !self.has_fd {
            return Vec::new();
        }
        let memfd = match &self.holding.stage {
            Stage::Taken(task) => task.memfd.as_ref(),
            Stage::Committed { .. } => None,
            // Nobody writes a second epitaph.
            Stage::Epitaph => return Vec::new(),
        };
        std::iter::once(self.holding.port.as_fd()).chain(memfd.map(|memfd| memfd.as_fd())).collect()
    }

    /// No more than this in a packet.
    fn bytes(&self) -> usize {
        const EACH: usize = 64;
        match &self.holding.stage {
            Stage::Taken(task) => EACH + task.handoff.inline.0.len(),
            Stage::Committed { .. } | Stage::Epitaph => EACH,
        }
    }

    fn as_held(&self) -> HeldLease {
        let (attempt, stage) = match &self.holding.stage {
            Stage::Taken(task) => (
                task.handoff.attempt,
                HeldStage::Taken {
                    truncated: task.handoff.truncated,
                    inline: task.handoff.inline.clone(),
                    memfd_bytes: task.handoff.memfd_bytes,
                    written: self.written,
                },
            ),
            Stage::Committed { attempt, format } => (*attempt, HeldStage::Committed { format: *format }),
            Stage::Epitaph => (0, HeldStage::Epitaph),
        };
        HeldLease { lease: self.lease, attempt, stage, has_fd: self.has_fd }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::poller::Poller;
    use crate::progress::Progress;
    use handoff_shared::ids::{Generation, SlotId};
    use handoff_shared::message::{PROTOCOL_VERSION, Payload, Phase, ToSupervisor};

    fn about() -> Held {
        Held {
            ticket: 1,
            page: 0,
            last: false,
            protocol_version: PROTOCOL_VERSION,
            slot: SlotId(0),
            generation: Generation::FIRST,
            drain_remaining_ms: None,
            leases: Vec::new(),
        }
    }

    fn taken(lease: LeaseId, bytes: usize, memfd: bool) -> Holding {
        let handoff = Handoff {
            lease,
            attempt: 0,
            truncated: false,
            inline: Payload(vec![b' '; bytes]),
            memfd_bytes: memfd.then_some(1),
        };
        let memfd = memfd.then(|| Arc::new(handoff_shared::memfd::seal(b"x").unwrap()));
        let socket = std::os::unix::net::UnixStream::pair().unwrap().0;
        let port = Poller::new(Rc::default()).unwrap().port(socket.into(), Progress::new(Phase::Waiting));
        Holding { stage: Stage::Taken(Rc::new(Task { handoff, memfd })), port }
    }

    fn pages(inventory: &mut Inventory) -> Vec<(Held, usize)> {
        let mut pages = Vec::new();
        while let Some((page, fds)) = inventory.page() {
            let fds = fds.len();
            inventory.turn(page.leases.len());
            pages.push((page, fds));
        }
        pages
    }

    #[tokio::test]
    async fn an_empty_worker_says_one_empty_last_page() {
        let pages = pages(&mut Holdings::default().list(about(), 10));
        assert_eq!(pages, [(Held { last: true, ..about() }, 0)]);
    }

    #[tokio::test]
    async fn every_page_fits_a_packet_and_every_lease_is_on_one() {
        let mut holdings = Holdings::default();
        let mut lease = LeaseId::first(1);
        let mut all = Vec::new();
        for number in 0..300 {
            holdings.add(lease, taken(lease, if number % 7 == 0 { 64 * 1024 } else { 10 }, number % 3 == 0));
            all.push(lease);
            lease = lease.next();
        }
        let pages = pages(&mut holdings.list(about(), 1000));
        let mut packet = Vec::new();
        for (number, (page, fds)) in pages.iter().enumerate() {
            assert_eq!((page.page as usize, page.last), (number, number + 1 == pages.len()));
            let message = handoff_shared::message::ToSupervisor::Held(page.clone());
            handoff_shared::codec::encode(&message, &mut packet).unwrap();
            assert!(*fds <= PACKET_FDS_MAX && page.leases.len() <= HELD_LEASES_PER_PAGE_MAX);
        }
        let mut said: Vec<LeaseId> =
            pages.iter().flat_map(|(page, _)| &page.leases).map(|held| held.lease).collect();
        said.sort_unstable();
        assert_eq!(said, all);
        assert_eq!(pages.iter().map(|(_, fds)| fds).sum::<usize>(), 400);
    }

    #[tokio::test]
    async fn fds_go_to_uncommitted_leases_first_and_then_to_the_youngest() {
        let mut holdings = Holdings::default();
        let ids: Vec<LeaseId> =
            std::iter::successors(Some(LeaseId::first(1)), |id| Some(id.next())).take(6).collect();
        for id in &ids {
            holdings.add(*id, taken(*id, 2, false));
        }
        for id in [ids[0], ids[1], ids[4]] {
            holdings.commit(id, Format::Text);
        }
        let pages = pages(&mut holdings.list(about(), 4));
        let with_fd: Vec<LeaseId> =
            pages[0].0.leases.iter().filter(|held| held.has_fd).map(|held| held.lease).collect();
        assert_eq!(with_fd, [ids[5], ids[3], ids[2], ids[4]]);
        assert_eq!(pages[0].0.leases.len(), 6);
    }

    #[tokio::test]
    async fn sessions_are_shown_page_by_page_each_once() {
        let mut holdings = Holdings::default();
        let mut lease = LeaseId::first(1);
        let mut expected = Vec::new();
        for _ in 0..2 * SESSIONS_PER_PAGE_MAX + 1 {
            holdings.add(lease, taken(lease, 0, false));
            expected.push(lease);
            lease = lease.next();
        }
        let (mut shown, mut after) = (Vec::new(), None);
        loop {
            let (page, last) = holdings.show(after);
            assert!(page.len() <= SESSIONS_PER_PAGE_MAX);
            shown.extend(page.iter().map(|session| session.lease));
            after = shown.last().copied();
            if last {
                break;
            }
        }
        assert_eq!(shown, expected);
        assert_eq!(holdings.show(after), (Vec::new(), true));
    }

    #[tokio::test]
    async fn a_page_of_the_longest_names_fits_a_packet() {
        let mut holdings = Holdings::default();
        let mut lease = LeaseId::first(u32::MAX);
        for _ in 0..SESSIONS_PER_PAGE_MAX {
            let holding = taken(lease, 0, false);
            let name = "\u{1f600}".repeat(1000);
            holding.port.progress.name(Some(&name), Some(&name));
            holdings.add(lease, holding);
            lease = lease.next();
        }
        let (sessions, last) = holdings.show(None);
        assert_eq!((sessions.len(), last), (SESSIONS_PER_PAGE_MAX, true));
        let message = ToSupervisor::Sessions { ticket: u32::MAX, last, sessions };
        handoff_shared::codec::encode(&message, &mut Vec::new()).unwrap();
    }
}
