//! The running daemon and its configuration. In: where it may be asked, which file it may have. Out: its word, and findings.
//! Never: orders anything.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Parser;
use handoff_config::cli::Cli;
use handoff_config::{Config, ConfigError, Problem};
use handoff_shared::sandbox::SandboxLevel;
use handoff_shared::status::Status;

use super::finding::Finding;
use crate::control::Place;
use crate::outcome::Failure;
use crate::status;

/// Where packages put the configuration.
const USUAL_CONFIG: &str = "/etc/handoffd/daemon.toml";
/// Where the daemon answers over HTTP, by default.
const USUAL_ADDRESS: &str = "127.0.0.1:9090";
/// A daemon that is well answers in milliseconds.
const PATIENCE: Duration = Duration::from_secs(5);
/// The check that the file is subject to.
const CONFIG: &str = "daemon.config";

/// A process that calls itself handoffd, as /proc shows it.
#[derive(Debug, Default)]
pub(super) struct Process {
    /// Its command line, with the paths as seen from here.
    cli: Option<Cli>,
    /// Its variables; none: not ours to see.
    environment: Option<Vec<(OsString, OsString)>>,
}

/// The configuration of a daemon, or why there is none.
pub(super) type Loaded = Result<Config, ConfigError>;

/// Whether this process is a handoffd.
pub(super) fn is_handoffd(pid: u32) -> bool {
    fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|name| name.trim_end() == "handoffd")
}

impl Process {
    /// What is to be seen of a running handoffd.
    pub(super) fn look(pid: u32) -> Self {
        let directory = PathBuf::from(format!("/proc/{pid}"));
        let words = fs::read(directory.join("cmdline")).unwrap_or_default();
        let mut cli = Cli::try_parse_from(strings(&words)).ok();
        if let (Some(Cli { config: Some(path), .. }), Ok(home)) =
            (&mut cli, fs::read_link(directory.join("cwd")))
        {
            *path = home.join(&*path);
        }
        let environment = fs::read(directory.join("environ")).ok().map(|bytes| variables(&bytes));
        Self { cli, environment }
    }

    /// The configuration that it would read now; `named` instead of its own file.
    pub(super) fn load(&self, named: Option<&Path>) -> (Option<PathBuf>, Loaded) {
        let mut cli = self.cli.clone().unwrap_or_default();
        if let Some(named) = named {
            cli.config = Some(named.to_owned());
        } else if self.cli.is_none() {
            cli.config = usual_config();
        }
        let loaded = match &self.environment {
            Some(variables) => Config::load(&cli, &|name| {
                variables.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone())
            }),
            None => Config::load(&cli, &|name| env::var_os(name)),
        };
        (cli.config, loaded)
    }

    /// Whether its command line is known.
    pub(super) fn is_seen(&self) -> bool {
        self.cli.is_some()
    }

    /// Whether the variables are its own, and not this shell's.
    fn knows_environment(&self) -> bool {
        self.environment.is_some()
    }
}

fn usual_config() -> Option<PathBuf> {
    Some(PathBuf::from(USUAL_CONFIG)).filter(|path| path.exists())
}

fn strings(bytes: &[u8]) -> Vec<OsString> {
    let mut words: Vec<OsString> =
        bytes.split(|byte| *byte == 0).map(|word| OsStr::from_bytes(word).to_owned()).collect();
    words.pop(); // behind the last NUL
    words
}

fn variables(bytes: &[u8]) -> Vec<(OsString, OsString)> {
    let pair = |word: OsString| {
        let at = word.as_bytes().iter().position(|byte| *byte == b'=')?;
        let (name, value) = word.as_bytes().split_at(at);
        Some((OsStr::from_bytes(name).to_owned(), OsStr::from_bytes(&value[1..]).to_owned()))
    };
    strings(bytes).into_iter().filter_map(pair).collect()
}

