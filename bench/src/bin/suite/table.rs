//! Tables, as Markdown that people can read in a terminal too. In: judged rows, reports. Out: text.
//! Never: judges.

use std::fmt::Write as _;

use crate::report::Metric;
use crate::scenario::{Bound, Load};
use crate::statistics::median;
use crate::verdict::{Judged, Reports, values};

/// What is measured against what, of one scenario.
pub(crate) fn targets(rows: &[Judged]) -> String {
    let head = ["what", "target", "measured", "rounds", ""].map(str::to_owned).to_vec();
    let body = rows.iter().map(|row| {
        let rounds = row.spread.filter(|(least, most)| least < most);
        vec![
            row.what.to_owned(),
            match row.bound {
                Bound::AtMost(0.0) => "0".to_owned(),
                Bound::AtMost(limit) => with_unit(&format!("≤ {limit}"), row.unit),
                Bound::AtLeast(limit) => with_unit(&format!("≥ {limit}"), row.unit),
                Bound::None => String::new(),
            },
            row.measured
                .map_or_else(|| "not measured".to_owned(), |value| with_unit(&number(value), row.unit)),
            rounds.map_or_else(String::new, |(least, most)| format!("{} – {}", number(least), number(most))),
            verdict(row).to_owned(),
        ]
    });
    lay_out(&std::iter::once(head).chain(body).collect::<Vec<_>>())
}

fn verdict(row: &Judged) -> &'static str {
    match (row.is_met, row.bound, row.measured) {
        (Some(true), _, _) => "met",
        (Some(false), _, _) => "**missed**",
        (None, Bound::AtMost(_) | Bound::AtLeast(_), None) => "**not measured**",
        (None, _, _) => "",
    }
}

/// The columns of the table of a scenario's subjects.
const OF_CHURN: &[(&str, Metric)] = &[
    ("handoffs/s", Metric::HandoffsPerSecond),
    ("CPU µs per handoff", Metric::CpuPerHandoff),
    ("the supervisor's", Metric::SupervisorPerHandoff),
    ("first byte p50 ms", Metric::FirstByteP50),
    ("p99", Metric::FirstByteP99),
    ("failed", Metric::Failed),
];
const OF_HELD: &[(&str, Metric)] = &[
    ("CPU µs per event", Metric::CpuPerEvent),
    ("per handoff", Metric::CpuPerHandoff),
    ("the supervisor's", Metric::SupervisorPerHandoff),
    ("first byte p50 ms", Metric::FirstByteP50),
    ("p99", Metric::FirstByteP99),
    ("gap p99 ms", Metric::GapP99),
    ("longest", Metric::GapMax),
    ("added p99 ms", Metric::AddedP99),
    ("KB per stream", Metric::PssPerStream),
    ("failed", Metric::Failed),
    ("generator's lag p99 ms", Metric::LagP99),
];

fn columns(load: Load) -> &'static [(&'static str, Metric)] {
    match load {
        Load::Idle => &[],
        Load::Churn { .. } => OF_CHURN,
        Load::Held { .. } => OF_HELD,
    }
}

/// The medians of all subjects, in this order. Columns in which nobody has a figure are left out.
pub(crate) fn subjects(load: Load, names: &[String], reports: &Reports) -> String {
    let of = |name: &str, metric| median(&values(reports, name, metric));
    let is_known = |metric| names.iter().any(|name| of(name, metric).is_some());
    let columns: Vec<_> = columns(load).iter().filter(|(_, metric)| is_known(*metric)).collect();
    let head = std::iter::once("medians")
        .chain(columns.iter().map(|(title, _)| *title))
        .map(str::to_owned)
        .collect();
    let body = names.iter().map(|name| {
        let figures = columns.iter().map(|(_, metric)| of(name, *metric).map_or_else(String::new, number));
        std::iter::once(name.clone()).chain(figures).collect()
    });
    lay_out(&std::iter::once(head).chain(body).collect::<Vec<Vec<String>>>())
}

