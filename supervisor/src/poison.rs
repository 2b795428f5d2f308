//! Poison: handoffs that have killed every worker that tried them. In: convictions, and payloads as they come.
//! Out: what people are told, and whether a payload was poison lately.
//!
//! Never: parses a payload; keeps one; remembers anything from one handoff to the next, unless the site wants that
//! (`server.poison_memory_secs`), and then only hashes, a bounded number of them.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hasher};
use std::time::{Duration, Instant};

use handoff_shared::ids::LeaseId;
use handoff_shared::limits::POISON_MEMORY_MAX;
use handoff_shared::status::PoisonStatus;

/// What a payload is recognised by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Fingerprint {
    /// All bytes of the payload.
    pub(crate) bytes: u64,
    /// Of the message, and of the beginning of a large payload.
    pub(crate) hash: u64,
}

impl Fingerprint {
    /// `parts` are hashed; `bytes` is the size of the whole.
    pub(crate) fn new(bytes: u64, parts: &[&[u8]]) -> Self {
        let mut hasher = DefaultHasher::new();
        hasher.write_u64(bytes);
        parts.iter().for_each(|part| hasher.write(part));
        Self { bytes, hash: hasher.finish() }
    }
}

/// The last one, and those that are remembered.
#[derive(Debug, Default)]
pub(crate) struct Poisons {
    last: Option<(LeaseId, Fingerprint, Instant)>,
    /// By hash: until when.
    remembered: BTreeMap<u64, Instant>,
}

impl Poisons {
    /// This one has killed its workers. `memory`: for how long it is remembered, if at all.
    pub(crate) fn convict(
        &mut self,
        now: Instant,
        lease: LeaseId,
        fingerprint: Fingerprint,
        memory: Option<Duration>,
    ) {
        self.last = Some((lease, fingerprint, now));
        let Some(memory) = memory else { return };
        self.forget(now);
        if self.remembered.len() >= POISON_MEMORY_MAX {
            let oldest = self.remembered.iter().min_by_key(|(_, until)| **until).map(|(hash, _)| *hash);
            oldest.and_then(|hash| self.remembered.remove(&hash));
        }
        self.remembered.insert(fingerprint.hash, now + memory);
    }

    /// Whether anything is remembered at all: only then it is worth while to hash what comes.
    pub(crate) fn remembers_any(&self) -> bool {
        !self.remembered.is_empty()
    }

    /// Whether this payload was poison lately.
    pub(crate) fn remembers(&mut self, now: Instant, fingerprint: Fingerprint) -> bool {
        self.forget(now);
        self.remembered.contains_key(&fingerprint.hash)
    }

    fn forget(&mut self, now: Instant) {
        self.remembered.retain(|_, until| now < *until);
    }

    /// For `/status`.
    pub(crate) fn status(&self, now: Instant) -> Option<PoisonStatus> {
        self.last.map(|(lease, Fingerprint { bytes, hash }, at)| PoisonStatus {
            lease: lease.to_string(),
            bytes,
            hash: format!("{hash:016x}"),
            age_secs: now.duration_since(at).as_secs(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MINUTE: Duration = Duration::from_secs(60);

    fn fingerprint(number: u64) -> Fingerprint {
        Fingerprint::new(8, &[&number.to_le_bytes()])
    }

    #[test]
    fn nothing_is_remembered_unless_it_is_wanted_and_then_for_so_long() {
        let (mut poisons, now) = (Poisons::default(), Instant::now());
        poisons.convict(now, LeaseId::first(1), fingerprint(1), None);
        assert!(!poisons.remembers_any() && !poisons.remembers(now, fingerprint(1)));
        poisons.convict(now, LeaseId::first(1), fingerprint(1), Some(MINUTE));
        assert!(poisons.remembers(now + MINUTE - Duration::from_millis(1), fingerprint(1)));
        assert!(!poisons.remembers(now, fingerprint(2)));
        assert!(!poisons.remembers(now + MINUTE, fingerprint(1)));
        assert!(!poisons.remembers_any());
    }

    #[test]
    fn the_memory_is_bounded_and_the_oldest_goes_first() {
        let (mut poisons, now) = (Poisons::default(), Instant::now());
        for number in 0..=POISON_MEMORY_MAX as u64 {
            let at = now + Duration::from_millis(number);
            poisons.convict(at, LeaseId::first(1), fingerprint(number), Some(MINUTE));
        }
        assert_eq!(poisons.remembered.len(), POISON_MEMORY_MAX);
        assert!(!poisons.remembers(now, fingerprint(0)) && poisons.remembers(now, fingerprint(1)));
    }

    #[test]
    fn the_same_bytes_have_the_same_fingerprint_and_others_another() {
        assert_eq!(Fingerprint::new(2, &[b"ab"]), Fingerprint::new(2, &[b"ab"]));
        assert_ne!(Fingerprint::new(2, &[b"ab"]).hash, Fingerprint::new(2, &[b"ac"]).hash);
        assert_ne!(Fingerprint::new(2, &[b"ab"]).hash, Fingerprint::new(3, &[b"ab"]).hash);
    }
}
