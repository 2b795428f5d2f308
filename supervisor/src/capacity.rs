//! How many clients fit. In: the configuration and the kernel's fd limits. Out: numbers that the fleet, the
//! listener and the dispatcher keep to. Never: promises more than the fd limits allow.

use handoff_config::Config;
use handoff_config::backend::{Backend, Kind};
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
        let aside = |fds: u64| fds.min(fd_limit / 4);
        let reserved = aside(FDS_RESERVED);
        let aside_in_worker = aside(FDS_RESERVED + shared_connections(config));
        let per_worker = ((fd_limit - aside_in_worker) / fds_per_stream(config)).max(1);
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

/// Fds that one stream needs in a worker, whichever backend answers: its client, over HTTP/1.1 a connection of its own,
/// and the file that the answer is recorded to.
fn fds_per_stream(config: &Config) -> u64 {
    let of_backend = |backend: &Backend| {
        let connection = u64::from(matches!(connections_of(backend), Connections::OneEach));
        connection + u64::from(backend.record.is_some())
    };
    FDS_PER_STREAM + config.backends.all.iter().map(of_backend).max().unwrap_or(0)
}

/// Connections that one worker may have open for many streams each, to all backends together.
fn shared_connections(config: &Config) -> u64 {
    let of_backend = |backend: &Backend| match connections_of(backend) {
        Connections::Shared(count) => count,
        Connections::None | Connections::OneEach => 0,
    };
    config.backends.all.iter().map(of_backend).sum()
}

/// How the streams of a backend are connected.
enum Connections {
    /// It is in the worker itself.
    None,
    /// HTTP/1.1: switched to, over a Unix socket, or on plain http, where nobody tells in advance whether a server
    /// speaks HTTP/2.
    OneEach,
    /// HTTP/2: so many at most, each for many streams.
    Shared(u64),
}

fn connections_of(backend: &Backend) -> Connections {
    match &backend.kind {
        Kind::Mock(_) | Kind::Replay(_) => Connections::None,
        Kind::Api(api) => {
            let connection = &api.connection;
            match connection.http2 && connection.socket.is_none() && api.base.starts_with("https://") {
                true => Connections::Shared(connection.connections_max.get().into()),
                false => Connections::OneEach,
            }
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
    let aside = FDS_RESERVED + (SILENT_PEERS_MAX + REFUSED_CLIENTS_MAX) as u64 + shared_connections(config);
    let wanted = u64::from(config.server.max_connections.get()) * fds_per_stream(config) + aside;
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
    use handoff_config::backend::Api;

    fn config(max_connections: u32, workers: u16) -> Config {
        let mut config = Config::default();
        config.server.max_connections = max_connections.try_into().unwrap();
        config.workers.count = workers.try_into().unwrap();
        config
    }

    /// Only APIs, of the default one's kind, after these changes.
    fn with_apis(changes: &[fn(&mut Backend, &mut Api)]) -> Config {
        let mut config = config(100_000, 2);
        let is_api = |backend: &&Backend| matches!(backend.kind, Kind::Api(_));
        let api = config.backends.all.iter().find(is_api).expect("the default has one").clone();
        let changed = changes.iter().map(|change| {
            let mut backend = api.clone();
            let Kind::Api(mut api) = backend.kind.clone() else { panic!("an API was looked for") };
            api.connection.connections_max = 10.try_into().unwrap();
            change(&mut backend, &mut api);
            backend.kind = Kind::Api(api);
            backend
        });
        config.backends.all = changed.collect();
        config
    }

    fn leases_max(config: &Config) -> u32 {
        Capacity::of(config, 20_000).leases_max
    }

    #[test]
    fn max_connections_is_capped_to_what_the_workers_can_hold() {
        let mut config = config(100_000, 2);
        config.backends.all.retain(|backend| matches!(backend.kind, Kind::Mock(_)));
        assert_eq!(leases_max(&config), 2 * (20_000 - 128));
        config.server.max_connections = 100.try_into().unwrap();
        assert_eq!(leases_max(&config), 100);
    }

    #[test]
    fn connections_of_http2_are_set_aside_for_all_streams_together() {
        assert_eq!(leases_max(&with_apis(&[|_, _| {}])), 2 * (20_000 - 128 - 10));
        assert_eq!(leases_max(&with_apis(&[|_, _| {}, |_, _| {}])), 2 * (20_000 - 128 - 20));
    }

    #[test]
    fn over_http1_each_stream_has_its_own_connection() {
        let half = 2 * ((20_000 - 128) / 2);
        assert_eq!(leases_max(&with_apis(&[|_, api| api.connection.http2 = false])), half);
        let over_socket: fn(&mut Backend, &mut Api) =
            |_, api| api.connection.socket = Some("/run/ollama.sock".into());
        assert_eq!(leases_max(&with_apis(&[over_socket])), half);
        let plain: fn(&mut Backend, &mut Api) = |_, api| api.base = "http://127.0.0.1:11434".to_owned();
        assert_eq!(leases_max(&with_apis(&[plain])), half);
        assert_eq!(
            leases_max(&with_apis(&[plain, |_, _| {}])),
            2 * ((20_000 - 128 - 10) / 2),
            "the worst one counts"
        );
    }

    #[test]
    fn a_recording_is_a_file_a_stream() {
        let recorded: fn(&mut Backend, &mut Api) = |backend, _| backend.record = Some("/var/tmp/r".into());
        assert_eq!(leases_max(&with_apis(&[recorded])), 2 * ((20_000 - 128 - 10) / 2));
    }

    #[test]
    fn what_the_supervisor_keeps_does_not_depend_on_backends() {
        let (none, many) = (with_apis(&[]), with_apis(&[|_, api| api.connection.http2 = false]));
        assert_eq!(Capacity::of(&none, 20_000).dups_max, Capacity::of(&many, 20_000).dups_max);
    }

    #[test]
    fn a_tiny_fd_limit_leaves_room_for_something() {
        let capacity = Capacity::of(&config(100_000, 2), 64);
        assert!(capacity.leases_max > 0 && capacity.dups_max > 0 && capacity.silent_peers_max > 0);
    }
}
