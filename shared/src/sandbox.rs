//! What confines a worker, as it found out itself. In: what each step of its start achieved. Out: one word for
//! metrics, and the parts for people.
//!
//! Never: claims what the kernel has not confirmed.

use std::fmt;

use serde::{Deserialize, Serialize};

/// What confines a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SandboxState {
    /// All of it taken together.
    pub level: SandboxLevel,
    /// It gave up its privileges: no capability in any set, and none to be had (`no_new_privs`).
    pub unprivileged: bool,
    /// It runs as another user than the supervisor.
    pub other_user: bool,
    /// The Landlock ABI that keeps it from the file system; 0: none does.
    pub landlock_abi: u8,
    /// Only the system calls that it needs are let through.
    pub seccomp: bool,
    /// It leaves no core, and processes of the same user cannot look into it.
    pub undumpable: bool,
}

/// One word for a [`SandboxState`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SandboxLevel {
    /// The configuration says so.
    #[default]
    Off,
    /// Something could not be had.
    Partial,
    /// Everything that there is.
    Full,
}

impl SandboxLevel {
    /// Every level, for tables that must have them all.
    pub const ALL: [Self; 3] = [Self::Off, Self::Partial, Self::Full];

    /// The word for logs and labels.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::Partial => "partial",
            Self::Full => "full",
        }
    }
}

impl fmt::Display for SandboxLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}
