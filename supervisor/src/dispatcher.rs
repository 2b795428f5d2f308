//! What the supervisor keeps of each lease: a dup of the client's fd, the payload until it is committed, and
//! the witness. In: handoffs. Out: messages with fds for workers.
//!
//! Never: reads a client's fd or a payload; decides (that is the fleet's).

use std::collections::BTreeMap;
use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;

use handoff_shared::fdpass;
use handoff_shared::ids::LeaseId;
use handoff_shared::limits::INLINE_BYTES_MAX;
use handoff_shared::memfd;
use handoff_shared::message::{Format, Handoff as HandoffMessage, Payload, ToWorker};

use crate::listener::{ENVELOPE_MARK, Handoff};
use crate::poison::Fingerprint;

/// Every live lease's fd and payload.
#[derive(Debug)]
pub(crate) struct Dispatcher {
    entries: BTreeMap<LeaseId, Entry>,
    next_lease: LeaseId,
    fds: usize,
    fds_max: usize,
    /// No lease before this one can lose its dup. Of those that can, the oldest does when the budget is spent.
    droppable_from: LeaseId,
}

/// As small as it can be: there may be a hundred thousand, and nearly all have no payload any more.
#[derive(Debug)]
struct Entry {
    client: Option<OwnedFd>,
    /// None: bytes may be out, it is not needed any more.
    payload: Option<Box<Message>>,
    /// What the kernel had counted as written when the handoff came; none: no TCP connection.
    written_before: Option<u64>,
    /// An epitaph needs the dup.
    is_kept: bool,
}

/// A payload on its way to a worker.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) inline: Vec<u8>,
    pub(crate) memfd: Option<(OwnedFd, u32)>,
    pub(crate) truncated: bool,
}

/// What an adopted worker gave of a lease.
#[derive(Debug)]
pub(crate) struct Adopted {
    pub(crate) client: Option<OwnedFd>,
    /// None: bytes may be out.
    pub(crate) payload: Option<Message>,
    /// The witness while no byte was out.
    pub(crate) written: Option<u64>,
}

impl Dispatcher {
    pub(crate) fn new(start_number: u32, fds_max: usize) -> Self {
        let first = LeaseId::first(start_number);
        Self { entries: BTreeMap::new(), next_lease: first, fds: 0, fds_max, droppable_from: first }
    }

    /// Makes a lease of a handoff. When the budget for fds is spent, the oldest committed lease loses its dup;
    /// its id is returned too.
    pub(crate) fn admit(&mut self, handoff: Handoff) -> (LeaseId, Option<LeaseId>) {
        let lease = self.next_lease;
        self.next_lease = lease.next();
        let payload = Some(Box::new(Message::new(handoff.message, handoff.memfd, handoff.truncated)));
        self.fds += 1;
        let client = Some(handoff.client);
        let entry = Entry { client, payload, written_before: handoff.written, is_kept: false };
        self.entries.insert(lease, entry);
        let dropped = if self.fds > self.fds_max { self.drop_oldest_dup() } else { None };
        (lease, dropped)
    }

    /// Whether there is such a lease.
    pub(crate) fn knows(&self, lease: LeaseId) -> bool {
        self.entries.contains_key(&lease)
    }

    /// A lease that an adopted worker holds: what came along of it. As with [`Self::admit`], the id of a lease that
    /// lost its dup is returned.
    pub(crate) fn readmit(&mut self, lease: LeaseId, adopted: Adopted) -> Option<LeaseId> {
        let Adopted { client, payload, written } = adopted;
        self.fds += usize::from(client.is_some());
        self.droppable_from = self.droppable_from.min(lease);
        let payload = payload.map(Box::new);
        self.entries.insert(lease, Entry { client, payload, written_before: written, is_kept: false });
        if self.fds > self.fds_max { self.drop_oldest_dup() } else { None }
    }

    /// The handoff as a worker gets it; none: the lease has ended.
    pub(crate) fn handoff(&self, lease: LeaseId, attempt: u8) -> Option<(ToWorker, Vec<BorrowedFd<'_>>)> {
        let entry = self.entries.get(&lease)?;
        let payload = entry.payload.as_ref()?;
        let mut fds = vec![entry.client.as_ref()?.as_fd()];
        fds.extend(payload.memfd.as_ref().map(|(memfd, _)| memfd.as_fd()));
        let message = ToWorker::Handoff(HandoffMessage {
            lease,
            attempt,
            truncated: payload.truncated,
            inline: Payload(payload.inline.clone()),
            memfd_bytes: payload.memfd.as_ref().map(|(_, bytes)| *bytes),
        });
        Some((message, fds))
    }

