//! Whether there is room for one more client's fd. In: the fds that come in, the limit. Out: yes or no.
//!
//! The kernel gives out the lowest free number. So as long as no fd of ours had a number near the limit, all numbers from
//! there on are free, and nobody has to be asked. From then on the kernel is asked each time.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::time::Instant;

use nix::sys::resource::{Resource, getrlimit};

/// Fds that stay free: at the limit the kernel would throw away the client's fd inside recvmsg.
const HEAD_ROOM: u64 = 16;
/// Fds that others may have opened since and that were not noted: the log's, questions', orders'.
const OTHERS_MAX: u64 = 240;

/// What is known of free numbers.
#[derive(Debug, Default)]
pub(super) struct Room {
    highest: u64,
    /// As of one turn of the loop: an operator may change it from outside.
    limit: Option<(Instant, u64)>,
}

impl Room {
    /// An fd that came in.
    pub(super) fn note(&mut self, fd: impl AsFd) {
        self.highest = self.highest.max(number(fd));
    }

    /// Whether one more fd than this peer's would eat into the head room. `unseen`: fds that others of us may have got
    /// and that were not noted.
    pub(super) fn is_short(&mut self, now: Instant, peer: &OwnedFd, unseen: usize) -> bool {
        self.note(peer);
        let limit = match self.limit {
            Some((asked_at, limit)) if asked_at == now => limit,
            Some(_) | None => limit().unwrap_or(0),
        };
        self.limit = Some((now, limit));
        let unseen = OTHERS_MAX.saturating_add(unseen as u64);
        self.highest.saturating_add(HEAD_ROOM).saturating_add(unseen) > limit && is_short_of_fds(peer)
    }
}

/// Whether one more fd would eat into the head room. The kernel gives out the lowest free number: the one that
/// it gives now says how many are in use. The peer's own says nothing, it may have filled a gap. The limit is
/// asked each time, since an operator may change it from outside.
pub(super) fn is_short_of_fds(peer: &OwnedFd) -> bool {
    let next = peer.try_clone().map_or(u64::MAX, number);
    limit().is_some_and(|limit| next.saturating_add(HEAD_ROOM) > limit)
}

fn limit() -> Option<u64> {
    getrlimit(Resource::RLIMIT_NOFILE).ok().map(|(soft, _)| soft)
}

fn number(fd: impl AsFd) -> u64 {
    u64::try_from(fd.as_fd().as_raw_fd()).unwrap_or(u64::MAX)
}
