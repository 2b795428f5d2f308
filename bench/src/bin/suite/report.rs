//! What `handoffctl bench` reports. In: its JSON. Out: figures by name, in the units of the tables.
//! Never: fails on a figure that is missing; it is then simply not measured.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One run of `handoffctl bench`.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Report {
    /// Streams that came to their `[DONE]`.
    pub(crate) completed: u64,
    /// All others, by what happened to them.
    pub(crate) failed: BTreeMap<String, u64>,
    /// Tokens that clients have received.
    pub(crate) events: u64,
    pub(crate) handoffs_per_second: Option<f64>,
    pub(crate) events_per_second: Option<f64>,
    /// In microseconds, as all of these: Apache's part, from its connect to the end of its close.
    pub(crate) handoff_us: Option<Quantiles>,
    /// From the handoff to the first byte of the answer.
    pub(crate) first_byte_us: Option<Quantiles>,
    pub(crate) first_token_us: Option<Quantiles>,
    pub(crate) token_gap_us: Option<Quantiles>,
    /// From the upstream's write of a token until the client has it.
    pub(crate) added_latency_us: Option<Quantiles>,
    /// How late the generator itself was.
    pub(crate) generator_lag_us: Option<Quantiles>,
    pub(crate) daemon: Option<Tree>,
}

/// How a quantity is distributed.
#[derive(Clone, Copy, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Quantiles {
    pub(crate) p50: f64,
    pub(crate) p90: f64,
    pub(crate) p99: f64,
    pub(crate) max: f64,
}

/// What the daemon's whole process tree has used.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Tree {
    pub(crate) processes: u64,
    pub(crate) cpu_us_per_handoff: Option<f64>,
    pub(crate) cpu_us_per_event: Option<f64>,
    pub(crate) idle_pss_bytes: Option<f64>,
    pub(crate) pss_bytes: Option<f64>,
    pub(crate) pss_bytes_per_stream: Option<f64>,
    pub(crate) rss_bytes_per_stream: Option<f64>,
    pub(crate) by_process: Vec<Process>,
}

/// One process of it.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
#[serde(default)]
pub(crate) struct Process {
    pub(crate) pid: u32,
    pub(crate) name: String,
    pub(crate) cpu_us_per_handoff: Option<f64>,
}

/// A figure of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// µs, the whole tree.
    CpuPerHandoff,
    /// µs, the supervisor alone.
    SupervisorPerHandoff,
    /// µs, the whole tree, while all streams are open.
    CpuPerEvent,
    HandoffsPerSecond,
    /// ms.
    FirstByteP50,
    /// ms.
    FirstByteP99,
    /// ms.
    FirstTokenP99,
    /// ms.
    GapP99,
    /// ms.
    GapMax,
    /// ms.
    AddedP99,
    /// ms.
    LagP99,
    /// KB (1,000 bytes) above what the tree had before the first stream.
    PssPerStream,
    /// MB, all of it.
    Pss,
    /// MB, before the first stream.
    IdlePss,
    /// Streams.
    Failed,
    /// Streams that failed otherwise than by an error event: such one is an answer, of those who lost their worker.
    FailedSilently,
}

/// What `handoffctl bench` calls a stream that ended with an error event.
pub(crate) const ERROR_EVENT: &str = "error_event";
/// What a supervisor calls itself (proc_pid_comm(5)).
const SUPERVISOR: &str = "handoffd";

impl Report {
    /// # Errors
    /// What is wrong with the JSON.
    pub(crate) fn parse(text: &str) -> Result<Self, serde_json::Error> {
        serde_json::from_str(text)
    }

