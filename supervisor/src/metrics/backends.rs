//! What backends did, as Prometheus text: counters and gauges by backend, and their histograms.

use std::collections::BTreeMap;

use handoff_shared::metric::{
    BackendCounts, DURATION_FIRST_BOUND, FIRST_BYTE_FIRST_BOUND, FailureReason, Histogram,
};
use metrics_exporter_prometheus::LabelSet;

use super::render::{Text, labels};

/// Name, meaning, and where it is counted.
type Plain = (&'static str, &'static str, fn(&BackendCounts) -> u64);

const COUNTERS: [Plain; 7] = [
    ("daemon_backend_requests_total", "questions to a backend", |of| of.requests),
    ("daemon_backend_errors_total", "questions that a backend did not answer well", |of| of.errors),
    ("handoffd_backend_retries_total", "further attempts at the same answer", |of| of.retries),
    ("handoffd_backend_failovers_total", "answers given up for another backend", |of| of.failovers),
    ("handoffd_backend_cancelled_total", "answers cancelled because their client left", |of| of.cancelled),
    ("handoffd_backend_connections_opened_total", "connections opened", |of| of.connections_opened),
    ("handoffd_backend_cooldowns_total", "times a worker left it alone for a while", |of| of.cooldowns),
];

const GAUGES: [Plain; 2] = [
    ("handoffd_backend_connections", "connections open now", |of| of.connections),
    ("handoffd_backend_queued", "questions that wait for a place on a connection", |of| of.queued),
];

/// A value of the label `kind`, and where it is counted.
type Tokens = (&'static str, fn(&BackendCounts) -> u64);

/// Estimated: where the backend did not come to say it.
const TOKENS: [Tokens; 3] = [
    ("prompt", |of| of.prompt_tokens),
    ("completion", |of| of.completion_tokens),
    ("completion_estimated", |of| of.estimated_tokens),
];

/// Name, meaning, first bound, and where it is counted.
type Durations = (&'static str, &'static str, f64, fn(&BackendCounts) -> &Histogram);

const HISTOGRAMS: [Durations; 2] = [
    (
        "daemon_backend_duration_seconds",
        "from a question to the end of the answer",
        DURATION_FIRST_BOUND,
        |of| &of.duration,
    ),
    ("daemon_backend_ttfb_seconds", "from a question to the first event", FIRST_BYTE_FIRST_BOUND, |of| {
        &of.first_byte
    }),
];

/// Every series of every backend. `cooling`: how many cooldowns of it last now; who is not in it has none.
pub(super) fn render(text: &mut Text, backends: &[BackendCounts], cooling: &BTreeMap<&str, usize>) {
    let counters = COUNTERS.map(|plain| ("counter", plain));
    let gauges = GAUGES.map(|plain| ("gauge", plain));
    for (kind, (name, meaning, value)) in counters.into_iter().chain(gauges) {
        text.head(name, kind, meaning);
        for backend in backends {
            text.line(name, &by_backend(backend), value(backend));
        }
    }
    text.head("handoffd_backend_cooling", "gauge", "accounts and models that are left alone now");
    for backend in backends {
        let count = cooling.get(backend.name.as_str()).copied().unwrap_or(0);
        text.line("handoffd_backend_cooling", &by_backend(backend), count);
    }
    text.head("handoffd_backend_failures_total", "counter", "attempts that failed, by reason");
    for backend in backends {
        for (reason, count) in FailureReason::ALL.into_iter().zip(backend.failures) {
            let labels = with(backend, "reason", reason.as_str());
            text.line("handoffd_backend_failures_total", &labels, count);
        }
    }
    text.head("handoffd_backend_tokens_total", "counter", "tokens read and written, by kind");
    for backend in backends {
        for (kind, count) in TOKENS {
            text.line("handoffd_backend_tokens_total", &with(backend, "kind", kind), count(backend));
        }
    }
    for (name, meaning, first_bound, histogram) in HISTOGRAMS {
        text.head(name, "histogram", meaning);
        for backend in backends {
            text.histogram(name, &by_backend(backend), first_bound, histogram(backend));
        }
    }
}

fn by_backend(backend: &BackendCounts) -> LabelSet {
    labels(&[("backend", backend.name.clone())])
}

fn with(backend: &BackendCounts, label: &'static str, value: &str) -> LabelSet {
    labels(&[("backend", backend.name.clone()), (label, value.to_owned())])
}
