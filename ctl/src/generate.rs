//! `handoffctl completions` and `handoffctl man`: what a packager installs beside the three binaries.
//! In: the binaries' own command lines. Out: shell completions and man pages.
//! Never: writes outside the directory it is told.

use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::Cli;
use crate::outcome::{Exit, Failure};

/// Daemons are described in section 8 of the manual.
const DAEMON_SECTION: &str = "8";

/// Which completions to print.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handoffctl completions bash > ~/.local/share/bash-completion/completions/handoffctl
  handoffctl completions zsh --binary handoffd > /usr/local/share/zsh/site-functions/_handoffd")]
pub(crate) struct CompletionsArgs {
    /// The shell to write for
    shell: Shell,
    /// The binary to complete
    #[arg(long, value_enum, default_value = "handoffctl")]
    binary: Binary,
}

/// Where to write everything.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  handoffctl man target/man && man -l target/man/handoffctl.1")]
pub(crate) struct ManArgs {
    /// The directory; it is made where it does not exist
    #[arg(value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    directory: PathBuf,
}

/// The project's binaries.
#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Binary {
    Handoffd,
    HandoffdWorker,
    Handoffctl,
}

impl Binary {
    const ALL: [Self; 3] = [Self::Handoffd, Self::HandoffdWorker, Self::Handoffctl];

    fn name(self) -> &'static str {
        match self {
            Self::Handoffd => "handoffd",
            Self::HandoffdWorker => "handoffd-worker",
            Self::Handoffctl => "handoffctl",
        }
    }

    fn command(self) -> Command {
        match self {
            Self::Handoffd => handoff_config::cli::command(),
            Self::HandoffdWorker => handoff_config::cli::worker_command(),
            Self::Handoffctl => Cli::command(),
        }
    }

    fn write_man_pages(self, directory: &Path) -> io::Result<()> {
        match self {
            Self::Handoffd | Self::HandoffdWorker => {
                Man::new(self.command()).section(DAEMON_SECTION).generate_to(directory).map(drop)
            }
            Self::Handoffctl => clap_mangen::generate_to(self.command(), directory),
        }
    }
}

/// Prints one binary's completions.
pub(crate) fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    // Into memory first: clap_complete panics where stdout is closed.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut args.binary.command(), args.binary.name(), &mut script);
    io::stdout().lock().write_all(&script).map_err(Failure::Output)?;
    Ok(Exit::Complete)
}

/// Writes all man pages, and completions for the common shells.
pub(crate) fn man(args: &ManArgs) -> Result<Exit, Failure> {
    write_all(&args.directory)
        .map_err(|source| Failure::Files { path: args.directory.clone(), source })
        .map(|()| Exit::Complete)
}

fn write_all(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for binary in Binary::ALL {
        binary.write_man_pages(directory)?;
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            clap_complete::generate_to(shell, &mut binary.command(), binary.name(), directory)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_binary_has_a_man_page_and_completions() {
        let directory = tempfile::tempdir().unwrap();
        write_all(directory.path()).unwrap();
        for file in
            ["handoffd.8", "handoffd-worker.8", "handoffctl.1", "handoffctl-stream.1", "handoffctl-front.1"]
        {
            assert!(directory.path().join(file).exists(), "{file}");
        }
        for name in ["handoffd", "handoffd-worker", "handoffctl"] {
            for file in [format!("{name}.bash"), format!("_{name}"), format!("{name}.fish")] {
                assert!(directory.path().join(&file).exists(), "{file}");
            }
        }
    }
}
