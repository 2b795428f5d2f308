//! What the kernel allows, against what handoffs need. In: /proc's numbers. Out: findings. Never: sets a limit.

use std::fs;

use handoff_shared::limits::{FDS_RESERVED, LISTEN_BACKLOG};

use super::finding::Finding;

/// The kernel's default of net.core.wmem_default and wmem_max: 212,960 bytes of payload in one message.
const WMEM_DEFAULT: u64 = 212_992;
/// Of which the kernel keeps so much for itself.
const MESSAGE_OVERHEAD_BYTES: u64 = 32;

/// The limit on open files of a process, soft; none: it is gone, or not ours to see.
pub(super) fn open_files(pid: u32) -> Option<u64> {
    soft_limit(&fs::read_to_string(format!("/proc/{pid}/limits")).ok()?)
}

/// One number of sysctl(8).
pub(super) fn sysctl(name: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{}", name.replace('.', "/"))).ok()?.trim().parse().ok()
}

fn soft_limit(limits: &str) -> Option<u64> {
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let word = line.split_whitespace().next()?;
    if word == "unlimited" { Some(u64::MAX) } else { word.parse().ok() }
}

/// The backlog cannot be longer than this.
pub(super) fn somaxconn(number: Option<u64>) -> Finding {
    const CHECK: &str = "kernel.somaxconn";
    let wanted = u64::from(LISTEN_BACKLOG.unsigned_abs());
    match number {
        None => Finding::unseen(CHECK, "net.core.somaxconn cannot be read", "sysctl net.core.somaxconn"),
        Some(number) if number < wanted => Finding::warning(
            CHECK,
            format!("net.core.somaxconn is {number}: bursts of more handoffs are 503s while workers roll"),
            format!(
                "sysctl -w net.core.somaxconn={wanted}, a file in /etc/sysctl.d, and a restart of handoffd.socket"
            ),
        ),
        Some(number) => Finding::ok(CHECK, format!("net.core.somaxconn is {number}")),
    }
}

/// SELinux decides too, where it is enforced; its rules are not to be seen from here.
pub(super) fn selinux() -> Option<Finding> {
    let enforces = fs::read_to_string("/sys/fs/selinux/enforce").ok()?.trim() == "1";
    enforces.then(|| {
        Finding::unseen(
            "kernel.selinux",
            "SELinux is enforced: whether it lets Apache connect is not looked at",
            "ausearch -m avc -c httpd after a handoff that failed; a module by audit2allow lets it connect",
        )
    })
}

/// One message is no longer than the sender's buffer, nor than the daemon receives.
pub(super) fn wmem(default: Option<u64>, buffer_bytes: Option<u32>) -> Vec<Finding> {
    const CHECK: &str = "kernel.wmem";
    let Some(default) = default else {
        let found = "net.core.wmem_default cannot be read";
        return vec![Finding::unseen(CHECK, found, "sysctl net.core.wmem_default")];
    };
    let message = default.saturating_sub(MESSAGE_OVERHEAD_BYTES);
    let mut findings = vec![match default < WMEM_DEFAULT {
        true => Finding::warning(
            CHECK,
            format!("net.core.wmem_default is {default}: no header may carry more than {message} bytes"),
            format!(
                "sysctl -w net.core.wmem_default={WMEM_DEFAULT}, or send the JSON as the body (X-Handoff-Body: 1)"
            ),
        ),
        false => Finding::ok(CHECK, format!("a message may have {message} bytes (net.core.wmem_default)")),
    }];
    if let Some(buffer) = buffer_bytes.map(u64::from).filter(|buffer| *buffer < message) {
        findings.push(Finding::warning(
            CHECK,
            format!(
                "Apache can send {message} bytes, but server.handoff_buffer_size is {buffer}: more is refused"
            ),
            format!("set server.handoff_buffer_size = {message} or more, and reload"),
        ));
    }
    findings
}

/// Each live stream is an fd of the supervisor's.
pub(super) fn daemon_files(soft: u64, max_connections: Option<u32>) -> Finding {
    const CHECK: &str = "daemon.files";
    let room = soft.saturating_sub(FDS_RESERVED);
    let wanted = u64::from(LISTEN_BACKLOG.unsigned_abs()).min(max_connections.map_or(u64::MAX, u64::from));
    match room < wanted {
        true => Finding::warning(
            CHECK,
            format!("handoffd may open {soft} files: room for {room} streams"),
            "set LimitNOFILE=1048576 in handoffd.service (systemctl edit handoffd), and restart it",
        ),
        false => Finding::ok(CHECK, format!("handoffd may open {soft} files")),
    }
}

/// Sockets under way count against the sender's limit: beyond it sendmsg(2) is ETOOMANYREFS.
pub(super) fn apache_files(soft: u64) -> Finding {
    const CHECK: &str = "apache.files";
    match soft <= u64::from(LISTEN_BACKLOG.unsigned_abs()) {
        true => Finding::warning(
            CHECK,
            format!(
                "Apache may open {soft} files, fewer than the backlog holds: a burst is refused (ETOOMANYREFS)"
            ),
            "install systemd/apache2-handoffd.conf as /etc/systemd/system/apache2.service.d/handoffd.conf, \
             systemctl daemon-reload, and restart Apache",
        ),
        false => Finding::ok(CHECK, format!("Apache may open {soft} files")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::doctor::finding::Level;

    #[test]
    fn the_soft_limit_is_the_first_number() {
        let text = "Limit                     Soft Limit           Hard Limit           Units     \n\
            Max processes             63432                63432                processes \n\
            Max open files            1024                 524288               files     \n";
        assert_eq!(soft_limit(text), Some(1024));
        assert_eq!(soft_limit(&text.replace("1024  ", "unlimited")), Some(u64::MAX));
        assert_eq!(soft_limit(""), None);
        assert!(open_files(std::process::id()).is_some());
    }

    #[test]
    fn numbers_are_judged() {
        for (finding, level) in [
            (somaxconn(Some(4096)), Level::Ok),
            (somaxconn(Some(4095)), Level::Warning),
            (somaxconn(None), Level::Unseen),
            (daemon_files(65_536, None), Level::Ok),
            (daemon_files(1024, None), Level::Warning),
            (daemon_files(1024, Some(500)), Level::Ok),
            (apache_files(4097), Level::Ok),
            (apache_files(4096), Level::Warning),
        ] {
            assert_eq!(finding.level, level, "{finding:?}");
        }
        let levels = |default, buffer| -> Vec<Level> {
            wmem(default, buffer).iter().map(|finding| finding.level).collect()
        };
        assert_eq!(levels(Some(212_992), Some(262_144)), [Level::Ok]);
        assert_eq!(levels(Some(212_992), Some(65_536)), [Level::Ok, Level::Warning]);
        assert_eq!(levels(Some(65_536), Some(262_144)), [Level::Warning]);
        assert_eq!(levels(None, None), [Level::Unseen]);
    }
}
