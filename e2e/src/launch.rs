//! How a daemon is started: its command line, with what is wrapped around it, and its configuration file.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command;

use crate::daemon::{Options, binary};
use crate::manager::Manager;

/// The daemon's command line, with what is wrapped around it.
pub(crate) fn command(options: &Options, config: &Path, manager: Option<&Manager>) -> Command {
    let daemon = match (options.own_binaries, config.parent()) {
        (true, Some(directory)) => directory.join("handoffd"),
        _ => binary("handoffd"),
    };
    if options.terminal {
        let mut command = Command::new("script");
        let line = format!("exec '{}' '{}'", daemon.display(), config.display());
        command.args(["--quiet", "--flush", "--return", "--command", &line, "/dev/null"]);
        return command;
    }
    if let Some(number) = options.stray_fd {
        let mut command = Command::new("bash");
        let open = format!("exec {number}<\"$2\"; exec \"$1\" \"$2\"");
        command.args(["-c", &open, "bash"]).arg(daemon).arg(config);
        return command;
    }
    if options.without_landlock {
        let mut command = Command::new(binary("without_landlock"));
        command.arg(daemon).arg(config).args(&options.args);
        return command;
    }
    if let Some(hosts) = &options.hosts {
        let mut command = Command::new("unshare");
        let mount = "mount --bind \"$1\" /etc/hosts && shift && exec \"$@\"";
        command.args(["--mount", "sh", "-c", mount, "sh"]).arg(hosts).arg(daemon).arg(config);
        return command;
    }
    if let Some([uid, gid, further]) = options.as_user {
        let mut command = Command::new("setpriv");
        let (user, group) = (format!("--reuid={uid}"), format!("--regid={gid}"));
        command
            .args([&user, &group, &format!("--groups={further}"), "--"])
            .arg(daemon)
            .arg(config)
            .args(&options.args);
        return command;
    }
    let mut command = match options.fd_limit {
        Some(limit) => {
            let mut command = Command::new("prlimit");
            command.arg(format!("--nofile={limit}:{limit}"));
            command
        }
        None => Command::new("env"),
    };
    if let Some(manager) = manager {
        command.arg(binary("launcher")).arg(manager.names());
    }
    command.arg(daemon);
    if manager.is_some() {
        command.arg("--fd-store");
    }
    command.arg(config).args(&options.args);
    command
}

/// The configuration file's text.
pub(crate) fn configuration(directory: &Path, admin: &str, options: &Options) -> String {
    let mut server = format!("[server]\nsocket_path = \"{}\"\n", directory.join("handoffd.sock").display());
    if options.stream_socket {
        let _ = writeln!(server, "stream_socket_path = \"{}\"", directory.join("stream.sock").display());
    }
    // What a test says comes first, so that it may speak of [server] before the harness's sections begin.
    let (of_server, sections) = match options.toml.find("\n[") {
        Some(at) if !options.toml.starts_with('[') => options.toml.split_at(at),
        Some(_) | None if options.toml.starts_with('[') => ("", options.toml.as_str()),
        Some(_) | None => (options.toml.as_str(), ""),
    };
    let mut text = format!("{server}{of_server}\n{sections}\n");
    for (section, body) in [
        ("[metrics]", format!("listen_addr = \"{admin}\"\n")),
        ("[logging]", "format = \"json\"\nlevel = \"debug\"\n".to_owned()),
        ("[workers]", "count = 2\n".to_owned()),
        ("[backend.mock]", "token_delay_ms = 10\nallow_request_options = true\n".to_owned()),
    ] {
        if !text.contains(section) {
            let _ = write!(text, "{section}\n{body}");
        }
    }
    text
}
