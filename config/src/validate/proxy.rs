//! Who connects for a backend: what its section says, or else the environment's proxy variables, as curl(1) reads them.
//! In: a section, its base address. Out: a proxy or none. Never: shows its password, reads `HTTP_PROXY` in capitals (a
//! web server may have made it of a request's header `Proxy`).

use std::ffi::OsString;
use std::net::IpAddr;

use super::section::Section;
use crate::address::{Address, host_and_port};
use crate::allowed;
use crate::backend::{Proxy, Secret};
use crate::reader::Reader;
use crate::settings::Value;

const OF_HTTPS: &[&str] = &["https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const OF_HTTP: &[&str] = &["http_proxy", "all_proxy", "ALL_PROXY"];
const EXCEPTIONS: &[&str] = &["no_proxy", "NO_PROXY"];

/// The proxy of a backend with this base address.
pub(super) fn proxy(reader: &mut Reader<'_>, section: &Section, base: &str) -> Option<Proxy> {
    let key = section.key("proxy");
    let said = reader.optional(&key, allowed::proxy_address);
    // An empty `proxy` says that there is none.
    let address = match reader.setting(&key) {
        Some(_) => said,
        None => of_environment(reader, &key, base),
    };
    address.map(|address| Proxy { address: Secret::new(address) })
}

fn of_environment(reader: &mut Reader<'_>, key: &str, base: &str) -> Option<String> {
    let base = Address::parse(base)?;
    let environment = reader.environment();
    let (variable, word) = first_of(environment, if base.is_https { OF_HTTPS } else { OF_HTTP })?;
    if let Some((_, list)) = first_of(environment, EXCEPTIONS)
        && list.to_str().is_some_and(|list| is_excepted(list, base.host, base.port))
    {
        return None;
    }
    match allowed::proxy_address(&Value::Word(word)) {
        Ok(address) => Some(address),
        Err(allowed) => {
            let way_out = "; to do without, set proxy = \"\" in the backend's section";
            reader.refuse_variable(variable, key, allowed + way_out);
            None
        }
    }
}

/// An empty variable is not set.
fn first_of<'v>(
    environment: &dyn Fn(&str) -> Option<OsString>,
    variables: &[&'v str],
) -> Option<(&'v str, OsString)> {
    let mut words = variables.iter().filter_map(|variable| Some((*variable, environment(variable)?)));
    words.find(|(_, word)| !word.is_empty())
}

/// Whether `NO_PROXY` names this place: `*`, a host (and all below it), an IP address, a network in CIDR notation; each
/// may have a port.
fn is_excepted(list: &str, host: &str, port: u16) -> bool {
    let ip: Option<IpAddr> = host.parse().ok();
    list.split([',', ' ', '\t']).filter(|entry| !entry.is_empty()).any(|entry| {
        if entry == "*" {
            return true;
        }
        if let Some(ip) = ip {
            return is_address(entry, ip, port);
        }
        let Some((name, of_port)) = host_and_port(entry) else { return false };
        of_port.is_none_or(|of_port| of_port == port) && is_at_or_below(host, name)
    })
}

fn is_address(entry: &str, ip: IpAddr, port: u16) -> bool {
    if let Some((network, bits)) = entry.split_once('/') {
        let (network, bits) = (network.parse(), bits.parse());
        return matches!((network, bits), (Ok(network), Ok(bits)) if is_in_network(ip, network, bits));
    }
    // An IPv6 address without brackets has colons, and no port.
    let (address, of_port) = match entry.parse::<IpAddr>() {
        Ok(address) => (Some(address), None),
        Err(_) => host_and_port(entry).map_or((None, None), |(host, port)| (host.parse().ok(), port)),
    };
    address == Some(ip) && of_port.is_none_or(|of_port| of_port == port)
}

fn is_at_or_below(host: &str, name: &str) -> bool {
    let (host, name) = (host.trim_end_matches('.'), name.trim_start_matches('.').trim_end_matches('.'));
    let (host, name) = (host.to_ascii_lowercase(), name.to_ascii_lowercase());
    !name.is_empty() && host.strip_suffix(&name).is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

fn is_in_network(ip: IpAddr, network: IpAddr, bits: u32) -> bool {
    let is_same = |ours: u128, theirs: u128, width: u32| {
        bits <= width && (ours ^ theirs).checked_shr(width - bits).unwrap_or(0) == 0
    };
    match ip {
        IpAddr::V4(ip) => match network {
            IpAddr::V4(network) => is_same(ip.to_bits().into(), network.to_bits().into(), 32),
            IpAddr::V6(_) => false,
        },
        IpAddr::V6(ip) => match network {
            IpAddr::V6(network) => is_same(ip.to_bits(), network.to_bits(), 128),
            IpAddr::V4(_) => false,
        },
    }
}
