//! Any bytes as a configuration file are a configuration or a list of what is wrong with it.
#![no_main]

use std::path::Path;

use handoff_config::cli::Cli;
use handoff_config::{Config, ConfigFile};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Ok(file) = ConfigFile::from_bytes(Path::new("fuzz.toml"), bytes.to_vec()) {
        let _ = Config::from_file(&file, &Cli::default(), &|_| None);
    }
});
