//! handoffd's configuration. In: a TOML file, systemd's credentials, the environment, the command line. Out: one
//! [`Config`] whose every value is valid, or an error that names the key, the value and what is allowed.
//! Never: reads anything after start, guesses at a bad value, ignores an unknown key.
//!
//! Precedence: default < file < credential < environment < command line. A value that a later one replaces is not
//! checked.
//!
//! The way of a value: [`cli`], `environment`, `credentials` and `file` put it, as written, into `settings`;
//! `validate` asks for every key by name through a `reader`, with its default and with what is `allowed`.

#![forbid(unsafe_code)]

pub mod backend;
pub mod cli;

mod address;
mod allowed;
mod credentials;
mod environment;
mod error;
mod file;
mod masking;
mod reader;
mod settings;
mod validate;
mod values;

use std::ffi::OsString;

pub use backend::{Backend, Backends, Secret};
use cli::Cli;
pub use error::{ConfigError, Problem};
pub use file::ConfigFile;
pub use values::{
    Benchmark, Client, Config, HalfClose, Identity, LogFormat, Logging, Metrics, SandboxMode, Server,
    SocketMode, Workers,
};

impl Config {
    /// Reads the file that the command line names (none: no file), then the environment, then the command line.
    /// `environment` looks a variable up, as [`std::env::var_os`] does.
    ///
    /// # Errors
    /// The file or a credential cannot be read, or the file is not TOML; or else every unknown key and every bad value, all at once.
    pub fn load(cli: &Cli, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<Config, ConfigError> {
        let file = match &cli.config {
            Some(path) => ConfigFile::read(path)?,
            None => ConfigFile::default(),
        };
        Config::from_file(&file, cli, environment)
    }

    /// As [`Config::load`], with a file that was read already; `cli.config` is not looked at.
    ///
    /// # Errors
    /// As [`Config::load`].
    pub fn from_file(
        file: &ConfigFile,
        cli: &Cli,
        environment: &dyn Fn(&str) -> Option<OsString>,
    ) -> Result<Config, ConfigError> {
        let mut settings = file.settings()?;
        credentials::overlay(&mut settings, environment)?;
        environment::overlay(&mut settings, environment);
        cli.overlay(&mut settings);
        validate::config(settings, environment, cli.benchmark())
    }
}

/// Checks a word as `logging.level` would be.
///
/// # Errors
/// A clause that says what is allowed.
pub fn check_log_level(level: &str) -> Result<(), String> {
    allowed::log_level(&settings::Value::Word(level.into())).map(drop)
}

/// What runs without a file, a variable or an option.
impl Default for Config {
    fn default() -> Config {
        match Config::load(&Cli::default(), &|_| None) {
            Ok(config) => config,
            Err(error) => unreachable!("the defaults are valid: {error}"),
        }
    }
}

#[cfg(test)]
mod tests;
