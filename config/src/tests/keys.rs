//! Keys and headers of backends: where they come from, where they go, and that nobody sees them.

use std::fs;
use std::sync::mpsc::channel;
use std::time::Duration;

use super::backends::api_of;
use super::{api, error_of, from_text, load};
use crate::cli::Cli;
use crate::{Config, ConfigError};

const SECRET: &str = "sk-very-secret-0815";

fn with_variables(lines: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    load(&format!("[backends.x]\nkind = \"anthropic\"\n{lines}"), variables, &Cli::default())
}

#[track_caller]
fn key(config: Result<Config, ConfigError>) -> Option<String> {
    let config = config.unwrap();
    let crate::backend::Kind::Api(api) = &config.backends.find("x").unwrap().kind else { panic!("an API") };
    api.key.as_ref().map(|key| key.expose().to_owned())
}

#[test]
fn a_key_comes_from_the_section_a_file_a_variable_or_a_credential() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("key");
    fs::write(&file, format!(" {SECRET}\r\n")).unwrap();
    let credentials = [("CREDENTIALS_DIRECTORY", directory.path().to_str().unwrap())];
    let wanted = Some(SECRET.to_owned());
    assert_eq!(key(with_variables(&format!("api_key = \"{SECRET}\""), &[])), wanted);
    assert_eq!(key(with_variables(&format!("api_key_file = {file:?}"), &[])), wanted);
    assert_eq!(key(with_variables("api_key_credential = \"key\"", &credentials)), wanted);
    let variable = [("MY_KEY", "\tsk-very-secret-0815 ")];
    assert_eq!(key(with_variables("api_key_env = \"MY_KEY\"", &variable)), wanted);
    assert_eq!(key(with_variables("", &[])), None);
    assert_eq!(key(with_variables("api_key = \"\"\napi_key_file = \"\"", &[])), None);
}

#[test]
fn a_key_that_is_not_there_is_an_error_that_names_where_it_should_be() {
    let directory = tempfile::tempdir().unwrap();
    let place = directory.path().to_str().unwrap();
    let credentials = [("CREDENTIALS_DIRECTORY", place)];
    fs::write(directory.path().join("empty"), "\n").unwrap();
    for (line, variables, wanted) in [
        (
            "api_key_file = \"/no/such/file\"".to_owned(),
            &[][..],
            "\"/no/such/file\": cannot read it: No such file",
        ),
        (format!("api_key_file = \"{place}/empty\""), &[], "what the file holds must be 1 to 4096 visible"),
        (format!("api_key_file = \"{place}\""), &[], "it is not a regular file"),
        ("api_key_env = \"MY_KEY\"".to_owned(), &[], "\"MY_KEY\": the environment has no such variable"),
        (
            "api_key_env = \"MY_KEY\"".to_owned(),
            &[("MY_KEY", "a b")],
            "what the variable holds must be 1 to 4096",
        ),
        ("api_key_credential = \"my_key\"".to_owned(), &[], "CREDENTIALS_DIRECTORY is not set"),
        ("api_key_credential = \"my_key\"".to_owned(), &credentials, "\"my_key\": cannot read it in"),
        ("api_key_credential = \"../my_key\"".to_owned(), &credentials, "must be the name of a credential"),
    ] {
        let error = with_variables(&line, variables).unwrap_err().to_string();
        assert!(error.starts_with("test.toml:3: backends.x.api_key_"), "{error}");
        assert!(error.contains(wanted), "{wanted}: {error}");
    }
}

#[test]
fn a_file_that_would_block_whoever_opens_it_does_not() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("fifo");
    nix::unistd::mkfifo(&path, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let (send, receive) = channel();
    // Not joined: whoever waits for a writer waits for ever.
    std::thread::spawn(move || {
        let config = with_variables(&format!("api_key_file = {path:?}"), &[]);
        send.send(config.unwrap_err().to_string()).unwrap();
    });
    let error = receive.recv_timeout(Duration::from_secs(10)).unwrap();
    assert!(error.contains("cannot read it: it is not a regular file"), "{error}");
}

#[test]
fn a_backend_has_one_key() {
    let error = error_of("[backends.x]\nkind = \"ollama\"\napi_key = \"a\"\napi_key_env = \"MY_KEY\"");
    assert!(
        error.contains(
            "test.toml:4: backends.x.api_key_env = \"MY_KEY\": there is another key: set one of api_key, "
        ),
        "{error}"
    );
}

#[test]
fn the_environments_key_wins_over_any_key_of_the_file() {
    let text = "backend.openai.api_key_file = \"/no/such/file\"";
    let config = load(text, &[("OPENAI_API_KEY", "sk-1")], &Cli::default()).unwrap();
    assert_eq!(api(&config).key.as_ref().unwrap().expose(), "sk-1");
    assert!(error_of(text).contains("cannot read it"));
}

