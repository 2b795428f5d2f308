//! All scenarios, round by round. In: settings. Out: tables, reports in target/bench, the document's tables.
//! Never: gives up the other scenarios when one cannot be measured.

use std::fs;
use std::path::Path;
use std::time::Instant;

use serde::Serialize;

use crate::document;
use crate::error::Error;
use crate::report::{Metric, Report};
use crate::running::Stop;
use crate::scenario::{Happening, Load, Scenario, Subject};
use crate::settings::{Other, Settings};
use crate::subject::Target;
use crate::verdict::{Judged, Reports, judge};
use crate::{cell, machine, say, table};

/// From the project's root, where `make` runs us.
const REPORTS: &str = "target/bench";
const DOCUMENT: &str = "docs/PERFORMANCE.md";

/// Whether every scenario could be measured.
///
/// # Errors
/// When files cannot be written, or somebody has interrupted it.
pub(crate) fn run(settings: &Settings, stop: &Stop) -> Result<bool, Error> {
    fs::create_dir_all(REPORTS).map_err(Error::io(REPORTS))?;
    let (place, time, began) = (machine::place(), machine::time(), Instant::now());
    say(&format!("{place}; {time}"))?;
    let mut sections = vec![("machine", format!("{place}."))];
    let (mut met, mut missed, mut is_whole) = (0, 0, true);
    for scenario in &settings.scenarios {
        let (reports, all) = measure(scenario, settings, stop)?;
        is_whole &= all;
        let rows = judge(scenario, &reports);
        let section = section(scenario, &rows, &reports, &time);
        say(&format!(
            "\n{}\n{}",
            scenario.title,
            section.split_once("\n\n").map_or("", |(_, tables)| tables)
        ))?;
        met += rows.iter().filter(|row| row.is_met == Some(true)).count();
        missed += rows.iter().filter(|row| row.is_met == Some(false)).count();
        write_results(scenario, &rows, &reports, &place, &time)?;
        sections.push((scenario.name, section));
    }
    if settings.writes_document {
        write_document(&sections)?;
    }
    say(&format!(
        "\n{met} targets met, {missed} missed, in {} s; reports are in {REPORTS}",
        began.elapsed().as_secs()
    ))?;
    Ok(is_whole)
}

/// Who is measured, in which order.
enum Candidate<'a> {
    Ours(&'a Subject),
    Other(&'a Other),
}

impl Candidate<'_> {
    fn name(&self) -> &str {
        match self {
            Self::Ours(subject) => subject.name,
            Self::Other(other) => &other.name,
        }
    }
}

/// What everybody has reported, and whether all have. Who cannot be measured is left out from then on.
fn measure(scenario: &Scenario, settings: &Settings, stop: &Stop) -> Result<(Reports, bool), Error> {
    let ours = scenario.subjects.iter().map(Candidate::Ours);
    // Others are compared where everybody answers by itself.
    let has_floor = scenario.subjects.iter().any(|subject| subject.name == "floor");
    let others = settings.others.iter().filter(|_| has_floor).map(Candidate::Other);
    let mut candidates: Vec<_> = ours.chain(others).collect();
    let wanted = candidates.len();
    let mut reports = Reports::new();
    for round in 1..=settings.rounds.unwrap_or(scenario.rounds) {
        let mut able = Vec::new();
        for candidate in candidates {
            let name = candidate.name().to_owned();
            let json = format!("{REPORTS}/{}-{}-{round}.json", scenario.name, file_name(&name));
            match one(scenario, &candidate, Path::new(&json), settings, stop) {
                Ok(report) => {
                    say(&brief(scenario, &name, round, &report))?;
                    reports.entry(name).or_default().push(report);
                    able.push(candidate);
                }
                Err(Error::Interrupted) => return Err(Error::Interrupted),
                Err(error) => {
                    say(&format!("  {} round {round}, {name}: NOT MEASURED: {error}", scenario.name))?
                }
            }
        }
        candidates = able;
    }
    Ok((reports, candidates.len() == wanted))
}

fn one(
    scenario: &Scenario,
    candidate: &Candidate<'_>,
    json: &Path,
    settings: &Settings,
    stop: &Stop,
) -> Result<Report, Error> {
    let _alone = cell::alone(settings.lock.as_deref(), stop)?;
    let _ = fs::remove_file(json);
    let binaries = &settings.binaries;
    let pace = scenario.subjects[0].answers.pace();
    let (mut target, event) = match candidate {
        Candidate::Ours(subject) => (Target::start(subject.answers, binaries, stop)?, subject.event),
        Candidate::Other(other) => (Target::other(other, stop)?, Happening::Nothing),
    };
    cell::measure(&mut target, scenario.load, pace, event, json, binaries, stop)
}

