//! What the supervisor may still do once its sockets are bound. In: `server.user`, `workers.user`, and the
//! capabilities that it was started with. Out: a process, as the configured user, that keeps what its workers need:
//! to become another user, and to be killed as such.
//!
//! Never: runs once there are threads (capabilities are each thread's own), keeps a capability for later.

use handoff_config::{Config, Identity};
use nix::sys::resource::{Resource, setrlimit};
use nix::unistd::{Gid, Uid, geteuid, getresgid, getresuid, setgroups, setresgid, setresuid};
use rustix::io::{Errno, Result};
use rustix::process::{DumpableBehavior, set_dumpable_behavior};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, capability_is_in_bounding_set,
    configure_capability_in_ambient_set, remove_capability_from_bounding_set, set_capabilities,
    set_keep_capabilities,
};

/// What workers of another user cost: to become it, and to be ended by us.
const FOR_WORKERS: CapabilitySet =
    CapabilitySet::SETUID.union(CapabilitySet::SETGID).union(CapabilitySet::KILL);

/// Whether the configured users can be had with what we may do now.
///
/// # Errors
/// In words: which key, and what is missing.
pub(crate) fn check(config: &Config) -> std::result::Result<(), String> {
    let own = capabilities(None).map_or(CapabilitySet::empty(), |sets| sets.effective);
    for (key, run_as) in [("server.user", config.server.run_as), ("workers.user", config.workers.run_as)] {
        if let Some(identity) = run_as
            && !is_already(identity)
            && !own.contains(FOR_WORKERS)
        {
            let Identity { uid, gid } = identity;
            return Err(format!(
                "{key}: to become user {uid} (group {gid}) handoffd, which runs as user {}, needs the capabilities \
                 CAP_SETUID, CAP_SETGID and CAP_KILL: start it as root, or leave {key} away",
                geteuid()
            ));
        }
    }
    Ok(())
}

/// Becomes the configured user and gives up every capability but those that workers cost.
///
/// # Errors
/// In words, when the kernel refuses.
pub(crate) fn give_up(config: &Config) -> std::result::Result<(), String> {
    // Secrets are in this process too.
    let _ = setrlimit(Resource::RLIMIT_CORE, 0, 0);
    let own = capabilities(None).map_err(|error| format!("capabilities cannot be read: {error}"))?;
    let has_none = own.permitted.is_empty() && own.inheritable.is_empty();
    if has_none && config.server.run_as.is_none_or(is_already) {
        return Ok(());
    }
    let kept = own.permitted & FOR_WORKERS;
    shrink_bounding_set(own, kept).map_err(|error| format!("capabilities cannot be given up: {error}"))?;
    if let Some(identity) = config.server.run_as.filter(|identity| !is_already(*identity)) {
        become_user(identity).map_err(|errno| {
            format!("server.user: cannot become user {}, group {}: {errno}", identity.uid, identity.gid)
        })?;
    }
    keep_only(kept).map_err(|error| format!("capabilities cannot be given up: {error}"))?;
    // Whoever started us without privileges could read the configuration anyway, and may want to debug us. Who gave
    // us some is promised that no other process of our user can use them.
    set_dumpable_behavior(DumpableBehavior::NotDumpable).map_err(|error| format!("prctl: {error}"))
}

/// What is not in the bounding set cannot come back by exec, not even as root.
fn shrink_bounding_set(own: CapabilitySets, kept: CapabilitySet) -> Result<()> {
    if !own.effective.contains(CapabilitySet::SETPCAP) {
        // Ours is whoever started us to shrink.
        return Ok(());
    }
    for capability in CapabilitySet::all().difference(kept).iter() {
        match capability_is_in_bounding_set(capability) {
            Ok(true) => remove_capability_from_bounding_set(capability)?,
            // EINVAL: this kernel does not know it.
            Ok(false) | Err(Errno::INVAL) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn become_user(Identity { uid, gid }: Identity) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    // The permitted set survives; the effective one is set again below.
    set_keep_capabilities(true).map_err(|error| nix::Error::from_raw(error.raw_os_error()))?;
    setgroups(&[])?;
    setresgid(gid, gid, gid)?;
    setresuid(uid, uid, uid)
}

/// A worker must get them through exec to be able to give them up: ambient for a user, by being root for root.
fn keep_only(kept: CapabilitySet) -> Result<()> {
    set_capabilities(None, CapabilitySets { effective: kept, permitted: kept, inheritable: kept })?;
    if !geteuid().is_root() {
        for capability in kept.iter() {
            configure_capability_in_ambient_set(capability, true)?;
        }
    }
    Ok(())
}

fn is_already(Identity { uid, gid }: Identity) -> bool {
    let users = getresuid().map(|users| [users.real, users.effective, users.saved]);
    let groups = getresgid().map(|groups| [groups.real, groups.effective, groups.saved]);
    users == Ok([Uid::from_raw(uid); 3]) && groups == Ok([Gid::from_raw(gid); 3])
}
