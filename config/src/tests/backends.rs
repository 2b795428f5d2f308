//! `[backends.NAME]` and what leads to them.

use std::path::Path;
use std::time::Duration;

use super::{error_of, from_text};
use crate::Backend;
use crate::backend::{Api, Dialect, Kind, OnDisconnect};

/// The backend of this name in a file of this text.
#[track_caller]
pub(super) fn backend(name: &str, text: &str) -> Backend {
    let backends = from_text(text).unwrap_or_else(|error| panic!("{text}: {error}")).backends;
    backends.find(name).unwrap_or_else(|| panic!("{text}: no {name}")).clone()
}

#[track_caller]
pub(super) fn api_of(name: &str, text: &str) -> Api {
    match backend(name, text).kind {
        Kind::Api(api) => *api,
        Kind::Mock(_) | Kind::Replay(_) => panic!("{name} is an API"),
    }
}

const GRAPH: &str =
    "[backends.g]\nkind = \"langgraph\"\napi_base = \"https://a.example\"\nassistant_id = \"a\"\n";

#[test]
fn each_kind_is_what_it_says_and_where_it_is_by_default() {
    for (kind, base) in [
        ("openai", "https://api.openai.com/v1"),
        ("responses", "https://api.openai.com/v1"),
        ("anthropic", "https://api.anthropic.com"),
        ("ollama", "http://127.0.0.1:11434"),
    ] {
        let api = api_of("x", &format!("[backends.x]\nkind = \"{kind}\""));
        assert_eq!(api.base, base);
        let is_right = match api.dialect {
            Dialect::OpenAi => kind == "openai",
            Dialect::Responses => kind == "responses",
            Dialect::Anthropic(anthropic) => kind == "anthropic" && anthropic.version == "2023-06-01",
            Dialect::Ollama => kind == "ollama",
            Dialect::LangGraph(_) => false,
        };
        assert!(is_right, "{kind}");
    }
    assert!(matches!(api_of("g", GRAPH).dialect, Dialect::LangGraph(graph) if graph.assistant_id == "a"));
    let replay = backend("x", "[backends.x]\nkind = \"replay\"\nfile = \"/a\"\nspeed = 0").kind;
    assert!(matches!(replay, Kind::Replay(replay) if replay.file == Path::new("/a") && replay.speed == 0.0));
    let mock = backend("x", "[backends.x]\nkind = \"mock\"\ntoken_delay_ms = 7").kind;
    assert!(matches!(mock, Kind::Mock(mock) if mock.token_delay == Duration::from_millis(7)));
}

#[test]
fn a_backend_without_a_kind_or_with_a_wrong_one_is_refused_with_its_other_faults() {
    let error = error_of("\n[backends.x]\nretries = 9\nmax_tokens = 5\nfallbacks = [\"mock\"]\nweather = 1");
    assert_eq!(
        error,
        "the configuration has 3 problems:
  test.toml:2: backends.x.kind is missing: must be \"openai\" or \"responses\" or \"anthropic\" or \"ollama\" or \
         \"langgraph\" or \"replay\" or \"mock\"
  test.toml:3: backends.x.retries = 9: must be a whole number from 0 to 5
  test.toml:6: unknown key backends.x.weather"
    );
    let error = error_of("[backends.x]\nkind = \"claude\"\n[backends.x.profiles.y]\nassistant_id = \"b\"");
    assert!(
        error.starts_with("test.toml:2: backends.x.kind = \"claude\": must be \"openai\" or "),
        "{error}"
    );
    assert!(error_of("[backends.x]").starts_with("test.toml:1: backends.x.kind is missing"));
    assert!(from_text("[backends]").is_ok());
    assert_eq!(error_of("backends = 5"), "test.toml:1: backends = integer: must be a table: [backends]");
    assert!(error_of("[[backends.x]]").contains("backends.x = array: must be a table: [backends.x]"));
}

#[test]
fn what_a_kind_needs_must_be_there() {
    let error = error_of("[backends.g]\nkind = \"langgraph\"\n[backends.r]\nkind = \"replay\"\nfile = \"\"");
    assert!(error.contains("test.toml:1: backends.g.assistant_id is missing: set the assistant"), "{error}");
    assert!(error.contains("test.toml:1: backends.g.api_base is missing: set the API's address"), "{error}");
    assert!(
        error.contains("test.toml:3: backends.r.file is missing: set the path of a recording"),
        "{error}"
    );
}

