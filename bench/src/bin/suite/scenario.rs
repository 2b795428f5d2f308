//! What is measured: who answers which load, and where each figure must get to. Constants alone.
//! Never: starts anything.

use crate::report::Metric;
use crate::scenario::Bound::{AtLeast, AtMost};
use crate::scenario::Figure::{Growth, Of, Ratio};

/// Runs that belong together: its subjects are measured one after the other, round by round, so that what the machine
/// does meanwhile meets all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// As in BENCH_ONLY and in the document's markers.
    pub(crate) name: &'static str,
    /// One line, for people.
    pub(crate) title: &'static str,
    /// How often each subject is measured, unless BENCH_ROUNDS says it.
    pub(crate) rounds: u32,
    pub(crate) load: Load,
    pub(crate) subjects: &'static [Subject],
    pub(crate) rows: &'static [Row],
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Nothing: memory is read some seconds after the start.
    Idle,
    /// As fast as it goes, with so many open.
    Churn { open: u32, seconds: u32 },
    /// All of them open at once, ramped up at this rate. `stamped`: the upstream's time is in each token.
    Held { streams: u32, rate: u32, stamped: bool },
}

/// Who is measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Subject {
    /// As in tables and file names.
    pub(crate) name: &'static str,
    pub(crate) answers: Answers,
    /// What happens to it while its streams are open.
    pub(crate) event: Happening,
}

/// What a subject is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answers {
    /// One bare epoll loop: what the kernel alone costs.
    Floor(Pace),
    /// handoffd with so many workers (0: its default), answering from its mock. `apart`: the source makes people wait between two tokens, so
    /// that each is written by itself.
    Mock { pace: Pace, workers: u32, apart: bool },
    /// handoffd with a scripted LLM server. `streams_max`: on one connection, as the server allows.
    Upstream { pace: Pace, tls: bool, streams_max: Option<u32> },
}

/// Tokens of an answer, and how long apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    pub(crate) events: u32,
    pub(crate) interval_ms: u32,
}

impl Pace {
    /// From the first token to the last, in ms.
    pub(crate) fn length_ms(self) -> u32 {
        self.events.saturating_sub(1) * self.interval_ms
    }
}

impl Answers {
    pub(crate) fn pace(self) -> Pace {
        match self {
            Self::Floor(pace) | Self::Mock { pace, .. } | Self::Upstream { pace, .. } => pace,
        }
    }
}

/// What happens to a daemon in the middle of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Happening {
    Nothing,
    /// SIGHUP: all workers are replaced.
    Roll,
    /// SIGKILL for one worker.
    WorkerKilled,
}

/// A figure and where it must get to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) what: &'static str,
    pub(crate) bound: Bound,
    /// Of `figure`; empty for a ratio.
    pub(crate) unit: &'static str,
    pub(crate) figure: Figure,
}

/// Where a figure must get to.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Bound {
    AtMost(f64),
    AtLeast(f64),
    /// For comparison only.
    None,
}

/// How a row's figure comes from its scenario's reports; the subjects by their names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Figure {
    Of(&'static str, Metric),
    /// The first subject's over the second's.
    Ratio(&'static str, &'static str, Metric),
    /// The first subject's minus the second's.
    Growth(&'static str, &'static str, Metric),
}

/// The scenario of this name.
pub(crate) fn named(name: &str) -> Option<&'static Scenario> {
    ALL.iter().find(|scenario| scenario.name == name)
}

const AT_ONCE: Pace = Pace { events: 19, interval_ms: 0 };

const fn every_second(events: u32) -> Pace {
    Pace { events, interval_ms: 1_000 }
}

const fn floor(pace: Pace) -> Subject {
    Subject { name: "floor", answers: Answers::Floor(pace), event: Happening::Nothing }
}

const fn mock(name: &'static str, pace: Pace) -> Subject {
    Subject { name, answers: Answers::Mock { pace, workers: 0, apart: false }, event: Happening::Nothing }
}

const fn with(event: Happening, name: &'static str, pace: Pace) -> Subject {
    Subject { event, ..mock(name, pace) }
}

const fn upstream(name: &'static str, tls: bool, pace: Pace, streams_max: Option<u32>) -> Subject {
    Subject { name, answers: Answers::Upstream { pace, tls, streams_max }, event: Happening::Nothing }
}

const fn row(what: &'static str, bound: Bound, unit: &'static str, figure: Figure) -> Row {
    Row { what, bound, unit, figure }
}

