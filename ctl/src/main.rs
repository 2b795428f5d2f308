//! handoffctl: plays Apache, stands in for Apache, shows the fleet and gives it orders.
//! In: the command line. Out: text on stdout, sentences on stderr, an exit code ([`outcome::Exit`]).
//! Never: needs a privilege but the daemon's own user's, talks to a worker, prints a backtrace at a person.

#![forbid(unsafe_code)]

mod answer;
mod bench;
mod control;
mod doctor;
mod front;
mod generate;
mod handover;
mod order;
mod outcome;
mod status;
mod stream;
mod streams;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::outcome::{Exit, Failure};

/// Plays Apache for handoffd, shows its workers and streams, gives it orders.
#[derive(Debug, Parser)]
#[command(name = "handoffctl", version, arg_required_else_help = true, after_help = HELP_TAIL)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

const HELP_TAIL: &str = "\
Examples:
  handoffctl stream 'Why is the sky blue?'   one answer, straight to the terminal
  handoffctl front                           a page and a /stream for browsers and curl
  handoffctl status --watch                  the workers, redrawn every second
  handoffctl streams                         what they are doing
  handoffctl reload --wait                   a new generation of workers
  handoffctl doctor                          what is wrong with the site, and what to do

`handoffctl COMMAND --help` tells the exit codes.";

#[derive(Debug, Subcommand)]
enum Command {
    /// Hand one prompt over as Apache does and print the answer as it comes
    Stream(Box<stream::Args>),
    /// Show the workers and what they hold
    Status(status::Args),
    /// Show every stream: id, slot, phase, age, bytes, user
    Streams(streams::Args),
    /// Check the configuration and roll to a new generation of workers, as SIGHUP does
    Reload(order::ReloadArgs),
    /// Replace the supervisor by its new executable, keeping all streams
    Upgrade(order::UpgradeArgs),
    /// Replace the worker in a slot: a successor starts, then the worker drains
    Drain(order::DrainArgs),
    /// End one stream; its client is told so
    Kill(order::KillArgs),
    /// Change the log level of handoffd and all workers, until the next roll or restart
    Log(order::LogArgs),
    /// Stand in for Apache: a small HTTP server whose /stream is handed over
    Front(front::Args),
    /// Check the site: socket, Apache, limits, daemon; and say what to change
    Doctor(doctor::Args),
    /// Measure: hand over many streams, check each, and say what the daemon needs for it
    Bench(Box<bench::Args>),
    /// Print the shell completions of one of the three binaries
    Completions(generate::CompletionsArgs),
    /// Write the man pages and shell completions of the three binaries into a directory
    Man(generate::ManArgs),
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            if let Some(sentence) = failure.sentence() {
                eprintln!("handoffctl: {sentence}");
            }
            failure.exit().into()
        }
    }
}

fn run(command: Command) -> Result<Exit, Failure> {
    match command {
        Command::Stream(args) => stream::run(&args),
        Command::Status(args) => status::run(&args),
        Command::Streams(args) => streams::run(&args),
        Command::Reload(args) => order::reload(&args),
        Command::Upgrade(args) => order::upgrade(&args),
        Command::Drain(args) => order::drain(&args),
        Command::Kill(args) => order::kill(&args),
        Command::Log(args) => order::log(&args),
        Command::Front(args) => front::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Completions(args) => generate::completions(&args),
        Command::Man(args) => generate::man(&args),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_subcommand_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let tail = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(tail.contains("Examples:\n  handoffctl "), "{} has no example", command.get_name());
        }
    }
}
