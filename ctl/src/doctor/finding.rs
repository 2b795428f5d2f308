//! What was found, one sentence each. In: judgements. Out: text for a person, JSON for a program, one verdict.
//! Never: looks at anything itself.

use serde::Serialize;

/// How bad it is. The order is that of the verdict.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Level {
    /// As it should be.
    Ok,
    /// It could not be looked at; the advice says how it could.
    Unseen,
    /// It works now, but not always, or not for everybody.
    Warning,
    /// Handoffs fail because of it.
    Problem,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// What was looked at: a name for programs, such as `socket.kind`.
    pub(super) check: &'static str,
    /// What is so.
    pub(super) found: String,
    /// What to do about it; none where there is nothing to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) advice: Option<String>,
}

impl Finding {
    pub(super) fn ok(check: &'static str, found: impl Into<String>) -> Self {
        Self { level: Level::Ok, check, found: found.into(), advice: None }
    }

    pub(super) fn unseen(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Unseen, check, found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn warning(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Warning, check, found: found.into(), advice: Some(advice.into()) }
    }

    pub(super) fn problem(check: &'static str, found: impl Into<String>, advice: impl Into<String>) -> Self {
        Self { level: Level::Problem, check, found: found.into(), advice: Some(advice.into()) }
    }
}

/// The worst that was found. What was not seen is no verdict.
pub(super) fn verdict(findings: &[Finding]) -> Level {
    let seen = findings.iter().map(|finding| finding.level).filter(|level| *level != Level::Unseen);
    seen.max().unwrap_or(Level::Ok)
}

/// For a person: a line each, with what to do below it, and a sum.
pub(super) fn text(findings: &[Finding]) -> String {
    let width = findings.iter().map(|finding| finding.check.len()).max().unwrap_or(0);
    let mut text = String::new();
    for Finding { level, check, found, advice } in findings {
        let word = match level {
            Level::Ok => "ok",
            Level::Unseen => "not seen",
            Level::Warning => "warning",
            Level::Problem => "PROBLEM",
        };
        text.push_str(&format!("{word:<8}  {check:<width$}  {}\n", printable(found)));
        if let Some(advice) = advice {
            text.push_str(&format!("{:<8}  {:<width$}  -> {}\n", "", "", printable(advice)));
        }
    }
    let count = |level| findings.iter().filter(|finding| finding.level == level).count();
    let sum = [
        (Level::Problem, "problem", "problems"),
        (Level::Warning, "warning", "warnings"),
        (Level::Ok, "ok", "ok"),
        (Level::Unseen, "not seen", "not seen"),
    ]
    .map(|(level, one, many)| match count(level) {
        1 => format!("1 {one}"),
        number => format!("{number} {many}"),
    });
    text.push_str(&format!("{}\n", sum.join(", ")));
    text
}

/// Names of files and what servers say may hold anything; a terminal would obey.
fn printable(text: &str) -> String {
    text.chars().map(|character| if character.is_control() { '\u{fffd}' } else { character }).collect()
}

/// For a program.
pub(super) fn json(findings: &[Finding]) -> serde_json::Value {
    serde_json::json!({
        "version": env!("CARGO_PKG_VERSION"),
        "verdict": verdict(findings),
        "findings": findings,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_verdict_is_the_worst_that_was_seen() {
        let (ok, unseen) = (Finding::ok("a", "x"), Finding::unseen("b", "x", "y"));
        let (warning, problem) = (Finding::warning("c", "x", "y"), Finding::problem("d", "x", "y"));
        for (findings, expected) in [
            (vec![], Level::Ok),
            (vec![ok.clone(), unseen.clone()], Level::Ok),
            (vec![warning.clone(), unseen], Level::Warning),
            (vec![problem, warning, ok], Level::Problem),
        ] {
            assert_eq!(verdict(&findings), expected, "{findings:?}");
        }
    }

    #[test]
    fn a_person_is_told_what_to_do_and_how_much_there_is() {
        let findings =
            [Finding::ok("socket.file", "it is there"), Finding::problem("x", "it is not", "make it")];
        assert_eq!(
            text(&findings),
            "ok        socket.file  it is there\n\
             PROBLEM   x            it is not\n\
             \x20                      -> make it\n\
             1 problem, 0 warnings, 1 ok, 0 not seen\n"
        );
    }

    #[test]
    fn a_terminal_is_told_nothing() {
        let findings = [Finding::warning("a", "x\u{1b}[2J\u{9b}31m\ny", "rm \r\u{7}")];
        let text = text(&findings);
        assert!(text.starts_with("warning   a  x\u{fffd}[2J\u{fffd}31m\u{fffd}y\n"), "{text}");
        assert!(text.chars().all(|character| character == '\n' || !character.is_control()), "{text}");
    }

    #[test]
    fn a_program_gets_names() {
        let value = json(&[Finding::unseen("apache.config", "none", "name it"), Finding::ok("a", "b")]);
        assert_eq!(value["verdict"], "ok");
        assert_eq!(value["findings"][0]["level"], "unseen");
        assert_eq!(value["findings"][0]["advice"], "name it");
        assert!(value["findings"][1].get("advice").is_none());
    }
}
