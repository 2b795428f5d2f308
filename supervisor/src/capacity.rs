//! How many clients fit. In: the configuration and the kernel's fd limits. Out: numbers that the fleet, the
//! listener and the dispatcher keep to. Never: promises more than the fd limits allow.

use handoff_config::Config;
use handoff_shared::limits::{FDS_PER_STREAM, FDS_RESERVED, REFUSED_CLIENTS_MAX, SILENT_PEERS_MAX};
use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// What fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Live leases at most.
    pub(crate) leases_max: u32,
    /// Leases that one worker may hold.
    pub(crate) leases_per_worker_max: u32,
    /// Clients' fds that the supervisor keeps.
    pub(crate) dups_max: usize,
    /// Peers that have connected and sent nothing.
    pub(crate) silent_peers_max: usize,
    /// Clients that were refused and have not hung up.
    pub(crate) refused_max: usize,
}

impl Capacity {
    /// `max_connections`, capped to the sum over slots of what a worker's fd limit allows.
    ///
    /// Workers inherit the supervisor's limit, so there is one.
    pub(crate) fn of(config: &Config, fd_limit: u64) -> Self {
        let slots = u64::from(config.workers.count.get());
        let reserved = FDS_RESERVED.min(fd_limit / 4);
        let per_worker = ((fd_limit - reserved) / FDS_PER_STREAM).max(1);
        let wanted = u64::from(config.server.max_connections.get());
        let leases_max = wanted.min(per_worker.saturating_mul(slots));
        let side = |bound: usize| bound.min(usize::try_from(fd_limit / 8).unwrap_or(bound)).max(1);
        let (silent_peers_max, refused_max) = (side(SILENT_PEERS_MAX), side(REFUSED_CLIENTS_MAX));
        let spent = reserved + (silent_peers_max + refused_max) as u64;
        Self {
            leases_max: u32::try_from(leases_max).unwrap_or(u32::MAX),
            leases_per_worker_max: u32::try_from(per_worker).unwrap_or(u32::MAX),
            dups_max: usize::try_from(fd_limit.saturating_sub(spent).max(1)).unwrap_or(usize::MAX),
            silent_peers_max,
            refused_max,
        }
    }

    pub(crate) fn log(&self, config: &Config, fd_limit: u64) {
        let wanted = config.server.max_connections.get();
        if self.leases_max < wanted {
            tracing::warn!(
                max_connections = self.leases_max,
                configured = wanted,
                fd_limit,
                workers = config.workers.count.get(),
                "server.max_connections is capped to what the workers' fd limits allow"
            );
        }
    }
}

/// Raises the soft fd limit to the hard one. Returns the limit.
pub(crate) fn raise_soft_fd_limit() -> u64 {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1024 };
    if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft }
}

/// Raises the soft fd limit to the hard one, and the hard one where we may and it is too low. Returns the limit, and
/// what it was.
pub(crate) fn raise_fd_limit(config: &Config) -> (u64, u64) {
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return (1024, 1024) };
    let aside = FDS_RESERVED + (SILENT_PEERS_MAX + REFUSED_CLIENTS_MAX) as u64;
    let wanted = u64::from(config.server.max_connections.get()) * FDS_PER_STREAM + aside;
    if wanted > hard && setrlimit(Resource::RLIMIT_NOFILE, wanted, wanted).is_ok() {
        return (wanted, soft);
    }
    if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
        return (hard, soft);
    }
    (soft, soft)
}

#[cfg(test)]
mod tests {
    use super::*;
    use handoff_config::Config;

    fn config(max_connections: u32, workers: u16) -> Config {
        let mut config = Config::default();
        config.server.max_connections = max_connections.try_into().unwrap();
        config.workers.count = workers.try_into().unwrap();
        config
    }

    #[test]
    fn max_connections_is_capped_to_what_the_workers_can_hold() {
        assert_eq!(Capacity::of(&config(100_000, 2), 20_000).leases_max, 2 * (20_000 - 128));
        assert_eq!(Capacity::of(&config(100, 2), 20_000).leases_max, 100);
    }

    #[test]
    fn a_tiny_fd_limit_leaves_room_for_something() {
        let capacity = Capacity::of(&config(100_000, 2), 64);
        assert!(capacity.leases_max > 0 && capacity.dups_max > 0 && capacity.silent_peers_max > 0);
    }
}
