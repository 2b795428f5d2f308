//! The fleet in numbers. In: what happens to leases, workers' snapshots. Out: Prometheus text.
//!
//! Handoffs, refusals and endings are counted from leases. Bytes, events and durations come as cumulative
//! snapshots from the workers; the sums of the dead are kept, so no counter ever goes down.
//!
//! Never: takes a label from a request, or a backend's name from a worker.

mod backends;
mod names;
mod render;
mod summary;

use std::collections::BTreeMap;
use std::time::Duration;

use handoff_config::{Benchmark, Config};
use handoff_shared::ids::{SlotId, WorkerId};
use handoff_shared::message::Outcome;
use handoff_shared::metric::{HANDOFF_FIRST_BOUND, Histogram, Snapshot};
use handoff_shared::sandbox::SandboxState;
use metrics::{Counter, Gauge, counter, gauge};
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};

use crate::fleet::{Cause, LeaseEnding, Refusal};
use crate::listener::Rejection;

pub(crate) use summary::Summary;

/// All numbers.
#[derive(Debug)]
pub(crate) struct Metrics {
    /// None with `--benchmark`: no updates.
    prometheus: Option<PrometheusHandle>,
    frequent: Frequent,
    summary: Summary,
    handoff_duration: Histogram,
    /// The newest snapshot of each living worker.
    living: BTreeMap<WorkerId, Snapshot>,
    /// What the dead had counted, and every backend that was ever configured.
    dead: Snapshot,
}

impl Metrics {
    /// Every metric exists from here on, with value 0; those of backends when they are [`configured`](Self::configured).
    pub(crate) fn start(benchmark: Benchmark) -> Self {
        let prometheus = match benchmark {
            Benchmark::On => None,
            Benchmark::Off => {
                let recorder = PrometheusBuilder::new().build_recorder();
                let handle = recorder.handle();
                // A second recorder in one process: only in tests, where the first one is as good.
                let _ = metrics::set_global_recorder(recorder);
                Some(handle)
            }
        };
        let metrics = Self {
            prometheus,
            frequent: Frequent::new(),
            summary: Summary::default(),
            handoff_duration: Histogram::default(),
            living: BTreeMap::new(),
            dead: Snapshot::default(),
        };
        names::describe_all();
        metrics
    }

    /// Workers may be of this configuration: every counter of its backends exists from here on, with value 0.
    pub(crate) fn configured(&mut self, config: &Config) {
        for backend in &config.backends.all {
            self.dead.counts.backend(&backend.name);
        }
    }

    /// A peer has connected.
    pub(crate) fn connected(&self) {
        self.frequent.connections.increment(1);
    }

    /// A handoff has become a lease, or is refused at once.
    pub(crate) fn received(&mut self, taken_to_receive: Duration) {
        self.frequent.handoffs.increment(1);
        self.handoff_duration.record(HANDOFF_FIRST_BOUND, taken_to_receive.as_secs_f64());
        self.summary.started += 1;
    }

    /// A peer brought no handoff.
    pub(crate) fn rejected(&self, rejection: &Rejection) {
        let (reason, exact) = names::rejection(rejection);
        counter!(names::HANDOFF_ERRORS, "reason" => reason).increment(1);
        counter!(names::REJECTIONS, "reason" => exact).increment(1);
    }

    /// A lease got a constant answer.
    pub(crate) fn refused(&mut self, refusal: Refusal) {
        self.summary.failed += 1;
        counter!(names::ENDINGS, "outcome" => names::refusal(refusal)).increment(1);
        match refusal {
            Refusal::Full | Refusal::NoWorker => counter!(names::CONNECTIONS_REJECTED).increment(1),
            Refusal::ShuttingDown => counter!(names::STREAM_ERRORS, "reason" => "canceled").increment(1),
            Refusal::WorkerCrashed => counter!(names::STREAM_ERRORS, "reason" => "other").increment(1),
        }
    }

    /// A lease has ended.
    pub(crate) fn ended(&mut self, ending: LeaseEnding) {
        match ending {
            LeaseEnding::Released(outcome) => self.frequent.released[outcome as usize].increment(1),
            LeaseEnding::EpitaphLost => {
                counter!(names::ENDINGS, "outcome" => names::ending(ending)).increment(1);
            }
        }
        let reason = match ending {
            LeaseEnding::Released(Outcome::Complete | Outcome::Answered) => {
                self.summary.completed += 1;
                return;
            }
            LeaseEnding::Released(Outcome::Refused) => {
                self.summary.failed += 1;
                counter!(names::HANDOFF_ERRORS, "reason" => "other").increment(1);
                return;
            }
            LeaseEnding::Released(outcome) => names::stream_error(outcome),
            LeaseEnding::EpitaphLost => "other",
        };
        self.summary.failed += 1;
        counter!(names::STREAM_ERRORS, "reason" => reason).increment(1);
    }

