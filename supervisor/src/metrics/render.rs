//! Prometheus text: the exporter's own output, and behind it what is not the exporter's: the workers'
//! counters and histograms with their exact buckets, and gauges whose labels come and go.

use std::collections::BTreeMap;

use handoff_shared::metric::{DURATION_FIRST_BOUND, HANDOFF_FIRST_BOUND, Histogram, Snapshot, bounds};
use metrics::{Key, Label};
use metrics_exporter_prometheus::LabelSet;
use metrics_exporter_prometheus::formatting::{write_help_line, write_metric_line, write_type_line};

use super::{Metrics, backends, names};
use crate::fleet::{Report, WorkerReport};

impl Metrics {
    /// Everything, as `/metrics` serves it.
    pub(crate) fn render(
        &self,
        report: &Report,
        cooling: &BTreeMap<&str, usize>,
        lines_dropped: u64,
        is_config_refused: bool,
    ) -> String {
        let Some(prometheus) = &self.prometheus else {
            return "# --benchmark: metrics are off\n".to_owned();
        };
        let mut text = Text(prometheus.render());
        let total = self.total();
        self.render_workers_counts(&mut text, &total, lines_dropped);
        backends::render(&mut text, &total.counts.backends, cooling);
        render_fleet(&mut text, report);
        let help = "1: the configuration on disk is invalid, and what runs is a kept one";
        text.single("handoffd_config_error", "gauge", help, u64::from(is_config_refused));
        self.render_sandboxes(&mut text, report);
        text.0
    }

    /// One sample a worker; its label says how much it is confined.
    fn render_sandboxes(&self, text: &mut Text, report: &Report) {
        text.head(
            "handoffd_worker_sandbox",
            "gauge",
            "always 1; how far a worker is confined is in the label",
        );
        for worker in &report.workers {
            if let Some(sandbox) = worker.worker.and_then(|id| self.sandbox(id)) {
                let state = sandbox.level.as_str().to_owned();
                let [slot, generation] = [worker.slot.to_string(), worker.generation.to_string()];
                let labels = labels(&[("slot", slot), ("generation", generation), ("state", state)]);
                text.line("handoffd_worker_sandbox", &labels, 1);
            }
        }
    }

    fn render_workers_counts(&self, text: &mut Text, total: &Snapshot, lines_dropped: u64) {
        let counts = &total.counts;
        text.single("daemon_bytes_sent_total", "counter", "bytes written to clients", counts.bytes_sent);
        text.single("daemon_chunks_sent_total", "counter", "events written to clients", counts.events_sent);
        let dropped = total.log_lines_dropped.saturating_add(lines_dropped);
        text.single(
            "handoffd_log_lines_dropped_total",
            "counter",
            "log lines that found the writer busy",
            dropped,
        );
        let full = total.channel_full;
        text.single(
            "handoffd_worker_channel_full_total",
            "counter",
            "times a worker had to wait to report",
            full,
        );
        let plain = labels(&[]);
        text.head("daemon_handoff_duration_seconds", "histogram", "from a connection to its handoff");
        text.histogram(
            "daemon_handoff_duration_seconds",
            &plain,
            HANDOFF_FIRST_BOUND,
            &self.handoff_duration,
        );
        text.head(
            "daemon_stream_duration_seconds",
            "histogram",
            "from a handoff's receipt to the end of its stream",
        );
        text.histogram(
            "daemon_stream_duration_seconds",
            &plain,
            DURATION_FIRST_BOUND,
            &counts.stream_duration,
        );
    }
}

fn render_fleet(text: &mut Text, report: &Report) {
    text.head("handoffd_build_info", "gauge", "always 1; the version is in the label");
    text.line("handoffd_build_info", &labels(&[("version", env!("CARGO_PKG_VERSION").to_owned())]), 1);
    text.single(
        "handoffd_generation",
        "gauge",
        "what new workers are of",
        u64::from(report.outline.generation.0),
    );
    text.single("handoffd_max_connections", "gauge", "live leases at most", u64::from(report.leases_max));
    text.single(
        "handoffd_leases_queued",
        "gauge",
        "leases that wait for a worker",
        report.leases_queued as u64,
    );
    text.single(
        "handoffd_suspects",
        "gauge",
        "leases that wait for the sacrificial worker",
        report.suspects as u64,
    );
    text.head("handoffd_workers", "gauge", "workers by state");
    for state in names::WORKER_STATES {
        let count = report.workers.iter().filter(|worker| worker.state == state).count();
        text.line("handoffd_workers", &labels(&[("state", state.to_owned())]), count);
    }
    let gauges: [Gauge; 3] = [
        ("handoffd_leases", "live leases of a worker", |worker| Some(f64::from(worker.leases))),
        ("handoffd_worker_rss_bytes", "resident memory as of the last beat", |worker| {
            Some(rounded(worker.rss_bytes))
        }),
        ("handoffd_worker_beat_age_seconds", "time since the last beat", |worker| {
            worker.beat_age.map(|age| age.as_secs_f64())
        }),
    ];
    for (name, help, value) in gauges {
        text.head(name, "gauge", help);
        for worker in report.workers.iter().filter(|worker| worker.worker.is_some()) {
            if let Some(value) = value(worker) {
                text.line(name, &by_worker(worker), value);
            }
        }
    }
}

type Gauge = (&'static str, &'static str, fn(&WorkerReport) -> Option<f64>);

pub(super) struct Text(pub(super) String);

impl Text {
    pub(super) fn head(&mut self, name: &str, kind: &str, help: &str) {
        write_help_line(&mut self.0, name, None, None, help);
        write_type_line(&mut self.0, name, None, None, kind);
    }

    pub(super) fn line(&mut self, name: &str, labels: &LabelSet, value: impl std::fmt::Display) {
        write_metric_line::<&str, _>(&mut self.0, name, None, labels, None, value, None);
    }

    fn single(&mut self, name: &str, kind: &str, help: &str, value: u64) {
        self.head(name, kind, help);
        self.line(name, &labels(&[]), value);
    }

    pub(super) fn histogram(
        &mut self,
        name: &str,
        labels: &LabelSet,
        first_bound: f64,
        histogram: &Histogram,
    ) {
        let mut count = 0;
        for (bound, bucket) in bounds(first_bound).zip(histogram.buckets) {
            count = bucket.saturating_add(count);
            write_metric_line(&mut self.0, name, Some("bucket"), labels, Some(("le", bound)), count, None);
        }
        let all = histogram.count();
        write_metric_line(&mut self.0, name, Some("bucket"), labels, Some(("le", "+Inf")), all, None);
        write_metric_line::<&str, _>(&mut self.0, name, Some("sum"), labels, None, histogram.sum(), None);
        write_metric_line::<&str, _>(&mut self.0, name, Some("count"), labels, None, all, None);
    }
}

pub(super) fn labels(pairs: &[(&'static str, String)]) -> LabelSet {
    let labels: Vec<Label> = pairs.iter().map(|(name, value)| Label::new(*name, value.clone())).collect();
    LabelSet::from_key_and_global(&Key::from_parts("", labels), &Default::default())
}

fn by_worker(worker: &WorkerReport) -> LabelSet {
    labels(&[("slot", worker.slot.to_string()), ("generation", worker.generation.to_string())])
}

#[expect(clippy::cast_precision_loss, reason = "a gauge of bytes; exact up to 8 PiB")]
fn rounded(bytes: u64) -> f64 {
    bytes as f64
}
