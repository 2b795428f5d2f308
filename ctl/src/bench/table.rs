//! A report for people. In: a report. Out: lines. Never: counts anything.

use std::fmt;

use super::histogram::Quantiles;
use super::report::Report;

/// How a report is shown.
#[derive(Debug)]
pub(super) struct Table<'a>(pub(super) &'a Report);

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let report = self.0;
        let failed: u64 = report.failed.values().sum();
        writeln!(
            f,
            "{}: {} handoffs in {:.2} s ({:.0}/s), {} completed, {failed} failed; {} events ({:.0}/s)",
            report.mode,
            report.handoffs,
            report.seconds,
            report.handoffs_per_second,
            report.completed,
            report.events,
            report.events_per_second
        )?;
        report.failed.iter().try_for_each(|(kind, count)| writeln!(f, "  failed: {kind} {count}"))?;
        if report.handoff_retries > 0 {
            writeln!(f, "  handoffs tried again: {}", report.handoff_retries)?;
        }
        writeln!(f, "\n{:<18}{:>12}{:>12}{:>12}{:>12}", "µs", "p50", "p90", "p99", "max")?;
        let rows = [
            ("handoff", Some(report.handoff_us)),
            ("first byte", Some(report.first_byte_us)),
            ("first token", Some(report.first_token_us)),
            ("token gap", Some(report.token_gap_us)),
            ("added latency", report.added_latency_us),
            ("generator's lag", Some(report.generator_lag_us)),
            ("generator's turn", Some(report.generator_turn_us)),
        ];
        rows.iter()
            .filter_map(|(name, row)| Some((name, (*row)?)))
            .try_for_each(|(name, row)| line(f, name, row))?;
        self.daemon(f)
    }
}

impl Table<'_> {
    fn daemon(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let daemon = &self.0.daemon;
        writeln!(
            f,
            "\n{:<24}{:>12}{:>14}{:>14}{:>14}",
            "process", "CPU ms", "µs/handoff", "PSS before", "PSS"
        )?;
        for process in &daemon.by_process {
            let name = format!("{} {}", process.name, process.pid);
            let (handoff, before, after) =
                (number(process.cpu_us_per_handoff), kib(process.pss_bytes_before), kib(process.pss_bytes));
            writeln!(f, "{name:<24}{:>12.1}{handoff:>14}{before:>14}{after:>14}", process.cpu_us / 1000.0)?;
        }
        let (before, after) = (kib(daemon.idle_pss_bytes), kib(daemon.pss_bytes));
        writeln!(f, "{:<36}{:>14}{before:>14}{after:>14}", "all", number(daemon.cpu_us_per_handoff))?;
        writeln!(
            f,
            "\ndaemon: {} µs per event, {} bytes PSS per stream; generator: {} µs per handoff, {} µs per event, {:.0} % busy",
            number(daemon.cpu_us_per_event),
            number(daemon.pss_bytes_per_stream),
            number(self.0.generator_cpu_us_per_handoff),
            number(self.0.generator_cpu_us_per_event),
            self.0.generator_busy * 100.0
        )
    }
}

fn line(f: &mut fmt::Formatter<'_>, name: &str, row: Quantiles) -> fmt::Result {
    writeln!(f, "{name:<18}{:>12.1}{:>12.1}{:>12.1}{:>12.1}", row.p50, row.p90, row.p99, row.max)
}

fn number(value: Option<f64>) -> String {
    value.map_or_else(|| "-".into(), |value| format!("{value:.2}"))
}

fn kib(bytes: Option<u64>) -> String {
    bytes.map_or_else(|| "-".into(), |bytes| format!("{} KiB", bytes / 1024))
}
