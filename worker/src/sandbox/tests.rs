//! What confined workers still can. Confinement is for good: each test runs itself again as a process of its own, and
//! what it says there is its result.

use std::ffi::OsStr;
use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::process::Command;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, openat2};

use super::*;
use crate::files::Files;
use crate::request::parse;
use crate::upstream::record::{About, End, Recordings};

const INSIDE: &str = "HANDOFFD_TEST_CONFINED";

/// This is a process of its own: what the outer one says to it.
fn inside() -> Option<PathBuf> {
    std::env::var_os(INSIDE).map(PathBuf::from)
}

/// Runs the test of this name in a process of its own.
fn run_inside(test: &str, word: impl AsRef<OsStr>) {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("sandbox::tests::{test}"), "--nocapture", "--test-threads=1"]);
    let output = command.env(INSIDE, word).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}");
}

fn required() -> Config {
    let mut config = Config::default();
    config.workers.sandbox = SandboxMode::Require;
    config
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap()
}

#[test]
fn a_confined_worker_resolves_names_and_connects() {
    if let Some(port) = inside() {
        enter(&required()).unwrap();
        let address = format!("localhost:{}", port.display());
        runtime().block_on(async {
            let mut said = String::new();
            // In a thread of its own, as every name is.
            let addresses = tokio::net::lookup_host(address).await.unwrap();
            let address = addresses.into_iter().find(std::net::SocketAddr::is_ipv4).unwrap();
            let stream = tokio::net::TcpStream::connect(address).await.unwrap();
            let mut stream = stream.into_std().unwrap();
            stream.set_nonblocking(false).unwrap();
            stream.read_to_string(&mut said).unwrap();
            assert_eq!(said, "hello");
        });
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    let accepted = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        stream.write_all(b"hello").unwrap();
    });
    run_inside("a_confined_worker_resolves_names_and_connects", port);
    accepted.join().unwrap();
}

#[test]
fn a_confined_worker_reads_attached_files_and_removes_them() {
    if let Some(site) = inside() {
        let mut config = required();
        config.backends.files_directory = Some(site.join("files"));
        let confined = enter(&config).unwrap();
        let directory = confined.opened.files.clone().unwrap();
        let files = Files::new(confined.opened.files);
        runtime().block_on(async {
            let payload = br#"{"prompt":"{a}","attachments":{"a":"inner/a.txt"}}"#;
            let (request, claimed) = files.resolve(parse(payload).unwrap()).await.unwrap();
            assert_eq!(request.last_user_text(), "words");
            claimed.remove();
            files.settled().await;
        });
        let open = |path: &str, flags| openat2(&directory, path, OpenHow::new().flags(flags)).err();
        assert_eq!(open("../secret", OFlag::O_RDONLY), Some(Errno::EACCES));
        assert_eq!(open("link", OFlag::O_RDONLY), Some(Errno::EACCES));
        assert_eq!(open("new", OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL), Some(Errno::EACCES));
        assert_eq!(open("inner", OFlag::O_RDONLY), Some(Errno::EACCES), "nothing is listed");
        assert!(fs::remove_file(site.join("secret")).is_err());
        return;
    }
    let site = tempfile::tempdir().unwrap();
    fs::create_dir_all(site.path().join("files/inner")).unwrap();
    fs::write(site.path().join("files/inner/a.txt"), "words").unwrap();
    fs::write(site.path().join("secret"), "secret").unwrap();
    symlink("/etc/passwd", site.path().join("files/link")).unwrap();
    run_inside("a_confined_worker_reads_attached_files_and_removes_them", site.path());
    assert!(!site.path().join("files/inner/a.txt").exists());
    assert!(site.path().join("secret").exists());
}

#[test]
fn a_confined_worker_records_answers() {
    if let Some(directory) = inside() {
        let mut config = required();
        let backend = config.backends.all.iter_mut().find(|backend| backend.name == "openai").unwrap();
        backend.record = Some(directory.clone());
        let backend = backend.clone();
        let confined = enter(&config).unwrap();
        let recordings = Recordings::new(confined.opened.records, false);
        let request = parse(br#"{"prompt":"hi"}"#).unwrap();
        let about = About { backend: &backend, model: "m", request: &request, id: "r" };
        recordings.slate(&about).unwrap().begin(200, None).unwrap().finish(End::Clean);
        // It ends when its thread has.
        drop(recordings);
        let old = directory.join("old");
        assert!(fs::read(&old).is_err() && fs::read_dir(&directory).is_err(), "nothing is read");
        assert!(fs::OpenOptions::new().append(true).open(&old).is_err(), "nothing else is changed");
        assert!(fs::File::create_new(directory.parent().unwrap().join("beside")).is_err());
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    fs::create_dir(directory.path().join("answers")).unwrap();
    fs::write(directory.path().join("answers/old"), "old").unwrap();
    run_inside("a_confined_worker_records_answers", directory.path().join("answers"));
    let names = fs::read_dir(directory.path().join("answers")).unwrap();
    let names: Vec<_> = names.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.len() == 2 && names.iter().any(|name| name.ends_with(".jsonl")), "{names:?}");
}

#[test]
fn a_directory_that_is_not_there_is_named() {
    let mut config = Config::default();
    config.backends.files_directory = Some("/nonexistent/files".into());
    let error = enter(&config).unwrap_err().to_string();
    assert_eq!(
        error,
        "backend.files_directory: /nonexistent/files cannot be opened as a directory: No such file or directory (os error 2)"
    );
}
