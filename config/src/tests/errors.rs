use std::path::Path;

use super::{error_of, from_text, from_variable, load};
use crate::cli::Cli;
use crate::{Config, ConfigError, ConfigFile};

const KEY: &str = "sk-very-secret-0815";

#[test]
fn an_unknown_key_is_named_with_its_path_and_a_similar_one() {
    assert_eq!(
        error_of("[backend.openai.http2]\nadaptive_windows = true"),
        "test.toml:2: unknown key backend.openai.http2.adaptive_windows; \
         did you mean backend.openai.http2.adaptive_window?"
    );
    assert_eq!(
        error_of("\nsocket_path = \"/a\""),
        "test.toml:2: unknown key socket_path; did you mean server.socket_path?"
    );
    assert_eq!(error_of("[weather]\nsunny = true"), "test.toml:2: unknown key weather.sunny");
    assert_eq!(
        error_of("server.socket_path.x = 1"),
        "test.toml:1: unknown key server.socket_path.x; did you mean server.socket_path?"
    );
}

#[test]
fn a_quoted_key_is_not_a_path() {
    assert!(error_of("\"server.socket_path\" = \"/a\"").contains("unknown key \"server.socket_path\""));
}

#[test]
fn an_unknown_section_is_an_error_even_when_empty() {
    assert_eq!(error_of("[serverr]"), "test.toml:1: unknown key serverr");
    assert_eq!(from_text("[server]\n[backend.openai]").unwrap(), Config::default());
}

#[test]
fn a_section_must_be_a_table() {
    assert_eq!(error_of("server = 5"), "test.toml:1: server = integer: must be a table: [server]");
    assert_eq!(error_of("[[server]]"), "test.toml:1: server = array: must be a table: [server]");
}

#[test]
fn a_value_of_the_wrong_type_is_shown_as_written() {
    let error = error_of("[server]\nmax_connections = \"100\"");
    assert_eq!(
        error,
        "test.toml:2: server.max_connections = \"100\": must be a whole number from 1 to 10000000"
    );
    let error = error_of("[server]\n\n\nallowed_users = [\n  true,\n]");
    assert!(error.starts_with("test.toml:4: server.allowed_users = [   true, ]: "), "{error}");
    let error = error_of("backend.openai.insecure_ssl = 1");
    assert!(error.ends_with("insecure_ssl = 1: must be true or false"), "{error}");
}

#[test]
fn a_long_value_is_shortened() {
    let error = error_of(&format!("client.half_close = \"{}\"", "x".repeat(10_000)));
    assert!(error.len() < 200 && error.contains("x…: must be \"gone\" or \"serve\""), "{error}");
}

#[test]
fn all_problems_are_told_at_once_one_a_line() {
    let text = "[server]\nmax_connections = 0\nredispatch_max = 4\nfoo = 1";
    let error = load(text, &[("DAEMON_LOG_FORMAT", "xml")], &Cli::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the configuration has 4 problems:
  test.toml:2: server.max_connections = 0: must be a whole number from 1 to 10000000
  test.toml:3: server.redispatch_max = 4: must be a whole number from 0 to 3
  DAEMON_LOG_FORMAT: logging.format = \"xml\": must be \"pretty\" or \"json\" or \"journald\"
  test.toml:4: unknown key server.foo"
    );
    assert!(matches!(error, ConfigError::Invalid(problems) if problems.len() == 4));
}

#[test]
fn a_file_that_is_not_toml_is_told_with_its_line() {
    let error = error_of("[server]\nsocket_path = ");
    assert!(error.starts_with("test.toml:2: not valid TOML: "), "{error}");
    let error = error_of("[server]\nredispatch_max = 1\nredispatch_max = 2");
    assert_eq!(error, "test.toml:3: not valid TOML: duplicate key");
}

#[test]
fn a_file_that_cannot_be_read_is_named_with_the_reason() {
    let cli = Cli { config: Some("/no/such/file.toml".into()), ..Cli::default() };
    let error = Config::load(&cli, &|_| None).unwrap_err().to_string();
    assert!(error.starts_with("/no/such/file.toml: cannot read the configuration: No such file"), "{error}");

    let from_bytes = |bytes| ConfigFile::from_bytes(Path::new("a"), bytes).err().unwrap().to_string();
    assert_eq!(
        from_bytes(vec![b'#', 0xff]),
        "a: cannot read the configuration: it is not UTF-8 after byte 1"
    );
    let large = from_bytes(vec![b' '; (1 << 16) + 1]);
    assert_eq!(large, "a: cannot read the configuration: it is larger than 65536 bytes");
}

#[test]
fn the_key_of_the_upstream_is_never_shown() {
    let config = from_variable("OPENAI_API_KEY", KEY).unwrap();
    let shown = format!("{config:?} {config:#?}");
    assert!(shown.contains("<secret>") && !shown.contains(KEY), "{shown}");

    let texts = [
        format!("backend.openai.api_key = \"{KEY} \""),
        format!("backend.openai.api_key = [\"{KEY}\"]"),
        format!("backend.openai.api_key = {{ is = \"{KEY}\" }}"),
        format!("backend.openai.apikey = \"{KEY}\""),
        format!("backend.openai = \"{KEY}\""),
        format!("backend.openai.api_key = {KEY}"),
        format!("backend.openai.api_key = \"{KEY}"),
        format!("backend.openai.api_key = \"a\" \"{KEY}\""),
        format!("backend.openai.api_key = \"{KEY}\"\nserver.foo = 1"),
    ];
    let mut errors: Vec<ConfigError> = texts.iter().map(|text| from_text(text).expect_err(text)).collect();
    errors.push(from_variable("OPENAI_API_KEY", &format!("{KEY}\n")).unwrap_err());
    for error in errors {
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains(KEY), "{shown}");
    }
}
