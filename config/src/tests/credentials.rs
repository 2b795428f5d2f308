use std::fs;
use std::path::Path;

use super::{api, load};
use crate::cli::Cli;
use crate::{Config, ConfigError};

const FILE: &str = "[backend.openai]\napi_key = \"of-the-file\"\n";

/// With this credential and these further variables.
fn with(credential: Option<&[u8]>, file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let directory = tempfile::tempdir().unwrap();
    if let Some(bytes) = credential {
        fs::write(directory.path().join("openai_api_key"), bytes).unwrap();
    }
    in_directory(directory.path(), file, variables)
}

fn in_directory(directory: &Path, file: &str, variables: &[(&str, &str)]) -> Result<Config, ConfigError> {
    let mut all = vec![("CREDENTIALS_DIRECTORY", directory.to_str().unwrap())];
    all.extend(variables);
    load(file, &all, &Cli::default())
}

#[track_caller]
fn key(config: Result<Config, ConfigError>) -> Option<String> {
    api(&config.unwrap()).key.as_ref().map(|key| key.expose().to_owned())
}

#[test]
fn it_wins_over_the_file_and_not_over_the_environment() {
    assert_eq!(key(with(Some(b"sk-1"), FILE, &[])).as_deref(), Some("sk-1"));
    assert_eq!(key(with(Some(b"sk-1"), FILE, &[("OPENAI_API_KEY", "sk-2")])).as_deref(), Some("sk-2"));
    assert_eq!(key(with(Some(b"sk-1"), "", &[("OPENAI_API_KEY", "")])).as_deref(), Some("sk-1"));
}

#[test]
fn a_missing_or_empty_one_is_not_set() {
    for credential in [None, Some(&b""[..]), Some(b"\n"), Some(b" \r\n ")] {
        assert_eq!(key(with(credential, "", &[])), None);
        assert_eq!(key(with(credential, FILE, &[])).as_deref(), Some("of-the-file"));
    }
    assert_eq!(key(load("", &[("CREDENTIALS_DIRECTORY", "")], &Cli::default())), None);
    assert_eq!(key(in_directory(Path::new("/nowhere/at/all"), "", &[])), None);
}

#[test]
fn white_space_around_it_is_not_part_of_it() {
    assert_eq!(key(with(Some(b" sk-1\r\n"), "", &[])).as_deref(), Some("sk-1"));
}

#[test]
fn one_that_cannot_be_read_is_an_error_that_names_the_file() {
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("openai_api_key")).unwrap();
    let text = in_directory(directory.path(), "", &[]).unwrap_err().to_string();
    assert!(text.contains("openai_api_key: cannot read the credential: "), "{text}");
    let text = with(Some(&[b'x'; 20_000]), "", &[]).unwrap_err().to_string();
    assert!(text.contains("larger than 16384 bytes") && !text.contains("xx"), "{text}");
}

#[test]
fn a_bad_one_is_not_shown() {
    for secret in [&b"sk-very\xff-secret"[..], &[b's'; 5_000]] {
        let text = with(Some(secret), "", &[]).unwrap_err().to_string();
        assert!(text.contains("openai_api_key: backend.openai.api_key = <secret>: "), "{text}");
        assert!(!text.contains("sk-") && !text.contains("sss"), "{text}");
    }
}