    /// What the payload is recognised by; none: it is not there any more.
    pub(crate) fn fingerprint(&self, lease: LeaseId) -> Option<Fingerprint> {
        let payload = self.entries.get(&lease)?.payload.as_ref()?;
        let inline = &payload.inline[envelope_bytes(&payload.inline)..];
        let Some((memfd, bytes)) = &payload.memfd else {
            return Some(Fingerprint::new(inline.len() as u64, &[inline]));
        };
        let memfd = File::from(memfd.try_clone().ok()?);
        let mut beginning = beginning_of(&memfd, 0, u64::from(*bytes))?;
        // A large message is in its memfd as a whole.
        let envelope = if payload.inline.is_empty() { envelope_bytes(&beginning) as u64 } else { 0 };
        if envelope > 0 {
            beginning = beginning_of(&memfd, envelope, u64::from(*bytes))?;
        }
        let bytes = inline.len() as u64 + u64::from(*bytes) - envelope;
        Some(Fingerprint::new(bytes, &[inline, &beginning]))
    }

    /// The epitaph as a worker gets it; none: the lease has ended.
    pub(crate) fn epitaph(&self, lease: LeaseId, format: Format) -> Option<(ToWorker, Vec<BorrowedFd<'_>>)> {
        let fds = vec![self.entries.get(&lease)?.client.as_ref()?.as_fd()];
        Some((ToWorker::Epitaph { lease, format }, fds))
    }

    /// Bytes may be out: the payload is not needed any more, and the dup only for an epitaph. Where the budget
    /// is overspent, because nothing could be dropped before, the lease whose dup is dropped now is returned.
    pub(crate) fn forget_payload(&mut self, lease: LeaseId) -> Option<LeaseId> {
        let entry = self.entries.get_mut(&lease)?;
        entry.payload = None;
        self.droppable_from = self.droppable_from.min(lease);
        if self.fds > self.fds_max { self.drop_oldest_dup() } else { None }
    }

    /// An epitaph is on its way: the dup is needed until it is sent.
    pub(crate) fn keep_fd(&mut self, lease: LeaseId) {
        if let Some(entry) = self.entries.get_mut(&lease) {
            entry.is_kept = true;
        }
    }

    /// Whether any byte has gone out since the lease was given to a worker that is dead now; none: no witness.
    /// The next worker's bytes are counted from here.
    pub(crate) fn written(&mut self, lease: LeaseId) -> Option<bool> {
        let entry = self.entries.get_mut(&lease)?;
        let now = fdpass::tcp_written(entry.client.as_ref()?.as_fd())?;
        Some(now != entry.written_before.replace(now)?)
    }

    /// Ends a lease: its dup, if we still have it. None: there is no such lease.
    pub(crate) fn remove(&mut self, lease: LeaseId) -> Option<Option<OwnedFd>> {
        let entry = self.entries.remove(&lease)?;
        self.fds -= usize::from(entry.client.is_some());
        Some(entry.client)
    }

    fn drop_oldest_dup(&mut self) -> Option<LeaseId> {
        let mut from_here = self.entries.range_mut(self.droppable_from..);
        let oldest = from_here.find(|(_, entry)| entry.is_droppable());
        let dropped = oldest.map(|(lease, entry)| {
            entry.client = None;
            self.fds -= 1;
            *lease
        });
        self.droppable_from = dropped.map_or(self.next_lease, LeaseId::next);
        dropped
    }
}

impl Entry {
    /// A committed lease that still has its dup.
    fn is_droppable(&self) -> bool {
        self.client.is_some() && self.payload.is_none() && !self.is_kept
    }
}

/// How much of a message is the line that Apache's module puts before the payload: it differs with every request, also
/// of the same payload.
fn envelope_bytes(message: &[u8]) -> usize {
    let is_there = message.first() == Some(&ENVELOPE_MARK);
    let end = if is_there { message.iter().position(|byte| *byte == b'\n') } else { None };
    end.map_or(0, |end| end + 1)
}

/// What a memfd of so many bytes has from here on, as far as it is looked at.
fn beginning_of(memfd: &File, from: u64, bytes: u64) -> Option<Vec<u8>> {
    let looked_at = usize::try_from(bytes.saturating_sub(from)).unwrap_or(INLINE_BYTES_MAX);
    let mut beginning = vec![0; looked_at.min(INLINE_BYTES_MAX)];
    memfd.read_exact_at(&mut beginning, from).ok()?;
    Some(beginning)
}

impl Message {
    /// Small messages travel inline; large ones, and all of it, in a memfd.
    fn new(message: Vec<u8>, memfd: Option<(OwnedFd, u32)>, truncated: bool) -> Self {
        if truncated {
            return Self::beginning_of(message);
        }
        if message.len() <= INLINE_BYTES_MAX {
            return Self { inline: message, memfd, truncated };
        }
        match (memfd, u32::try_from(message.len()), memfd::seal(&message)) {
            (None, Ok(bytes), Ok(sealed)) => {
                Self { inline: Vec::new(), memfd: Some((sealed, bytes)), truncated }
            }
            // An envelope of more than 64 KiB, or no memory for a memfd: the client is told that it is too large.
            _ => Self::beginning_of(message),
        }
    }

