//! Who a worker is. In: the configured user and group. Out: a process that is them, for good: without capabilities,
//! without a way to get any.
//!
//! Never: keeps a supplementary group of somebody else, keeps a saved id to go back to.

use handoff_config::Identity;
use nix::unistd::{Gid, Uid, getresgid, getresuid, setgroups, setresgid, setresuid};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set, set_capabilities,
    set_no_new_privs,
};

use super::SandboxError;

/// Becomes the configured user and group, with no other groups. Returns whether that is another user than before.
///
/// # Errors
/// When the kernel does not let us.
pub(super) fn become_user(run_as: Option<Identity>) -> Result<bool, SandboxError> {
    let Some(Identity { uid, gid }) = run_as else { return Ok(false) };
    let is_changed = switch(Uid::from_raw(uid), Gid::from_raw(gid));
    is_changed.map_err(|reason| SandboxError::Identity { uid, gid, reason })
}

fn switch(uid: Uid, gid: Gid) -> nix::Result<bool> {
    let (users, groups) = (getresuid()?, getresgid()?);
    let is_user = [users.real, users.effective, users.saved] == [uid; 3];
    let is_group = [groups.real, groups.effective, groups.saved] == [gid; 3];
    if is_user && is_group {
        return Ok(false);
    }
    // Groups first: without the user's capabilities they can no longer be changed.
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)?;
    Ok(!is_user)
}

/// Gives up every capability. Ambient ones would survive the change of user, and exec.
///
/// # Errors
/// As of capset(2); `EPERM` also when some are still there afterwards.
pub(super) fn drop_capabilities() -> rustix::io::Result<()> {
    clear_ambient_capability_set()?;
    let none = CapabilitySet::empty();
    let empty = CapabilitySets { effective: none, permitted: none, inheritable: none };
    set_capabilities(None, empty)?;
    if capabilities(None)? == empty { Ok(()) } else { Err(rustix::io::Errno::PERM) }
}

/// No exec gives privileges any more: a condition of Landlock and seccomp too.
///
/// # Errors
/// As of prctl(2).
pub(super) fn forbid_new_privileges() -> rustix::io::Result<()> {
    set_no_new_privs(true)
}

/// No core, and nobody of the same user may trace us or read our memory.
///
/// # Errors
/// As of prctl(2).
pub(super) fn forbid_dumps() -> rustix::io::Result<()> {
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
}
