//! What `handoffctl doctor` says of a configuration is what the real Apache then does with a handoff.

use std::fs;
use std::io::Write;
use std::process::Command;

use handoff_e2e::daemon::binary;
use handoff_e2e::httpd::{self, Httpd, Setup, World};
use handoff_e2e::{Daemon, eventually};
use serde_json::Value;

const CHAT: &str = "<?php header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
header('X-Handoff-Data: {\"prompt\":\"hi\",\"mock\":{\"length\":2}}');";

/// What the doctor says about this Apache: its exit code, and what is not ok.
fn doctor(httpd: &Httpd, daemon: &Daemon) -> (i32, Vec<Value>) {
    let output = Command::new(binary("handoffctl"))
        .env_clear()
        .args(["doctor", "--json", "--apache-config"])
        .arg(httpd.directory().join("httpd.conf"))
        .arg("--socket")
        .arg(daemon.socket())
        .arg("--control")
        .arg(daemon.control_socket())
        .output()
        .expect("handoffctl runs");
    let report: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let mut findings = report["findings"].as_array().expect("findings").clone();
    findings.retain(|finding| {
        finding["level"] != "ok"
            && !finding["check"].as_str().is_some_and(|check| check.starts_with("kernel."))
    });
    (output.status.code().unwrap_or(-1), findings)
}

fn checks(findings: &[Value]) -> Vec<&str> {
    findings.iter().filter_map(|finding| finding["check"].as_str()).collect()
}

#[test]
fn a_site_that_streams_is_all_ok() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = Setup::new(world, &daemon).file("chat.php", CHAT).start();
        let (code, findings) = doctor(&httpd, &daemon);
        // How many files this machine lets Apache open is not the configuration's.
        assert_eq!(
            (code, checks(&findings).iter().filter(|check| **check != "apache.files").count()),
            (0, 0),
            "{findings:#?}"
        );
        assert!(httpd.get("/chat.php").is_complete(), "{world:?}");
    }
}

#[test]
fn what_it_calls_a_problem_fails() {
    let daemon = httpd::daemon("");
    let event = || Setup::new(World::Event, &daemon).file("chat.php", CHAT);
    for (setup, check, status) in [
        (event().directives("SocketHandoffAllowedPrefix /srv/"), "apache.prefix", 403),
        (event().directives("SocketHandoffEnabled Off"), "apache.enabled", 200),
    ] {
        let httpd = setup.start();
        let (code, findings) = doctor(&httpd, &daemon);
        assert_eq!((code, checks(&findings).contains(&check)), (1, true), "{check}: {findings:#?}");
        let response = httpd.get("/chat.php");
        assert_eq!((response.status, response.is_complete()), (status, false), "{check}: {response:?}");
    }
}

#[test]
fn http2_without_tls_is_a_matter_of_what_the_client_speaks() {
    let daemon = httpd::daemon("");
    for (world, protocols, found, over_http2) in [
        (World::Event, "h2 http/1.1", &[][..], None),
        (World::Event, "h2c http/1.1", &["apache.http2"], Some("500")),
        (World::Prefork, "h2c http/1.1", &["apache.http2"], Some("500")),
    ] {
        let directives = format!("Protocols {protocols}");
        let setup = Setup::new(world, &daemon).file("chat.php", CHAT).modules(["http2"]);
        let httpd = setup.directives(&directives).start();
        let (code, mut findings) = doctor(&httpd, &daemon);
        findings.retain(|finding| finding["check"] != "apache.files");
        assert_eq!((code, checks(&findings).as_slice()), (0, found), "{protocols}: {findings:#?}");
        assert!(httpd.get("/chat.php").is_complete(), "{protocols}");
        let url = httpd.url("/chat.php");
        let curl = Command::new("curl")
            .args(["--silent", "--output", "/dev/null", "--max-time", "20", "--write-out", "%{http_code}"])
            .args(["--http2-prior-knowledge", &url])
            .output()
            .expect("curl: run scripts/test-packages");
        let answered = curl.status.success().then(|| String::from_utf8_lossy(&curl.stdout).into_owned());
        assert_eq!(answered.as_deref(), over_http2, "{world:?}, {protocols}: {curl:?}");
    }
}

#[test]
fn tls_without_a_relay_is_refused_and_with_one_is_not() {
    let daemon = httpd::daemon("");
    for (directives, problems) in [("", &["apache.tls"][..]), ("SocketHandoffRelay On", &[])] {
        let httpd = Setup::new(World::Event, &daemon).file("chat.php", CHAT).tls(directives).start();
        let (code, mut findings) = doctor(&httpd, &daemon);
        findings.retain(|finding| finding["level"] == "problem");
        assert_eq!(
            (code, checks(&findings).as_slice()),
            (i32::from(!problems.is_empty()), problems),
            "{findings:#?}"
        );
        let mut client = httpd.tls_connect();
        client.write_all(httpd.request("GET", "/chat.php", "").as_bytes()).expect("a request");
        let response = client.response();
        assert_eq!(response.status, if problems.is_empty() { 200 } else { 500 }, "{response:?}");
    }
}

#[test]
fn a_socket_that_apaches_user_may_not_use_is_named() {
    if !nix::unistd::geteuid().is_root() {
        return; // Apache's user is then ours, and may.
    }
    let daemon = httpd::daemon("");
    // A program for the log is a child of Apache's too, and root's.
    let logger = "CustomLog \"|/bin/cat\" %h";
    let httpd = Setup::new(World::Event, &daemon).file("chat.php", CHAT).directives(logger).start();
    let mode = |mode| {
        fs::set_permissions(daemon.socket(), std::os::unix::fs::PermissionsExt::from_mode(mode))
            .expect("a mode");
    };
    mode(0o600);
    let (code, findings) = doctor(&httpd, &daemon);
    assert_eq!((code, checks(&findings).contains(&"socket.permission")), (1, true), "{findings:#?}");
    assert_eq!(httpd.get("/chat.php").status, 503);
    mode(0o660);
    assert_eq!(doctor(&httpd, &daemon).0, 0);
    eventually("it streams again", || httpd.get("/chat.php").is_complete().then_some(()));
}
