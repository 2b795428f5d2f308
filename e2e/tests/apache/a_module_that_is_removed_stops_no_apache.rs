//! `make uninstall-apache` leaves no file that an Apache without the module would read, and loses nobody's configuration.

use std::fs;
use std::path::Path;
use std::process::Command;

use handoff_e2e::container::{target, workspace};

/// As Debian and Fedora lay it out: where the module is loaded, where its directives are.
const LAYOUTS: [(&str, &str, &str); 2] = [
    (
        "/etc/apache2/mods-available",
        "/etc/apache2/mods-available/socket_handoff.load",
        "/etc/apache2/mods-available/socket_handoff.conf",
    ),
    (
        "/etc/httpd/conf.modules.d",
        "/etc/httpd/conf.modules.d/10-socket_handoff.conf",
        "/etc/httpd/conf.d/socket_handoff.conf",
    ),
];

fn run(root: &Path, config: &str, arguments: &[&str]) {
    let output = Command::new(workspace().join("scripts/install-apache"))
        .arg(root)
        .args(arguments)
        .env("APACHE_MODULES", "/modules")
        .env("APACHE_CONFIG", config)
        .env("CARGO_TARGET_DIR", target().0)
        .output()
        .expect("a shell");
    assert!(output.status.success(), "{output:?}");
}

/// Names of all files beneath it.
fn files(directory: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory").flatten() {
        if entry.path().is_dir() {
            names.extend(files(&entry.path()));
        } else {
            names.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    names
}

#[test]
fn and_a_changed_configuration_is_kept() {
    for (config, load, conf) in LAYOUTS {
        let root = tempfile::tempdir().expect("a directory");
        let path = |name: &str| root.path().join(name.trim_start_matches('/'));
        run(root.path(), config, &[]);
        assert!(
            path(load).exists() && path(conf).exists() && path("/modules/mod_socket_handoff.so").exists()
        );
        run(root.path(), config, &["--remove"]);
        assert_eq!(files(root.path()), [""; 0], "{config}: as it came, nothing is left");

        run(root.path(), config, &[]);
        fs::write(path(conf), "SocketHandoffMaxRetries 5\n").expect("a file");
        // A new version leaves the changed file alone, and its own beside it.
        run(root.path(), config, &[]);
        run(root.path(), config, &["--remove"]);
        assert_eq!(files(root.path()), ["socket_handoff.conf.saved"], "{config}");
        let saved = fs::read_to_string(path(&format!("{conf}.saved"))).expect("a file");
        assert_eq!(saved, "SocketHandoffMaxRetries 5\n");
    }
}