/// Asks it at its control socket, else over HTTP.
pub(super) fn ask(place: &Place, config: Option<&Config>) -> (Option<Status>, Vec<Finding>) {
    const CHECK: &str = "daemon.admin";
    let address = match config {
        Some(config) => config.metrics.listen_addr.map(|address| address.to_string()),
        None => env::var("DAEMON_METRICS_ADDR").ok().or_else(|| Some(USUAL_ADDRESS.to_owned())),
    };
    let path = place.path();
    let by_socket = place.status_within(PATIENCE);
    // Another instance's address is no answer to a question for this one.
    let is_chosen = place.chosen().is_some() && config.is_none();
    let by_http = address.filter(|_| !is_chosen).map(|address| (status::over_http(&address), address));
    let sentence = |failure: &Failure| failure.sentence().unwrap_or_default();
    match (by_socket, by_http) {
        (Ok(status), Some((Err(failure), address))) if config.is_some() => {
            let found =
                format!("it answers on {}, but nobody at {address}: {}", path.display(), sentence(&failure));
            let advice = "see metrics.listen_addr; a change of it needs a restart";
            (Some(status), vec![Finding::warning(CHECK, found, advice)])
        }
        (Ok(status), _) => {
            (Some(status), vec![Finding::ok(CHECK, format!("it answers on {}", path.display()))])
        }
        (Err(_), Some((Ok(status), address))) => {
            (Some(status), vec![Finding::ok(CHECK, format!("it answers at http://{address}/status"))])
        }
        (Err(failure), _) => {
            let advice = "start handoffd, ask again as root, or name its control socket by --control";
            (None, vec![Finding::unseen(CHECK, sentence(&failure), advice)])
        }
    }
}

/// What it says about itself.
pub(super) fn judge(status: &Status) -> Vec<Finding> {
    vec![version(&status.version), workers(status), sandbox(status), on_disk(status)]
}

fn version(theirs: &str) -> Finding {
    const CHECK: &str = "daemon.version";
    let ours = env!("CARGO_PKG_VERSION");
    match theirs == ours {
        true => Finding::ok(CHECK, format!("handoffd and handoffctl are both {ours}")),
        false => {
            let found = format!("handoffd is {theirs}, handoffctl is {ours}");
            Finding::warning(CHECK, found, "handoffctl upgrade --wait, if the newer one is on disk")
        }
    }
}

fn workers(status: &Status) -> Finding {
    const CHECK: &str = "daemon.workers";
    let ready = status.workers.iter().filter(|worker| worker.state == "ready").count();
    let waiting = |state: &str| ["starting", "backoff", "empty", "dying"].contains(&state);
    let slow = status.workers.iter().filter(|worker| waiting(&worker.state)).count();
    let found = format!("{}; {ready} workers ready, {slow} not", status.state);
    match (status.state.as_str(), ready, slow) {
        ("stopping", ..) => Finding::problem(CHECK, found, "start it again when it has ended"),
        ("degraded", ..) | (_, 0, _) => {
            let advice = "see the daemon's log for why workers do not start; handoffd-worker --self-test";
            Finding::problem(CHECK, found, advice)
        }
        (_, _, 0) => Finding::ok(CHECK, found),
        (..) => Finding::warning(CHECK, found, "handoffctl status says which, the daemon's log why"),
    }
}

fn sandbox(status: &Status) -> Finding {
    const CHECK: &str = "daemon.sandbox";
    let states: Vec<_> = status.workers.iter().filter_map(|worker| worker.sandbox).collect();
    let Some(worst) = states.iter().map(|state| state.level).min_by_key(|level| *level as u8) else {
        return Finding::unseen(CHECK, "no worker has said what confines it", "ask again when one is ready");
    };
    let found = format!("workers are confined: {worst}");
    match worst {
        SandboxLevel::Full => Finding::ok(CHECK, found),
        SandboxLevel::Partial => Finding::warning(
            CHECK,
            found,
            "the daemon's log says what the kernel lacks; handoffd-worker --self-test",
        ),
        SandboxLevel::Off => {
            Finding::warning(CHECK, found, "set workers.sandbox = \"best-effort\" or \"require\", and reload")
        }
    }
}

fn on_disk(status: &Status) -> Finding {
    const CHECK: &str = "daemon.reload";
    match &status.config_error {
        None => Finding::ok(CHECK, format!("generation {} runs what was last read", status.generation)),
        Some(error) => {
            let found = format!("what runs is not what is on disk: {error}");
            Finding::warning(CHECK, found, "mend the file, then: handoffctl reload --wait")
        }
    }
}

/// Whether the file is valid.
pub(super) fn file(path: Option<&Path>, loaded: &Loaded, process: &Process) -> Vec<Finding> {
    let shown = path.map_or_else(|| "no configuration file".to_owned(), |path| path.display().to_string());
    let check = format!("handoffd --check {shown} lists everything that is wrong");
    match loaded {
        Ok(_) if path.is_none() && !process.is_seen() => vec![Finding::unseen(
            CONFIG,
            "which configuration the daemon has is not to be seen",
            "name it by --config",
        )],
        Ok(_) => vec![Finding::ok(CONFIG, format!("{shown}: valid"))],
        Err(ConfigError::Unreadable { reason, .. }) if reason.kind() == io::ErrorKind::PermissionDenied => {
            vec![Finding::unseen(CONFIG, format!("{shown}: {reason}"), "ask again as root")]
        }
        Err(ConfigError::Invalid(problems)) => {
            problems.iter().map(|problem| self::problem(problem, process, &check)).collect()
        }
        Err(error) => vec![Finding::problem(CONFIG, error.to_string(), check)],
    }
}

