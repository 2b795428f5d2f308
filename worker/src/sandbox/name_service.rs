//! The C library's name service, made ready. In: whether a backend is reached by name. Out: its modules are in memory
//! (nsswitch.conf(5)), where confined processes cannot map them any more.
//!
//! Never: asks a name server.

use std::net::{IpAddr, ToSocketAddrs};

use handoff_config::Backends;
use handoff_config::backend::Kind;

/// Every module is loaded when it is asked first, and the later ones are asked only for what the earlier ones do not
/// know. A label has 63 bytes at most (RFC 1035, 2.3.4): this is no name, and the module that would ask a server says
/// so itself.
const NOBODYS_NAME: &str = "no-name-no-name-no-name-no-name-no-name-no-name-no-name-no-name-no-name";
const _: () = assert!(NOBODYS_NAME.len() > 63);

/// Asks for a name that is known without a network, and for one that is none.
pub(super) fn warm_up(backends: &Backends) {
    if backends.all.iter().any(|backend| resolves_names(&backend.kind)) {
        for name in ["localhost", NOBODYS_NAME] {
            let _ = (name, 0_u16).to_socket_addrs();
        }
    }
}

fn resolves_names(kind: &Kind) -> bool {
    match kind {
        Kind::Api(api) if api.connection.socket.is_some() => false,
        Kind::Api(api) => api.connection.proxy.is_some() || host(&api.base).parse::<IpAddr>().is_err(),
        Kind::Mock(_) | Kind::Replay(_) => false,
    }
}

/// The host of `scheme://host:port/path`, without the brackets of IPv6.
fn host(base: &str) -> &str {
    let authority = base.split_once("://").map_or(base, |(_, rest)| rest);
    let authority = authority.split('/').next().unwrap_or_default();
    match authority.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, _)) => address,
        None => authority.split(':').next().unwrap_or_default(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;

    #[test]
    fn an_address_is_no_name() {
        for (base, expected) in [
            ("https://api.openai.com/v1", "api.openai.com"),
            ("http://127.0.0.1:8000", "127.0.0.1"),
            ("http://[::1]:8000/v1", "::1"),
        ] {
            assert_eq!(host(base), expected);
        }
    }

    #[test]
    fn a_name_that_is_none_is_no_question_for_a_server() {
        let began_at = Instant::now();
        assert!((NOBODYS_NAME, 0_u16).to_socket_addrs().is_err());
        assert!(began_at.elapsed() < Duration::from_secs(1));
    }
}
