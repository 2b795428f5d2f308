//! Nobody reads the log: streams go on, and what is lost is counted.

use std::fs::File;
use std::path::{Path, PathBuf};

use handoff_e2e::apache::Kind;
use handoff_e2e::{Crowd, Daemon, Door, Options, PATIENCE, eventually};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

const QUICK: &[u8] = br#"{"prompt":"x","mock":{"length":1,"token_delay_ms":0}}"#;

/// A pipe that somebody holds open and never reads.
fn stuck_pipe(directory: &Path) -> (PathBuf, File) {
    let path = directory.join("pipe");
    mkfifo(&path, Mode::from_bits_truncate(0o600)).expect("a pipe");
    let reader = File::options().read(true).write(true).open(&path).expect("a pipe");
    (path, reader)
}

#[test]
fn a_pipe_that_nobody_reads_stops_no_stream() {
    let directory = tempfile::tempdir().expect("a directory");
    let (path, _reader) = stuck_pipe(directory.path());
    let toml = "[logging]\nformat = \"json\"\nlevel = \"trace\"\n".to_owned();
    let mut daemon = Daemon::with(&Options { toml, log_to: Some(path), ..Options::default() });
    let mut handed_over = 0;
    eventually("lines have been dropped", || {
        let mut crowd = Crowd::default();
        for _ in 0..500 {
            crowd.join(daemon.hand_over_by(Door::SeqPacket, Kind::Unix, QUICK));
        }
        handed_over += 500;
        for (number, response) in crowd.responses(PATIENCE).iter().enumerate() {
            assert!(response.is_complete(), "client {number}: {response:?}");
        }
        (daemon.metric("handoffd_log_lines_dropped_total") > 0.0).then_some(())
    });
    assert_eq!(daemon.metric("daemon_handoffs_total"), f64::from(handed_over));
    assert_eq!(daemon.workers("ready").len(), 2);
    daemon.signal(Signal::SIGTERM);
    assert_eq!(daemon.wait().code(), Some(0), "it must not wait for its log at the end either");
}
