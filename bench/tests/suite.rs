//! The suite itself, with programs that only pretend: what it starts it ends, what it cannot measure it says.

#![forbid(unsafe_code)]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::TempDir;

const PATIENCE: Duration = Duration::from_secs(20);
/// What a generator reports, to the file behind its `--json`.
const REPORT: &str = r#"#!/bin/bash
while [ "$1" != --json ]; do shift; done
echo '{"completed":10000,"failed":{},"handoffs_per_second":2000,"daemon":{"cpu_us_per_event":5.5}}' >"$2"
"#;

/// A place with such programs, a document and a directory for whatever is temporary.
fn place(programs: &[(&str, &str)]) -> TempDir {
    let place = tempfile::tempdir().unwrap();
    for (name, script) in programs {
        let path = place.path().join(name);
        fs::write(&path, script).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::create_dir(place.path().join("tmp")).unwrap();
    fs::create_dir(place.path().join("docs")).unwrap();
    let document = include_str!("../../docs/PERFORMANCE.md");
    fs::write(place.path().join("docs/PERFORMANCE.md"), document).unwrap();
    place
}

fn suite(place: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_suite"));
    command.arg("bench").current_dir(place).env("BENCH_BINARIES", place).env("TMPDIR", place.join("tmp"));
    command.env("BENCH_ONLY", "held").env("BENCH_ROUNDS", "2").stdin(Stdio::null());
    command
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn is_empty(directory: &Path) -> bool {
    fs::read_dir(directory).unwrap().next().is_none()
}

#[test]
fn who_cannot_be_measured_is_named_and_the_others_are_measured() {
    let floor = "#!/bin/bash\necho \"floor listens on $2\"\nexec sleep 600\n";
    let place = place(&[
        ("floor", floor),
        ("handoffctl", REPORT),
        ("handoffd", "#!/bin/bash\necho 'daemon.toml:3: such a key' >&2\nexit 78\n"),
    ]);
    let output = suite(place.path()).output().unwrap();
    let said = text(&output);
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("handoffd: NOT MEASURED: handoffd ended, exit status: 78"), "{said}");
    assert!(said.contains("daemon.toml:3: such a key"), "{said}");
    assert!(said.contains("held round 2, floor: 5.50 µs per event"), "{said}");
    let document = fs::read_to_string(place.path().join("docs/PERFORMANCE.md")).unwrap();
    let (_, held) = document.split_once("<!-- bench:held -->").unwrap();
    let (held, _) = held.split_once("<!-- /bench:held -->").unwrap();
    assert!(
        held.contains("| CPU per event over the floor's ") && held.contains("**not measured**"),
        "{held}"
    );
    let kept = fs::read_to_string(place.path().join("target/bench/held.json")).unwrap();
    assert!(kept.contains("\"cpu_us_per_event\": 5.5"), "{kept}");
    assert!(place.path().join("target/bench/held-floor-2.json").exists());
    assert!(is_empty(&place.path().join("tmp")));
}

#[test]
fn interrupted_it_leaves_no_process_and_no_file_behind() {
    // A generator that does not end, and tells who it is; a floor that does not end when it is asked to.
    let place = place(&[
        (
            "floor",
            "#!/bin/bash\ntrap '' TERM\necho \"floor listens on $2\"\necho $$ >floor.pid\nwhile :; do sleep 0.1; done\n",
        ),
        (
            "handoffctl",
            "#!/bin/bash\necho $$ >generator.pid.new\nmv generator.pid.new generator.pid\nexec sleep 600\n",
        ),
    ]);
    let mut suite = suite(place.path()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let pid_of = |name: &str| fs::read_to_string(place.path().join(name)).ok()?.trim().parse::<i32>().ok();
    let pids = eventually("both have started", || Some([pid_of("floor.pid")?, pid_of("generator.pid")?]));
    kill(Pid::from_raw(i32::try_from(suite.id()).unwrap()), Signal::SIGINT).unwrap();
    let status = eventually("the suite has ended", || suite.try_wait().unwrap());
    assert_eq!(status.code(), Some(2));
    let mut said = BufReader::new(suite.stderr.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "suite: interrupted");
    for pid in pids {
        assert!(!Path::new(&format!("/proc/{pid}")).exists(), "{pid} still runs");
    }
    assert!(is_empty(&place.path().join("tmp")));
}

fn eventually<T>(what: &str, mut question: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(answer) = question() {
            return answer;
        }
        assert!(Instant::now() < deadline, "not in {PATIENCE:?}: {what}");
        pause();
    }
}

#[expect(clippy::disallowed_methods, reason = "the one pause of all polling, always under a deadline")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}
