//! What the environment says. Out: settings. Never: read anywhere else.

use std::path::PathBuf;

use crate::error::Error;
use crate::scenario::{self, Scenario};

/// How the suite runs.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    /// Where the binaries are, unless a variable names one by itself.
    pub(crate) binaries: Binaries,
    /// BENCH_ONLY: names, with commas; all without it.
    pub(crate) scenarios: Vec<&'static Scenario>,
    /// BENCH_ROUNDS: instead of each scenario's own number.
    pub(crate) rounds: Option<u32>,
    /// BENCH_WRITE=0: leaves docs/PERFORMANCE.md as it is.
    pub(crate) writes_document: bool,
    /// BENCH_LOCK: held while something is measured, by all who share a machine.
    pub(crate) lock: Option<PathBuf>,
    /// BENCH_OTHER: `NAME=COMMAND {socket}`, a line each.
    pub(crate) others: Vec<Other>,
    /// SOAK_MINUTES.
    pub(crate) soak_minutes: f64,
}

/// The programs that are started.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    pub(crate) handoffd: PathBuf,
    pub(crate) handoffctl: PathBuf,
    pub(crate) floor: PathBuf,
    pub(crate) upstream: PathBuf,
}

/// Another daemon that speaks the protocol.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Other {
    pub(crate) name: String,
    /// For sh(1); `{socket}` stands for the handoff socket's path.
    pub(crate) command: String,
}

impl Settings {
    /// `variable` asks the environment.
    ///
    /// # Errors
    /// Which variable is wrong, and what it may be.
    pub(crate) fn read(variable: impl Fn(&str) -> Option<String>) -> Result<Self, Error> {
        let directory =
            PathBuf::from(variable("BENCH_BINARIES").unwrap_or_else(|| "target/release".to_owned()));
        // Some are started in a directory of their own.
        let binary = |name: &str, key: &str| {
            let path = variable(key).map_or_else(|| directory.join(name), PathBuf::from);
            std::path::absolute(&path).unwrap_or(path)
        };
        let number = |key: &str| {
            let wrong = |text: &str| Error::Said(format!("{key}: {text:?} is no number above zero"));
            let parse =
                |text: &String| text.parse::<f64>().ok().filter(|value| *value > 0.0 && value.is_finite());
            variable(key).map(|text| parse(&text).ok_or_else(|| wrong(&text))).transpose()
        };
        let rounds = number("BENCH_ROUNDS")?.map(|rounds| {
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "it is bounded just before"
            )]
            let whole = rounds.clamp(1.0, 100.0) as u32;
            whole
        });
        Ok(Self {
            binaries: Binaries {
                handoffd: binary("handoffd", "BENCH_HANDOFFD"),
                handoffctl: binary("handoffctl", "BENCH_HANDOFFCTL"),
                floor: binary("floor", "BENCH_FLOOR"),
                upstream: binary("upstream", "BENCH_UPSTREAM"),
            },
            scenarios: chosen(variable("BENCH_ONLY").as_deref())?,
            rounds,
            writes_document: variable("BENCH_WRITE").is_none_or(|text| text != "0"),
            lock: variable("BENCH_LOCK").map(PathBuf::from),
            others: others(&variable("BENCH_OTHER").unwrap_or_default())?,
            soak_minutes: number("SOAK_MINUTES")?.unwrap_or(10.0),
        })
    }
}

fn chosen(only: Option<&str>) -> Result<Vec<&'static Scenario>, Error> {
    let Some(only) = only.filter(|only| !only.trim().is_empty()) else {
        return Ok(scenario::ALL.iter().collect());
    };
    let known = || scenario::ALL.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    let wrong = |name: &str| Error::Said(format!("BENCH_ONLY: there is no {name:?}; there are {}", known()));
    only.split(',').map(str::trim).map(|name| scenario::named(name).ok_or_else(|| wrong(name))).collect()
}

fn others(text: &str) -> Result<Vec<Other>, Error> {
    let other = |line: &str| {
        let (name, command) = line
            .split_once('=')
            .filter(|(name, command)| !name.is_empty() && command.contains("{socket}"))?;
        Some(Other { name: name.trim().to_owned(), command: command.trim().to_owned() })
    };
    let wrong = |line: &str| {
        Error::Said(format!("BENCH_OTHER: {line:?} is not NAME=COMMAND with {{socket}} in the command"))
    };
    text.lines()
        .filter(|line| !line.trim().is_empty())
        .map(|line| other(line).ok_or_else(|| wrong(line)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(variables: &[(&str, &str)]) -> Result<Settings, Error> {
        let find =
            |key: &str| variables.iter().find(|(name, _)| *name == key).map(|(_, value)| (*value).to_owned());
        Settings::read(find)
    }

    #[test]
    fn without_variables_everything_is_measured_and_written() {
        let settings = read(&[]).unwrap();
        assert_eq!(settings.scenarios.len(), scenario::ALL.len());
        assert!(settings.writes_document && settings.rounds.is_none() && settings.lock.is_none());
        let floor = settings.binaries.floor;
        assert!(floor.is_absolute() && floor.ends_with("target/release/floor"), "{}", floor.display());
    }

    #[test]
    fn some_scenarios_some_rounds_another_binary() {
        let settings = read(&[
            ("BENCH_ONLY", "held, churn"),
            ("BENCH_ROUNDS", "5"),
            ("BENCH_WRITE", "0"),
            ("BENCH_BINARIES", "/b"),
            ("BENCH_FLOOR", "/f/floor"),
            ("BENCH_OTHER", "example=/usr/bin/daemon --socket {socket} --benchmark\n\n"),
        ])
        .unwrap();
        let names: Vec<_> = settings.scenarios.iter().map(|scenario| scenario.name).collect();
        assert_eq!(names, ["held", "churn"]);
        assert_eq!(settings.rounds, Some(5));
        assert!(!settings.writes_document);
        assert_eq!(settings.binaries.floor, PathBuf::from("/f/floor"));
        assert_eq!(settings.binaries.handoffd, PathBuf::from("/b/handoffd"));
        let command = "/usr/bin/daemon --socket {socket} --benchmark".to_owned();
        assert_eq!(settings.others, [Other { name: "example".to_owned(), command }]);
    }

    #[test]
    fn what_is_wrong_is_said_with_what_is_allowed() {
        let wrong = |key, value| read(&[(key, value)]).unwrap_err().to_string();
        assert!(
            wrong("BENCH_ONLY", "chrun")
                .starts_with("BENCH_ONLY: there is no \"chrun\"; there are idle, churn, ")
        );
        assert_eq!(wrong("BENCH_ROUNDS", "0"), "BENCH_ROUNDS: \"0\" is no number above zero");
        assert_eq!(wrong("SOAK_MINUTES", "long"), "SOAK_MINUTES: \"long\" is no number above zero");
        assert!(wrong("BENCH_OTHER", "x=/bin/daemon").contains("{socket}"));
    }
}
