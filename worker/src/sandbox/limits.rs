//! Resource limits, and who dies first when memory runs out. In: `[workers]`. Out: limits of this process.
//! Never: raises a limit.

use std::fs;

use handoff_config::Workers;
use handoff_shared::fdpass;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Above the supervisor, which is the one that must survive (proc(5), `oom_score_adj`).
const OOM_SCORE: i32 = 500;

/// When memory runs out, a worker is killed before the supervisor is. Never fails: a score is a wish.
pub(super) fn be_killed_first() {
    const PATH: &str = "/proc/self/oom_score_adj";
    let current = fs::read_to_string(PATH).ok().and_then(|score| score.trim().parse::<i32>().ok());
    if current.is_some_and(|score| score < OOM_SCORE) {
        let _ = fs::write(PATH, OOM_SCORE.to_string());
    }
}

/// Fds: all that the hard limit allows, which is what the supervisor's `max_connections` counts on. Private memory:
/// as configured. Cores: none, as they would hold secrets; unless somebody is debugging.
pub(super) fn set(workers: &Workers, no_cores: bool) -> nix::Result<()> {
    let (_, fds) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, fds, fds)?;
    fdpass::reserve_fd_table(fds);
    if no_cores {
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
    }
    match workers.data_max_bytes {
        Some(bytes) => setrlimit(Resource::RLIMIT_DATA, bytes.get(), bytes.get()),
        None => Ok(()),
    }
}