    /// A worker is started; every counter of its slot exists from here on.
    pub(crate) fn spawned(&self, slot: SlotId, cause: Cause) {
        for reason in names::RESTART_CAUSES {
            let restarts =
                counter!(names::RESTARTS, "slot" => slot.to_string(), "reason" => names::cause(reason));
            restarts.increment(u64::from(reason == cause));
        }
        for name in names::BY_SLOT {
            counter!(name, "slot" => slot.to_string()).increment(0);
        }
    }

    /// A worker of an earlier supervisor is taken over; every counter of its slot exists from here on.
    pub(crate) fn adopted_worker(&self, slot: SlotId) {
        self.spawned(slot, Cause::Start);
        counter!(names::ADOPTED_WORKERS).increment(1);
    }

    /// So is one of its leases. Without its fd it would get no last event.
    pub(crate) fn adopted_lease(&self, has_fd: bool) {
        counter!(names::ADOPTED_LEASES).increment(1);
        if !has_fd {
            counter!(names::DUPS_DROPPED).increment(1);
        }
    }

    /// A lease that ended between two supervisors: it counts as adopted, and as ended.
    pub(crate) fn ended_between(&self) {
        counter!(names::ADOPTED_LEASES).increment(1);
    }

    /// `done` or `failed`.
    pub(crate) fn upgraded(&self, result: &'static str) {
        counter!(names::UPGRADES, "result" => result).increment(1);
    }

    /// A handoff goes to a further worker, in this slot.
    pub(crate) fn redispatched(&self, slot: SlotId) {
        counter!(names::REDISPATCHES, "slot" => slot.to_string()).increment(1);
    }

    /// A dead worker's stream gets its last event from the worker in this slot.
    pub(crate) fn epitaph(&self, slot: SlotId) {
        counter!(names::EPITAPHS, "slot" => slot.to_string()).increment(1);
    }

    /// A message for this slot's worker has to wait.
    pub(crate) fn channel_full(&self, slot: SlotId) {
        counter!(names::CHANNEL_FULL, "slot" => slot.to_string()).increment(1);
    }

    /// A handoff has killed every worker that tried it.
    pub(crate) fn poisoned(&self) {
        counter!(names::POISON).increment(1);
    }

    pub(crate) fn dup_dropped(&self) {
        counter!(names::DUPS_DROPPED).increment(1);
    }

    pub(crate) fn short_of_fds(&self) {
        counter!(names::ACCEPT_PAUSES).increment(1);
    }

    /// `done`, `refused`, `cannot_start`, …
    pub(crate) fn reloaded(&self, result: &'static str) {
        counter!(names::RELOADS, "result" => result).increment(1);
    }

    /// A worker's newest snapshot takes the place of the one before. A backend that nobody has configured is an
    /// invention of its own, and no series.
    pub(crate) fn snapshot(&mut self, worker: WorkerId, mut snapshot: Snapshot) {
        let known = &self.dead.counts.backends;
        snapshot.counts.backends.retain(|said| known.iter().any(|backend| backend.name == said.name));
        self.living.insert(worker, snapshot);
    }

    /// What confines a living worker, as it said last; none before its first beat.
    pub(crate) fn sandbox(&self, worker: WorkerId) -> Option<SandboxState> {
        self.living.get(&worker).map(|snapshot| snapshot.sandbox)
    }

    /// The worker is dead: what it had counted is kept.
    pub(crate) fn bury(&mut self, worker: WorkerId) {
        if let Some(mut last) = self.living.remove(&worker) {
            last.counts.end();
            add(&mut self.dead, &last);
        }
    }

    /// Live leases, those with a worker, now.
    pub(crate) fn load(&mut self, leases: usize, streams: usize) {
        self.summary.peak = self.summary.peak.max(streams);
        self.frequent.leases.set(small(leases));
        self.frequent.streams.set(small(streams));
        self.frequent.peak.set(small(self.summary.peak));
    }

    /// For `--benchmark`, at shutdown.
    pub(crate) fn summary(&self) -> Summary {
        Summary { bytes_sent: self.total().counts.bytes_sent, ..self.summary }
    }

    fn total(&self) -> Snapshot {
        let mut total = self.dead.clone();
        for snapshot in self.living.values() {
            add(&mut total, snapshot);
        }
        total
    }
}

/// What every handoff changes, found once: to look up a counter costs more than to count.
#[derive(Debug)]
struct Frequent {
    connections: Counter,
    handoffs: Counter,
    /// By [`Outcome`].
    released: [Counter; Outcome::ALL.len()],
    leases: Gauge,
    streams: Gauge,
    peak: Gauge,
}

impl Frequent {
    fn new() -> Self {
        let ending = |outcome| names::ending(LeaseEnding::Released(outcome));
        Self {
            connections: counter!(names::CONNECTIONS),
            handoffs: counter!(names::HANDOFFS),
            released: Outcome::ALL.map(|outcome| counter!(names::ENDINGS, "outcome" => ending(outcome))),
            leases: gauge!(names::ACTIVE_CONNECTIONS),
            streams: gauge!(names::ACTIVE_STREAMS),
            peak: gauge!(names::PEAK_STREAMS),
        }
    }
}

