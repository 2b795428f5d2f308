//! The tables in docs/OPERATIONS.md and `/metrics` agree, in both directions: names, types, labels, and the values of
//! labels that have a fixed set of them.

use std::collections::{BTreeMap, BTreeSet};

use handoff_e2e::exposition::Metric;
use handoff_e2e::{Daemon, Exposition};

const DOCUMENT: &str = include_str!("../../../docs/OPERATIONS.md");

/// Labels whose values are words of ours.
const ENUMERATED: [&str; 5] = ["kind", "outcome", "reason", "result", "state"];

/// What a row says.
struct Documented {
    kind: &'static str,
    labels: BTreeSet<&'static str>,
    meaning: &'static str,
}

#[test]
fn names_types_labels_and_values() {
    let daemon = Daemon::start("");
    let (real, documented) = (Exposition::of(&daemon), documented());
    let mut complaints = Vec::new();
    for name in real.0.keys().filter(|name| !documented.contains_key(name.as_str())) {
        complaints.push(format!("{name} is not in the tables"));
    }
    for (name, row) in &documented {
        match real.0.get(*name) {
            Some(metric) => complaints.extend(compare(name, row, metric)),
            None => complaints.push(format!("{name} is in the tables, and not in /metrics")),
        }
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

fn compare(name: &str, row: &Documented, metric: &Metric) -> Vec<String> {
    let mut complaints = Vec::new();
    if row.kind != metric.kind {
        complaints.push(format!("{name} is a {}, documented as {}", metric.kind, row.kind));
    }
    let labels: BTreeSet<&str> = metric.labels.keys().map(String::as_str).collect();
    if labels != row.labels {
        complaints.push(format!("{name} has the labels {labels:?}, documented are {:?}", row.labels));
    }
    for (label, values) in metric.labels.iter().filter(|(label, _)| ENUMERATED.contains(&label.as_str())) {
        let real: BTreeSet<&str> = values.iter().map(String::as_str).collect();
        let documented = values_of(name, label, row.meaning);
        // Where a value is a state, there is only the one that it is in.
        let agree = match row.meaning.starts_with("always 1") {
            true => real.is_subset(&documented),
            false => real == documented,
        };
        if !agree {
            complaints.push(format!("{name}: {label} may be {real:?}, documented is {documented:?}"));
        }
    }
    complaints
}

/// Every row that begins with a metric's name.
fn documented() -> BTreeMap<&'static str, Documented> {
    let mut metrics = BTreeMap::new();
    for line in
        DOCUMENT.lines().filter(|line| line.starts_with("| `daemon_") || line.starts_with("| `handoffd_"))
    {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [names, kind, meaning] = cells[..] else { panic!("not three cells: {line}") };
        for name in in_backquotes(names) {
            let (name, labels) = name.split_once('{').unwrap_or((name, ""));
            let labels = labels.trim_end_matches('}').split(',').filter(|label| !label.is_empty()).collect();
            let earlier = metrics.insert(name, Documented { kind, labels, meaning });
            assert!(earlier.is_none(), "{name} is in the tables twice");
        }
    }
    metrics
}

/// In the row itself, or in a paragraph of its own where several rows share them.
fn values_of(name: &str, label: &str, meaning: &'static str) -> BTreeSet<&'static str> {
    let paragraph = |begin: &str| {
        let at = DOCUMENT.find(begin).unwrap_or_else(|| panic!("no paragraph {begin:?}"));
        DOCUMENT[at + begin.len()..].split("\n\n").next().unwrap_or_default()
    };
    let text = match label {
        "outcome" => paragraph("\nOutcomes: "),
        "reason" if name.starts_with("daemon_") => paragraph("\n`reason` is one of "),
        _ => meaning,
    };
    in_backquotes(text).filter(|word| *word != label).collect()
}

fn in_backquotes(text: &str) -> impl Iterator<Item = &str> {
    text.split('`').skip(1).step_by(2)
}
