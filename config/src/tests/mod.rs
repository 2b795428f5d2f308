//! The promises of the configuration, each a test; and what they share.

mod backends;
mod command_line;
mod credentials;
mod environment;
mod errors;
mod keys;
mod properties;
mod proxies;
mod sample;
mod values;

use std::ffi::OsString;
use std::path::Path;

use crate::backend::{Api, Backend, Kind, Mock};
use crate::cli::Cli;
use crate::{Config, ConfigError, ConfigFile};

/// A configuration from a file of this text, without environment or options.
fn from_text(text: &str) -> Result<Config, ConfigError> {
    load(text, &[], &Cli::default())
}

/// A configuration from a variable alone.
fn from_variable(variable: &str, value: &str) -> Result<Config, ConfigError> {
    load("", &[(variable, value)], &Cli::default())
}

/// A configuration from all three.
fn load(text: &str, variables: &[(&str, &str)], cli: &Cli) -> Result<Config, ConfigError> {
    let file = ConfigFile::from_bytes(Path::new("test.toml"), text.into())?;
    Config::from_file(&file, cli, &|name| {
        variables.iter().find(|(variable, _)| *variable == name).map(|(_, value)| OsString::from(value))
    })
}

/// The error's text, which a file of this text must cause.
fn error_of(text: &str) -> String {
    from_text(text).expect_err(text).to_string()
}

/// The API behind the backend "openai".
fn api(config: &Config) -> &Api {
    match &config.backends.find("openai").unwrap().kind {
        Kind::Api(api) => api,
        Kind::Mock(_) | Kind::Replay(_) => panic!("openai is an API"),
    }
}

fn api_mut(config: &mut Config) -> &mut Api {
    match &mut named(config, "openai").kind {
        Kind::Api(api) => api,
        Kind::Mock(_) | Kind::Replay(_) => panic!("openai is an API"),
    }
}

fn mock_mut(config: &mut Config) -> &mut Mock {
    match &mut named(config, "mock").kind {
        Kind::Mock(mock) => mock,
        Kind::Api(_) | Kind::Replay(_) => panic!("mock is a mock"),
    }
}

fn named<'c>(config: &'c mut Config, name: &str) -> &'c mut Backend {
    config.backends.all.iter_mut().find(|backend| backend.name == name).unwrap()
}