#[test]
fn an_unknown_key_is_named_with_one_of_the_same_section_and_that_of_another_kind_with_its_kind() {
    let error = error_of("[backends.x]\nkind = \"openai\"\nretrys = 1\nmax_tokens = 5");
    assert!(error.contains("unknown key backends.x.retrys; did you mean backends.x.retries?"), "{error}");
    assert!(error.contains("backends.x.max_tokens = 5: goes with kind = \"anthropic\" only"), "{error}");
    let error = error_of("[backends.m]\nkind = \"mock\"\napi_base = \"http://a\"");
    assert!(error.contains("unknown key backends.m.api_base"), "{error}");
}

#[test]
fn a_backends_name_is_a_word_that_nobody_else_has() {
    let name = "x".repeat(64);
    backend(&name, &format!("[backends.{name}]\nkind = \"mock\""));
    for name in [&format!("{name}x"), "\"a.b\"", "\"a b\"", "\"\"", "\"ä\""] {
        let error = error_of(&format!("[backends.{name}]\nkind = \"mock\""));
        assert!(error.contains("a name must be 1 to 64 letters, digits, - and _"), "{error}");
    }
    for name in ["mock", "openai"] {
        let error = error_of(&format!("[backends.{name}]\nkind = \"mock\""));
        assert!(error.contains(&format!("set it in [backend.{name}]")), "{error}");
    }
    let many: String = (0..257).map(|n| format!("[backends.b{n}]\nkind = \"mock\"\n")).collect();
    assert!(error_of(&many).contains("must be at most 256 backends"));
}

#[test]
fn the_default_is_any_backend_that_there_is() {
    let text = "[backend]\nprovider = \"c\"\n[backends.c]\nkind = \"ollama\"";
    assert_eq!(from_text(text).unwrap().backends.default, "c");
    assert_eq!(from_text("backend.provider = \"openai\"").unwrap().backends.default, "openai");
    let error = error_of(&format!("{GRAPH}profiles.p = {{}}\n[backend]\nprovider = \"h\""));
    assert!(error.contains("must be \"g\" or \"g/p\" or \"mock\" or \"openai\""), "{error}");
}

#[test]
fn fallbacks_are_other_backends_each_once() {
    let with = |list: &str| {
        format!("[backends.a]\nkind = \"mock\"\nfallbacks = {list}\n[backends.b]\nkind = \"ollama\"")
    };
    assert_eq!(backend("a", &with("[\"openai\", \"b\"]")).fallbacks, ["openai", "b"]);
    assert_eq!(backend("openai", "backend.openai.fallbacks = [\"mock\"]").fallbacks, ["mock"]);
    for list in ["[\"a\"]", "[\"b\", \"b\"]", "[\"c\"]", "[1]", "\"b\""] {
        let error = error_of(&with(list));
        assert!(
            error.contains("must be a list of some of \"b\", \"mock\", \"openai\", each at most once"),
            "{error}"
        );
    }
    // Who names a backend that is refused is not to blame.
    let error = error_of("[backends.a]\nkind = \"mock\"\nfallbacks = [\"b\"]\n[backends.b]\nkind = \"x\"");
    assert!(error.starts_with("test.toml:5: backends.b.kind"), "{error}");
}

#[test]
fn timeouts_are_those_of_the_server_unless_the_backend_has_its_own() {
    let legacy = "server.backend_timeout_secs = 1\nserver.write_timeout_secs = 2\nclient.stream_max_secs = 3\n\
                  backend.timeout_secs = 400\n[backends.x]\nkind = \"ollama\"\n";
    for name in ["mock", "openai", "x"] {
        let times = backend(name, legacy).timeouts;
        let secs = |duration: Duration| duration.as_secs();
        assert_eq!((secs(times.head), secs(times.client_write)), (1, 2), "{name}");
        assert_eq!((times.total, secs(times.first_content)), (Some(Duration::from_secs(3)), 400), "{name}");
        assert_eq!((secs(times.idle), secs(times.idle_content)), (400, 400), "{name}");
    }
    let own = format!(
        "{legacy}connect_timeout_secs = 11\ntls_timeout_secs = 12\nqueue_timeout_secs = 13\nhead_timeout_secs = 14\n\
         first_content_timeout_secs = 15\nidle_timeout_secs = 16\nidle_content_timeout_secs = 17\n\
         total_timeout_secs = 0\nclient_write_timeout_secs = 18"
    );
    let times = backend("x", &own).timeouts;
    let all = [times.connect, times.tls, times.queue, times.head, times.first_content, times.idle];
    assert_eq!(all.map(|time| time.as_secs()), [11, 12, 13, 14, 15, 16]);
    assert_eq!((times.idle_content.as_secs(), times.total, times.client_write.as_secs()), (17, None, 18));
    let error =
        error_of("[backends.x]\nkind = \"ollama\"\nidle_timeout_secs = 9\nidle_content_timeout_secs = 8");
    assert!(error.contains("idle_content_timeout_secs must be at least idle_timeout_secs"), "{error}");
}

