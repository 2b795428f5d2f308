//! `handoffd-worker`: started by the supervisor, with a channel as standard input.

#![forbid(unsafe_code)]

use std::io::Write;
use std::os::fd::{AsFd, OwnedFd};
use std::process::ExitCode;

use clap::Parser;
use handoff_config::cli::{SelfTest, WorkerCli};
use handoff_config::{Config, Identity, SandboxMode};
use handoff_shared::channel::{WorkerChannel, first_message};
use handoff_shared::fdpass;
use handoff_shared::limits::START_TIMEOUT;
use handoff_shared::log::Log;
use handoff_shared::message::{Configure, ToWorker};
use handoff_worker::sandbox::playground::Playground;
use handoff_worker::sandbox::{self, Confined, self_test};
use nix::sys::signal::{SigSet, Signal};
use tokio::task::LocalSet;

/// Nobody but a supervisor may start us (sysexits.h: EX_USAGE).
const EXIT_USAGE: u8 = 64;
/// The supervisor broke the protocol, or something inside did not work (EX_SOFTWARE).
const EXIT_SOFTWARE: u8 = 70;
/// The configuration is at fault, or this host does not have what it asks for (EX_CONFIG).
const EXIT_CONFIG: u8 = 78;

/// The life of a worker, from the first message to the last. One thread and nothing open but the channel and
/// standard output and error, until the process is confined; the rest comes after.
fn main() -> ExitCode {
    let cli = WorkerCli::parse();
    if let Some(how) = cli.self_test {
        return test_sandbox(how, &cli);
    }
    fdpass::give_large_memory_back();
    end_with_a_panic();
    let Ok(channel) = fdpass::take_stdin_channel() else {
        return fail(EXIT_USAGE, "handoffd starts its workers itself; standard input is not its channel");
    };
    if let Err(error) = sandbox::check_fd_table() {
        return fail(EXIT_SOFTWARE, &error.to_string());
    }
    let _ = nix::sys::prctl::set_name(c"handoffd-worker");
    // A terminal's Ctrl-C must not kill streams. The mask is inherited by every thread.
    let _ = SigSet::from_iter([Signal::SIGINT, Signal::SIGHUP]).thread_block();
    let configure = match first_message(channel.as_fd(), START_TIMEOUT) {
        Ok(ToWorker::Configure(configure)) => configure,
        Ok(_) => return fail(EXIT_SOFTWARE, "no configuration came: another message came first"),
        Err(error) => return fail(EXIT_SOFTWARE, &format!("no configuration came: {error}")),
    };
    let opened = match Log::open(&configure.config.logging) {
        Ok(opened) => opened,
        Err(error) => return fail(EXIT_CONFIG, &error.to_string()),
    };
    let confined = match sandbox::enter(&configure.config) {
        Ok(confined) => confined,
        Err(error) => return fail(EXIT_CONFIG, &format!("slot {}: {error}", configure.slot)),
    };
    let log = match opened.start() {
        Ok(log) => log,
        Err(error) => return fail(EXIT_SOFTWARE, &error.to_string()),
    };
    confined.log(configure.slot);
    work(channel, *configure, &log, confined)
}

fn work(channel: OwnedFd, configure: Configure, log: &Log, confined: Confined) -> ExitCode {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return fail(EXIT_SOFTWARE, &format!("the runtime cannot be made: {error}")),
    };
    let code = LocalSet::new().block_on(&runtime, async {
        let channel = match WorkerChannel::new(channel) {
            Ok(channel) => channel,
            Err(error) => return fail(EXIT_SOFTWARE, &format!("the channel cannot be watched: {error}")),
        };
        match handoff_worker::work(channel, configure, log, confined).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "worker gives up");
                ExitCode::from(EXIT_SOFTWARE)
            }
        }
    });
    // A thread that waits for a name server cannot be stopped, and keeps nobody alive.
    runtime.shutdown_background();
    code
}

/// Whatever the build: a worker without its sessions, or with half of them, would look alive.
fn end_with_a_panic() {
    let say = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        say(panic);
        std::process::abort();
    }));
}

/// `--self-test`.
fn test_sandbox(how: SelfTest, cli: &WorkerCli) -> ExitCode {
    let mut config = Config::default();
    config.workers.run_as = cli.user.zip(cli.group).map(|(uid, gid)| Identity { uid, gid });
    config.workers.sandbox = SandboxMode::BestEffort;
    let Some(playground) = cli.playground.as_deref() else { return test_apart() };
    let what = (cli.only.as_deref(), playground);
    match self_test::run(how, &mut config, what, &mut std::io::stdout()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => fail(EXIT_CONFIG, &error.to_string()),
    }
}

/// In another process, which may do harm in a place of its own.
fn test_apart() -> ExitCode {
    let ended = Playground::make().and_then(|place| place.attack(std::env::args_os().skip(1)));
    match ended {
        Ok(status) => {
            ExitCode::from(status.code().and_then(|code| code.try_into().ok()).unwrap_or(EXIT_SOFTWARE))
        }
        Err(error) => fail(EXIT_SOFTWARE, &format!("the self-test cannot begin: {error}")),
    }
}

fn fail(code: u8, error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "handoffd-worker: {error}");
    ExitCode::from(code)
}
