//! `logging.format = "journald"`: without a journal the log goes to stderr and says so; with one that does not
//! read any more, streams go on.

use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::time::Duration;

use handoff_e2e::apache::Kind;
use handoff_e2e::{Crowd, Daemon, Door, Options, PATIENCE, eventually};

const JOURNAL: &str = "/run/systemd/journal/socket";
const TOML: &str = "[logging]\nformat = \"journald\"\nlevel = \"trace\"\n";

const QUICK: &[u8] = br#"{"prompt":"x","mock":{"length":1,"token_delay_ms":0}}"#;

/// Both cases in one test: there is one such path on a machine.
#[test]
fn without_one_and_with_one_that_stops_reading() {
    if Path::new(JOURNAL).exists() {
        // A real journal: it is not ours to play with. That it is used is all there is to see.
        let daemon = Daemon::start(TOML);
        assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response().is_complete());
        return;
    }
    falls_back_to_stderr();
    if let Some(journal) = FakeJournal::start() {
        receives_entries_and_may_stop_reading(&journal);
    }
}

fn falls_back_to_stderr() {
    let daemon = Daemon::start(TOML);
    assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":1}}"#).response().is_complete());
    eventually("both say so", || {
        (daemon.log().matches("journald cannot be reached").count() >= 3).then_some(())
    });
    eventually("the session is in the log", || daemon.log().contains("session ended").then_some(()));
}

fn receives_entries_and_may_stop_reading(journal: &FakeJournal) {
    let daemon = Daemon::with(&Options { toml: TOML.to_owned(), ..Options::default() });
    assert!(
        daemon.hand_over(r#"{"prompt":"x","request_id":"r-7","mock":{"length":1}}"#).response().is_complete()
    );
    let mut entry = [0; 65536];
    let entry = eventually("the session's entry", || {
        let length = journal.0.recv(&mut entry).ok()?;
        let text = String::from_utf8_lossy(&entry[..length]).into_owned();
        text.contains("session ended").then_some(text)
    });
    assert!(entry.contains("OUTCOME") && entry.contains("r-7"), "{entry}");
    assert_eq!(daemon.log(), "", "it is in the journal, not on stderr");
    // Nobody reads from here on. The kernel keeps a few; then writing blocks.
    let mut dropped = 0.0;
    eventually("entries are dropped", || {
        let mut crowd = Crowd::default();
        for _ in 0..500 {
            crowd.join(daemon.hand_over_by(Door::SeqPacket, Kind::Unix, QUICK));
        }
        for (number, response) in crowd.responses(PATIENCE).iter().enumerate() {
            assert!(response.is_complete(), "client {number}: {response:?}");
        }
        dropped = daemon.metric("handoffd_log_lines_dropped_total");
        (dropped > 0.0).then_some(())
    });
    assert_eq!(daemon.workers("ready").len(), 2);
}

/// A socket where journald has its own on other machines; gone when dropped.
struct FakeJournal(UnixDatagram);

impl FakeJournal {
    fn start() -> Option<Self> {
        std::fs::create_dir_all(Path::new(JOURNAL).parent()?).ok()?;
        let socket = UnixDatagram::bind(JOURNAL).ok()?;
        socket.set_read_timeout(Some(Duration::from_millis(100))).ok()?;
        Some(Self(socket))
    }
}

impl Drop for FakeJournal {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(JOURNAL);
        // Fails where something else is in it: then it is not ours.
        let _ = std::fs::remove_dir("/run/systemd/journal");
        let _ = std::fs::remove_dir("/run/systemd");
    }
}
