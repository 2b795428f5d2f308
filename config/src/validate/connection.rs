//! How an API is reached. In: a section, its base address. Out: a valid [`Connection`]. Never: opens a file.

use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::proxy;
use super::section::Section;
use crate::address::Address;
use crate::allowed;
use crate::backend::{ClientCertificate, Connection};
use crate::reader::Reader;
use crate::settings::Value;

/// HTTP/2 begins with windows of 64 KiB and knows none of 2 GiB.
const WINDOW_KB: RangeInclusive<u32> = 64..=2_097_151;
const KIBIBYTE: u32 = 1024;
/// As OpenSSL has it. A worker has no environment: it must be read here.
const CA_VARIABLE: &str = "SSL_CERT_FILE";
const STREAMS: RangeInclusive<u32> = 1..=100_000;
const CONNECTIONS: RangeInclusive<u16> = 1..=10_000;
const IDLE_CONNECTIONS: RangeInclusive<u32> = 0..=100_000;

/// Asks for every key of it.
pub(super) fn connection(reader: &mut Reader<'_>, section: &Section, base: &str) -> Connection {
    let socket = reader.optional(&section.key("socket"), allowed::absolute_socket_path);
    let (stream_window_bytes, connection_window_bytes) = windows(reader, section);
    let streams = reader.value(&section.key("streams_max"), 100, allowed::whole(STREAMS));
    let connections = reader.value(&section.key("connections_max"), 64, allowed::whole(CONNECTIONS));
    // Before the socket is looked at: its key must be known in any case.
    let proxy = proxy::proxy(reader, section, base);
    if socket.is_some() && reader.says(&section.key("proxy")) {
        reader.refuse(&[&section.key("proxy")], "goes without a Unix socket only");
    }
    let secs = Duration::from_secs;
    Connection {
        proxy: proxy.filter(|_| socket.is_none()),
        socket,
        http2: reader.value(&section.key("http2"), true, allowed::flag),
        stream_window_bytes,
        connection_window_bytes,
        keep_alive_interval: section.timeout(reader, "keep_alive_interval_secs", secs(10)),
        keep_alive_timeout: section.timeout(reader, "keep_alive_timeout_secs", secs(20)),
        streams_max: NonZeroU32::new(streams).unwrap_or(NonZeroU32::MIN),
        connections_max: NonZeroU16::new(connections).unwrap_or(NonZeroU16::MIN),
        idle_max: reader.value(&section.key("idle_max"), 100, allowed::whole(IDLE_CONNECTIONS)),
        age_max: section.timeout(reader, "connection_age_max_secs", secs(300)),
        ca_file: ca_file(reader, section, base),
        client_certificate: client_certificate(reader, section),
        insecure_ssl: reader.value(&section.key("insecure_ssl"), false, allowed::flag),
    }
}

/// Whom to trust: what the section says, else, where there is TLS, what the environment says to all programs.
fn ca_file(reader: &mut Reader<'_>, section: &Section, base: &str) -> Option<PathBuf> {
    let key = section.key("ca_file");
    let said = reader.optional(&key, allowed::absolute_path);
    if reader.says(&key) || !Address::parse(base).is_some_and(|address| address.is_https) {
        return said;
    }
    let word = reader.environment()(CA_VARIABLE).filter(|word| !word.is_empty())?;
    allowed::absolute_path(&Value::Word(word))
        .map_err(|allowed| reader.refuse_variable(CA_VARIABLE, &key, allowed))
        .ok()
}

fn windows(reader: &mut Reader<'_>, section: &Section) -> (u32, Option<u32>) {
    let [of_stream, of_connection] =
        ["stream_window_kb", "connection_window_kb"].map(|name| section.key(name));
    let stream_kb: u32 = reader.value(&of_stream, 64, allowed::whole(WINDOW_KB));
    let connection_kb: Option<u32> = reader.optional(&of_connection, allowed::whole(WINDOW_KB));
    if connection_kb.is_some_and(|kb| kb < stream_kb) {
        let last = |key: &str| key.rsplit('.').next().unwrap_or(key).to_owned();
        let allowed = format!("{} must be at least {}", last(&of_connection), last(&of_stream));
        reader.refuse(&[&of_connection, &of_stream], &allowed);
    }
    (stream_kb * KIBIBYTE, connection_kb.map(|kb| kb * KIBIBYTE))
}

fn client_certificate(reader: &mut Reader<'_>, section: &Section) -> Option<ClientCertificate> {
    let [certificate, key] = ["client_certificate_file", "client_key_file"].map(|name| section.key(name));
    let certificate_file = reader.optional(&certificate, allowed::absolute_path);
    let key_file = reader.optional(&key, allowed::absolute_path);
    match (reader.says(&certificate), reader.says(&key)) {
        (true, false) => reader.refuse(&[&certificate], "goes with client_key_file only"),
        (false, true) => reader.refuse(&[&key], "goes with client_certificate_file only"),
        (true, true) | (false, false) => {}
    }
    Some(ClientCertificate { certificate_file: certificate_file?, key_file: key_file? })
}
