//! `handoffd`, the supervisor: takes client sockets from Apache and lends them to workers.
//!
//! Never: parses a payload, reads from a client's fd, speaks to an upstream, knows HTTP beyond its own admin
//! endpoint and two constant answers.

#![forbid(unsafe_code)]

mod admin;
mod alarm;
mod capacity;
mod control;
mod cooldowns;
mod dispatcher;
mod ear;
mod event_loop;
mod fleet;
mod generation;
mod inherit;
mod link;
mod listener;
mod metrics;
mod notify;
mod poison;
mod preflight;
mod privileges;
mod refusal;
mod signals;
mod status;
mod store;
mod succession;

use std::io::Write;
use std::process::ExitCode;
use std::rc::Rc;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Parser;
use handoff_config::cli::Cli;
use handoff_config::{Benchmark, Config};
use handoff_shared::fdpass;
use handoff_shared::log::Log;
use handoff_shared::message::PROTOCOL_VERSION;

use capacity::Capacity;
use control::Control;
use event_loop::{EventLoop, Parts};
use generation::Recipe;
use inherit::Inherited;
use listener::Listener;
use metrics::Metrics;
use notify::Notify;
use signals::Signals;
use store::Store;
use succession::{Invocation, Places};

/// The configuration is at fault (sysexits.h: EX_CONFIG).
const EXIT_CONFIG: u8 = 78;
/// Something outside is at fault: a socket, a port, the kernel.
const EXIT_FAILURE: u8 = 1;

fn main() -> ExitCode {
    let cli = Cli::parse();
    // Whatever our parent left open is not our workers' business.
    if let Err(error) = fdpass::close_on_exec_above_stderr() {
        return fail(EXIT_FAILURE, &format!("close_range: {error}"));
    }
    if cli.check {
        return check(&cli);
    }
    // Until the loop listens. A successor of an earlier image of this process gets what that one did not see.
    signals::block();
    let mut inherited = Inherited::take();
    let places = match set_aside(&cli, &mut inherited) {
        Ok(places) => places,
        Err(error) => return fail(EXIT_FAILURE, &format!("fds for an upgrade cannot be set aside: {error}")),
    };
    let (recipe, disk_error) = match Recipe::load(&cli) {
        Ok(recipe) => (recipe, None),
        Err(error) => match newest_kept(&cli, &inherited) {
            Some(recipe) => (recipe, Some(error)),
            None => return fail(EXIT_CONFIG, &error),
        },
    };
    match run(Start { cli, recipe, disk_error, inherited, places }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(EXIT_FAILURE, &error),
    }
}

/// What a start is made of.
struct Start {
    cli: Cli,
    recipe: Recipe,
    disk_error: Option<String>,
    inherited: Inherited,
    places: Places,
}

/// `--check`: whether this binary could run with this configuration, and what it speaks with workers.
fn check(cli: &Cli) -> ExitCode {
    match Recipe::load(cli) {
        Ok(_) => {
            let version = env!("CARGO_PKG_VERSION");
            let _ = writeln!(
                std::io::stdout(),
                "handoffd {version}, protocol {PROTOCOL_VERSION}: configuration is valid"
            );
            ExitCode::SUCCESS
        }
        Err(error) => fail(EXIT_CONFIG, &error),
    }
}

/// Before anything else of ours is open: the numbers that a successor's fds will have.
fn set_aside(cli: &Cli, inherited: &mut Inherited) -> std::io::Result<Places> {
    let config = Config::load(cli, &|name| std::env::var_os(name)).unwrap_or_default();
    let count = Places::wanted(config.workers.count.get(), capacity::raise_soft_fd_limit());
    inherited.move_above(inherit::FIRST + i32::try_from(count).unwrap_or(0))?;
    Places::set_aside(count)
}

/// What an earlier supervisor ran with: better than nothing.
fn newest_kept(cli: &Cli, inherited: &Inherited) -> Option<Recipe> {
    inherited.generations.values().rev().find_map(|kept| Recipe::kept(cli, kept).ok())
}

/// First what needs privileges, then they are given up, and only then there are threads: the log's and systemd's.
fn run(start: Start) -> Result<(), String> {
    let Start { cli, recipe, disk_error, mut inherited, places } = start;
    // Only that: the recipe's fds belong to the loop.
    let config = Rc::clone(&recipe.config);
    let (fd_limit, fd_limit_before) = capacity::raise_fd_limit(&config);
    fdpass::reserve_fd_table(fd_limit);
    let capacity = Capacity::of(&config, fd_limit);
    let invocation = Invocation::new().map_err(|error| format!("our own path is not known: {error}"))?;
    let opened = Log::open(&config.logging).map_err(|error| error.to_string())?;
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
        let sockets = std::mem::take(&mut inherited.sockets);
        let mut listener = Listener::open(&config.server, capacity.silent_peers_max, sockets)
            .map_err(|error| error.to_string())?;
        // After the listener: a second instance in the same directory is told about its sockets for handoffs first.
        let (control, control_error) = match Control::serve(&config.server, inherited.control.take()) {
            Ok(control) => (control, None),
            // Streams that run matter more.
            Err(error) if !inherited.workers.is_empty() => (None, Some(error)),
            Err(error) => {
                listener.unlink();
                return Err(error.to_string());
            }
        };
        privileges::give_up(&config).inspect_err(|_| {
            listener.unlink();
            control.iter().for_each(Control::unlink);
        })?;
        let log = opened.start().map_err(|error| error.to_string())?;
        if fd_limit != fd_limit_before {
            tracing::info!(fd_limit, before = fd_limit_before, "fd limit raised");
        }
        capacity.log(&config, fd_limit);
        listener.warn(&config.server);
        if let Some(error) = &disk_error {
            tracing::error!(%error, "what is on disk cannot be used; the configuration of the last supervisor is");
        }
        if let Some(error) = control_error {
            tracing::error!(%error, "there is no control socket");
        }
        tracing::info!(
            version = env!("CARGO_PKG_VERSION"),
            sockets = ?listener.paths(),
            workers = config.workers.count.get(),
            max_connections = capacity.leases_max,
            "handoffd starts"
        );
        let metrics = Metrics::start(config.benchmark);
        let notify = Notify::start();
        let is_store_there = cli.fd_store || std::env::var_os("FDSTORE").is_some();
        let store = Store::start(is_store_there && std::env::var_os("NOTIFY_SOCKET").is_some());
        let upgraded_from = std::env::var(succession::UPGRADED_FROM).ok();
        if upgraded_from.is_some() {
            metrics.upgraded("done");
        }
        // All threads are there: what waits comes to this one.
        signals::unblock();
        let on_disk = cli.clone();
        let parts = Parts {
            reload: Box::new(move || Recipe::load(&on_disk)),
            cli,
            disk_error,
            inherited,
            store,
            places,
            invocation,
            upgraded_from,
            fd_limit,
            capacity,
            start_number: start_number(),
            listener,
            signals,
            questions,
            control,
            metrics,
            notify,
            log,
            recipe,
        };
        let event_loop =
            EventLoop::new(parts).map_err(|error| format!("the loop cannot be made: {error}"))?;
        event_loop.run().await;
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
