use std::ffi::OsString;
use std::path::Path;

use clap::Parser;

use super::{error_of, load};
use crate::cli::{self, Cli, WorkerCli};
use crate::{Benchmark, Config};

fn parse(arguments: &[&str]) -> Cli {
    Cli::try_parse_from([&["handoffd"], arguments].concat()).unwrap()
}

#[test]
fn clap_finds_no_fault_with_the_command_lines() {
    cli::command().debug_assert();
    cli::worker_command().debug_assert();
}

#[test]
fn every_option_of_the_example_daemon_is_known() {
    let cli = parse(&["daemon.toml", "-s", "/tmp/a.sock", "-b", "mock", "-d", "--benchmark"]);
    assert_eq!(cli.config.as_deref(), Some(Path::new("daemon.toml")));
    let config = load("", &[], &cli).unwrap();
    assert_eq!(config.server.socket_path, Path::new("/tmp/a.sock"));
    assert_eq!(config.logging.level, "debug");
    assert_eq!(config.benchmark, Benchmark::On);
    assert!(parse(&["--check"]).check);
    assert_eq!(load("", &[], &parse(&["--workers", "3"])).unwrap().workers.count.get(), 3);
}

#[test]
fn the_environment_wins_over_the_file_and_the_command_line_over_both() {
    let text = "[server]\nsocket_path = \"/file\"";
    let variable = ("DAEMON_SOCKET_PATH", "/environment");
    let socket =
        |variables: &[(&str, &str)], cli: &Cli| load(text, variables, cli).unwrap().server.socket_path;
    assert_eq!(socket(&[], &Cli::default()), Path::new("/file"));
    assert_eq!(socket(&[variable], &Cli::default()), Path::new("/environment"));
    assert_eq!(socket(&[variable], &parse(&["--socket", "/option"])), Path::new("/option"));
}

#[test]
fn debug_wins_over_every_other_level() {
    let config = load("logging.level = \"warn\"", &[("RUST_LOG", "error")], &parse(&["--debug"])).unwrap();
    assert_eq!(config.logging.level, "debug");
}

#[test]
fn a_bad_option_is_named_with_its_key() {
    let error = load("", &[], &parse(&["--workers", "2000"])).unwrap_err().to_string();
    assert_eq!(error, "--workers: workers.count = \"2000\": must be a whole number from 0 to 1024");
}

#[test]
fn an_unknown_backend_is_refused_by_every_route() {
    let sentence = "backend.provider = \"gpt\": must be \"mock\" or \"openai\"";
    let option = load("", &[], &parse(&["--backend", "gpt"])).unwrap_err().to_string();
    assert_eq!(option, format!("--backend: {sentence}"));
    let variable = super::from_variable("DAEMON_BACKEND_PROVIDER", "gpt").unwrap_err().to_string();
    assert_eq!(variable, format!("DAEMON_BACKEND_PROVIDER: {sentence}"));
    assert_eq!(error_of("[backend]\nprovider = \"gpt\""), format!("test.toml:2: {sentence}"));
}

#[test]
fn an_option_replaces_a_bad_value_of_the_file() {
    let config = load("backend.provider = \"gpt\"", &[], &parse(&["-b", "mock"]));
    assert_eq!(config.unwrap(), Config::default());
}

#[test]
fn the_file_on_the_command_line_is_read_from_disk() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("daemon.toml");
    std::fs::write(&path, "workers.count = 7").unwrap();
    let cli = Cli { config: Some(path), ..Cli::default() };
    assert_eq!(Config::load(&cli, &|_| None).unwrap().workers.count.get(), 7);
}

#[test]
fn a_socket_path_that_is_not_utf8_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let cli = Cli { socket: Some(OsString::from_vec(vec![b'/', 0xff])), ..Cli::default() };
    let error = load("", &[], &cli).unwrap_err().to_string();
    assert!(error.ends_with("must be a path in UTF-8 of 1 to 107 bytes"), "{error}");
}

#[test]
fn the_worker_takes_no_arguments() {
    assert!(WorkerCli::try_parse_from(["handoffd-worker"]).is_ok());
    assert!(WorkerCli::try_parse_from(["handoffd-worker", "x"]).is_err());
    let help = cli::worker_command().render_help().to_string();
    assert!(help.contains("handoffd starts it, people do not"), "{help}");
}
