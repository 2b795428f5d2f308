use std::path::Path;
use std::time::Duration;

use super::{api_mut, from_variable, load, mock_mut};
use crate::cli::Cli;
use crate::environment::VARIABLES;
use crate::{Config, LogFormat, Secret, SocketMode};

/// What the defaults are once `change` is done to them.
fn defaults_but(change: impl FnOnce(&mut Config)) -> Config {
    let mut config = Config::default();
    change(&mut config);
    config
}

#[track_caller]
fn check(variable: &str, value: &str, change: impl FnOnce(&mut Config)) {
    assert_eq!(from_variable(variable, value).unwrap(), defaults_but(change), "{variable}={value}");
}

#[test]
fn every_variable_of_the_server_sets_its_key_and_nothing_else() {
    let secs = Duration::from_secs_f64;
    check("DAEMON_SOCKET_PATH", "/a", |c| {
        c.server.socket_path = "/a".into();
        c.server.control_socket_path = Some("/control.sock".into());
    });
    check("DAEMON_CONTROL_SOCKET_PATH", "/c", |c| c.server.control_socket_path = Some("/c".into()));
    check("DAEMON_SOCKET_MODE", "0600", |c| c.server.socket_mode = SocketMode(0o600));
    check("DAEMON_MAX_CONNECTIONS", "7", |c| c.server.max_connections = 7.try_into().unwrap());
    check("DAEMON_HANDOFF_TIMEOUT_SECS", "7", |c| c.server.handoff_timeout = secs(7.0));
    check("DAEMON_WRITE_TIMEOUT_SECS", "0.2", |c| {
        c.server.write_timeout = secs(0.2);
        c.backends.all.iter_mut().for_each(|backend| backend.timeouts.client_write = secs(0.2));
    });
    check("DAEMON_SHUTDOWN_TIMEOUT_SECS", "7", |c| c.server.shutdown_timeout = secs(7.0));
    check("DAEMON_HANDOFF_BUFFER_SIZE", "65536", |c| c.server.handoff_buffer_bytes = 65_536);
    check("DAEMON_BACKEND_TIMEOUT_SECS", "7", |c| {
        c.backends.all.iter_mut().for_each(|backend| backend.timeouts.head = secs(7.0));
    });
}

#[test]
fn every_variable_of_the_backend_sets_its_key_and_nothing_else() {
    check("DAEMON_BACKEND_PROVIDER", "openai", |c| c.backends.default = "openai".into());
    check("DAEMON_DEFAULT_MODEL", "m", |c| c.backends.default_model = "m".into());
    check("DAEMON_TOKEN_DELAY_MS", "0", |c| mock_mut(c).token_delay = Duration::ZERO);
    check("OPENAI_API_KEY", "sk-1", |c| api_mut(c).key = Some(Secret::new("sk-1".into())));
    check("OPENAI_API_BASE", "http://127.0.0.1:1/v1", |c| {
        api_mut(c).base = "http://127.0.0.1:1/v1".into();
    });
    check("OPENAI_API_SOCKET", "/a", |c| api_mut(c).connection.socket = Some("/a".into()));
    for (word, meaning) in [("true", true), ("1", true), ("false", false), ("0", false)] {
        check("OPENAI_INSECURE_SSL", word, |c| api_mut(c).connection.insecure_ssl = meaning);
        check("OPENAI_HTTP2_ENABLED", word, |c| api_mut(c).connection.http2 = meaning);
    }
}

#[test]
fn every_variable_of_metrics_and_logging_sets_its_key_and_nothing_else() {
    check("DAEMON_METRICS_ENABLED", "false", |c| c.metrics.listen_addr = None);
    check("DAEMON_METRICS_ADDR", "[::1]:1", |c| c.metrics.listen_addr = Some("[::1]:1".parse().unwrap()));
    check("DAEMON_LOG_LEVEL", "warn", |c| c.logging.level = "warn".into());
    check("RUST_LOG", "info,hyper=warn", |c| c.logging.level = "info,hyper=warn".into());
    check("DAEMON_LOG_FORMAT", "json", |c| c.logging.format = LogFormat::Json);
    check("DAEMON_LOG_FORMAT", "journald", |c| c.logging.format = LogFormat::Journald);
}

#[test]
fn rust_log_wins_over_daemon_log_level() {
    let variables = [("RUST_LOG", "trace"), ("DAEMON_LOG_LEVEL", "warn")];
    assert_eq!(load("", &variables, &Cli::default()).unwrap().logging.level, "trace");
}

#[test]
fn an_empty_variable_is_not_set() {
    for (variable, _) in VARIABLES {
        check(variable, "", |_| ());
    }
    let config = load("server.socket_path = \"/a\"", &[("DAEMON_SOCKET_PATH", "")], &Cli::default()).unwrap();
    assert_eq!(config.server.socket_path, Path::new("/a"));
}

#[test]
fn a_bad_variable_is_named_with_its_value_and_what_is_allowed() {
    for (variable, value, error) in [
        (
            "DAEMON_SOCKET_MODE",
            "0888",
            "server.socket_mode = \"0888\": must be octal digits, such as \"0o660\"",
        ),
        ("DAEMON_MAX_CONNECTIONS", "many", "\"many\": must be a whole number from 1 to 10000000"),
        (
            "DAEMON_WRITE_TIMEOUT_SECS",
            "inf",
            "\"inf\": must be seconds from 0.001 to 86400, such as 30 or 0.5",
        ),
        ("DAEMON_HANDOFF_BUFFER_SIZE", "4095", "\"4095\": must be a whole number from 4096 to 1048576"),
        ("DAEMON_BACKEND_PROVIDER", "gpt", "backend.provider = \"gpt\": must be \"mock\" or \"openai\""),
        ("DAEMON_TOKEN_DELAY_MS", "-1", "must be a whole number from 0 to 3600000"),
        ("OPENAI_API_BASE", "ftp://a", "must be an address that begins with http:// or https://"),
        ("OPENAI_INSECURE_SSL", "yes", "insecure_ssl = \"yes\": must be true, 1, false or 0"),
        ("DAEMON_METRICS_ENABLED", "on", "metrics.enabled = \"on\": must be true, 1, false or 0"),
        ("DAEMON_METRICS_ADDR", "localhost", "must be an IP address and a port, such as 127.0.0.1:9090"),
        (
            "DAEMON_LOG_LEVEL",
            "inof",
            "must be one of trace, debug, info, warn, error, off, or filter directives",
        ),
        ("RUST_LOG", "a=b\n", "logging.level = \"a=b\\n\": must be one of trace"),
        (
            "RUST_LOG",
            "info,[span{field=1}]=debug",
            "logging.level = \"info,[span{field=1}]=debug\": must be one of trace",
        ),
        ("DAEMON_LOG_FORMAT", "xml", "must be \"pretty\" or \"json\" or \"journald\""),
    ] {
        let text = from_variable(variable, value).unwrap_err().to_string();
        assert!(text.starts_with(&format!("{variable}: ")) && text.contains(error), "{text}");
    }
}