/// With as many digits as can mean something: three, and all of a whole number.
pub(crate) fn number(value: f64) -> String {
    let magnitude = value.abs();
    match () {
        () if value == value.trunc() && magnitude < 1e3 => format!("{value:.0}"),
        () if magnitude < 1.0 => format!("{value:.3}"),
        () if magnitude < 10.0 => format!("{value:.2}"),
        () if magnitude < 100.0 => format!("{value:.1}"),
        () => thousands(&format!("{value:.0}")),
    }
}

fn thousands(digits: &str) -> String {
    let (sign, digits) = digits.strip_prefix('-').map_or(("", digits), |digits| ("-", digits));
    let mut text = sign.to_owned();
    for (index, digit) in digits.char_indices() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

fn with_unit(text: &str, unit: &str) -> String {
    if unit.is_empty() { text.to_owned() } else { format!("{text} {unit}") }
}

/// Cells in columns; the first line is the head.
pub(crate) fn lay_out(lines: &[Vec<String>]) -> String {
    let columns = lines.first().map_or(0, Vec::len);
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max()
    };
    let widths: Vec<usize> = (0..columns).map(|column| width(column).unwrap_or(0).max(3)).collect();
    let mut text = String::new();
    for (index, line) in lines.iter().enumerate() {
        for (cell, width) in line.iter().zip(&widths) {
            let _ = write!(text, "| {cell}{} ", " ".repeat(width - cell.chars().count()));
        }
        text.push_str("|\n");
        if index == 0 {
            widths.iter().for_each(|width| text.push_str(&format!("|-{}-", "-".repeat(*width))));
            text.push_str("|\n");
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Report, Tree};

    #[test]
    fn a_number_has_the_digits_that_mean_something() {
        let expected = [
            (0.0, "0"),
            (3.0, "3"),
            (0.4176, "0.418"),
            (-0.25, "-0.250"),
            (1.456, "1.46"),
            (27.34, "27.3"),
            (350.4, "350"),
            (16_234.5, "16,234"),
            (100_000.0, "100,000"),
            (-1_234_567.8, "-1,234,568"),
        ];
        for (value, text) in expected {
            assert_eq!(number(value), text);
        }
    }

    #[test]
    fn a_row_says_target_figure_spread_and_verdict() {
        let row = Judged {
            what: "time to first byte, p99",
            bound: Bound::AtMost(0.8),
            unit: "ms",
            measured: Some(0.9),
            spread: Some((0.7, 1.1)),
            is_met: Some(false),
        };
        let unmeasured = Judged { measured: None, spread: None, is_met: None, ..row.clone() };
        let text = targets(&[row, unmeasured]);
        let lines: Vec<_> = text.lines().collect();
        assert_eq!(lines.len(), 4, "{text}");
        assert!(lines[2].contains("| ≤ 0.8 ms | 0.900 ms"), "{text}");
        assert!(lines[2].contains("| 0.700 – 1.10 | **missed** "), "{text}");
        assert!(lines[3].contains("| not measured |") && lines[3].contains("**not measured**"), "{text}");
        let widths: Vec<_> = lines.iter().map(|line| line.chars().count()).collect();
        assert!(widths.iter().all(|width| *width == widths[0]), "{text}");
    }

    #[test]
    fn columns_that_nobody_fills_are_left_out() {
        let with_cpu = |cpu| Report {
            daemon: Some(Tree { cpu_us_per_handoff: Some(cpu), ..Tree::default() }),
            ..Report::default()
        };
        let reports = Reports::from([
            ("floor".to_owned(), vec![with_cpu(60.0), with_cpu(62.0), with_cpu(61.0)]),
            ("handoffd".to_owned(), vec![with_cpu(25.0)]),
        ]);
        let text = subjects(
            Load::Churn { open: 1, seconds: 1 },
            &["floor".to_owned(), "handoffd".to_owned()],
            &reports,
        );
        assert!(text.starts_with("| medians  | CPU µs per handoff | failed |\n"), "{text}");
        assert!(text.contains("| floor    | 61                 | 0      |\n"), "{text}");
    }
}