/// A key that lives in the daemon's environment, or in a file that only it may read, is not missed from here.
fn problem(problem: &Problem, process: &Process, check: &str) -> Finding {
    let is_elsewhere = match problem {
        Problem::BadValue { key, .. } => key.ends_with("_env") || key.ends_with("_file"),
        Problem::UnknownKey { .. } | Problem::Missing { .. } => false,
    };
    match is_elsewhere && !process.knows_environment() {
        true => Finding::unseen(
            CONFIG,
            format!("{problem} (here; the daemon's environment is not to be seen)"),
            check,
        ),
        false => Finding::problem(CONFIG, problem.to_string(), check),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use serde_json::{Value, json};

    fn status(change: impl Fn(&mut Value)) -> Status {
        let mut value = json!({
            "version": env!("CARGO_PKG_VERSION"), "pid": 1, "uptime_secs": 1, "state": "ready", "generation": 1,
            "roll": null, "reload_pending": false, "last_reload": null, "last_upgrade": null, "config_error": null,
            "last_poison": null, "leases": 0, "leases_queued": 0, "max_connections": 10,
            "workers": [{
                "slot": 0, "generation": 1, "pid": 2, "state": "ready", "deadline_ms": null, "age_secs": 1,
                "leases": 0, "leases_total": 0, "restarts": 0, "rss_bytes": 1, "beat_age_ms": 1,
                "sandbox": {"level": "full", "unprivileged": true, "other_user": true, "landlock_abi": 6,
                            "seccomp": true, "undumpable": true},
            }],
        });
        change(&mut value);
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_daemon_that_is_well_is_all_ok() {
        let findings = judge(&status(|_| {}));
        assert!(findings.iter().all(|finding| finding.level == Level::Ok), "{findings:?}");
    }

    #[test]
    fn each_trouble_of_a_daemon_is_named() {
        type Change = fn(&mut Value);
        let cases: [(Change, &str, Level); 7] = [
            (|it| it["version"] = "0.0.1".into(), "daemon.version", Level::Warning),
            (|it| it["state"] = "degraded".into(), "daemon.workers", Level::Problem),
            (|it| it["state"] = "stopping".into(), "daemon.workers", Level::Problem),
            (|it| it["workers"][0]["state"] = "backoff".into(), "daemon.workers", Level::Problem),
            (|it| it["workers"][0]["sandbox"]["level"] = "partial".into(), "daemon.sandbox", Level::Warning),
            (|it| it["workers"][0]["sandbox"]["level"] = "off".into(), "daemon.sandbox", Level::Warning),
            (|it| it["config_error"] = "x = 1: no".into(), "daemon.reload", Level::Warning),
        ];
        for (change, check, level) in cases {
            let mut findings = judge(&status(change));
            findings.retain(|finding| finding.level != Level::Ok);
            assert_eq!(findings.len(), 1, "{findings:?}");
            assert_eq!((findings[0].check, findings[0].level), (check, level), "{findings:?}");
        }
    }

    #[test]
    fn a_configuration_is_judged_with_the_daemons_own_environment() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("daemon.toml");
        fs::write(
            &path,
            "[backend]\nprovider = \"a\"\n[backends.a]\nkind = \"openai\"\napi_key_env = \"DOCTOR_TEST_KEY\"\n",
        )
        .unwrap();
        let levels = |process: &Process| -> Vec<Level> {
            let (named, loaded) = process.load(Some(&path));
            file(named.as_deref(), &loaded, process).iter().map(|finding| finding.level).collect()
        };
        let with = |variables: &[u8]| Process {
            environment: Some(super::variables(variables)),
            ..Process::default()
        };
        assert_eq!(levels(&Process::default()), [Level::Unseen]);
        assert_eq!(levels(&with(b"A=b\0")), [Level::Problem]);
        assert_eq!(levels(&with(b"A=b\0DOCTOR_TEST_KEY=sk\0")), [Level::Ok]);
        fs::write(&path, "[server]\nmax_conections = 1\n").unwrap();
        assert_eq!(levels(&Process::default()), [Level::Problem]);
        fs::write(&path, "[server\n").unwrap();
        assert_eq!(levels(&Process::default()), [Level::Problem]);
    }
}
