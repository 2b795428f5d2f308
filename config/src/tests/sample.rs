use std::collections::BTreeSet;

use super::{api, from_text};
use crate::environment::VARIABLES;
use crate::reader::Reader;
use crate::settings::Settings;
use crate::{Benchmark, Config, validate};

pub(super) const SAMPLE: &str = include_str!("../../daemon.toml");

/// Every key that the configuration asks for.
pub(super) fn known_keys() -> Vec<&'static str> {
    let mut reader = Reader::new(Settings::default());
    validate::read(&mut reader, Benchmark::Off);
    reader.known().to_vec()
}

/// The keys of the sample, those with examples instead of defaults included.
fn sample_keys() -> BTreeSet<String> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in SAMPLE.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, _)) = line.strip_prefix("# ").unwrap_or(line).split_once(" = ")
            && key.chars().all(|c| c.is_ascii_lowercase() || c == '_')
        {
            assert!(keys.insert(format!("{section}.{key}")), "twice in the sample: {section}.{key}");
        }
    }
    keys
}

#[test]
fn the_sample_equals_the_defaults() {
    assert_eq!(from_text(SAMPLE).unwrap(), Config::default());
}

#[test]
fn every_known_key_is_in_the_sample_and_asked_for_once() {
    let known: BTreeSet<String> = known_keys().into_iter().map(str::to_owned).collect();
    assert_eq!(sample_keys(), known);
    assert_eq!(known_keys().len(), known.len());
}

#[test]
fn every_variable_has_a_known_key_and_is_in_the_sample() {
    for (variable, key) in VARIABLES {
        assert!(known_keys().contains(key), "{variable}: {key}");
        assert!(SAMPLE.contains(variable), "{variable}");
    }
}

#[test]
fn the_defaults_are_the_documented_ones() {
    let config = Config::default();
    assert_eq!(api(&config).base, "https://api.openai.com/v1");
    let Config { server, client, workers, backends, metrics, logging, benchmark: _ } = config;
    assert_eq!(server.socket_path.to_str(), Some("/run/handoffd/handoffd.sock"));
    assert_eq!(server.max_connections.get(), 100_000);
    assert_eq!(server.handoff_buffer_bytes, 262_144);
    assert_eq!(server.redispatch_max, 1);
    let times = backends.find("openai").unwrap().timeouts;
    let secs = [
        (server.handoff_timeout, 5),
        (server.queue_timeout, 2),
        (server.write_timeout, 30),
        (server.shutdown_timeout, 120),
        (client.heartbeat, 15),
        (client.commit_after, 10),
        (client.linger, 2),
        (workers.drain_timeout, 600),
        (times.connect, 5),
        (times.tls, 5),
        (times.queue, 10),
        (times.head, 30),
        (times.first_content, 120),
        (times.idle, 120),
        (times.idle_content, 300),
        (times.client_write, 30),
    ];
    for (index, (timeout, secs)) in secs.into_iter().enumerate() {
        assert_eq!(timeout.as_secs(), secs, "number {index} of the list");
    }
    assert_eq!(times.total, None);
    assert_eq!(backends.default, "mock");
    assert_eq!(backends.default_model, "gpt-4o");
    assert_eq!(metrics.listen_addr.unwrap().to_string(), "127.0.0.1:9090");
    assert_eq!(logging.level, "info");
}
