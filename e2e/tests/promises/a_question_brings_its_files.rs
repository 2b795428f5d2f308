//! What a site attaches is read from one directory, by confined workers, and removed when its answer begins and not
//! before.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::PathBuf;

use handoff_e2e::operator::streams;
use handoff_e2e::process::signal;
use handoff_e2e::{Daemon, eventually};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;
use serde_json::{Value, json};
use tempfile::TempDir;

/// An id that needs no entry on this host.
const UID: u32 = 61_234;
const GID: u32 = 61_235;

/// A site whose files workers may read and remove, and a daemon whose workers are confined.
pub(crate) struct Site {
    pub(crate) daemon: Daemon,
    above: TempDir,
}

impl Site {
    fn start() -> Self {
        Self::with("")
    }

    /// With further sections.
    pub(crate) fn with(sections: &str) -> Self {
        let above = tempfile::tempdir().expect("a directory");
        fs::set_permissions(above.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        let files = above.path().join("files");
        fs::create_dir(&files).expect("a directory");
        fs::write(above.path().join("secret"), "a secret").expect("a file");
        let mut run_as = String::new();
        if geteuid().is_root() {
            run_as = format!("user = {UID}\ngroup = {GID}\n");
            chown(&files, None, Some(GID)).expect("a group");
        }
        fs::set_permissions(&files, fs::Permissions::from_mode(0o2770)).expect("a mode");
        let toml = format!(
            "[workers]\ncount = 2\nsandbox = \"require\"\n{run_as}[backend]\nfiles_directory = \"{}\"\n{sections}",
            files.display()
        );
        Self { daemon: Daemon::start(&toml), above }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.above.path().join("files").join(name)
    }

    pub(crate) fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).expect("a file");
        fs::set_permissions(self.path(name), fs::Permissions::from_mode(0o640)).expect("a mode");
    }

    pub(crate) fn is_removed(&self, name: &str) {
        eventually(&format!("{name} is removed"), || (!self.path(name).exists()).then_some(()));
    }

    /// A question whose answer begins after a while.
    fn slow(&self, mut payload: Value) -> String {
        payload["mock"] = json!({"first_token_delay_ms": 1500, "token_delay_ms": 0});
        payload.to_string()
    }
}

#[test]
fn files_are_read_where_the_question_names_them_and_removed_when_its_answer_begins() {
    let site = Site::start();
    site.write("a.txt", "the words of a file");
    let payload = json!({"prompt": "Read <{a}>!", "attachments": {"a": site.path("a.txt")}});
    let mut client = site.daemon.hand_over(site.slow(payload));
    assert!(client.read_until("data: ").contains("200 OK"));
    site.is_removed("a.txt");
    let response = client.response();
    assert!(response.body.contains("[DONE]"), "{response:?}");

    site.write("a.txt", "the words of a file");
    let payload = json!({"prompt": "Read <{a}>!", "attachments": {"a": "a.txt"}});
    let text = site.daemon.hand_over(payload.to_string()).response().text();
    assert!(text.contains("You asked: Read <the words of a file>!"), "{text}");
}

#[test]
fn a_payload_may_be_a_file() {
    let site = Site::start();
    let question = "a long question ".repeat(100_000);
    site.write("p.json", json!({"prompt": question, "request_id": "r1"}).to_string());
    let payload = json!({"payload_file": "p.json", "mock": {"token_delay_ms": 0}, "prompt": "unused"});
    let response = site.daemon.hand_over(payload.to_string()).response();
    assert_eq!(response.header("X-Request-Id"), Some("r1"));
    assert!(response.text().contains(&question));
    site.is_removed("p.json");
}

#[test]
fn when_a_worker_dies_before_that_another_one_reads_them_again() {
    let site = Site::start();
    site.write("a.txt", "the words of a file");
    site.write(
        "p.json",
        json!({"prompt": "{a}", "request_id": "of-the-file", "attachments": {"a": "a.txt"}}).to_string(),
    );
    let client = site.daemon.hand_over(site.slow(json!({"payload_file": "p.json"})));
    // Its id is in the file: who knows it has read everything.
    eventually("a worker has read the files", || {
        streams(&site.daemon).iter().any(|stream| stream["request_id"] == "of-the-file").then_some(())
    });
    let holder = site.daemon.holders()[0].0;
    signal(holder, Signal::SIGKILL);
    assert!(site.path("a.txt").exists() && site.path("p.json").exists());
    let response = client.response();
    assert!(response.text().contains("You asked: the words of a file"), "{response:?}");
    assert_eq!(site.daemon.metric("handoffd_redispatches_total"), 1.0);
    site.is_removed("a.txt");
    site.is_removed("p.json");
}

#[test]
fn nothing_else_is_read_and_what_is_refused_stays() {
    let site = Site::start();
    site.write("a.txt", "words");
    site.write("b.bin", b"\xff\0");
    symlink(site.above.path().join("secret"), site.path("link")).expect("a file system");
    let secret = site.above.path().join("secret").display().to_string();
    for (path, allowed) in [
        ("../secret", "a file beneath the configured directory"),
        ("link", "a file beneath the configured directory"),
        (&secret, "a file beneath the configured directory"),
        ("none", "a file that exists"),
        ("b.bin", "a text, an image or a PDF; attachment_types may say which"),
    ] {
        let payload = json!({"prompt": "x", "attachments": {"a": "a.txt", "b": path}});
        let response = site.daemon.hand_over(payload.to_string()).response();
        assert_eq!((response.status, response.error_code().as_deref()), (400, Some("bad_handoff")), "{path}");
        assert!(response.body.contains(&format!("attachments.b: must be {allowed}")), "{response:?}");
        assert!(!response.body.contains("secret"), "{response:?}");
    }
    assert!(site.path("a.txt").exists() && site.path("b.bin").exists());

    let plain = Daemon::start("");
    let payload = json!({"prompt": "x", "attachments": {"a": site.path("a.txt")}});
    let response = plain.hand_over(payload.to_string()).response();
    assert!(response.status == 400 && response.body.contains("no directory for files"), "{response:?}");
}
