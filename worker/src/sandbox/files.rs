//! Landlock: which files a worker reaches. In: a short list, and what the backends need. Out: a process for which there
//! are no others.
//!
//! Of the network, only binding TCP ports is forbidden here; that, abstract Unix sockets and signals are seccomp's
//! business on kernels whose Landlock knows files only.
//!
//! Never: lets anything be executed or listed, or changed that was there before.

use landlock::{
    ABI, Access, AccessFs, AccessNet, CompatLevel, Compatible, LandlockStatus, PathBeneath,
    RestrictionStatus, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetError, RulesetStatus, Scope,
    path_beneath_rules,
};

use crate::opened::Opened;

/// What the C library reads to resolve a name. Each is the file that is there now: one that is replaced later is
/// seen by the workers of the next generation.
const NAME_SERVICE: [&str; 6] = [
    "/etc/resolv.conf",
    "/etc/hosts",
    "/etc/nsswitch.conf",
    "/etc/host.conf",
    "/etc/gai.conf",
    "/etc/services",
];

/// The newest rules that we know; an older kernel enforces those that it knows. Not newer than 6: from 9 on Unix
/// sockets would count as files, and which of those may be used is decided by seccomp.
const RULES: ABI = ABI::V6;

/// Takes all files away but those. Returns the ABI that enforces it; 0: none does.
pub(super) fn confine(opened: &Opened) -> u8 {
    match restrict(opened) {
        Ok(status) if status.ruleset != RulesetStatus::NotEnforced => match status.landlock {
            LandlockStatus::Available { effective_abi, kernel_abi } => {
                u8::try_from(kernel_abi.unwrap_or(effective_abi as i32)).unwrap_or(u8::MAX)
            }
            LandlockStatus::NotEnabled | LandlockStatus::NotImplemented => 0,
        },
        Ok(_) | Err(_) => 0,
    }
}

fn restrict(opened: &Opened) -> Result<RestrictionStatus, RulesetError> {
    // Beneath a directory for attached files: to read and to remove. In one for recordings: new files, which get their
    // last names there.
    let attached = AccessFs::ReadFile | AccessFs::RemoveFile;
    let recorded = AccessFs::MakeReg | AccessFs::WriteFile | AccessFs::RemoveFile;
    let attached = opened.files.iter().map(|directory| (directory, attached));
    let recorded = opened.records.values().map(|directory| (directory, recorded));
    let rules = attached.chain(recorded);
    let rules = rules.map(|(directory, access)| Ok::<_, RulesetError>(PathBeneath::new(directory, access)));
    Ruleset::default()
        .set_compatibility(CompatLevel::BestEffort)
        .handle_access(AccessFs::from_all(RULES))?
        .handle_access(AccessNet::BindTcp)?
        .scope(Scope::from_all(RULES))?
        .create()?
        .add_rules(path_beneath_rules(NAME_SERVICE, AccessFs::ReadFile))?
        .add_rules(rules)?
        .restrict_self()
}