#[test]
fn headers_are_neither_those_of_http_nor_the_keys() {
    let with = |kind: &str, lines: &str| {
        format!("[backends.x]\nkind = \"{kind}\"\n{lines}\n").replace("= SECRET", &format!("= \"{SECRET}\""))
    };
    for (kind, lines, wanted) in [
        ("openai", "headers.Content-Length = SECRET", "this header is handoffd's own"),
        ("openai", "headers = { transfer-encoding = SECRET }", "this header is handoffd's own"),
        ("openai", "api_key = \"k\"\nheaders.Authorization = SECRET", "the key goes into this header"),
        ("anthropic", "api_key = \"k\"\nheaders.x-api-key = SECRET", "the key goes into this header"),
        ("anthropic", "headers.anthropic-version = SECRET", "set it by the keys version and beta"),
        ("openai", "headers.\"a b\" = SECRET", "a header's name must be 1 to 64 letters"),
        ("openai", "headers.a = SECRET\nheaders.A = SECRET", "this header is there twice"),
        ("openai", "headers.a = \"sk-very-secret-0815\\r\\nb: c\"", "visible ASCII characters"),
        ("openai", "headers.a = [SECRET]", "visible ASCII characters"),
        ("openai", "headers.a.b = SECRET", "unknown key backends.x.headers.a.b"),
        ("openai", "headers = SECRET", "must be a table: [backends.x.headers]"),
    ] {
        let text = with(kind, lines).replace("[SECRET]", &format!("[\"{SECRET}\"]"));
        let error = error_of(&text);
        assert!(error.contains(wanted) && !error.contains("very-secret"), "{text}: {error}");
    }
    let api = api_of("x", &with("openai", "headers = { api-key = SECRET }"));
    assert_eq!((api.headers[0].0.as_str(), api.headers[0].1.expose()), ("api-key", SECRET));
    assert!(api_of("x", &with("ollama", "headers = { Authorization = SECRET }")).headers.len() == 1);
}

#[test]
fn a_key_and_headers_do_not_follow_a_profile_to_another_origin() {
    let text = |base: &str, key: &str| {
        format!(
            "[backends.g]\nkind = \"langgraph\"\napi_base = \"https://a.example/v1\"\nassistant_id = \"a\"\n\
             api_key = \"sk-1\"\nheaders = {{ x-a = \"b\" }}\n[backends.g.profiles.p]\napi_base = \"{base}\"\n{key}"
        )
    };
    let same = api_of("g/p", &text("https://A.example:443/v2", ""));
    assert_eq!((same.key.unwrap().expose(), same.headers.len()), ("sk-1", 1));
    for base in
        ["https://b.example", "http://a.example", "https://a.example:444", "https://a.example.b.example"]
    {
        let error = error_of(&text(base, ""));
        assert!(error.contains("another origin gets a key of its own"), "{error}");
        let none = api_of("g/p", &text(base, "api_key = \"\""));
        assert_eq!((none.key, none.headers.len()), (None, 0));
        let own = api_of("g/p", &text(base, "api_key = \"sk-2\""));
        assert_eq!((own.key.unwrap().expose(), own.headers.len()), ("sk-2", 0));
    }
}

#[test]
fn a_key_in_the_wrong_place_is_not_shown() {
    for line in [
        "api_key = [\"SECRET\"]",
        "api_key = \"SECRET \"",
        "api_key.is = \"SECRET\"",
        "apikey = \"SECRET\"",
        "key = \"SECRET\"",
        "api_key_file = \"SECRET\"",
        "api_key_env = \"SECRET\"",
        "api_key_credential = \"SECRET\"",
        "headers = \"SECRET\"",
        "profiles = \"SECRET\"",
        "fallbacks = [\"SECRET\"]",
        "on_disconnect = \"SECRET\"",
        "retries = \"SECRET\"",
        "proxy = \"socks5://u:SECRET@p:1\"",
        "api_base = \"https://u:SECRET@a\"",
        "api_base = \"https://a?key=SECRET b\"",
        "ca_file = \"SECRET\"",
        "beta = \"\u{1}SECRET\"",
    ] {
        for secret in [SECRET, "lsv2_pt_0123456789abcdef", "AIzaSyD-9tSrke72PouQMnMX-a7eZSW0jkFMBWY"] {
            let text = format!("[backends.x]\nkind = \"anthropic\"\n{line}").replace("SECRET", secret);
            let text = text.replace('\u{1}', "\\u0001");
            let error = from_text(&text).expect_err(&text);
            let shown = format!("{error} {error:?}");
            assert!(!shown.contains(secret), "{text}: {shown}");
        }
    }
    for text in [
        "backends = \"SECRET\"",
        "backends.x = \"SECRET\"",
        "backends.x.kind = \"SECRET\"",
        "[backend]\nprovider = \"SECRET\"",
    ] {
        let error = error_of(&text.replace("SECRET", SECRET));
        assert!(!error.contains(SECRET), "{error}");
    }
}
