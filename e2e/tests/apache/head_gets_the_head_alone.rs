//! HEAD is answered with the head that GET would have, and nothing behind it.

use std::io::{Read, Write};

use handoff_e2e::httpd::{self, World};

use crate::pages;

#[test]
fn in_both_worlds_by_header_and_by_body() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::site(world, &daemon);
        // PHP's body does not come for HEAD: what it would have been makes no difference.
        for way in ["", "?body"] {
            let mut client = httpd.connect();
            let request = httpd.request("HEAD", &format!("/handoff.php{way}"), "");
            client.write_all(request.as_bytes()).expect("a request");
            let response = client.response();
            assert_eq!((response.status, response.body.as_str()), (200, ""), "{world:?}{way}: {response:?}");
            let kind = response.header("Content-Type");
            assert_eq!(kind, Some("text/event-stream"), "{world:?}{way}: {response:?}");
        }
    }
}

/// The connection goes on then: a body would be the next answer's beginning.
#[test]
fn also_where_it_is_relayed() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon).tls("SocketHandoffRelay On").start();
        let mut client = httpd.tls_connect();
        for way in ["", "?body"] {
            let host = httpd.address();
            let request = format!("HEAD /handoff.php{way} HTTP/1.1\r\nHost: {host}\r\n\r\n");
            client.write_all(request.as_bytes()).expect("a request");
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                client.read_exact(&mut byte).expect("a head");
                head.extend(byte);
            }
            let head = String::from_utf8_lossy(&head);
            assert!(head.starts_with("HTTP/1.1 200 "), "{world:?}{way}: {head}");
            assert!(head.contains("\r\nContent-Type: text/event-stream\r\n"), "{world:?}{way}: {head}");
        }
        client.write_all(httpd.request("GET", "/plain.php", "").as_bytes()).expect("a request");
        assert_eq!(httpd::unchunked(client.response()).body, "plain", "{world:?}");
    }
}
