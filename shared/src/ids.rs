//! Newtypes for everything that has a number.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One lease: a client's fd and payload, lent to one worker at a time.
///
/// The upper 32 bits are the supervisor's start number, the lower ones a counter, so that an id never comes
/// back in the life of a worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct LeaseId(u64);

impl LeaseId {
    /// The first id of a supervisor that started with this number.
    #[must_use]
    pub const fn first(start_number: u32) -> Self {
        Self((start_number as u64) << 32)
    }

    /// Whether a supervisor with this start number makes it.
    #[must_use]
    pub const fn is_of(self, start_number: u32) -> bool {
        self.0 >> 32 == start_number as u64
    }

    /// The id after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.wrapping_add(1))
    }

    /// Reads what [`fmt::Display`] writes: 16 hexadecimal digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let is_hex = text.len() == 16 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        is_hex.then(|| u64::from_str_radix(text, 16).ok().map(Self)).flatten()
    }

    /// The bare number, for a header field.
    #[must_use]
    pub const fn as_u64(self) -> u64 {
        self.0
    }
}

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A numbered place for a worker. It survives restarts and is the label in metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotId(pub u16);

impl SlotId {
    /// No slot: the place of the worker that only gets suspects.
    pub const QUARANTINE: Self = Self(u16::MAX);
}

impl fmt::Display for SlotId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::QUARANTINE => f.pad("quarantine"),
            Self(number) => number.fmt(f),
        }
    }
}

/// A pair of worker binary and validated configuration, numbered up from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Generation(pub u32);

impl Generation {
    /// What a supervisor starts with.
    pub const FIRST: Self = Self(1);

    /// The generation after this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One worker process in the life of one supervisor: unlike a pid it is never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

impl fmt::Display for WorkerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
