//! The alert rules and the dashboard ask for metrics, labels and values that a running daemon has. Each alert names a
//! runbook, and each runbook has its alert.

use std::collections::BTreeSet;

use handoff_e2e::promql::{Query, Selector};
use handoff_e2e::{Daemon, Exposition};
use serde_json::Value;

const ALERTS: &str = include_str!("../../../monitoring/alerts.yml");
const DASHBOARD: &str = include_str!("../../../monitoring/dashboard.json");
const RUNBOOKS: &str = include_str!("../../../docs/OPERATIONS.md");

/// Labels that Prometheus gives by itself.
const OF_THE_TARGET: [&str; 2] = ["instance", "job"];

/// One rule.
#[derive(Debug, Default)]
struct Alert {
    name: String,
    expr: String,
    severity: String,
    summary: String,
    description: String,
}

fn exposition() -> Exposition {
    Exposition::of(&Daemon::start(""))
}

#[test]
fn alerts_ask_for_what_exists() {
    let real = exposition();
    let mut complaints = Vec::new();
    for alert in alerts() {
        let query = Query::read(&alert.expr);
        let mut wrong = what_is_missing(&query, &real);
        for label in labels_in(&format!("{} {}", alert.summary, alert.description), "{{ $labels.", " }}") {
            if !carries(&query, &real, label) {
                wrong.push(format!("its text speaks of the label {label}, which it does not carry"));
            }
        }
        complaints.extend(wrong.into_iter().map(|wrong| format!("{}: {wrong}", alert.name)));
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[test]
fn each_alert_has_its_runbook_and_each_runbook_its_alert() {
    let mut names = BTreeSet::new();
    for alert in alerts() {
        let Alert { name, severity, summary, description, .. } = alert;
        assert!(["critical", "warning"].contains(&severity.as_str()), "{name}: severity {severity:?}");
        assert!(!summary.is_empty(), "{name} has no summary");
        let runbook = format!("docs/OPERATIONS.md#{}", name.to_lowercase());
        assert!(
            description.ends_with(&runbook),
            "{name} does not name its runbook, {runbook}: {description}"
        );
        assert!(names.insert(name.clone()), "{name} is there twice");
    }
    let (_, section) = RUNBOOKS.split_once("\n## What each alarm means\n").expect("the runbooks");
    let section = section.split("\n## ").next().unwrap_or_default();
    let headings: Vec<&str> = section.lines().filter_map(|line| line.strip_prefix("### ")).collect();
    let runbooks: BTreeSet<String> = headings.iter().map(|heading| (*heading).to_owned()).collect();
    assert_eq!(headings.len(), runbooks.len(), "a runbook is there twice");
    assert_eq!(names, runbooks, "alerts, and runbooks");
}

#[test]
fn the_dashboard_asks_for_what_exists() {
    let real = exposition();
    let dashboard: Value = serde_json::from_str(DASHBOARD).expect("JSON");
    let panels = dashboard["panels"].as_array().expect("panels");
    let mut complaints = Vec::new();
    let mut ids = BTreeSet::new();
    let mut asked = BTreeSet::new();
    for panel in panels {
        let title = panel["title"].as_str().expect("a title");
        assert!(ids.insert(panel["id"].as_u64().expect("an id")), "{title}: its id is not its own");
        let targets = panel["targets"].as_array().cloned().unwrap_or_default();
        assert!(targets.is_empty() == (panel["type"] == "row"), "{title}: a panel asks, a row does not");
        for target in targets {
            assert_eq!(target["datasource"]["uid"], "${datasource}", "{title}");
            let query = Query::read(target["expr"].as_str().expect("a query"));
            let mut wrong = what_is_missing(&query, &real);
            for label in labels_in(target["legendFormat"].as_str().unwrap_or_default(), "{{", "}}") {
                if !carries(&query, &real, label) {
                    wrong.push(format!("its legend speaks of the label {label}, which it does not carry"));
                }
            }
            complaints.extend(wrong.into_iter().map(|wrong| format!("{title}: {wrong}")));
            asked.extend(query.selectors.into_iter().map(|selector| selector.metric));
        }
    }
    for wanted in ["Streams", "Latency", "Workers", "Errors", "Upstreams", "Capacity", "Upgrades"] {
        assert!(
            panels.iter().any(|panel| panel["type"] == "row" && panel["title"] == wanted),
            "row {wanted}"
        );
    }
    for name in real.0.keys().filter(|name| !is_asked(&asked, name)) {
        complaints.push(format!("{name} is on no panel"));
    }
    assert!(complaints.is_empty(), "{complaints:#?}");
    let variables = dashboard["templating"]["list"].as_array().expect("variables");
    assert_eq!(variables[0]["type"], "datasource");
    let list = variables[1]["query"]["query"].as_str().and_then(|query| query.strip_prefix("label_values("));
    let metric = list.and_then(|list| list.split(',').next()).expect("label_values(METRIC, LABEL)");
    assert!(real.find(metric).is_some(), "{metric}, for the variable instance, does not exist");
    for annotation in dashboard["annotations"]["list"].as_array().expect("annotations") {
        let query = Query::read(annotation["expr"].as_str().expect("a query"));
        assert!(what_is_missing(&query, &real).is_empty(), "{annotation}");
    }
}

fn is_asked(asked: &BTreeSet<String>, name: &str) -> bool {
    asked.contains(name) || asked.contains(&format!("{name}_bucket"))
}

fn what_is_missing(query: &Query, real: &Exposition) -> Vec<String> {
    let mut missing: Vec<String> =
        query.selectors.iter().flat_map(|selector| missing_of(selector, real)).collect();
    for label in query.kept.iter().chain(&query.dropped) {
        let exists = query.selectors.iter().any(|selector| has_label(selector, real, label));
        if !exists {
            missing.push(format!("none of its metrics has the label {label}"));
        }
    }
    if query.selectors.is_empty() {
        missing.push("it asks for nothing".to_owned());
    }
    missing
}

fn missing_of(selector: &Selector, real: &Exposition) -> Vec<String> {
    let Selector { metric: name, matchers } = selector;
    if name == "up" {
        return Vec::new();
    }
    let Some((metric, _)) = real.find(name) else { return vec![format!("{name} does not exist")] };
    let mut missing = Vec::new();
    for (label, value) in matchers {
        if OF_THE_TARGET.contains(&label.as_str()) {
            continue;
        }
        match metric.labels.get(label) {
            None => missing.push(format!("{name} has no label {label}")),
            Some(values) => {
                let exists = |value: &str| values.contains(value) || may_become(name, value);
                let unknown = value.split('|').filter(|value| !exists(value));
                missing.extend(unknown.map(|value| format!("{name}: {label} is never {value}")));
            }
        }
    }
    missing
}

/// Of a metric that is "always 1" only the present state is there; the others are in its documentation.
fn may_become(name: &str, value: &str) -> bool {
    let row = RUNBOOKS.lines().find(|line| line.starts_with(&format!("| `{name}{{")));
    row.is_some_and(|row| row.contains("| always 1; ") && row.contains(&format!("`{value}`")))
}

fn has_label(selector: &Selector, real: &Exposition, label: &str) -> bool {
    OF_THE_TARGET.contains(&label)
        || real.find(&selector.metric).is_some_and(|(metric, has_buckets)| {
            metric.labels.contains_key(label) || (has_buckets && label == "le")
        })
}

/// Whether what the query answers still has this label.
fn carries(query: &Query, real: &Exposition, label: &str) -> bool {
    if query.is_total || !query.kept.is_empty() {
        return query.kept.iter().any(|kept| kept == label);
    }
    let is_dropped = query.dropped.iter().any(|dropped| dropped == label);
    !is_dropped && query.selectors.iter().any(|selector| has_label(selector, real, label))
}

fn labels_in<'a>(text: &'a str, open: &'a str, close: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(open).skip(1).map(move |rest| rest.split(close).next().unwrap_or_default())
}

/// The rules, by the shape that the file has: a line of any other shape is a mistake. Strings are in double quotes,
/// which YAML reads as JSON does.
fn alerts() -> Vec<Alert> {
    let mut alerts: Vec<Alert> = Vec::new();
    let mut lines = ALERTS.lines().filter(|line| !line.starts_with('#'));
    while let Some(line) = lines.next() {
        if let Some(name) = line.strip_prefix("      - alert: ") {
            alerts.push(Alert { name: name.to_owned(), ..Alert::default() });
            continue;
        }
        let Some((key, value)) = line.split_once(':') else { panic!("not of the file's shape: {line:?}") };
        let (depth, key) = (key.len() - key.trim_start().len(), key.trim_start());
        let text = |value: &str| serde_json::from_str::<String>(value).expect("a string in double quotes");
        let alert = alerts.last_mut();
        match (depth, key, value.trim(), alert) {
            (0, "groups", "", None) | (2, "- name", _, _) | (4, "rules", "", _) => {}
            (8, "labels" | "annotations", "", Some(_)) => {}
            (8, "for", duration, Some(_)) => {
                let number = duration.trim_end_matches(['s', 'm']);
                assert!(number.len() + 1 == duration.len() && number.parse::<u32>().is_ok(), "{line:?}");
            }
            (8, "expr", "|-", Some(alert)) => {
                let expr = lines.next().and_then(|line| line.strip_prefix("          "));
                alert.expr = expr.expect("an expression of one line").to_owned();
            }
            (10, "severity", severity, Some(alert)) => alert.severity = severity.to_owned(),
            (10, "summary", summary, Some(alert)) => alert.summary = text(summary),
            (10, "description", description, Some(alert)) => alert.description = text(description),
            _ => panic!("not of the file's shape: {line:?}"),
        }
    }
    assert!(!alerts.is_empty(), "no rule was found");
    alerts
}
