//! `handoffd`, the supervisor: takes client sockets from Apache and lends them to workers.
//!
//! Never: parses a payload, reads from a client's fd, speaks to an upstream, knows HTTP beyond its own admin
//! endpoint and two constant answers.

#![forbid(unsafe_code)]

mod admin;
mod capacity;
mod dispatcher;
mod event_loop;
mod fleet;
mod generation;
mod link;
mod listener;
mod metrics;
mod notify;
mod refusal;
mod signals;
mod status;

use std::io::Write;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use handoff_config::cli::Cli;
use handoff_config::{Benchmark, Config};
use handoff_shared::log::{self, Log};

use capacity::Capacity;
use event_loop::{EventLoop, Parts};
use generation::Recipe;
use listener::Listener;
use metrics::Metrics;
use notify::Notify;
use signals::Signals;

/// The configuration is at fault (sysexits.h: EX_CONFIG).
const EXIT_CONFIG: u8 = 78;
/// Something outside is at fault: a socket, a port, the kernel.
const EXIT_FAILURE: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let recipe = match load(&cli) {
        Ok(recipe) => recipe,
        Err(error) => return fail(EXIT_CONFIG, &error),
    };
    if cli.check {
        let _ = writeln!(std::io::stdout(), "configuration is valid");
        return ExitCode::SUCCESS;
    }
    let log = match Log::start(&recipe.config.logging) {
        Ok(log) => log,
        Err(error) => return fail(EXIT_CONFIG, &error.to_string()),
    };
    match run(cli, recipe, log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

/// A configuration and a worker binary that can be used, or why not.
fn load(cli: &Cli) -> Result<Recipe, String> {
    let config = Config::load(cli, &|name| std::env::var_os(name)).map_err(|error| error.to_string())?;
    log::filter(&config.logging.level).map_err(|error| error.to_string())?;
    Recipe::new(config).map_err(|error| error.to_string())
}

fn run(cli: Cli, recipe: Recipe, log: Log) -> Result<(), String> {
    let config = &recipe.config;
    let fd_limit = capacity::raise_fd_limit(config);
    let capacity = Capacity::of(config, fd_limit);
    capacity.log(config, fd_limit);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|error| format!("the runtime cannot be made: {error}"))?;
    runtime.block_on(async {
        let signals = Signals::listen().map_err(|error| format!("signals cannot be handled: {error}"))?;
        let questions = match config.metrics.listen_addr {
            Some(address) if config.benchmark == Benchmark::Off => Some(
                admin::serve(address)
                    .await
                    .map_err(|error| format!("metrics.listen_addr: {address}: {error}"))?,
            ),
            _ => None,
        };
        let listener =
            Listener::bind(&config.server, capacity.silent_peers_max).map_err(|error| error.to_string())?;
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            socket = %config.server.socket_path.display(),
            workers = config.workers.count.get(),
            max_connections = capacity.leases_max,
            "handoffd starts"
        );
        let metrics = Metrics::start(config.benchmark, &["mock"]);
        let parts = Parts {
            reload: Box::new(move || load(&cli)),
            fd_limit,
            capacity,
            start_number: start_number(),
            listener,
            signals,
            questions,
            metrics,
            notify: Notify::start(),
            log,
            recipe: recipe.clone(),
        };
        EventLoop::new(parts).run().await;
        Ok(())
    })
}

/// Tells the leases of this supervisor from those of the ones before.
fn start_number() -> u32 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    // Milliseconds, cut: comes back after 49 days, when no worker of then is left.
    u32::try_from(now.as_millis() & u128::from(u32::MAX)).unwrap_or(0)
}

fn fail(code: u8, error: &str) -> ExitCode {
    let _ = writeln!(std::io::stderr(), "handoffd: {error}");
    ExitCode::from(code)
}