#[test]
fn the_section_of_the_example_daemon_takes_the_new_keys_too() {
    let text = "[backend.openai]\nretries = 0\nretry_budget = 1\ncooldown_secs = 0\nbreaker_failures = 0\n\
                on_disconnect = \"drain_usage\"\nmodel = \"m\"\nrecord = \"/r\"\nevent_max_mb = 1\nstreams_max = 7\n\
                connections_max = 8\nconnection_age_max_secs = 9\nca_file = \"/ca\"\nclient_certificate_file = \"/c\"\n\
                client_key_file = \"/k\"\nproxy = \"p:1\"\nheaders = { X-Team = \"a b\" }\nidle_timeout_secs = 5\n";
    let openai = backend("openai", text);
    assert_eq!((openai.retry.max, openai.retry.breaker), (0, 0));
    assert_eq!(openai.retry.cooldown, Duration::ZERO);
    assert_eq!((openai.on_disconnect, openai.model.as_deref()), (OnDisconnect::DrainUsage, Some("m")));
    assert_eq!((openai.event_bytes_max.get(), openai.timeouts.idle.as_secs()), (1 << 20, 5));
    assert_eq!(openai.record.as_deref(), Some(Path::new("/r")));
    let api = api_of("openai", text);
    let connection = api.connection;
    assert_eq!((connection.streams_max.get(), connection.connections_max.get()), (7, 8));
    assert_eq!((connection.age_max.as_secs(), connection.ca_file.as_deref()), (9, Some(Path::new("/ca"))));
    assert_eq!(connection.client_certificate.unwrap().key_file, Path::new("/k"));
    assert_eq!(connection.proxy.unwrap().address.expose(), "http://p:1");
    assert_eq!((api.headers[0].0.as_str(), api.headers[0].1.expose()), ("x-team", "a b"));
}

#[test]
fn paths_of_the_sandbox_begin_at_the_root() {
    for (section, key) in [
        ("backend", "files_directory"),
        ("backend.openai", "api_socket"),
        ("backends.x", "socket"),
        ("backends.x", "record"),
        ("backends.x", "ca_file"),
        ("backends.x", "client_certificate_file"),
        ("backends.x", "api_key_file"),
    ] {
        let error = error_of(&format!("backends.x.kind = \"ollama\"\n{section}.{key} = \"a/b\""));
        assert!(
            error.contains(&format!("{section}.{key} = \"a/b\": must be a path that begins with /")),
            "{error}"
        );
    }
    let files = from_text("backend.files_directory = \"/f\"").unwrap().backends.files_directory;
    assert_eq!(files.as_deref(), Some(Path::new("/f")));
}

#[test]
fn a_client_certificate_and_its_key_go_together_and_windows_fit_each_other() {
    let error = error_of("[backends.x]\nkind = \"ollama\"\nclient_key_file = \"/k\"");
    assert!(error.contains("client_key_file = \"/k\": goes with client_certificate_file only"), "{error}");
    let error =
        error_of("[backends.x]\nkind = \"ollama\"\nstream_window_kb = 128\nconnection_window_kb = 127");
    assert!(error.contains("connection_window_kb must be at least stream_window_kb"), "{error}");
    let error = error_of("[backends.x]\nkind = \"ollama\"\nsocket = \"/s\"\nproxy = \"http://p:1\"");
    assert!(error.contains("backends.x.proxy = <secret>: goes without a Unix socket only"), "{error}");
}

