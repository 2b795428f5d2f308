//! The daemon that is in trouble. In: the clock. Out: the supervisor of now, if it takes handoffs. Starts the next
//! one when one has ended, as systemd would.
//!
//! Never: waits.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use super::Plan;
use super::trouble::Supervisor;
use crate::{Daemon, Options, process};

/// `RestartSec=`.
const RESTART_AFTER: Duration = Duration::from_millis(100);
const STORE_MAX: usize = 512;

/// A daemon, and its service manager where the plan has one.
#[derive(Debug)]
pub(super) struct Site {
    pub(super) daemon: Daemon,
    workers: u16,
    has_manager: bool,
    restart_at: Option<Instant>,
    /// How often READY=1 was said before this supervisor was started.
    said_before: usize,
}

impl Site {
    pub(super) fn start(plan: Plan) -> Self {
        let workers = plan.workers;
        let toml = format!("[workers]\ncount = {workers}\n[logging]\nformat = \"json\"\nlevel = \"info\"\n");
        let store_max = plan.with_supervisor.then_some(STORE_MAX);
        let daemon = Daemon::with(&Options { toml, store_max, ..Options::default() });
        Self { daemon, workers, has_manager: plan.with_supervisor, restart_at: None, said_before: 0 }
    }

    /// Starts the next supervisor where there is none.
    pub(super) fn tend(&mut self, now: Instant) {
        if !self.has_manager {
            return;
        }
        process::reap_orphans();
        if self.daemon.exit_status().is_none() {
            return;
        }
        if *self.restart_at.get_or_insert(now + RESTART_AFTER) <= now {
            self.restart_at = None;
            self.said_before = self.readies();
            self.daemon.start_again();
        }
    }

    /// The one that takes handoffs now.
    pub(super) fn supervisor(&self) -> Option<Supervisor> {
        let is_ready = !self.has_manager || self.readies() > self.said_before;
        let pid = self.daemon.pid();
        (is_ready && self.restart_at.is_none()).then(|| Supervisor { pid, number: self.readies() })
    }

    /// Every worker is there, and every client in the hands of one.
    pub(super) fn is_whole(&self) -> bool {
        let Some((200, metrics)) = self.daemon.get("/metrics") else { return false };
        let value = |name: &str| {
            let sample = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '))?;
            sample.parse::<u16>().ok()
        };
        // The sacrificial worker may be there too.
        value("handoffd_suspects") == Some(0)
            && value("handoffd_leases_queued") == Some(0)
            && value("handoffd_workers{state=\"dying\"}") == Some(0)
            && value("handoffd_workers{state=\"ready\"}").is_some_and(|ready| ready >= self.workers)
    }

    /// A stop for good.
    pub(super) fn stop(&mut self) {
        self.daemon.signal(Signal::SIGTERM);
        if self.has_manager {
            // With an fd store the supervisor leaves at once; its workers end when the store is dropped.
            self.daemon.wait();
            self.daemon.manager().drop_store();
        }
    }

    fn readies(&self) -> usize {
        if self.has_manager { self.daemon.manager().readies() } else { 0 }
    }
}
