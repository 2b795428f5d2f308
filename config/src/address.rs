//! The parts of `http://` and `https://` addresses (RFC 3986, 3.2). In: text. Out: its parts. Never: asks a name service.

/// `scheme://user:password@host:port/path`, taken apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Address<'a> {
    pub(crate) is_https: bool,
    /// User and password, as written.
    pub(crate) user: Option<&'a str>,
    /// A name or an IP address, without the brackets of IPv6.
    pub(crate) host: &'a str,
    /// As written, or else the scheme's.
    pub(crate) port: u16,
    /// With its slash; empty when there is none.
    pub(crate) path: &'a str,
}

impl<'a> Address<'a> {
    /// Visible ASCII characters alone.
    pub(crate) fn parse(text: &'a str) -> Option<Self> {
        let (is_https, rest) = match text.strip_prefix("https://") {
            Some(rest) => (true, rest),
            None => (false, text.strip_prefix("http://")?),
        };
        if !rest.chars().all(|c| c.is_ascii_graphic()) {
            return None;
        }
        let (authority, path) = rest.split_at(rest.find(['/', '?', '#']).unwrap_or(rest.len()));
        let (user, place) = match authority.rsplit_once('@') {
            Some((user, place)) => (Some(user), place),
            None => (None, authority),
        };
        let (host, port) = host_and_port(place)?;
        let port = port.unwrap_or(if is_https { 443 } else { 80 });
        Some(Self { is_https, user, host, port, path })
    }

    /// Whether both are one origin (RFC 6454): what is secret to one may go to the other.
    pub(crate) fn is_origin_of(&self, other: &Address<'_>) -> bool {
        self.is_https == other.is_https
            && self.port == other.port
            && self.host.eq_ignore_ascii_case(other.host)
    }
}

/// `host`, `host:port`, `[::1]`, `[::1]:port`; none: none of these.
pub(crate) fn host_and_port(text: &str) -> Option<(&str, Option<u16>)> {
    let (host, port) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, rest) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (host, if rest.is_empty() { None } else { Some(rest.strip_prefix(':')?) })
        }
        None => match text.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        },
    };
    let port = match port {
        Some(digits) => Some(digits.parse().ok().filter(|port| *port != 0)?),
        None => None,
    };
    (!host.is_empty()).then_some((host, port))
}
