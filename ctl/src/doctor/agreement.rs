//! What has to be the same on both sides: the daemon's configuration, the socket as it is, Apache as it is.
//! In: all three. Out: findings. Never: looks at anything but the socket's file.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use handoff_config::{Config, Server};

use super::account::{Account, group_name, user_name};
use super::finding::Finding;

/// Whether the configuration means this socket.
pub(super) fn path(config: &Config, socket: &Path) -> Finding {
    const CHECK: &str = "daemon.socket_path";
    let server = &config.server;
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let means = |path: &Path| real(path) == real(socket);
    let shown = socket.display();
    if means(&server.socket_path) {
        return Finding::ok(CHECK, format!("{shown} is server.socket_path"));
    }
    if server.stream_socket_path.as_deref().is_some_and(means) {
        return Finding::ok(CHECK, format!("{shown} is server.stream_socket_path"));
    }
    let found = format!(
        "{shown} is not the configuration's socket: server.socket_path is {}",
        server.socket_path.display()
    );
    Finding::warning(
        CHECK,
        found,
        "let PHP name that one, or name the right file by --config; a changed path needs a restart",
    )
}

/// Whether the file's mode is the configuration's. A socket that systemd holds has its unit's.
pub(super) fn mode(config: &Config, socket: &Path, is_held_by_systemd: bool) -> Option<Finding> {
    const CHECK: &str = "daemon.socket_mode";
    let mode = fs::metadata(socket).ok()?.permissions().mode() & 0o777;
    let wanted = config.server.socket_mode.0;
    if is_held_by_systemd || mode == wanted {
        return Some(Finding::ok(CHECK, format!("{} has the mode {mode:04o}", socket.display())));
    }
    let found = format!("{} has the mode {mode:04o}, server.socket_mode is {wanted:04o}", socket.display());
    Some(Finding::warning(CHECK, found, "restart handoffd: a reload does not change it"))
}

/// Whether the configuration's lists let this account hand over.
pub(super) fn admits(server: &Server, account: &Account) -> bool {
    let is_open = server.allowed_users.is_empty() && server.allowed_groups.is_empty();
    is_open || server.allowed_users.contains(&account.uid) || server.allowed_groups.contains(&account.gid)
}

/// The same, for a person.
pub(super) fn allowed(config: &Config, account: &Account) -> Finding {
    const CHECK: &str = "daemon.allowed";
    let Server { allowed_users, allowed_groups, .. } = &config.server;
    if admits(&config.server, account) {
        return Finding::ok(CHECK, format!("{account} may hand over"));
    }
    let users: Vec<String> = allowed_users.iter().map(|uid| user_name(*uid)).collect();
    let groups: Vec<String> = allowed_groups.iter().map(|gid| group_name(*gid)).collect();
    let found = format!(
        "{account} is turned away: server.allowed_users = [{}], server.allowed_groups = [{}]",
        users.join(", "),
        groups.join(", ")
    );
    let name = account.name.trim_start_matches('#');
    Finding::problem(CHECK, found, format!("add \"{name}\" to server.allowed_users, and reload"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;
    use handoff_config::SocketMode;

    fn account(uid: u32, gid: u32) -> Account {
        Account { name: format!("#{uid}"), uid, gid, groups: vec![gid, 77] }
    }

    #[test]
    fn the_lists_know_users_and_primary_groups() {
        let mut config = Config::default();
        assert_eq!(allowed(&config, &account(33, 33)).level, Level::Ok, "empty lists are open");
        config.server.allowed_users = vec![33];
        config.server.allowed_groups = vec![44];
        assert_eq!(allowed(&config, &account(33, 1)).level, Level::Ok);
        assert_eq!(allowed(&config, &account(1, 44)).level, Level::Ok);
        config.server.allowed_groups = vec![77];
        let told = allowed(&config, &account(61_234, 1));
        assert_eq!(told.level, Level::Problem, "a further group is not seen by the daemon");
        assert_eq!(told.advice.unwrap(), "add \"61234\" to server.allowed_users, and reload");
    }

    #[test]
    fn path_and_mode_are_compared_with_the_file() {
        let directory = tempfile::tempdir().unwrap();
        let (socket, link) = (directory.path().join("s"), directory.path().join("link"));
        fs::write(&socket, "").unwrap();
        fs::set_permissions(&socket, PermissionsExt::from_mode(0o660)).unwrap();
        std::os::unix::fs::symlink(&socket, &link).unwrap();
        let mut config = Config::default();
        config.server.socket_path.clone_from(&link);
        config.server.socket_mode = SocketMode(0o660);
        assert_eq!(path(&config, &socket).level, Level::Ok);
        assert_eq!(path(&config, directory.path()).level, Level::Warning);
        assert_eq!(mode(&config, &socket, false).unwrap().level, Level::Ok);
        config.server.socket_mode = SocketMode(0o600);
        assert_eq!(mode(&config, &socket, false).unwrap().level, Level::Warning);
        assert_eq!(mode(&config, &socket, true).unwrap().level, Level::Ok);
    }
}
