//! `handoffd-worker`: started by the supervisor, with a channel as standard input.

#![forbid(unsafe_code)]

use std::io::Write;
use std::process::ExitCode;

use clap::Parser;
use handoff_config::cli::WorkerCli;
use handoff_shared::channel::WorkerChannel;
use handoff_shared::fdpass;
use handoff_shared::limits::START_TIMEOUT;
use handoff_shared::log::Log;
use handoff_shared::message::{Configure, ToWorker};
use nix::sys::signal::{SigSet, Signal};
use tokio::task::LocalSet;
use tokio::time::timeout;

/// Nobody but a supervisor may start us (sysexits.h: EX_USAGE).
const EXIT_USAGE: u8 = 64;
/// The supervisor broke the protocol, or something inside did not work (EX_SOFTWARE).
const EXIT_SOFTWARE: u8 = 70;
/// The configuration is at fault (EX_CONFIG).
const EXIT_CONFIG: u8 = 78;

/// The life of a worker, from the first message to the last.
fn main() -> ExitCode {
    let _ = WorkerCli::parse();
    let Ok(channel) = fdpass::take_stdin_channel() else {
        return fail(EXIT_USAGE, "handoffd starts its workers itself; standard input is not its channel");
    };
    let _ = nix::sys::prctl::set_name(c"handoffd-worker");
    // A terminal's Ctrl-C must not kill streams. The mask is inherited by every thread.
    let _ = SigSet::from_iter([Signal::SIGINT, Signal::SIGHUP]).thread_block();
    let Ok(runtime) = tokio::runtime::Builder::new_current_thread().enable_all().build() else {
        return fail(EXIT_SOFTWARE, "the runtime cannot be made");
    };
    LocalSet::new().block_on(&runtime, async {
        let Ok(mut channel) = WorkerChannel::new(channel) else {
            return fail(EXIT_SOFTWARE, "the channel cannot be watched");
        };
        let configure = match timeout(START_TIMEOUT, configuration(&mut channel)).await {
            Ok(Ok(configure)) => configure,
            Ok(Err(error)) => return fail(EXIT_SOFTWARE, &format!("no configuration came: {error}")),
            Err(_) => return fail(EXIT_SOFTWARE, "no configuration came in time"),
        };
        let log = match Log::start(&configure.config.logging) {
            Ok(log) => log,
            Err(error) => return fail(EXIT_CONFIG, &error.to_string()),
        };
        match handoff_worker::work(channel, *configure, &log).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                tracing::error!(%error, "worker gives up");
                ExitCode::from(EXIT_SOFTWARE)
            }
        }
    })
}

/// The first message; nothing else may come first.
async fn configuration(channel: &mut WorkerChannel) -> Result<Box<Configure>, String> {
    match std::future::poll_fn(|cx| channel.poll_receive(cx)).await {
        Ok((ToWorker::Configure(configure), _)) => Ok(configure),
        Ok(_) => Err("another message came first".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

fn fail(code: u8, error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "handoffd-worker: {error}");
    ExitCode::from(code)
}
