//! The promises of the configuration, each a test; and what they share.

mod command_line;
mod credentials;
mod environment;
mod errors;
mod properties;
mod sample;
mod values;

use std::ffi::OsString;
use std::path::Path;

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