#[test]
fn a_base_address_has_no_slash_at_the_end_no_user_and_no_query() {
    let with = |base: &str| format!("[backends.x]\nkind = \"openai\"\napi_base = \"{base}\"");
    assert_eq!(api_of("x", &with("http://[::1]:8080/v1//")).base, "http://[::1]:8080/v1");
    for base in [
        "ftp://a",
        "http://",
        "http://a b",
        "http://:80",
        "http://a:0",
        "http://a:65536",
        "http://[::1",
        "http://[a]",
        "https://u:p@a/v1",
        "https://a/v1?key=p",
        "https://a#p",
        "//a",
        "https:///v1",
    ] {
        let error = error_of(&with(base));
        assert!(error.contains("must be an address that begins with http:// or https://"), "{error}");
        assert!(!error.contains("u:p@") && !error.contains("?key"), "{error}");
    }
}

#[test]
fn of_models_a_whole_name_wins_over_a_pattern_and_a_longer_pattern_over_a_shorter_one() {
    let lines = [
        "\"*\" = \"mock\"",
        "\"gpt-4.1\" = \"openai\"",
        "\"gpt-*\" = \"mock\"",
        "gpt-5 = \"c\"",
        "\"a*\" = \"c\"",
    ];
    let routes = |lines: &[&str]| {
        let text = format!("[backends.c]\nkind = \"anthropic\"\n[backend.models]\n{}", lines.join("\n"));
        from_text(&text).unwrap().backends.models
    };
    let mut reversed = lines;
    reversed.reverse();
    let found = routes(&lines);
    assert_eq!(found, routes(&reversed));
    let found: Vec<(&str, &str)> =
        found.iter().map(|route| (route.pattern.as_str(), route.backend.as_str())).collect();
    assert_eq!(found, [("gpt-4.1", "openai"), ("gpt-5", "c"), ("gpt-*", "mock"), ("a*", "c"), ("*", "mock")]);
    let error = error_of("[backend.models]\ngpt-4.1 = \"openai\"");
    assert!(error.contains("backend.models.gpt-4 = table: must be the name of a backend"), "{error}");
    let error = error_of("[backend.models]\n\"gpt-*\" = \"nobody\"\n\"a\\\"b\" = \"mock\"");
    assert!(
        error.contains("backend.models.\"gpt-*\" = \"nobody\": must be \"mock\" or \"openai\""),
        "{error}"
    );
    assert!(error.contains("must be 1 to 256 bytes without quotes"), "{error}");
}

#[test]
fn a_clients_address_goes_where_it_is_meant_to_and_nowhere_else() {
    let plain = api_of("x", "[backends.x]\nkind = \"ollama\"");
    assert!(!plain.x_forwarded_for && plain.trace_context);
    let told = api_of("x", "[backends.x]\nkind = \"ollama\"\nx_forwarded_for = true\ntrace_context = false");
    assert!(told.x_forwarded_for && !told.trace_context);
    assert!(api_of("openai", "backend.openai.x_forwarded_for = true").x_forwarded_for);
    let text = format!(
        "{GRAPH}x_forwarded_for = true\n[backends.g.profiles.same]\nassistant_id = \"b\"\n\
         [backends.g.profiles.other]\napi_base = \"https://b.example\""
    );
    assert!(api_of("g/same", &text).x_forwarded_for && !api_of("g/other", &text).x_forwarded_for);
}

#[test]
fn a_profile_is_a_backend_of_its_own() {
    let text = format!(
        "{GRAPH}retries = 1\nfallbacks = [\"g/eu\", \"mock\"]\n[backends.g.profiles.eu]\napi_base = \"https://eu.example\"\n\
         assistant_id = \"b\"\n[backends.g.profiles.us]\nstream_mode = [\"values\", \"updates\"]"
    );
    let eu = backend("g/eu", &text);
    assert_eq!((eu.retry.max, eu.fallbacks), (1, vec!["mock".to_owned()]));
    let eu = api_of("g/eu", &text);
    assert_eq!(eu.base, "https://eu.example");
    assert!(matches!(eu.dialect, Dialect::LangGraph(graph) if graph.assistant_id == "b"));
    assert!(matches!(api_of("g/us", &text).dialect,
        Dialect::LangGraph(graph) if graph.assistant_id == "a" && graph.stream_mode == ["values", "updates"]));
    let error =
        error_of(&format!("{GRAPH}[backends.g.profiles.p]\nretries = 1\n[backends.g.profiles.\"a b\"]\n"));
    assert!(error.contains("unknown key backends.g.profiles.p.retries"), "{error}");
    assert!(error.contains("a name must be 1 to 64 letters, digits, - and _"), "{error}");
    assert!(error_of(&format!("{GRAPH}stream_mode = []")).contains("must be a list of 1 to 16 words"));
}
