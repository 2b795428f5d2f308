//! What every backend has, whatever its kind: model, timeouts, retries, what happens when a client leaves. In: a section.
//! Out: a [`Backend`]. Never: knows a kind's own keys.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::TIMEOUT_SECS;
use crate::allowed;
use crate::backend::{Backend, Kind, OnDisconnect, Retry, Timeouts};
use crate::reader::Reader;

const RETRIES: RangeInclusive<u8> = 0..=5;
const RETRY_BUDGET: RangeInclusive<f64> = 0.0..=5.0;
const COOLDOWN_SECS: RangeInclusive<f64> = 0.0..=86_400.0;
const BREAKER_FAILURES: RangeInclusive<u32> = 0..=1_000;
const EVENT_MB: RangeInclusive<u32> = 1..=1_024;
const EVENT_MB_DEFAULT: u32 = 16;
const RETRY: Retry = Retry { max: 2, budget: 0.2, cooldown: Duration::from_secs(10), breaker: 5 };
const MEBIBYTE: u32 = 1 << 20;
/// Thinking may take minutes.
const IDLE_CONTENT: Duration = Duration::from_secs(300);

/// The section of one backend, or of a profile.
#[derive(Clone, Debug)]
pub(super) struct Section {
    path: String,
    names: Names,
}

/// What the keys of a section are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Names {
    /// As they are documented in `[backends.NAME]`.
    Own,
    /// As the example daemon has them, where it has them.
    Legacy,
}

/// Keys of `[backends.NAME]` that `[backend.openai]` has always called otherwise.
const LEGACY: &[(&str, &str)] = &[
    ("socket", "api_socket"),
    ("idle_max", "pool_max_idle_per_host"),
    ("http2", "http2.enabled"),
    ("stream_window_kb", "http2.initial_stream_window_kb"),
    ("connection_window_kb", "http2.initial_connection_window_kb"),
    ("keep_alive_interval_secs", "http2.keep_alive_interval_secs"),
    ("keep_alive_timeout_secs", "http2.keep_alive_timeout_secs"),
];

impl Section {
    pub(super) fn new(path: String) -> Section {
        Section { path, names: Names::Own }
    }

    pub(super) fn legacy(path: &str) -> Section {
        Section { path: path.to_owned(), names: Names::Legacy }
    }

    pub(super) fn path(&self) -> &str {
        &self.path
    }

    /// The full path of a key.
    pub(super) fn key(&self, name: &str) -> String {
        let old = LEGACY.iter().find(|(new, _)| *new == name).filter(|_| self.names == Names::Legacy);
        format!("{}.{}", self.path, old.map_or(name, |(_, old)| old))
    }

    pub(super) fn timeout(&self, reader: &mut Reader<'_>, name: &str, default: Duration) -> Duration {
        reader.value(&self.key(name), default, allowed::seconds(TIMEOUT_SECS))
    }
}

/// A backend with none of its own keys set; they are what `[server]`, `[client]` and `[backend]` say.
pub(super) fn plain(name: &str, kind: Kind, timeouts: Timeouts) -> Backend {
    Backend {
        name: name.to_owned(),
        kind,
        model: None,
        timeouts: Timeouts { idle_content: timeouts.idle.max(IDLE_CONTENT), ..timeouts },
        retry: RETRY,
        fallbacks: Vec::new(),
        on_disconnect: OnDisconnect::Cancel,
        event_bytes_max: mebibytes(EVENT_MB_DEFAULT),
        record: None,
    }
}

/// Asks for all keys of this file but `fallbacks`, which need to know all names. None: there is no kind, and so no
/// backend.
pub(super) fn backend(
    reader: &mut Reader<'_>,
    section: &Section,
    name: &str,
    kind: Option<Kind>,
    inherited: Timeouts,
) -> Option<Backend> {
    let leaving = [
        ("cancel", OnDisconnect::Cancel),
        ("drain_usage", OnDisconnect::DrainUsage),
        ("continue", OnDisconnect::Continue),
    ];
    let on_disconnect = section.key("on_disconnect");
    let on_disconnect = reader.value(&on_disconnect, OnDisconnect::Cancel, allowed::one_of(&leaving));
    let event_mb = reader.value(&section.key("event_max_mb"), EVENT_MB_DEFAULT, allowed::whole(EVENT_MB));
    let model = reader.optional(&section.key("model"), allowed::name);
    let timeouts = timeouts(reader, section, inherited);
    let retry = retry(reader, section);
    let record = reader.optional(&section.key("record"), allowed::absolute_path);
    let Some(kind) = kind else {
        reader.pass_over(&section.key("fallbacks"));
        return None;
    };
    Some(Backend {
        model,
        timeouts,
        retry,
        on_disconnect,
        event_bytes_max: mebibytes(event_mb),
        record,
        ..plain(name, kind, inherited)
    })
}

fn mebibytes(count: u32) -> NonZeroU32 {
    NonZeroU32::new(count * MEBIBYTE).unwrap_or(NonZeroU32::MIN)
}

fn timeouts(reader: &mut Reader<'_>, section: &Section, inherited: Timeouts) -> Timeouts {
    let of_all = allowed::seconds_or_off(TIMEOUT_SECS);
    let idle = section.timeout(reader, "idle_timeout_secs", inherited.idle);
    let idle_content = section.timeout(reader, "idle_content_timeout_secs", idle.max(IDLE_CONTENT));
    if idle_content < idle {
        let keys = [section.key("idle_content_timeout_secs"), section.key("idle_timeout_secs")];
        let allowed = "idle_content_timeout_secs must be at least idle_timeout_secs";
        reader.refuse(&keys.each_ref().map(String::as_str), allowed);
    }
    Timeouts {
        connect: section.timeout(reader, "connect_timeout_secs", inherited.connect),
        tls: section.timeout(reader, "tls_timeout_secs", inherited.tls),
        queue: section.timeout(reader, "queue_timeout_secs", inherited.queue),
        head: section.timeout(reader, "head_timeout_secs", inherited.head),
        first_content: section.timeout(reader, "first_content_timeout_secs", inherited.first_content),
        idle,
        idle_content,
        total: reader.value(&section.key("total_timeout_secs"), inherited.total, of_all),
        client_write: section.timeout(reader, "client_write_timeout_secs", inherited.client_write),
    }
}

fn retry(reader: &mut Reader<'_>, section: &Section) -> Retry {
    let [max, budget, cooldown, breaker] =
        ["retries", "retry_budget", "cooldown_secs", "breaker_failures"].map(|name| section.key(name));
    Retry {
        max: reader.value(&max, RETRY.max, allowed::whole(RETRIES)),
        budget: reader.value(&budget, RETRY.budget, allowed::number(RETRY_BUDGET)),
        cooldown: reader.value(&cooldown, RETRY.cooldown, allowed::seconds(COOLDOWN_SECS)),
        breaker: reader.value(&breaker, RETRY.breaker, allowed::whole(BREAKER_FAILURES)),
    }
}
