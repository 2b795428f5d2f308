//! Every key of `[backend]` and of each `[backends.NAME]`, its default and what it may be. In: settings as written.
//! Out: valid [`Backends`]. Never: touches a file or a variable.

use std::num::{NonZeroU16, NonZeroU32};
use std::ops::RangeInclusive;
use std::time::Duration;

use crate::backend::{
    Api, Backend, Backends, Connection, Dialect, Kind, Mock, OnDisconnect, Retry, Secret, Timeouts,
};
use crate::reader::Reader;
use crate::validate::timeout;
use crate::{Client, Server, allowed};

const MOCK_DELAY_MS: RangeInclusive<u64> = 0..=3_600_000;
const MOCK_EVENTS: RangeInclusive<u32> = 0..=10_000_000;
const IDLE_CONNECTIONS: RangeInclusive<u32> = 0..=100_000;
/// HTTP/2 begins with windows of 64 KiB and knows none of 2 GiB.
const WINDOW_KB: RangeInclusive<u32> = 64..=2_097_151;
const KIBIBYTE: u32 = 1024;

pub(crate) fn backends(reader: &mut Reader<'_>, server: &Server, client: &Client) -> Backends {
    let names = [("mock", "mock"), ("openai", "openai")];
    let default = reader.value("backend.provider", "mock", allowed::one_of(&names));
    let timeouts = timeouts(reader, server, client);
    let kinds = [("mock", Kind::Mock(mock(reader))), ("openai", Kind::Api(Box::new(openai(reader))))];
    Backends {
        default: default.to_owned(),
        default_model: reader.value("backend.default_model", "gpt-4o".into(), allowed::name),
        models: Vec::new(),
        files_directory: None,
        all: kinds.into_iter().map(|(name, kind)| backend(name, kind, timeouts)).collect(),
    }
}

fn backend(name: &str, kind: Kind, timeouts: Timeouts) -> Backend {
    Backend {
        name: name.to_owned(),
        kind,
        model: None,
        timeouts,
        retry: Retry { max: 2, budget: 0.2, cooldown: Duration::from_secs(10), breaker: 5 },
        fallbacks: Vec::new(),
        on_disconnect: OnDisconnect::Cancel,
        event_bytes_max: NonZeroU32::new(16 << 20).unwrap_or(NonZeroU32::MIN),
        record: None,
    }
}

fn timeouts(reader: &mut Reader<'_>, server: &Server, client: &Client) -> Timeouts {
    let idle = timeout(reader, "backend.timeout_secs", 120);
    Timeouts {
        connect: Duration::from_secs(5),
        tls: Duration::from_secs(5),
        queue: Duration::from_secs(10),
        head: timeout(reader, "server.backend_timeout_secs", 30),
        first_content: idle,
        idle,
        idle_content: idle.max(Duration::from_secs(300)),
        total: client.stream_max,
        client_write: server.write_timeout,
    }
}

fn mock(reader: &mut Reader<'_>) -> Mock {
    let delay = allowed::milliseconds(MOCK_DELAY_MS);
    Mock {
        token_delay: reader.value("backend.mock.token_delay_ms", Duration::from_millis(50), &delay),
        first_token_delay: reader.value("backend.mock.first_token_delay_ms", Duration::ZERO, &delay),
        length: NonZeroU32::new(reader.value("backend.mock.length", 0, allowed::whole(MOCK_EVENTS))),
        fail_at: NonZeroU32::new(reader.value("backend.mock.fail_at", 0, allowed::whole(MOCK_EVENTS))),
        allow_request_options: reader.value("backend.mock.allow_request_options", false, allowed::flag),
    }
}

fn openai(reader: &mut Reader<'_>) -> Api {
    let stream_window = "backend.openai.http2.initial_stream_window_kb";
    let connection_window = "backend.openai.http2.initial_connection_window_kb";
    let key = reader.optional("backend.openai.api_key", allowed::token);
    let base = "https://api.openai.com/v1".to_owned();
    let base = reader.value("backend.openai.api_base", base, allowed::base_address);
    // Of no effect: windows that follow the bandwidth let one client that does not read stop all others.
    reader.value("backend.openai.http2.adaptive_window", true, allowed::flag);
    let stream_kb: u32 = reader.value(stream_window, 64, allowed::whole(WINDOW_KB));
    let connection_kb: Option<u32> = reader.optional(connection_window, allowed::whole(WINDOW_KB));
    if connection_kb.is_some_and(|kb| kb < stream_kb) {
        let keys = [connection_window, stream_window];
        reader.refuse(&keys, "initial_connection_window_kb must be at least initial_stream_window_kb");
    }
    Api {
        dialect: Dialect::OpenAi,
        base: base.trim_end_matches('/').to_owned(),
        key: key.map(Secret::new),
        headers: Vec::new(),
        connection: Connection {
            socket: reader.optional("backend.openai.api_socket", allowed::socket_path),
            http2: reader.value("backend.openai.http2.enabled", true, allowed::flag),
            stream_window_bytes: stream_kb * KIBIBYTE,
            connection_window_bytes: connection_kb.map(|kb| kb * KIBIBYTE),
            keep_alive_interval: timeout(reader, "backend.openai.http2.keep_alive_interval_secs", 10),
            keep_alive_timeout: timeout(reader, "backend.openai.http2.keep_alive_timeout_secs", 20),
            streams_max: NonZeroU32::new(100).unwrap_or(NonZeroU32::MIN),
            connections_max: NonZeroU16::new(64).unwrap_or(NonZeroU16::MIN),
            idle_max: reader.value(
                "backend.openai.pool_max_idle_per_host",
                100,
                allowed::whole(IDLE_CONNECTIONS),
            ),
            age_max: Duration::from_secs(300),
            ca_file: None,
            client_certificate: None,
            insecure_ssl: reader.value("backend.openai.insecure_ssl", false, allowed::flag),
            proxy: None,
        },
    }
}
