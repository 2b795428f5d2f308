//! docs/APACHE.md: its snippets are taken by Apache and by PHP, and its directives exist, with their defaults.

use std::fs;
use std::io::Write;
use std::process::{Command, Stdio};

use handoff_e2e::httpd::{self, Httpd, Setup, World};

const DOCUMENT: &str = include_str!("../../../docs/APACHE.md");
const SAMPLE: &str = include_str!("../../../apache/socket_handoff.conf");
const C_MODULE: &str = include_str!("../../../examples/apache-c-module/site.conf");

/// Everything that the snippets need.
fn apache(daemon: &handoff_e2e::Daemon) -> Httpd {
    Setup::new(World::Event, daemon)
        .modules(["ssl", "http2", "remoteip", "proxy_http", "headers"])
        .directives("Define APACHE_LOG_DIR ${DIRECTORY}")
        .tls("")
        .start()
}

/// What Apache says about its configuration with these lines; nothing when it is right.
fn complaint(httpd: &Httpd, directives: &str) -> Option<String> {
    let directives = directives
        .replace("/etc/ssl/certs/site.pem", "tls.pem")
        .replace("/etc/ssl/private/site.key", "tls.key");
    fs::write(httpd.directory().join("snippet.conf"), format!("Include httpd.conf\n{directives}\n"))
        .expect("a file");
    let output = Command::new("apache2")
        .args(["-t", "-f", "snippet.conf", "-d"])
        .arg(httpd.directory())
        .output()
        .expect("apache2");
    (!output.status.success()).then(|| String::from_utf8_lossy(&output.stderr).into_owned())
}

/// The blocks of one language, also those of list items.
fn snippets(language: &str) -> Vec<String> {
    let mut snippets = Vec::new();
    let mut lines = DOCUMENT.lines();
    while let Some(line) = lines.next() {
        if line.trim() == format!("```{language}") {
            let block = lines.by_ref().take_while(|line| line.trim() != "```");
            snippets.push(block.collect::<Vec<_>>().join("\n"));
        }
    }
    snippets
}

#[test]
fn apache_takes_every_snippet() {
    let daemon = httpd::daemon("");
    let httpd = apache(&daemon);
    let snippets = snippets("apache");
    assert_eq!(snippets.len(), 9, "snippets in the document");
    for snippet in snippets.iter().map(String::as_str).chain([SAMPLE, C_MODULE]) {
        assert_eq!(complaint(&httpd, snippet), None, "{snippet}");
    }
    // As they are commented, they say what is so anyway: taken too.
    let uncommented: Vec<&str> = SAMPLE
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter(|line| line.starts_with('S'))
        .collect();
    assert_eq!(uncommented.len(), 8, "{uncommented:?}");
    assert_eq!(complaint(&httpd, &uncommented.join("\n")), None);
}

#[test]
fn apache_knows_every_directive_and_its_bounds() {
    let daemon = httpd::daemon("");
    let httpd = apache(&daemon);
    let rows = DOCUMENT.lines().filter_map(|line| line.strip_prefix("| `SocketHandoff"));
    let mut directives = 0;
    for row in rows.map(|row| row.replace("\\|", "/")) {
        let (usage, rest) = row.split_once("` | ").expect("a usage, and a default");
        let default = rest.split(" | ").next().expect("a default").trim_matches('`');
        let (name, values) = usage.split_once(' ').expect("a name, and values");
        assert_eq!(complaint(&httpd, &format!("SocketHandoff{name} {default}")), None);
        if let Some((least, most)) = values.split_once('–') {
            for bound in [least, most] {
                assert_eq!(complaint(&httpd, &format!("SocketHandoff{name} {bound}")), None);
            }
            let beyond = most.parse::<u32>().expect("a number") + 1;
            assert!(complaint(&httpd, &format!("SocketHandoff{name} {beyond}")).is_some(), "{name} {beyond}");
        }
        directives += 1;
    }
    assert_eq!(directives, 9, "directives in the document");
}

#[test]
fn php_takes_every_snippet() {
    let snippets = snippets("php");
    assert_eq!(snippets.len(), 3, "snippets in the document");
    for snippet in snippets {
        let mut php =
            Command::new("php").arg("-l").stdin(Stdio::piped()).stdout(Stdio::null()).spawn().expect("php");
        write!(php.stdin.take().expect("a pipe"), "<?php\n{snippet}\n").expect("a script");
        assert!(php.wait().expect("an end").success(), "{snippet}");
    }
}
