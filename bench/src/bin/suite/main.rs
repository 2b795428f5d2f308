//! `make bench` and `make soak`: handoffd, the floor and others under the loads of docs/PERFORMANCE.md. In: the environment
//! (`settings.rs`), release binaries. Out: tables here and in the document, reports in target/bench; of a soak, slopes.
//! Never: judges by absolute times where a ratio in the same run will do; leaves a process or a directory behind.

#![forbid(unsafe_code)]

mod bench;
mod cell;
mod document;
mod error;
mod machine;
mod report;
mod running;
mod scenario;
mod settings;
mod soak;
mod statistics;
mod subject;
mod table;
mod tree;
mod verdict;

use std::io::{self, Write};
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::error::Error;
use crate::running::Stop;
use crate::settings::Settings;

/// Measures handoffd.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    what: What,
}

#[derive(Clone, Copy, Debug, Subcommand)]
enum What {
    /// Every scenario, against its targets.
    Bench,
    /// A steady load for minutes: does anything grow?
    Soak,
    /// The scenarios' names.
    List,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // Workers outlive a supervisor that has died: they become our children then, and end with us.
    let _ = rustix::process::set_child_subreaper(Some(rustix::process::getpid()));
    let result = run(arguments.what);
    running::end_orphans();
    match result {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let _ = writeln!(io::stderr(), "suite: {error}");
            ExitCode::from(2)
        }
    }
}

/// Whether all is well. A missed target is a figure, and no failure of `bench`; growth is one of `soak`.
fn run(what: What) -> Result<bool, Error> {
    let settings = Settings::read(|name| std::env::var(name).ok())?;
    match what {
        What::List => {
            for scenario in scenario::ALL {
                say(&format!("{:<12} {}", scenario.name, scenario.title))?;
            }
            Ok(true)
        }
        What::Bench => bench::run(&settings, &Stop::on_signals().map_err(Error::io("signals"))?),
        What::Soak => soak::run(&settings, &Stop::on_signals().map_err(Error::io("signals"))?),
    }
}

/// A line for people.
fn say(line: &str) -> Result<(), Error> {
    let mut out = io::stdout().lock();
    writeln!(out, "{line}").and_then(|()| out.flush()).map_err(Error::io("standard output"))
}