    /// A figure, in the unit of its [`Metric`]. None where it was not measured.
    pub(crate) fn get(&self, metric: Metric) -> Option<f64> {
        let tree = self.daemon.as_ref();
        let milliseconds =
            |quantiles: Option<Quantiles>, of: fn(Quantiles) -> f64| quantiles.map(|all| of(all) / 1e3);
        match metric {
            Metric::CpuPerHandoff => tree?.cpu_us_per_handoff,
            Metric::SupervisorPerHandoff => {
                let is_supervisor = |process: &&Process| process.name == SUPERVISOR;
                tree?.by_process.iter().find(is_supervisor)?.cpu_us_per_handoff
            }
            Metric::CpuPerEvent => tree?.cpu_us_per_event,
            Metric::HandoffsPerSecond => self.handoffs_per_second,
            Metric::FirstByteP50 => milliseconds(self.first_byte_us, |all| all.p50),
            Metric::FirstByteP99 => milliseconds(self.first_byte_us, |all| all.p99),
            Metric::FirstTokenP99 => milliseconds(self.first_token_us, |all| all.p99),
            Metric::GapP99 => milliseconds(self.token_gap_us, |all| all.p99),
            Metric::GapMax => milliseconds(self.token_gap_us, |all| all.max),
            Metric::AddedP99 => milliseconds(self.added_latency_us, |all| all.p99),
            Metric::LagP99 => milliseconds(self.generator_lag_us, |all| all.p99),
            Metric::PssPerStream => tree?.pss_bytes_per_stream.map(|bytes| bytes / 1e3),
            Metric::Pss => tree?.pss_bytes.map(|bytes| bytes / 1e6),
            Metric::IdlePss => tree?.idle_pss_bytes.map(|bytes| bytes / 1e6),
            Metric::Failed => Some(streams(self.failed.values())),
            Metric::FailedSilently => {
                let others = self.failed.iter().filter(|(kind, _)| *kind != ERROR_EVENT);
                Some(streams(others.map(|(_, count)| count)))
            }
        }
    }
}

fn streams<'a>(counts: impl Iterator<Item = &'a u64>) -> f64 {
    f64::from(u32::try_from(counts.sum::<u64>()).unwrap_or(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    const HELD: &str = r#"{"version":1,"mode":"held","socket_type":"seqpacket","clients":"tcp","processes":1,
        "seconds":17.2,"handoffs":10000,"completed":9998,"failed":{"error_event":2,"reset":1},"events":120000,
        "handoffs_per_second":2000.5,"events_per_second":9990.0,
        "handoff_us":{"p50":20,"p90":30,"p99":40.5,"max":900},"first_byte_us":{"p50":150,"p90":200,"p99":400,"max":5000},
        "first_token_us":{"p50":150,"p90":200,"p99":400,"max":5000},
        "token_gap_us":{"p50":1000000,"p90":1001000,"p99":1004000,"max":1020000},"added_latency_us":null,
        "generator_lag_us":{"p50":5,"p90":10,"p99":100,"max":2000},
        "daemon":{"processes":3,"cpu_us_per_handoff":48.5,"cpu_us_per_event":8.1,"idle_pss_bytes":1700000,
          "pss_bytes":9200000,"pss_bytes_per_stream":750.0,"rss_bytes_per_stream":800.0,
          "by_process":[{"pid":3,"name":"handoffd-worker","cpu_us":1,"cpu_us_per_handoff":20.0,"pss_bytes_before":1,"pss_bytes":2},
            {"pid":2,"name":"handoffd","cpu_us":1,"cpu_us_per_handoff":21.5,"pss_bytes_before":1,"pss_bytes":2}]}}"#;

    #[test]
    fn every_figure_is_found_in_its_unit() {
        let report = Report::parse(HELD).unwrap();
        let expected = [
            (Metric::CpuPerHandoff, 48.5),
            (Metric::SupervisorPerHandoff, 21.5),
            (Metric::CpuPerEvent, 8.1),
            (Metric::HandoffsPerSecond, 2000.5),
            (Metric::FirstByteP99, 0.4),
            (Metric::GapMax, 1020.0),
            (Metric::PssPerStream, 0.75),
            (Metric::Pss, 9.2),
            (Metric::IdlePss, 1.7),
            (Metric::Failed, 3.0),
            (Metric::FailedSilently, 1.0),
        ];
        for (metric, value) in expected {
            assert_eq!(report.get(metric), Some(value), "{metric:?}");
        }
        assert_eq!(report.get(Metric::AddedP99), None, "null is not measured");
    }

    #[test]
    fn what_a_report_lacks_is_not_measured_and_no_error() {
        let report = Report::parse(r#"{"completed":1,"daemon":null}"#).unwrap();
        assert_eq!(report.get(Metric::CpuPerEvent), None);
        assert_eq!(report.get(Metric::FirstByteP50), None);
        assert_eq!(report.get(Metric::Failed), Some(0.0));
    }
}
