//! What Apache's configuration makes of handoffs. In: its first file. Out: findings, and who Apache is.
//! Never: starts Apache or a command of its, changes a file.

mod files;
mod hosts;
mod settings;
mod syntax;
mod walk;

use std::io;
use std::path::{Path, PathBuf};

use super::finding::Finding;
use super::read;
pub(super) use walk::Configuration;

/// The module, by the name that `LoadModule` uses.
const MODULE: &str = "socket_handoff_module";
/// All its directives begin so, and most that are misspelt.
const PREFIX: &str = "sockethand";
/// No module is larger, also with what a debugger needs.
const MODULE_BYTES_MAX: u64 = 256 * 1024 * 1024;
/// Only handoffd's own module holds this word.
const OUR_MARK: &[u8] = b"SocketHandoffRelay";
/// Where the distributions put the first file: Debian, Red Hat, SUSE, Alpine, Apache's own layout.
const USUAL: [&str; 5] = [
    "/etc/apache2/apache2.conf",
    "/etc/httpd/conf/httpd.conf",
    "/etc/apache2/httpd.conf",
    "/etc/httpd/httpd.conf",
    "/usr/local/apache2/conf/httpd.conf",
];

/// Which module is loaded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Build {
    /// handoffd's own.
    Ours,
    /// The C module.
    Theirs,
    /// None, or its file cannot be read.
    Unknown,
}

/// The first file of Apache's configuration on this machine.
pub(super) fn usual_file() -> Option<PathBuf> {
    USUAL.iter().map(PathBuf::from).find(|path| path.exists())
}

/// All that the configuration says about handoffs to these sockets.
pub(super) fn judge(
    configuration: &Configuration,
    file: &Path,
    sockets: &[PathBuf],
) -> (Build, Vec<Finding>) {
    let mut findings =
        vec![Finding::ok("apache.config", format!("{}: {} files read", file.display(), configuration.files))];
    findings.extend(configuration.missing.iter().map(|missing| {
        let advice = "make the file, or write IncludeOptional";
        Finding::problem("apache.config", format!("{missing}, is not there: Apache does not start"), advice)
    }));
    findings.extend(configuration.unread.iter().map(|place| {
        let advice = "look there yourself, or ask again as root";
        Finding::unseen("apache.config", format!("not weighed: {place}"), advice)
    }));
    let build = module(configuration, &mut findings);
    if configuration.module(MODULE).is_some() {
        let mistakes = settings::mistakes(configuration, build != Build::Theirs);
        if mistakes.is_empty() {
            findings.push(Finding::ok("apache.directives", "every SocketHandoff directive is valid"));
        }
        findings.extend(mistakes);
        findings.extend(hosts::judge(configuration, build, sockets));
    }
    (build, findings)
}

/// Whether long payloads come as messages. Our module has them travel in a memfd, behind an envelope.
pub(super) fn sends_long_messages(configuration: Option<&Configuration>, build: Build) -> bool {
    let without_envelope = |configuration| {
        settings::of_hosts(configuration).iter().any(|settings| settings.enabled && !settings.envelope)
    };
    build != Build::Ours || configuration.is_none_or(without_envelope)
}

/// Whether the module is loaded, and which.
fn module(configuration: &Configuration, findings: &mut Vec<Finding>) -> Build {
    const CHECK: &str = "apache.module";
    let Some(module) = configuration.module(MODULE) else {
        let found = "no LoadModule socket_handoff_module: Apache sends X-Handoff-Data, with the prompt, to the browser";
        let advice = "install it (make install-apache, or the package libapache2-mod-socket-handoff), then a2enmod socket_handoff, \
                      or write LoadModule socket_handoff_module …/mod_socket_handoff.so";
        findings.push(Finding::problem(CHECK, found, advice));
        return Build::Unknown;
    };
    let (shown, place) = (module.file.display(), &module.place);
    match read::bytes(&module.file, MODULE_BYTES_MAX) {
        Ok(bytes) if bytes.windows(OUR_MARK.len()).any(|window| window == OUR_MARK) => {
            findings.push(Finding::ok(CHECK, format!("{shown} is loaded: handoffd's own")));
            Build::Ours
        }
        Ok(_) => {
            let found = format!("{shown} is loaded: not handoffd's own");
            let advice =
                "it works, without bodies as payloads, the envelope and relays: install handoffd's own";
            findings.push(Finding::warning(CHECK, found, advice));
            Build::Theirs
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let found = format!("{place} loads {shown}, which is not there: Apache does not start");
            findings.push(Finding::problem(CHECK, found, "install the module, or correct the path"));
            Build::Unknown
        }
        Err(error) => {
            let found = format!("{shown} is loaded, but cannot be read: {error}");
            findings.push(Finding::unseen(CHECK, found, "ask again as root"));
            Build::Unknown
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use std::fs;

    #[test]
    fn long_messages_come_from_whoever_has_no_envelope() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("httpd.conf");
        for (text, build, expected) in [
            ("", Build::Ours, false),
            ("", Build::Theirs, true),
            ("SocketHandoffEnvelope Off\n", Build::Ours, true),
            ("SocketHandoffEnvelope Off\nSocketHandoffEnabled Off\n", Build::Ours, false),
        ] {
            fs::write(&file, text).unwrap();
            let configuration = Configuration::read(&file).unwrap();
            assert_eq!(sends_long_messages(Some(&configuration), build), expected, "{text}{build:?}");
        }
    }

    #[test]
    fn the_module_is_told_by_its_file() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("httpd.conf");
        let so = directory.path().join("mod.so");
        fs::write(&file, "LoadModule socket_handoff_module mod.so\n").unwrap();
        let look = || {
            let mut findings = Vec::new();
            let build = module(&Configuration::read(&file).unwrap(), &mut findings);
            (build, findings[0].level, findings[0].found.clone())
        };
        let (build, level, found) = look();
        assert_eq!((build, level), (Build::Unknown, Level::Problem));
        assert!(found.contains("httpd.conf:1 loads "), "{found}");
        fs::write(&so, b"\x7fELF SocketHandoffEnabled").unwrap();
        assert_eq!((look().0, look().1), (Build::Theirs, Level::Warning));
        fs::write(&so, b"\x7fELF SocketHandoffEnabled\0SocketHandoffRelay\0").unwrap();
        assert_eq!((look().0, look().1), (Build::Ours, Level::Ok));
        fs::write(&file, "Listen 80\n").unwrap();
        assert_eq!((look().0, look().1), (Build::Unknown, Level::Problem));
    }
}
