use std::collections::BTreeSet;
use std::path::Path;

use super::{api, from_text};
use crate::environment::VARIABLES;
use crate::reader::Reader;
use crate::{Benchmark, Config, ConfigFile, validate};

pub(super) const SAMPLE: &str = include_str!("../../daemon.toml");

/// Every key that the configuration asks for when a file of this text is read.
pub(super) fn keys_asked_for(text: &str) -> Vec<String> {
    let file = ConfigFile::from_bytes(Path::new("sample.toml"), text.into()).unwrap();
    let mut reader = Reader::new(file.settings().unwrap(), &|_| None);
    validate::read(&mut reader, Benchmark::Off);
    reader.known().to_vec()
}

/// The keys that need no `[backends.NAME]`.
pub(super) fn known_keys() -> Vec<String> {
    keys_asked_for("")
}

/// The sample with its example backends as if they were meant, each key that it shows a default for set to it.
pub(super) fn with_examples() -> String {
    let mut is_example = false;
    let is_setting = |line: &str| {
        let key = line.split_once(" = ").map(|(key, _)| key);
        key.is_some_and(is_key)
    };
    let lines = SAMPLE.lines().map(|line| {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let is_section = bare.starts_with('[') && bare.ends_with(']');
        if is_section {
            is_example = bare != line;
        }
        if is_example && (is_section || is_setting(bare)) { bare } else { line }
    });
    lines.map(|line| format!("{line}\n")).collect()
}

/// Not prose that has an equals sign in it.
fn is_key(text: &str) -> bool {
    text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
}

/// Each key of the sample, those with examples instead of defaults included; and its section.
fn sample_keys() -> BTreeSet<(String, String)> {
    let mut section = String::new();
    let mut keys = BTreeSet::new();
    for line in SAMPLE.lines() {
        let bare = line.trim_start_matches("# ");
        if let Some(name) = bare.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name.to_owned();
        } else if let Some((key, _)) = bare.split_once(" = ")
            && is_key(key)
        {
            assert!(keys.insert((section.clone(), key.to_owned())), "twice in the sample: {section}.{key}");
        }
    }
    keys
}

#[test]
fn the_sample_equals_the_defaults() {
    assert_eq!(from_text(SAMPLE).unwrap(), Config::default());
}

#[test]
fn the_example_backends_show_their_defaults() {
    let shown = from_text(&with_examples()).unwrap();
    let needed = "[backends.claude]\nkind = \"anthropic\"\n[backends.example]\nkind = \"openai\"\n\
                  [backends.graph]\nkind = \"langgraph\"\napi_base = \"https://graph.example\"\n\
                  assistant_id = \"agent\"\n[backends.graph.profiles.other]\n\
                  [backends.local]\nkind = \"ollama\"\n\
                  [backends.recorded]\nkind = \"replay\"\nfile = \"/var/lib/handoffd/answer.jsonl\"\n\
                  [backends.rehearsal]\nkind = \"mock\"\n";
    assert_eq!(shown, from_text(needed).unwrap());
}

#[test]
fn every_known_key_is_in_the_sample_and_asked_for_once() {
    let keys = sample_keys();
    let of_examples =
        |name: &str| keys.iter().any(|(section, key)| section.starts_with("backends.") && key == name);
    for known in known_keys() {
        let (section, name) = known.rsplit_once('.').unwrap();
        let is_there = keys.contains(&(section.to_owned(), name.to_owned()));
        assert!(is_there || (section == "backend.openai" && of_examples(name)), "{known}");
    }
    let distinct: BTreeSet<String> = known_keys().into_iter().collect();
    assert_eq!(known_keys().len(), distinct.len());
}

#[test]
fn every_key_of_a_named_backend_is_in_the_examples_and_every_example_is_known() {
    let keys = sample_keys();
    let example = with_examples();
    let known = keys_asked_for(&example);
    let names: BTreeSet<&str> = keys.iter().map(|(_, name)| name.as_str()).collect();
    for key in known.iter().filter(|key| key.starts_with("backends.")) {
        assert!(names.contains(key.rsplit('.').next().unwrap()), "{key}");
    }
    for (section, name) in keys {
        let key = format!("{section}.{name}");
        let of_any_name =
            ["backend.models", "backends.example.headers"].contains(&section.as_str()) || name == "headers";
        assert!(of_any_name || known.contains(&key), "{key}");
    }
}

#[test]
fn every_variable_has_a_known_key_and_is_in_the_sample() {
    for (variable, key) in VARIABLES {
        assert!(known_keys().iter().any(|known| known == key), "{variable}: {key}");
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
