//! `handoffctl doctor` finds nothing wrong with a site that works, names each thing that is wrong with one that does
//! not, says what to do, and changes nothing.

use std::fs;
use std::ops::Deref;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command};

use handoff_e2e::daemon::binary;
use handoff_e2e::operator::{Said, ctl};
use handoff_e2e::{Daemon, Options, eventually};
use nix::sys::signal::Signal;
use serde_json::Value;

/// An Apache whose user may do nothing but what everybody may.
const SITE: &str = "\
ServerRoot \"DIR/apache\"
PidFile httpd.pid
User #61234
Group #61235
LoadModule mpm_event_module modules/mod_mpm_event.so
IncludeOptional mods/*.load
SocketHandoffAllowedPrefix DIR/
# for a case
<VirtualHost *:80>
    ServerName site
    # for a host
</VirtualHost>
";

/// A daemon, and a process that calls itself Apache.
struct Site {
    daemon: Daemon,
    apache: Child,
}

impl Drop for Site {
    fn drop(&mut self) {
        let _ = self.apache.kill();
        let _ = self.apache.wait();
    }
}

impl Deref for Site {
    type Target = Daemon;

    fn deref(&self) -> &Daemon {
        &self.daemon
    }
}

/// A site that works: a daemon that everybody may reach, and an Apache's files beside it.
fn site(toml: &str) -> Site {
    let toml = format!("socket_mode = \"0o666\"\n{toml}");
    let daemon =
        Daemon::with(&Options { toml, fd_limit: Some(8192), stream_socket: true, ..Options::default() });
    fs::set_permissions(daemon.directory(), PermissionsExt::from_mode(0o755)).expect("a mode");
    for directory in ["apache/modules", "apache/mods"] {
        fs::create_dir_all(daemon.directory().join(directory)).expect("a directory");
    }
    write(&daemon, "modules/mod_socket_handoff.so", "\x7fELF SocketHandoffEnabled SocketHandoffRelay");
    write(&daemon, "mods/handoff.load", "LoadModule socket_handoff_module modules/mod_socket_handoff.so\n");
    write(&daemon, "httpd.conf", SITE);
    let program = daemon.directory().join("apache/apache2");
    fs::copy("/bin/sleep", &program).expect("a copy");
    let mut site = Site { apache: run(&program, &[]), daemon };
    site.replace_apache(&[]);
    site
}

impl Site {
    /// Another process plays Apache, begun by this command.
    fn replace_apache(&mut self, wrapped_in: &[&str]) {
        let _ = self.apache.kill();
        let _ = self.apache.wait();
        let program = self.daemon.directory().join("apache/apache2");
        self.apache = run(&program, wrapped_in);
        write(&self.daemon, "httpd.pid", &self.apache.id().to_string());
        let name = format!("/proc/{}/comm", self.apache.id());
        eventually("Apache runs", || {
            fs::read_to_string(&name).is_ok_and(|name| name == "apache2\n").then_some(())
        });
    }
}

fn run(program: &Path, wrapped_in: &[&str]) -> Child {
    let mut command = Command::new("prlimit");
    command.arg("--nofile=8192:8192").args(wrapped_in).arg(program).arg("600");
    command.spawn().expect("prlimit runs")
}

fn write(daemon: &Daemon, name: &str, text: &str) {
    let text = text.replace("DIR", &daemon.directory().display().to_string());
    fs::write(daemon.directory().join("apache").join(name), text).expect("a file");
}

/// What the doctor says: the exit code, and its findings but those about this machine's kernel.
fn doctor(daemon: &Daemon, arguments: &[&str]) -> (i32, Vec<Value>) {
    let (socket, config) = (daemon.socket(), daemon.directory().join("apache/httpd.conf"));
    let own = ["doctor", "--json", "--apache-config", text(&config), "--socket", text(&socket)];
    let own = if arguments.contains(&"--socket") { &own[..4] } else { &own[..] };
    let Said { code, out, err } = ctl(daemon, &[own, arguments].concat());
    assert_eq!(err, "", "{out}");
    (code, findings(&out))
}

fn findings(out: &str) -> Vec<Value> {
    let report: Value = serde_json::from_str(out).expect("JSON");
    let mut findings = report["findings"].as_array().expect("findings").clone();
    findings.retain(|finding| !finding["check"].as_str().is_some_and(|check| check.starts_with("kernel.")));
    findings
}

fn text(path: &Path) -> &str {
    path.to_str().expect("UTF-8")
}

/// Among what is not ok there is this, and it says these words.
#[track_caller]
fn named(case: &str, findings: &[Value], check: &str, level: &str, facts: &[&str]) {
    let it = findings.iter().find(|finding| finding["check"] == check && finding["level"] == level);
    let it = it.unwrap_or_else(|| panic!("{case}: no {level} {check} in {findings:#?}"));
    let said =
        format!("{} -> {}", it["found"].as_str().expect("text"), it["advice"].as_str().expect("advice"));
    for fact in facts {
        assert!(said.contains(fact), "{case}: {fact:?} is not in {said:?}");
    }
}

#[test]
fn a_site_that_works_is_all_ok() {
    let daemon = site("");
    let (code, findings) = doctor(&daemon, &[]);
    let others: Vec<_> = findings.iter().filter(|finding| finding["level"] != "ok").collect();
    assert_eq!((code, others.len()), (0, 0), "{others:#?}");
    for check in [
        "socket.kind",
        "socket.listener",
        "socket.backlog",
        "socket.permission",
        "socket.visible",
        "trial.head",
        "apache.config",
        "apache.module",
        "apache.directives",
        "apache.enabled",
        "apache.prefix",
        "apache.tls",
        "apache.http2",
        "apache.files",
        "daemon.admin",
        "daemon.version",
        "daemon.workers",
        "daemon.sandbox",
        "daemon.config",
        "daemon.files",
        "daemon.socket_path",
        "daemon.socket_mode",
        "daemon.allowed",
    ] {
        assert!(findings.iter().any(|finding| finding["check"] == check), "{check} is not in {findings:#?}");
    }
    eventually("what was tried is over", || (daemon.status()["leases"] == 0).then_some(()));
    let of_text = ctl(&daemon, &["doctor", "--socket", text(&daemon.socket())]).out;
    assert!(of_text.contains("ok        trial.head"), "{of_text}");
}

#[test]
fn what_is_wrong_with_apache_is_named() {
    let daemon = site("");
    let tls = "<VirtualHost *:443>\nSSLEngine on\n</VirtualHost>";
    let fpm = "SocketHandoffBody Off\n<FilesMatch php>\nSetHandler proxy:unix:/run/php.sock|fcgi://x\n</FilesMatch>";
    // For the main server, for the host; then what is found.
    let cases: &[(&str, &str, &str, &str, &[&str])] = &[
        (
            "SocketHandoffEnabled Off",
            "",
            "apache.enabled",
            "problem",
            &["Off everywhere", "SocketHandoffEnabled On"],
        ),
        ("", "SocketHandoffEnabled Off", "apache.enabled", "problem", &["Off everywhere"]),
        (
            "SocketHandofRelay On",
            "",
            "apache.directives",
            "problem",
            &["httpd.conf:8", "write SocketHandoffRelay"],
        ),
        (
            "",
            "SocketHandoffMaxRetries 99",
            "apache.directives",
            "problem",
            &["httpd.conf:11", "from 0 to 10"],
        ),
        (
            "",
            "SocketHandoffAllowedPrefix /srv/",
            "apache.prefix",
            "problem",
            &["<VirtualHost *:80>", "403", "DIR/ there"],
        ),
        (tls, "", "apache.tls", "problem", &["<VirtualHost *:443>", "SocketHandoffRelay On"]),
        (
            "LoadModule http2_module x.so",
            "Protocols h2c http/1.1",
            "apache.http2",
            "warning",
            &["Protocols http/1.1"],
        ),
        (
            "LoadModule mpm_prefork_module x.so",
            "SocketHandoffRelay On",
            "apache.relay",
            "warning",
            &["mpm_event"],
        ),
        ("", fpm, "apache.php_fpm", "warning", &["8 KB", "SocketHandoffBody On"]),
        (
            "Include gone.conf",
            "",
            "apache.config",
            "problem",
            &["apache/gone.conf", "httpd.conf:8", "IncludeOptional"],
        ),
        ("User no-such-user", "", "apache.user", "unseen", &["no-such-user", "--apache-user"]),
    ];
    for (of_server, of_host, check, level, facts) in cases {
        write(
            &daemon,
            "httpd.conf",
            &SITE.replace("# for a case", of_server).replace("# for a host", of_host),
        );
        let (code, findings) = doctor(&daemon, &[]);
        let case = format!("{of_server}{of_host}");
        let facts: Vec<String> =
            facts.iter().map(|fact| fact.replace("DIR", text(daemon.directory()))).collect();
        let facts: Vec<&str> = facts.iter().map(String::as_str).collect();
        named(&case, &findings, check, level, &facts);
        let others: Vec<_> =
            findings.iter().filter(|it| it["level"] != "ok" && it["check"] != *check).collect();
        assert!(others.is_empty(), "{case}: {others:#?}");
        assert_eq!(code, i32::from(*level == "problem"), "{case}");
    }
}

#[test]
fn a_module_that_is_not_there_or_not_ours_is_named() {
    let daemon = site("");
    let module = daemon.directory().join("apache/modules/mod_socket_handoff.so");
    fs::write(&module, "\x7fELF SocketHandoffEnabled").expect("a file");
    let (code, findings) = doctor(&daemon, &[]);
    assert_eq!(code, 0, "the C module works: {findings:#?}");
    named("the C module", &findings, "apache.module", "warning", &["not handoffd's own", "install"]);
    fs::remove_file(module).expect("no file");
    let (code, findings) = doctor(&daemon, &[]);
    assert_eq!(code, 1);
    named("no file", &findings, "apache.module", "problem", &["handoff.load:1", "Apache does not start"]);
    fs::remove_file(daemon.directory().join("apache/mods/handoff.load")).expect("no file");
    let (code, findings) = doctor(&daemon, &[]);
    assert_eq!(code, 1);
    named("not loaded", &findings, "apache.module", "problem", &["no LoadModule", "a2enmod socket_handoff"]);
}

#[test]
fn a_way_that_is_closed_to_apache_is_named() {
    let daemon = site("");
    let (directory, socket) = (text(daemon.directory()).to_owned(), daemon.socket());
    let mode =
        |path: &Path, mode| fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("a mode");
    mode(daemon.directory(), 0o700);
    let (code, findings) = doctor(&daemon, &[]);
    assert_eq!(code, 1);
    let said = format!("cannot pass {directory} (0700");
    named("a directory", &findings, "socket.permission", "problem", &["#61234", &said, "chmod"]);
    mode(daemon.directory(), 0o755);
    mode(&socket, 0o660);
    let (code, findings) = doctor(&daemon, &[]);
    assert_eq!(code, 1);
    named(
        "the socket",
        &findings,
        "socket.permission",
        "problem",
        &["may not connect", "server.socket_group"],
    );
    named("the socket", &findings, "daemon.socket_mode", "warning", &["0660", "0666", "restart"]);
    // Whom Apache's configuration names is not the last word.
    let owner = format!("#{}", nix::unistd::geteuid());
    let (code, _) = doctor(&daemon, &["--apache-user", &owner]);
    assert_eq!(code, 0);
}

#[test]
fn what_is_wrong_with_the_daemon_is_named() {
    let daemon = site("allowed_users = [61236]\n");
    let (code, findings) = doctor(&daemon, &[]);
    assert_eq!(code, 1);
    named(
        "another user",
        &findings,
        "daemon.allowed",
        "problem",
        &["#61234", "add \"61234\" to server.allowed_users"],
    );
    named("another user", &findings, "trial.head", "unseen", &["allowed_users"]);
    daemon.change_config("allowed_users", "allowed_user");
    let (code, findings) = doctor(&daemon, &[]);
    assert_eq!(code, 1);
    named(
        "a wrong key",
        &findings,
        "daemon.config",
        "problem",
        &["unknown key server.allowed_user", "handoffd --check"],
    );
}

#[test]
fn another_socket_than_the_configured_one_is_named() {
    let daemon = site("");
    let (stream, gone) = (daemon.stream_socket(), daemon.directory().join("gone.sock"));
    let (code, findings) = doctor(&daemon, &["--socket", text(&stream)]);
    assert_eq!(code, 0, "{findings:#?}");
    let right = format!("X-Socket-Handoff: {}", daemon.socket().display());
    named("a stream", &findings, "socket.kind", "warning", &["SOCK_STREAM", &right]);
    assert!(findings.iter().any(|it| it["check"] == "trial.head" && it["level"] == "ok"), "{findings:#?}");
    let (code, findings) = doctor(&daemon, &["--socket", text(&daemon.socket()), "--socket", text(&gone)]);
    assert_eq!(code, 1);
    named("nothing", &findings, "socket.file", "problem", &["gone.sock", "start handoffd", "--socket"]);
    let (code, findings) = doctor(&daemon, &["--socket", text(&daemon.config())]);
    assert_eq!(code, 1);
    named("a file", &findings, "socket.file", "problem", &["is no socket"]);
}

#[test]
fn a_daemon_that_does_not_answer_is_named() {
    let mut daemon = site("");
    daemon.signal(Signal::SIGSTOP);
    let (code, findings) = doctor(&daemon, &[]);
    daemon.signal(Signal::SIGCONT);
    assert_eq!(code, 1);
    named("stopped", &findings, "trial.head", "problem", &["not answered in 2 s"]);
    named("stopped", &findings, "daemon.admin", "unseen", &["start handoffd"]);
    daemon.daemon.end_supervisor(Signal::SIGKILL);
    let (code, findings) = doctor(&daemon, &[]);
    assert_eq!(code, 1);
    named("dead", &findings, "socket.listener", "problem", &["nobody listens", "systemctl start"]);
}

#[test]
fn a_running_apache_that_cannot_use_the_socket_is_named() {
    let mut site = site("");
    site.replace_apache(&["prlimit", "--nofile=4096:4096"]);
    let (code, findings) = doctor(&site, &[]);
    assert_eq!(code, 0, "it works until there is a burst");
    named(
        "few files",
        &findings,
        "apache.files",
        "warning",
        &["4096", "ETOOMANYREFS", "apache2-handoffd.conf"],
    );
    if !nix::unistd::geteuid().is_root() {
        return; // Only root makes mounts.
    }
    // Something else is there for it, as with PrivateTmp=.
    let socket = site.socket();
    let mount = "mount --bind /dev/null \"$1\" && shift && exec \"$@\"";
    site.replace_apache(&["unshare", "--mount", "sh", "-c", mount, "sh", text(&socket)]);
    let (code, findings) = doctor(&site, &[]);
    assert_eq!(code, 1);
    named("own mounts", &findings, "socket.visible", "problem", &["does not see", "PrivateTmp="]);
}

#[test]
fn nobody_needs_to_be_root_for_it() {
    if !nix::unistd::geteuid().is_root() {
        return; // All other tests here show it then.
    }
    let daemon = site("");
    let output = Command::new("setpriv")
        .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
        .arg(binary("handoffctl"))
        .args(["doctor", "--json", "--socket"])
        .arg(daemon.socket())
        .arg("--apache-config")
        .arg(daemon.directory().join("apache/httpd.conf"))
        .arg("--config")
        .arg(daemon.config())
        .output()
        .expect("setpriv runs");
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    let findings = findings(&out);
    assert_eq!(output.status.code(), Some(0), "{findings:#?}");
    let level = |check: &str| findings.iter().find(|it| it["check"] == check).map(|it| it["level"].clone());
    // The control socket is root's, but the metrics address tells as much.
    assert_eq!(level("daemon.workers"), Some("ok".into()), "{findings:#?}");
    assert_eq!(level("trial.head"), Some("ok".into()));
    assert_eq!(level("socket.permission"), Some("ok".into()));
}