/// Every scenario, in the order of the document.
pub(crate) const ALL: &[Scenario] = &[
    Scenario {
        name: "idle",
        title: "Nobody is there: the supervisor and two workers, some seconds after their start",
        rounds: 1,
        load: Load::Idle,
        subjects: &[Subject {
            name: "handoffd",
            answers: Answers::Mock { pace: AT_ONCE, workers: 2, apart: false },
            event: Happening::Nothing,
        }],
        rows: &[row(
            "memory when idle, supervisor + 2 workers (PSS)",
            AtMost(8.0),
            "MB",
            Of("handoffd", Metric::IdlePss),
        )],
    },
    Scenario {
        name: "churn",
        title: "Churn: answers of 19 events as fast as it goes, 512 open at a time",
        rounds: 3,
        load: Load::Churn { open: 512, seconds: 4 },
        subjects: &[
            floor(AT_ONCE),
            mock("handoffd", AT_ONCE),
            Subject {
                name: "handoffd, each event apart",
                answers: Answers::Mock { pace: AT_ONCE, workers: 0, apart: true },
                event: Happening::Nothing,
            },
        ],
        rows: &[
            row(
                "CPU per handoff, the whole tree, over the floor's",
                AtMost(0.45),
                "",
                Ratio("handoffd", "floor", Metric::CpuPerHandoff),
            ),
            row(
                "the same with a source that is pending between events",
                AtMost(0.9),
                "",
                Ratio("handoffd, each event apart", "floor", Metric::CpuPerHandoff),
            ),
            row(
                "handoffs per second over the floor's",
                AtLeast(2.0),
                "",
                Ratio("handoffd", "floor", Metric::HandoffsPerSecond),
            ),
            row(
                "the supervisor's CPU per handoff",
                AtMost(10.0),
                "µs",
                Of("handoffd", Metric::SupervisorPerHandoff),
            ),
            row("streams that failed", AtMost(0.0), "", Of("handoffd", Metric::Failed)),
        ],
    },
    Scenario {
        name: "held",
        title: "Held: 10,000 streams at once, 2,000 more a second, an event a second each",
        rounds: 2,
        load: Load::Held { streams: 10_000, rate: 2_000, stamped: false },
        subjects: &[floor(every_second(12)), mock("handoffd", every_second(12))],
        rows: &[
            row(
                "CPU per event over the floor's",
                AtMost(1.6),
                "",
                Ratio("handoffd", "floor", Metric::CpuPerEvent),
            ),
            row("time to first byte, p99", AtMost(0.8), "ms", Of("handoffd", Metric::FirstByteP99)),
            row(
                "memory per stream, all processes (PSS)",
                AtMost(1.5),
                "KB",
                Of("handoffd", Metric::PssPerStream),
            ),
            row(
                "the supervisor's CPU per handoff at 2,000 a second",
                AtMost(30.0),
                "µs",
                Of("handoffd", Metric::SupervisorPerHandoff),
            ),
            row("streams that failed", AtMost(0.0), "", Of("handoffd", Metric::Failed)),
        ],
    },
    Scenario {
        name: "held-19000",
        title: "Held: 19,000 streams at once, 2,000 more a second, an event a second each",
        rounds: 1,
        load: Load::Held { streams: 19_000, rate: 2_000, stamped: false },
        subjects: &[floor(every_second(16)), mock("handoffd", every_second(16))],
        rows: &[
            row(
                "CPU per event over the floor's",
                AtMost(1.6),
                "",
                Ratio("handoffd", "floor", Metric::CpuPerEvent),
            ),
            row("time to first byte, p99", AtMost(1.2), "ms", Of("handoffd", Metric::FirstByteP99)),
            row(
                "memory per stream, all processes (PSS)",
                AtMost(1.5),
                "KB",
                Of("handoffd", Metric::PssPerStream),
            ),
            row("streams that failed", AtMost(0.0), "", Of("handoffd", Metric::Failed)),
        ],
    },
    Scenario {
        name: "upstream",
        title: "An LLM server over HTTP/2: 10,000 streams at once, an event a second each",
        rounds: 1,
        load: Load::Held { streams: 10_000, rate: 2_000, stamped: true },
        subjects: &[
            upstream("h2c", false, every_second(12), None),
            upstream("TLS", true, every_second(12), None),
        ],
        rows: &[
            row("CPU per event", AtMost(12.0), "µs", Of("h2c", Metric::CpuPerEvent)),
            row("memory per stream, all processes (PSS)", AtMost(4.0), "KB", Of("h2c", Metric::PssPerStream)),
            row("added latency per event, p99", AtMost(1.0), "ms", Of("h2c", Metric::AddedP99)),
            row("streams that failed", AtMost(0.0), "", Of("h2c", Metric::Failed)),
            row("CPU per event with TLS", Bound::None, "µs", Of("TLS", Metric::CpuPerEvent)),
            row("memory per stream with TLS (PSS)", Bound::None, "KB", Of("TLS", Metric::PssPerStream)),
        ],
    },
    Scenario {
        name: "limited",
        title: "An LLM server that allows 100 streams on a connection: 1,000 streams at once",
        rounds: 1,
        load: Load::Held { streams: 1_000, rate: 1_000, stamped: true },
        subjects: &[upstream("h2c", false, Pace { events: 12, interval_ms: 500 }, Some(100))],
        rows: &[
            row("streams that failed", AtMost(0.0), "", Of("h2c", Metric::Failed)),
            row("time to first token, p99", AtMost(30.0), "ms", Of("h2c", Metric::FirstTokenP99)),
        ],
    },
    Scenario {
        name: "faults",
        title: "10,000 held streams while all workers are replaced, and while one is killed",
        rounds: 1,
        load: Load::Held { streams: 10_000, rate: 2_000, stamped: false },
        subjects: &[
            mock("calm", every_second(12)),
            with(Happening::Roll, "roll", every_second(12)),
            with(Happening::WorkerKilled, "worker killed", every_second(12)),
        ],
        rows: &[
            row(
                "roll: growth of the gap between tokens, p99",
                AtMost(50.0),
                "ms",
                Growth("roll", "calm", Metric::GapP99),
            ),
            row(
                "roll: growth of the longest gap",
                AtMost(50.0),
                "ms",
                Growth("roll", "calm", Metric::GapMax),
            ),
            row("roll: streams that failed", AtMost(0.0), "", Of("roll", Metric::Failed)),
            row(
                "worker killed: growth of the gap between tokens, p99",
                AtMost(50.0),
                "ms",
                Growth("worker killed", "calm", Metric::GapP99),
            ),
            row(
                "worker killed: growth of the longest gap",
                AtMost(50.0),
                "ms",
                Growth("worker killed", "calm", Metric::GapMax),
            ),
            row(
                "worker killed: streams without even an error event",
                AtMost(0.0),
                "",
                Of("worker killed", Metric::FailedSilently),
            ),
            row(
                "worker killed: streams that ended with one, its own",
                Bound::None,
                "",
                Of("worker killed", Metric::Failed),
            ),
        ],
    },
    Scenario {
        name: "many",
        title: "100,000 streams at once, six workers, an event every ten seconds each",
        rounds: 1,
        load: Load::Held { streams: 100_000, rate: 3_000, stamped: false },
        subjects: &[Subject {
            name: "handoffd",
            answers: Answers::Mock {
                pace: Pace { events: 5, interval_ms: 10_000 },
                workers: 6,
                apart: false,
            },
            event: Happening::Nothing,
        }],
        rows: &[
            row("streams that failed", AtMost(0.0), "", Of("handoffd", Metric::Failed)),
            row("memory, all processes (PSS)", AtMost(200.0), "MB", Of("handoffd", Metric::Pss)),
            row("time to first byte, p99", AtMost(5.0), "ms", Of("handoffd", Metric::FirstByteP99)),
        ],
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    fn subjects_of(figure: Figure) -> Vec<&'static str> {
        match figure {
            Of(subject, _) => vec![subject],
            Ratio(subject, other, _) | Growth(subject, other, _) => vec![subject, other],
        }
    }

    #[test]
    fn every_row_is_about_a_subject_of_its_scenario() {
        for scenario in ALL {
            for row in scenario.rows {
                for subject in subjects_of(row.figure) {
                    let known = scenario.subjects.iter().any(|known| known.name == subject);
                    assert!(known, "{}: {}: {subject}", scenario.name, row.what);
                }
            }
        }
    }

    #[test]
    fn names_are_unique_and_found() {
        for scenario in ALL {
            assert_eq!(named(scenario.name).unwrap().title, scenario.title);
        }
        assert!(named("nonsense").is_none());
    }

    #[test]
    fn all_streams_of_a_held_scenario_are_open_at_once_for_some_seconds() {
        for scenario in ALL {
            let Load::Held { streams, rate, .. } = scenario.load else { continue };
            for subject in scenario.subjects {
                let plateau_ms = i64::from(subject.answers.pace().length_ms())
                    - i64::from(streams) * 1_000 / i64::from(rate);
                assert!(plateau_ms >= 4_000, "{}: {}: {plateau_ms} ms", scenario.name, subject.name);
            }
        }
    }

    #[test]
    fn whoever_is_compared_has_the_same_answers() {
        for scenario in ALL {
            let first = scenario.subjects[0].answers.pace();
            assert!(
                scenario.subjects.iter().all(|subject| subject.answers.pace() == first),
                "{}",
                scenario.name
            );
        }
    }
}
