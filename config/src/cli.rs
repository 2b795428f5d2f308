//! The command lines of the two daemons' binaries. In: arguments. Out: [`Cli`], [`WorkerCli`], and their
//! [`clap::Command`]s for completions and man pages. Never: checks what the configuration checks.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{CommandFactory, Parser};

use crate::settings::{Setting, Settings, Value};
use crate::{Benchmark, allowed};

const SIGNALS: &str = "\
Precedence: default < file < credential < environment < command line.

Signals: SIGTERM, SIGINT drain and stop (a second one stops at once); SIGHUP reads the configuration
again and replaces the workers one by one; SIGUSR1 writes the state of all workers to the log; SIGUSR2
replaces this process by the binary that is now in its place, while all streams go on.

Exit codes: 0 after a clean stop, 1 when a socket or port cannot be had, 2 for a wrong command line,
78 for a wrong configuration.";

/// The command line of `handoffd`.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "handoffd", version, after_help = SIGNALS)]
#[command(about = "Streams LLM answers to clients whose sockets Apache hands over")]
pub struct Cli {
    /// Configuration file (TOML); without it the defaults apply
    #[arg(value_name = "CONFIG")]
    pub config: Option<PathBuf>,

    /// Socket that Apache's module connects to
    #[arg(short, long, value_name = "PATH")]
    pub socket: Option<OsString>,

    /// Where answers come from: mock, openai, or the NAME of a [backends.NAME] in the configuration
    #[arg(short, long, value_name = "NAME")]
    pub backend: Option<OsString>,

    /// Log in detail: level "debug"
    #[arg(short, long)]
    pub debug: bool,

    /// Update no metrics, and print a summary of all streams at the end
    #[arg(long)]
    pub benchmark: bool,

    /// Number of worker processes; 0: one per core, at least two
    #[arg(long, value_name = "N")]
    pub workers: Option<OsString>,

    /// systemd keeps our workers for a successor (the unit has FileDescriptorStoreMax=): SIGTERM leaves them to it
    #[arg(long)]
    pub fd_store: bool,

    /// Check the configuration and exit: 0 if it is valid, 78 if not
    #[arg(long)]
    pub check: bool,
}

/// The command line of `handoffd-worker`: help, version, and a test of its confinement.
#[derive(Clone, Debug, Default, Parser)]
#[command(name = "handoffd-worker", version)]
#[command(about = "A worker of handoffd: writes answers to clients. handoffd starts it, people do not: it \
                   takes its configuration and its clients from the socket that handoffd gives it as stdin")]
pub struct WorkerCli {
    /// Confine this process as a worker would be, try attacks that must fail, and print what became of each:
    /// 0 when all are blocked, 1 when not
    #[arg(long, value_enum, num_args = 0..=1, default_missing_value = "confined", require_equals = true)]
    #[arg(value_name = "HOW", hide_possible_values = true)]
    pub self_test: Option<SelfTest>,

    /// With --self-test: become this user first, a name or a numeric id
    #[arg(long, value_name = "NAME", requires = "group", value_parser = user_id)]
    pub user: Option<u32>,

    /// With --self-test: and this group
    #[arg(long, value_name = "NAME", requires = "user", value_parser = group_id)]
    pub group: Option<u32>,

    /// With --self-test: this attack alone
    #[arg(long, value_name = "ATTACK", hide = true)]
    pub only: Option<String>,

    /// With --self-test: attack the files there; without it, another process is started for that
    #[arg(long, value_name = "DIRECTORY", hide = true)]
    pub playground: Option<PathBuf>,
}

/// How `handoffd-worker --self-test` tests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum SelfTest {
    /// What workers are.
    Confined,
    /// Not confined at all: shows that the attacks are real.
    Unprotected,
}

fn user_id(name: &str) -> Result<u32, String> {
    allowed::user(&Value::Word(name.into()))
}

fn group_id(name: &str) -> Result<u32, String> {
    allowed::group(&Value::Word(name.into()))
}

/// `handoffd`'s command line, for completions and man pages.
pub fn command() -> clap::Command {
    Cli::command()
}

/// `handoffd-worker`'s command line, for man pages.
pub fn worker_command() -> clap::Command {
    WorkerCli::command()
}

impl Cli {
    /// Puts the options over what the file and the environment said.
    pub(crate) fn overlay(&self, settings: &mut Settings<'_>) {
        let debug = self.debug.then(|| OsString::from("debug"));
        for (option, key, word) in [
            ("--socket", "server.socket_path", &self.socket),
            ("--backend", "backend.provider", &self.backend),
            ("--workers", "workers.count", &self.workers),
            ("--debug", "logging.level", &debug),
        ] {
            if let Some(word) = word {
                settings.set(key, Setting::word(option, word.clone()));
            }
        }
    }

    pub(crate) fn benchmark(&self) -> Benchmark {
        if self.benchmark { Benchmark::On } else { Benchmark::Off }
    }
}
