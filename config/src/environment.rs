//! The environment. In: a lookup function. Out: settings. Never: reads the process's environment by itself,
//! knows a variable that is not in [`VARIABLES`].

use std::ffi::OsString;

use crate::settings::{Setting, Settings};

/// Each variable and its key. Where two have the same key, the later one wins.
pub(crate) const VARIABLES: &[(&str, &str)] = &[
    ("DAEMON_SOCKET_PATH", "server.socket_path"),
    ("DAEMON_CONTROL_SOCKET_PATH", "server.control_socket_path"),
    ("DAEMON_SOCKET_MODE", "server.socket_mode"),
    ("DAEMON_MAX_CONNECTIONS", "server.max_connections"),
    ("DAEMON_HANDOFF_TIMEOUT_SECS", "server.handoff_timeout_secs"),
    ("DAEMON_WRITE_TIMEOUT_SECS", "server.write_timeout_secs"),
    ("DAEMON_SHUTDOWN_TIMEOUT_SECS", "server.shutdown_timeout_secs"),
    ("DAEMON_HANDOFF_BUFFER_SIZE", "server.handoff_buffer_size"),
    ("DAEMON_BACKEND_TIMEOUT_SECS", "server.backend_timeout_secs"),
    ("DAEMON_BACKEND_PROVIDER", "backend.provider"),
    ("DAEMON_DEFAULT_MODEL", "backend.default_model"),
    ("DAEMON_TOKEN_DELAY_MS", "backend.mock.token_delay_ms"),
    ("OPENAI_API_KEY", "backend.openai.api_key"),
    ("OPENAI_API_BASE", "backend.openai.api_base"),
    ("OPENAI_API_SOCKET", "backend.openai.api_socket"),
    ("OPENAI_INSECURE_SSL", "backend.openai.insecure_ssl"),
    ("OPENAI_HTTP2_ENABLED", "backend.openai.http2.enabled"),
    ("DAEMON_METRICS_ENABLED", "metrics.enabled"),
    ("DAEMON_METRICS_ADDR", "metrics.listen_addr"),
    ("DAEMON_LOG_LEVEL", "logging.level"),
    ("RUST_LOG", "logging.level"),
    ("DAEMON_LOG_FORMAT", "logging.format"),
];

/// Puts every variable over what the file said. An empty variable counts as not set, which is how service
/// managers and compose files write "none".
pub(crate) fn overlay(settings: &mut Settings<'_>, environment: &dyn Fn(&str) -> Option<OsString>) {
    for &(variable, key) in VARIABLES {
        if let Some(word) = environment(variable).filter(|word| !word.is_empty()) {
            settings.set(key, Setting::word(variable, word));
        }
    }
}