fn add(sum: &mut Snapshot, snapshot: &Snapshot) {
    sum.counts.add(&snapshot.counts);
    sum.log_lines_dropped = sum.log_lines_dropped.saturating_add(snapshot.log_lines_dropped);
    sum.channel_full = sum.channel_full.saturating_add(snapshot.channel_full);
}

/// Exact up to 2³²: more streams than any machine holds.
fn small(number: usize) -> f64 {
    f64::from(u32::try_from(number).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        let mut metrics = Metrics::start(Benchmark::Off);
        metrics.configured(&Config::default());
        metrics
    }

    #[test]
    fn each_outcome_is_counted_as_itself() {
        for (index, outcome) in Outcome::ALL.into_iter().enumerate() {
            assert_eq!(outcome as usize, index, "{outcome:?} has another's counter");
        }
    }

    fn snapshot(backend: &str, requests: u64, connections: u64) -> Snapshot {
        let mut snapshot = Snapshot::default();
        let counts = snapshot.counts.backend(backend);
        (counts.requests, counts.connections, counts.queued) = (requests, connections, 1);
        snapshot
    }

    fn mock(metrics: &Metrics) -> (u64, u64, u64) {
        let counts = metrics.total().counts.backend("mock").clone();
        (counts.requests, counts.connections, counts.queued)
    }

    #[test]
    fn a_dead_workers_connections_are_closed_and_its_questions_stay_counted() {
        let mut metrics = metrics();
        metrics.snapshot(WorkerId(1), snapshot("mock", 5, 3));
        metrics.snapshot(WorkerId(2), snapshot("mock", 2, 4));
        assert_eq!(mock(&metrics), (7, 7, 2));
        metrics.bury(WorkerId(1));
        assert_eq!(mock(&metrics), (7, 4, 1));
    }

    #[test]
    fn a_backend_is_counted_from_its_configuration_on_and_an_invented_one_never() {
        let mut metrics = metrics();
        let named = |metrics: &Metrics, name: &str| {
            metrics.total().counts.backends.iter().any(|backend| backend.name == name)
        };
        assert!(named(&metrics, "mock"), "before anybody has asked it");
        metrics.snapshot(WorkerId(1), snapshot("invented", 1, 1));
        metrics.bury(WorkerId(1));
        assert!(!named(&metrics, "invented"));
        let mut config = Config::default();
        config.backends.all[0].name = "second".to_owned();
        metrics.configured(&config);
        assert!(
            named(&metrics, "mock") && named(&metrics, "second"),
            "a reload adds, and takes nothing away"
        );
    }

    #[test]
    fn each_series_of_each_backend_is_there_with_its_value() {
        let mut metrics = metrics();
        let mut snapshot = snapshot("mock", 5, 3);
        let counts = snapshot.counts.backend("mock");
        counts.failed(handoff_shared::metric::FailureReason::Auth);
        (counts.prompt_tokens, counts.completion_tokens, counts.estimated_tokens) = (11, 12, 13);
        (counts.retries, counts.failovers, counts.cancelled) = (21, 22, 23);
        (counts.connections_opened, counts.cooldowns) = (24, 25);
        metrics.snapshot(WorkerId(1), snapshot);
        let mut text = render::Text(String::new());
        let cooling = BTreeMap::from([("mock", 2)]);
        backends::render(&mut text, &metrics.total().counts.backends, &cooling);
        for line in [
            "daemon_backend_requests_total{backend=\"mock\"} 5",
            "daemon_backend_errors_total{backend=\"mock\"} 0",
            "handoffd_backend_failures_total{backend=\"mock\",reason=\"auth\"} 1",
            "handoffd_backend_failures_total{backend=\"mock\",reason=\"cooldown\"} 0",
            "handoffd_backend_retries_total{backend=\"mock\"} 21",
            "handoffd_backend_failovers_total{backend=\"mock\"} 22",
            "handoffd_backend_cancelled_total{backend=\"mock\"} 23",
            "handoffd_backend_connections_opened_total{backend=\"mock\"} 24",
            "handoffd_backend_cooldowns_total{backend=\"mock\"} 25",
            "handoffd_backend_tokens_total{backend=\"mock\",kind=\"prompt\"} 11",
            "handoffd_backend_tokens_total{backend=\"mock\",kind=\"completion\"} 12",
            "handoffd_backend_tokens_total{backend=\"mock\",kind=\"completion_estimated\"} 13",
            "handoffd_backend_connections{backend=\"mock\"} 3",
            "handoffd_backend_queued{backend=\"mock\"} 1",
            "handoffd_backend_cooling{backend=\"mock\"} 2",
            "handoffd_backend_cooling{backend=\"openai\"} 0",
            "daemon_backend_ttfb_seconds_count{backend=\"mock\"} 0",
        ] {
            assert!(text.0.lines().any(|said| said == line), "{line} is not in {}", text.0);
        }
    }
}
