//! What came before on the connection, and what the request brought along, disturbs no handoff: earlier answers are out
//! first, and nothing of a request's body stays behind.

use std::io::Write;

use handoff_e2e::httpd::{self, World, read_one};

use crate::pages;

/// Answers that come to a connection before the handoff's.
#[test]
fn a_handoff_comes_after_the_answers_before_it() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::setup(world, &daemon).file("large.txt", &"x".repeat(100_000)).start();
        let host = httpd.address();
        let plain = format!("GET /plain.php HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let large = format!("GET /large.txt HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let handoff = format!("GET /handoff.php?prompt=last HTTP/1.1\r\nHost: {host}\r\n\r\n");

        // One after the other.
        let mut client = httpd.connect();
        for _ in 0..5 {
            client.write_all(plain.as_bytes()).expect("a request");
            assert_eq!(read_one(&mut client).body, "plain", "{world:?}");
        }
        client.write_all(handoff.as_bytes()).expect("a request");
        let response = client.response();
        assert!(
            response.is_complete() && response.text().contains("You asked: last"),
            "{world:?}: {response:?}"
        );

        // All at once.
        for round in 0..10 {
            let mut client = httpd.connect();
            client.write_all(format!("{plain}{large}{plain}{handoff}").as_bytes()).expect("requests");
            assert_eq!(read_one(&mut client).body, "plain", "{world:?}, {round}");
            assert_eq!(read_one(&mut client).body.len(), 100_000, "{world:?}, {round}");
            assert_eq!(read_one(&mut client).body, "plain", "{world:?}, {round}");
            let response = client.response();
            assert!(response.text().contains("You asked: last"), "{world:?}, {round}: {response:?}");
        }
    }
}

#[test]
fn a_body_that_php_has_not_read_is_gone() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::site(world, &daemon);
        for bytes in [0, 10, 20_000, 300_000, 5_000_000] {
            for chunked in [false, true] {
                let what = format!("{world:?}, {bytes} B, chunked: {chunked}");
                let body = "b".repeat(bytes);
                let (framing, body) = match chunked {
                    true if bytes > 0 => {
                        ("Transfer-Encoding: chunked".to_owned(), format!("{bytes:x}\r\n{body}\r\n0\r\n\r\n"))
                    }
                    true => ("Transfer-Encoding: chunked".to_owned(), "0\r\n\r\n".to_owned()),
                    false => (format!("Content-Length: {bytes}"), body),
                };
                let mut client = httpd.connect();
                let lines = format!("Content-Type: application/octet-stream\r\n{framing}\r\n");
                let head = httpd.request("POST", "/handoff.php?prompt=posted", &lines);
                client
                    .write_all(head.as_bytes())
                    .and_then(|()| client.write_all(body.as_bytes()))
                    .expect("a request");
                let response = client.response();
                assert!(response.is_complete() && response.heads() == 1, "{what}: {response:?}");
                assert!(response.text().contains("You asked: posted"), "{what}: {response:?}");
            }
        }
    }
}

#[test]
fn a_client_that_asks_whether_to_send_its_body_is_answered() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = pages::site(world, &daemon);
        let mut client = httpd.connect();
        let lines =
            "Content-Type: application/octet-stream\r\nContent-Length: 10\r\nExpect: 100-continue\r\n";
        client
            .write_all(httpd.request("POST", "/handoff.php?prompt=posted", lines).as_bytes())
            .expect("a head");
        client.read_until("HTTP/1.1 100 Continue\r\n\r\n");
        client.write_all(b"0123456789").expect("a body");
        let response = client.response();
        assert!(response.text().contains("You asked: posted"), "{world:?}: {response:?}");
    }
}
