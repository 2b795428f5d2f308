//! Figures against their targets. In: a scenario and the reports of its subjects, round by round. Out: rows with
//! what was measured, how far the rounds were apart, and whether that is met. Never: rounds before it has judged.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use crate::report::{Metric, Report};
use crate::scenario::{Bound, Figure, Row, Scenario};
use crate::statistics::{median, spread};

/// What each subject's runs have reported, in the order of the rounds.
pub(crate) type Reports = BTreeMap<String, Vec<Report>>;

/// A row of the table of targets.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Judged {
    pub(crate) what: &'static str,
    #[serde(serialize_with = "as_text")]
    pub(crate) bound: Bound,
    pub(crate) unit: &'static str,
    /// The median of the rounds; of a ratio, that of the medians. None: not measured.
    pub(crate) measured: Option<f64>,
    /// The smallest and the largest of the rounds.
    pub(crate) spread: Option<(f64, f64)>,
    /// None where there is no target, or nothing was measured.
    pub(crate) is_met: Option<bool>,
}

/// The rows of this scenario.
pub(crate) fn judge(scenario: &Scenario, reports: &Reports) -> Vec<Judged> {
    scenario.rows.iter().map(|row| judged(row, reports)).collect()
}

fn judged(row: &Row, reports: &Reports) -> Judged {
    let (measured, rounds) = match row.figure {
        Figure::Of(subject, metric) => {
            let values = values(reports, subject, metric);
            // Whatever fails, in whichever round, has failed.
            let counts = matches!(metric, Metric::Failed | Metric::FailedSilently);
            let worst = values.iter().copied().max_by(f64::total_cmp);
            (if counts { worst } else { median(&values) }, values)
        }
        Figure::Ratio(subject, other, metric) => {
            of_two(reports, subject, other, metric, |one, another| (another > 0.0).then(|| one / another))
        }
        Figure::Growth(subject, other, metric) => {
            of_two(reports, subject, other, metric, |one, another| Some(one - another))
        }
    };
    let is_met = measured.and_then(|value| match row.bound {
        Bound::AtMost(limit) => Some(value <= limit),
        Bound::AtLeast(limit) => Some(value >= limit),
        Bound::None => None,
    });
    Judged { what: row.what, bound: row.bound, unit: row.unit, measured, spread: spread(&rounds), is_met }
}

/// The figure of the medians, and that of each round.
fn of_two(
    reports: &Reports,
    subject: &str,
    other: &str,
    metric: Metric,
    figure: impl Fn(f64, f64) -> Option<f64>,
) -> (Option<f64>, Vec<f64>) {
    let (ours, theirs) = (values(reports, subject, metric), values(reports, other, metric));
    let of_medians = median(&ours).zip(median(&theirs)).and_then(|(one, another)| figure(one, another));
    let rounds = ours.iter().zip(&theirs).filter_map(|(one, another)| figure(*one, *another)).collect();
    (of_medians, rounds)
}

/// A figure of all rounds of a subject; without those in which it was not measured.
pub(crate) fn values(reports: &Reports, subject: &str, metric: Metric) -> Vec<f64> {
    reports.get(subject).into_iter().flatten().filter_map(|report| report.get(metric)).collect()
}

fn as_text<S: Serializer>(bound: &Bound, serializer: S) -> Result<S::Ok, S::Error> {
    match bound {
        Bound::AtMost(limit) => serializer.serialize_str(&format!("<= {limit}")),
        Bound::AtLeast(limit) => serializer.serialize_str(&format!(">= {limit}")),
        Bound::None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::{Quantiles, Tree};
    use crate::scenario;

    fn report(cpu_us: f64, handoffs_per_second: f64) -> Report {
        let daemon = Some(Tree { cpu_us_per_handoff: Some(cpu_us), ..Tree::default() });
        Report { handoffs_per_second: Some(handoffs_per_second), daemon, ..Report::default() }
    }

    fn churn(floor: &[f64], ours: &[f64]) -> Vec<Judged> {
        let reports = |cpu: &[f64]| cpu.iter().map(|cpu| report(*cpu, 1e6 / cpu)).collect();
        let all =
            Reports::from([("floor".to_owned(), reports(floor)), ("handoffd".to_owned(), reports(ours))]);
        judge(scenario::named("churn").unwrap(), &all)
    }

    #[test]
    fn a_ratio_is_that_of_the_medians_and_its_spread_that_of_the_rounds() {
        let rows = churn(&[60.0, 50.0, 90.0], &[24.0, 25.0, 27.0]);
        assert_eq!(rows[0].measured, Some(25.0 / 60.0));
        assert_eq!(rows[0].spread, Some((27.0 / 90.0, 0.5)));
        assert_eq!(rows[0].is_met, Some(true), "at most 0.45");
        assert_eq!(rows[2].is_met, Some(true), "at least 2.0: {:?}", rows[2]);
    }

    #[test]
    fn a_figure_beyond_its_target_is_missed_and_not_rounded_into_it() {
        assert_eq!(churn(&[100.0], &[45.0])[0].is_met, Some(true));
        assert_eq!(churn(&[100.0], &[45.000_1])[0].is_met, Some(false));
        assert_eq!(churn(&[100.0], &[50.1])[2].is_met, Some(false));
    }

    #[test]
    fn what_was_not_measured_is_neither_met_nor_missed() {
        let rows = churn(&[60.0], &[25.0]);
        assert_eq!((rows[1].measured, rows[1].is_met), (None, None), "nobody measured each event apart");
        assert_eq!(churn(&[], &[25.0])[0].is_met, None);
        assert_eq!(churn(&[0.0], &[25.0])[0].is_met, None);
    }

    #[test]
    fn a_stream_that_fails_in_one_round_of_three_has_failed() {
        let mut reports: Vec<_> = (0..3).map(|_| report(25.0, 1.0)).collect();
        reports[1].failed.insert("reset".to_owned(), 1);
        let rows =
            judge(scenario::named("churn").unwrap(), &Reports::from([("handoffd".to_owned(), reports)]));
        let failed = rows.last().unwrap();
        assert_eq!((failed.measured, failed.is_met), (Some(1.0), Some(false)));
    }

    #[test]
    fn gaps_grow_by_the_difference_and_epitaphs_are_no_silent_failures() {
        let gap = |max_us: f64, failed: &[(&str, u64)]| Report {
            token_gap_us: Some(Quantiles { max: max_us, ..Quantiles::default() }),
            failed: failed.iter().map(|(kind, count)| ((*kind).to_owned(), *count)).collect(),
            ..Report::default()
        };
        let reports = Reports::from([
            ("calm".to_owned(), vec![gap(1_010_000.0, &[])]),
            ("worker killed".to_owned(), vec![gap(1_070_000.0, &[("error_event", 5_000)])]),
        ]);
        let rows = judge(scenario::named("faults").unwrap(), &reports);
        let of = |what: &str| rows.iter().find(|row| row.what == what).unwrap();
        let gap = of("worker killed: growth of the longest gap");
        assert_eq!((gap.measured, gap.is_met), (Some(60.0), Some(false)));
        assert_eq!(of("worker killed: streams without even an error event").is_met, Some(true));
        let epitaphs = of("worker killed: streams that ended with one, its own");
        assert_eq!((epitaphs.measured, epitaphs.is_met), (Some(5_000.0), None));
    }
}
