//! A worker confines itself: the last thing it does before it becomes multi-threaded and takes handoffs. In: the
//! configuration. Out: a process that can do little but stream, and a report of what confines it.
//!
//! The order matters. What must be opened is opened first; the user changes while there are capabilities for it;
//! Landlock and seccomp hold for threads that are started later, so they come before any thread.
//!
//! Never: gives anything back; goes on as the wrong user, whatever `workers.sandbox` says.

mod fd_table;
mod files;
mod identity;
mod limits;
mod name_service;
pub mod playground;
pub mod self_test;
mod syscalls;
#[cfg(test)]
mod tests;

use std::fmt::Display;
use std::fs::File;

use handoff_config::{Config, SandboxMode};
use handoff_shared::ids::SlotId;
use handoff_shared::sandbox::{SandboxLevel, SandboxState};

use crate::opened::{OpenError, Opened};

pub use fd_table::{FdTableError, check as check_fd_table};

/// A process that is confined, and what it opened before.
#[derive(Debug)]
pub struct Confined {
    /// What confines it.
    pub state: SandboxState,
    /// What could not be had, and why; empty at the level `full`.
    pub missing: Vec<String>,
    /// How large this process is (proc(5)).
    pub statm: Option<File>,
    /// What the backends need.
    pub opened: Opened,
}

/// A step that a worker does not go on without.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The configured user cannot be had, whatever the mode.
    #[error(
        "workers.user: cannot become user {uid}, group {gid}: {reason} (handoffd needs CAP_SETUID and CAP_SETGID)"
    )]
    Identity {
        /// The user.
        uid: u32,
        /// The group.
        gid: u32,
        /// What the kernel says.
        reason: nix::Error,
    },
    /// What the configuration names is not there.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// `workers.sandbox = "require"`.
    #[error("workers.sandbox = \"require\", but {what} cannot be had: {reason}")]
    Missing {
        /// The step.
        what: &'static str,
        /// Why not.
        reason: String,
    },
}

/// Confines this process, as far as the configuration asks for it and the kernel can.
///
/// # Errors
/// When the configured user cannot be had; with `workers.sandbox = "require"` also when anything else cannot.
pub fn enter(config: &Config) -> Result<Confined, SandboxError> {
    let statm = File::open("/proc/self/statm").ok();
    let opened = Opened::open(&config.backends)?;
    // Certificates are read by now, by whoever makes the connections: confined, nobody reads those files.
    name_service::warm_up(&config.backends);
    let wanted = config.workers.sandbox != SandboxMode::Off;
    let mut steps = Steps { required: config.workers.sandbox == SandboxMode::Require, missing: Vec::new() };
    limits::be_killed_first();
    steps.take("limits", limits::set(&config.workers, wanted))?;
    let other_user = identity::become_user(config.workers.run_as)?;
    let mut unprivileged = steps.take("no capabilities", identity::drop_capabilities())?;
    unprivileged &= steps.take("no_new_privs", identity::forbid_new_privileges())?;
    let mut state = SandboxState { unprivileged, other_user, ..SandboxState::default() };
    if wanted {
        state.undumpable = steps.take("no dumps", identity::forbid_dumps())?;
        state.landlock_abi = files::confine(&opened);
        steps.take("landlock", if state.landlock_abi > 0 { Ok(()) } else { Err("the kernel has none") })?;
        state.seccomp = steps.take("seccomp", syscalls::confine(config))?;
        state.level = if steps.missing.is_empty() { SandboxLevel::Full } else { SandboxLevel::Partial };
    }
    Ok(Confined { state, missing: steps.missing, statm, opened })
}

impl Confined {
    /// One line for the log.
    pub fn log(&self, slot: SlotId) {
        let SandboxState { level, other_user, landlock_abi, seccomp, .. } = self.state;
        match level {
            SandboxLevel::Full => tracing::info!(%slot, %level, landlock_abi, seccomp, other_user, "sandbox"),
            SandboxLevel::Off => {
                tracing::warn!(%slot, %level, other_user, "sandbox: workers.sandbox is \"off\"")
            }
            SandboxLevel::Partial => {
                let missing = self.missing.join("; ");
                tracing::warn!(%slot, %level, landlock_abi, seccomp, other_user, missing, "sandbox");
            }
        }
    }
}

/// What becomes of a step that fails.
struct Steps {
    required: bool,
    missing: Vec<String>,
}

impl Steps {
    /// Whether the step has been taken; an error where it had to be.
    fn take(&mut self, what: &'static str, result: Result<(), impl Display>) -> Result<bool, SandboxError> {
        match result {
            Ok(()) => Ok(true),
            Err(reason) if self.required => Err(SandboxError::Missing { what, reason: reason.to_string() }),
            Err(reason) => {
                self.missing.push(format!("{what}: {reason}"));
                Ok(false)
            }
        }
    }
}
