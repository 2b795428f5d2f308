//! What Apache has encrypted, or shares among requests, cannot be passed on: such a request is refused, or relayed where
//! the site wants that.

use std::io::Write;
use std::process::Command;

use handoff_e2e::httpd::{self, World};
use handoff_e2e::{Httpd, Response, eventually};

use crate::pages;

/// As curl sees it, over HTTP/2 where the server offers it.
fn curl(httpd: &Httpd, path: &str) -> Response {
    let output = Command::new("curl")
        .args([
            "--silent",
            "--show-error",
            "--no-buffer",
            "--include",
            "--http2",
            "--max-time",
            "20",
            "--cacert",
        ])
        .arg(httpd.ca_file())
        .arg(httpd.tls_url(path))
        .output()
        .expect("curl: run scripts/test-packages");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "curl: {error}");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("a status");
    Response { status, head: head.to_owned(), body: body.to_owned(), broken: None }
}

fn over_tls(httpd: &Httpd, path: &str) -> Response {
    let mut client = httpd.tls_connect();
    client.write_all(httpd.request("GET", path, "").as_bytes()).expect("a request");
    httpd::unchunked(client.response())
}

#[test]
fn tls_is_refused_without_a_relay() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon).tls("").start();
        assert_eq!(over_tls(&httpd, "/plain.php").body, "plain", "{world:?}");
        let response = over_tls(&httpd, "/handoff.php?prompt=secret");
        assert_eq!(response.status, 500, "{world:?}: {response:?}");
        assert!(!response.head.contains("secret") && response.broken.is_none(), "{world:?}: {response:?}");
        httpd.complained("SocketHandoffRelay");
        let line = httpd.accessed("secret");
        assert_eq!(line.split(' ').nth(2), Some("refused"), "{world:?}: {line}");
        // The same Apache without TLS.
        assert!(httpd.get("/handoff.php").is_complete(), "{world:?}");
    }
    assert_eq!(daemon.metric("daemon_handoffs_total"), 2.0);
}

#[test]
fn http2_is_refused_without_a_relay() {
    let daemon = httpd::daemon("");
    let httpd = pages::setup(World::Event, &daemon).modules(["http2"]).tls("").start();
    let response = curl(&httpd, "/plain.php");
    assert!(response.head.starts_with("HTTP/2 200") && response.body == "plain", "{response:?}");
    let response = curl(&httpd, "/handoff.php");
    assert!(response.head.starts_with("HTTP/2 500"), "{response:?}");
    assert_eq!(daemon.metric("daemon_handoffs_total"), 0.0);
}

#[test]
fn tls_is_relayed_where_the_site_wants_it() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon).tls("SocketHandoffRelay On").start();
        for way in ["", "&body"] {
            let id = format!("{world:?}{}", way.len());
            let response = over_tls(&httpd, &format!("/handoff.php?prompt=relayed&id={id}{way}"));
            assert!(response.is_complete(), "{world:?}{way}: {response:?}");
            assert!(response.text().contains("You asked: relayed"), "{world:?}{way}: {response:?}");
            assert_eq!(
                response.header("Content-Type"),
                Some("text/event-stream"),
                "{world:?}{way}: {response:?}"
            );
            let line = httpd.accessed(&id);
            assert!(line.contains(&format!(" relayed {id} ")), "{world:?}{way}: {line}");
        }
    }
}

#[test]
fn a_relayed_answer_comes_word_by_word() {
    let daemon = httpd::daemon("[backend.mock]\ntoken_delay_ms = 0\nallow_request_options = true\n");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon)
            .modules(["deflate"])
            .tls("SocketHandoffRelay On\nSetOutputFilter DEFLATE")
            .start();
        let mut client = httpd.tls_connect();
        client
            .write_all(httpd.request("GET", "/handoff.php?delay=3600000", "").as_bytes())
            .expect("a request");
        let mut seen = Vec::new();
        while !String::from_utf8_lossy(&seen).contains("{\"content\":\"Hello\"}\n\n") {
            let mut byte = [0];
            std::io::Read::read_exact(&mut client, &mut byte).expect("the first word");
            seen.extend(byte);
        }
    }
}

#[test]
fn a_client_of_a_relay_that_leaves_is_noticed() {
    let daemon = httpd::daemon("");
    for (number, world) in World::ALL.into_iter().enumerate() {
        let httpd = pages::setup(world, &daemon).tls("SocketHandoffRelay On").start();
        let mut client = httpd.tls_connect();
        let request = httpd.request("GET", "/handoff.php?delay=50&length=10000", "");
        client.write_all(request.as_bytes()).expect("a request");
        std::io::Read::read_exact(&mut client, &mut [0; 100]).expect("the beginning");
        drop(client);
        eventually("the daemon notices", || {
            let gone = daemon.metric("handoffd_lease_endings_total{outcome=\"client_gone\"");
            (gone > number as f64).then_some(())
        });
    }
}

#[test]
fn http2_is_relayed_where_the_site_wants_it() {
    let daemon = httpd::daemon("");
    let httpd = pages::setup(World::Event, &daemon).modules(["http2"]).tls("SocketHandoffRelay On").start();
    for way in ["", "&body"] {
        let response = curl(&httpd, &format!("/handoff.php?prompt=relayed{way}"));
        assert!(response.head.starts_with("HTTP/2 200"), "{way}: {response:?}");
        assert!(
            response.is_complete() && response.text().contains("You asked: relayed"),
            "{way}: {response:?}"
        );
        assert_eq!(response.header("Connection"), None, "{way}: {response:?}");
    }
}