    /// Of what is too large: enough to know who has sent it, and whether the refusal may have a body.
    fn beginning_of(mut message: Vec<u8>) -> Self {
        message.truncate(INLINE_BYTES_MAX);
        message.shrink_to_fit();
        Self { inline: message, memfd: None, truncated: true }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    fn handoff(message: &[u8]) -> Handoff {
        let client = UnixStream::pair().unwrap().0.into();
        Handoff { client, written: None, message: message.to_vec(), memfd: None, truncated: false }
    }

    #[test]
    fn a_large_payload_travels_in_a_sealed_memfd_and_a_small_one_inline() {
        let mut dispatcher = Dispatcher::new(1, 10);
        let (small, _) = dispatcher.admit(handoff(b"{}"));
        let (large, _) = dispatcher.admit(handoff(&vec![b' '; INLINE_BYTES_MAX + 1]));
        assert_eq!(dispatcher.handoff(small, 0).unwrap().1.len(), 1);
        let (message, fds) = dispatcher.handoff(large, 0).unwrap();
        assert_eq!(memfd::sealed_bytes(fds[1]), Some(INLINE_BYTES_MAX as u64 + 1));
        assert!(matches!(message, ToWorker::Handoff(HandoffMessage { memfd_bytes: Some(_), .. })));
    }

    #[test]
    fn a_fingerprint_covers_inline_and_large_payloads() {
        let mut dispatcher = Dispatcher::new(1, 10);
        let mut fingerprint = |message: &[u8]| {
            let (lease, _) = dispatcher.admit(handoff(message));
            dispatcher.fingerprint(lease).unwrap()
        };
        let large = vec![b'x'; 2 * INLINE_BYTES_MAX];
        assert_eq!((fingerprint(b"{}").bytes, fingerprint(&large).bytes), (2, 2 * INLINE_BYTES_MAX as u64));
        assert_eq!(fingerprint(&large), fingerprint(&large));
        let mut other = large.clone();
        other[7] = b'y';
        assert_ne!(fingerprint(&large).hash, fingerprint(&other).hash);
        assert_ne!(fingerprint(b"{}").hash, fingerprint(b"[]").hash);
    }

    #[test]
    fn the_same_payload_has_the_same_fingerprint_whoever_sends_it() {
        let mut dispatcher = Dispatcher::new(1, 10);
        let mut fingerprint = |message: &str, memfd: Option<&[u8]>| {
            let memfd = memfd.map(|bytes| (memfd::seal(bytes).unwrap(), u32::try_from(bytes.len()).unwrap()));
            let (lease, _) = dispatcher.admit(Handoff { memfd, ..handoff(message.as_bytes()) });
            dispatcher.fingerprint(lease).unwrap()
        };
        let large = "x\n".repeat(INLINE_BYTES_MAX);
        for payload in ["{}", "a\nb", &large] {
            let plain = fingerprint(payload, None);
            assert_eq!(plain.bytes, payload.len() as u64);
            assert_eq!(fingerprint(&format!("\x01{{\"request_id\":\"a\"}}\n{payload}"), None), plain);
            assert_eq!(fingerprint(&format!("\x01{{}}\n{payload}"), None), plain);
        }
        let mut apart =
            |id: &str, bytes: &[u8]| fingerprint(&format!("\x01{{\"request_id\":\"{id}\"}}\n"), Some(bytes));
        assert_eq!(apart("a", large.as_bytes()), apart("other", large.as_bytes()));
        assert_ne!(apart("a", large.as_bytes()), apart("a", b"other"));
    }

    #[test]
    fn over_the_budget_the_oldest_committed_lease_loses_its_dup_and_an_uncommitted_one_never() {
        let mut dispatcher = Dispatcher::new(1, 2);
        let (first, _) = dispatcher.admit(handoff(b"{}"));
        let (second, _) = dispatcher.admit(handoff(b"{}"));
        dispatcher.forget_payload(second);
        let (third, dropped) = dispatcher.admit(handoff(b"{}"));
        assert_eq!(dropped, Some(second));
        assert!(dispatcher.epitaph(second, Format::Text).is_none());
        let (fourth, dropped) = dispatcher.admit(handoff(b"{}"));
        assert_eq!(dropped, None);
        assert_eq!(dispatcher.forget_payload(fourth), Some(fourth), "the budget was overspent");
        assert!(dispatcher.handoff(first, 0).is_some() && dispatcher.handoff(third, 0).is_some());
    }

    #[test]
    fn the_dup_that_an_epitaph_needs_is_kept_and_an_adopted_lease_is_as_old_as_it_is() {
        let mut dispatcher = Dispatcher::new(5, 2);
        let (first, _) = dispatcher.admit(handoff(b"{}"));
        let (second, _) = dispatcher.admit(handoff(b"{}"));
        for lease in [first, second] {
            assert_eq!(dispatcher.forget_payload(lease), None);
        }
        dispatcher.keep_fd(first);
        let (third, dropped) = dispatcher.admit(handoff(b"{}"));
        assert_eq!(dropped, Some(second));
        assert_eq!(dispatcher.forget_payload(third), None);
        let older = LeaseId::first(1);
        let adopted = Adopted { client: Some(handoff(b"").client), payload: None, written: None };
        assert_eq!(dispatcher.readmit(older, adopted), Some(older));
        assert!(dispatcher.epitaph(first, Format::Text).is_some());
        assert!(dispatcher.epitaph(third, Format::Text).is_some());
    }
}