/// One line while it goes on.
fn brief(scenario: &Scenario, subject: &str, round: u32, report: &Report) -> String {
    let figures: &[(&str, Metric)] = match scenario.load {
        Load::Idle => &[("MB", Metric::IdlePss)],
        Load::Churn { .. } => {
            &[("handoffs/s", Metric::HandoffsPerSecond), ("µs per handoff", Metric::CpuPerHandoff)]
        }
        Load::Held { .. } => &[
            ("µs per event", Metric::CpuPerEvent),
            ("ms to the first byte, p99", Metric::FirstByteP99),
            ("KB per stream", Metric::PssPerStream),
        ],
    };
    let known = figures
        .iter()
        .filter_map(|(unit, metric)| Some(format!("{} {unit}", table::number(report.get(*metric)?))));
    let failed = report.failed.iter().map(|(kind, count)| format!("FAILED {kind}: {count}"));
    let all: Vec<_> = known.chain(failed).collect();
    format!("  {} round {round}, {subject}: {}", scenario.name, all.join(", "))
}

/// A scenario's part of the document.
fn section(scenario: &Scenario, rows: &[Judged], reports: &Reports, time: &str) -> String {
    let mut names: Vec<_> = scenario.subjects.iter().map(|subject| subject.name.to_owned()).collect();
    names.extend(reports.keys().filter(|name| !names.contains(name)).cloned().collect::<Vec<_>>());
    let rounds = reports.values().map(Vec::len).max().unwrap_or(0);
    let rounds = if rounds == 1 { "one round".to_owned() } else { format!("{rounds} rounds") };
    let mut text = format!("*{time}, {rounds}.*\n\n{}", table::targets(rows));
    if names.len() > 1 || matches!(scenario.load, Load::Held { .. }) {
        text.push('\n');
        text.push_str(&table::subjects(scenario.load, &names, reports));
    }
    text
}

/// What is kept of a scenario.
#[derive(Serialize)]
struct Results<'a> {
    scenario: &'a str,
    place: &'a str,
    time: &'a str,
    rows: &'a [Judged],
    reports: &'a Reports,
}

fn write_results(
    scenario: &Scenario,
    rows: &[Judged],
    reports: &Reports,
    place: &str,
    time: &str,
) -> Result<(), Error> {
    let path = format!("{REPORTS}/{}.json", scenario.name);
    let results = Results { scenario: scenario.name, place, time, rows, reports };
    let text =
        serde_json::to_string_pretty(&results).map_err(|error| Error::Said(format!("{path}: {error}")))?;
    fs::write(&path, text).map_err(Error::io(path))
}

/// Replaces these sections, all or none.
///
/// # Errors
/// When the document lacks a place for one, or cannot be written.
pub(crate) fn write_document(sections: &[(&str, String)]) -> Result<(), Error> {
    let text = fs::read_to_string(DOCUMENT).map_err(Error::io(DOCUMENT))?;
    let replaced =
        sections.iter().try_fold(text, |text, (name, content)| document::replace(&text, name, content))?;
    fs::write(DOCUMENT, replaced).map_err(Error::io(DOCUMENT))
}

/// A subject's name as part of a file's.
fn file_name(subject: &str) -> String {
    let words = subject.split(|letter: char| !letter.is_ascii_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_ascii_lowercase).collect::<Vec<_>>().join("-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    #[test]
    fn a_section_says_when_and_names_everybody_who_was_measured() {
        let scenario = scenario::named("held").unwrap();
        let reports: Reports =
            ["floor", "handoffd", "example"].map(|name| (name.to_owned(), vec![Report::default(); 2])).into();
        let text = section(scenario, &judge(scenario, &reports), &reports, "2026-03-01, commit abc");
        assert!(text.starts_with("*2026-03-01, commit abc, 2 rounds.*\n\n| what "), "{text}");
        let order: Vec<_> =
            ["| floor", "| handoffd", "| example"].map(|name| text.find(name).unwrap()).into();
        assert!(order.is_sorted(), "{text}");
    }

    #[test]
    fn names_of_files_are_plain() {
        assert_eq!(file_name("handoffd, each event apart"), "handoffd-each-event-apart");
        assert_eq!(file_name("TLS"), "tls");
    }
}
