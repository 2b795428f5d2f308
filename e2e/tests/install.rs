//! `make install` puts everything where it belongs, in DESTDIR; `make uninstall` takes it away again. The same for
//! Apache's module.

#![forbid(unsafe_code)]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use handoff_e2e::container::{target, workspace};

fn make(what: &str, destdir: &Path, more: &[&str]) {
    let (target, profile) = target();
    let output = Command::new("make")
        .arg(what)
        .arg(format!("DESTDIR={}", destdir.display()))
        .arg(format!("PROFILE={profile}"))
        .args(more)
        .current_dir(workspace())
        .env("CARGO_TARGET_DIR", target)
        .env_remove("MAKEFLAGS")
        .output()
        .expect("make");
    assert!(output.status.success(), "make {what}: {}", String::from_utf8_lossy(&output.stderr));
}

/// All files, with their modes, by path.
fn files(root: &Path) -> Vec<(String, u32)> {
    let mut found = Vec::new();
    let mut directories = vec![root.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).expect("a directory").flatten() {
            let metadata = entry.metadata().expect("metadata");
            match metadata.is_dir() {
                true => directories.push(entry.path()),
                false => {
                    let path = entry.path().strip_prefix(root).expect("a prefix").display().to_string();
                    found.push((path, metadata.permissions().mode() & 0o777));
                }
            }
        }
    }
    found.sort();
    found
}

#[test]
fn everything_comes_and_goes_and_the_configuration_stays() {
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    make("install", root, &["PREFIX=/opt/h", "APACHE_GROUP=apache"]);
    let installed = files(root);
    for (path, mode) in [
        ("opt/h/bin/handoffd", 0o755),
        ("opt/h/bin/handoffd-worker", 0o755),
        ("opt/h/bin/handoffctl", 0o755),
        ("opt/h/lib/systemd/system/handoffd.service", 0o644),
        ("opt/h/lib/systemd/system/handoffd.socket", 0o644),
        ("opt/h/lib/systemd/system/handoffd-stream.socket", 0o644),
        ("opt/h/lib/sysusers.d/handoffd.conf", 0o644),
        ("opt/h/lib/tmpfiles.d/handoffd.conf", 0o644),
        ("opt/h/share/man/man8/handoffd.8", 0o644),
        ("opt/h/share/man/man1/handoffctl.1", 0o644),
        ("opt/h/share/bash-completion/completions/handoffctl", 0o644),
        ("opt/h/share/doc/handoffd/OPERATIONS.md", 0o644),
        ("opt/h/share/php/handoffd/handoff.php", 0o644),
        ("etc/handoffd/daemon.toml", 0o644),
    ] {
        assert!(installed.contains(&(path.to_owned(), mode)), "{path} {mode:o} is not in {installed:#?}");
    }
    let text = |path: &str| fs::read_to_string(root.join(path)).expect("a file");
    let service = text("opt/h/lib/systemd/system/handoffd.service");
    assert!(
        service.contains("\nExecStart=/opt/h/bin/handoffd ") && !service.contains("/usr/bin"),
        "{service}"
    );
    assert!(text("opt/h/lib/systemd/system/handoffd.socket").contains("\nSocketGroup=apache\n"));
    assert!(text("opt/h/lib/tmpfiles.d/handoffd.conf").contains(" handoffd apache "));

    fs::write(root.join("etc/handoffd/daemon.toml"), "# mine\n").expect("a file");
    make("install", root, &["PREFIX=/opt/h", "APACHE_GROUP=apache"]);
    assert_eq!(text("etc/handoffd/daemon.toml"), "# mine\n", "an operator's configuration is never replaced");
    assert_eq!(files(root).len(), installed.len(), "a second install is an update");

    make("uninstall", root, &["PREFIX=/opt/h"]);
    assert_eq!(files(root), [("etc/handoffd/daemon.toml".to_owned(), 0o644)]);
}

#[test]
fn the_module_comes_and_goes_and_a_changed_configuration_stays() {
    const MODULE: &str = "srv/modules/mod_socket_handoff.so";
    const LOAD: &str = "etc/a/socket_handoff.load";
    const CONF: &str = "etc/a/socket_handoff.conf";
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    let places = ["APACHE_MODULES=/srv/modules", "APACHE_CONFIG=/etc/a"];
    let names = || files(root).into_iter().map(|(path, _)| path).collect::<Vec<_>>();
    make("install-apache", root, &places);
    let installed = [(CONF.to_owned(), 0o644), (LOAD.to_owned(), 0o644), (MODULE.to_owned(), 0o644)];
    assert_eq!(files(root), installed);
    let text = |path: &str| fs::read_to_string(root.join(path)).expect("a file");
    assert_eq!(text(LOAD), "LoadModule socket_handoff_module /srv/modules/mod_socket_handoff.so\n");
    make("uninstall-apache", root, &places);
    assert_eq!(names(), [""; 0]);

    make("install-apache", root, &places);
    fs::write(root.join(CONF), "# mine\n").expect("a file");
    make("install-apache", root, &places);
    assert_eq!(text(CONF), "# mine\n", "an administrator's configuration is never replaced");
    assert_eq!(names(), [CONF, "etc/a/socket_handoff.conf.new", LOAD, MODULE]);
    make("uninstall-apache", root, &places);
    // By another name: an Apache that reads every *.conf would not know its directives.
    assert_eq!(names(), ["etc/a/socket_handoff.conf.saved"]);
    assert_eq!(text("etc/a/socket_handoff.conf.saved"), "# mine\n");
}
