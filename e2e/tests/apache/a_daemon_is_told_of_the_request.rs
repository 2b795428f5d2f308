//! What Apache knows of the request comes before the payload: to the byte, and nothing that the site has not allowed.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::OwnedFd;

use handoff_e2e::httpd::{self, Setup, Taken, Taker, World};
use handoff_e2e::upstream::{Dialect, Protocol};
use handoff_e2e::{Door, Upstream};
use serde_json::json;

const PAGE: &str = r#"<?php
header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
if (isset($_GET['id'])) header('X-Request-Id: ' . $_GET['id']);
header('X-Handoff-Data: {"prompt":"hi"}');
"#;

fn take(setup: Setup, taker: &Taker, path: &str, lines: &str) -> Taken {
    let httpd = setup.file("page.php", PAGE).start();
    let mut client = httpd.connect();
    client.write_all(httpd.request("GET", path, lines).as_bytes()).expect("a request");
    let taken = taker.take();
    drop(httpd);
    taken
}

#[test]
fn by_an_envelope_before_the_payload() {
    for world in World::ALL {
        let taker = Taker::listen(Door::SeqPacket, 10);
        let lines = "Last-Event-ID: r:7\r\nOrigin: https://shop.test\r\nTraceparent: 00-1-2-01\r\nCookie: secret=1\r\n\
                     Authorization: Bearer secret\r\nX-Forwarded-For: 203.0.113.9\r\n";
        let taken = take(Setup::to_socket(world, taker.path()), &taker, "/page.php?q=1&id=r1", lines);
        assert_eq!(taken.fds.len(), 1, "{world:?}: the client's socket");
        let (envelope, payload) = taken.parts();
        assert_eq!(payload, br#"{"prompt":"hi"}"#, "{world:?}");
        let expected = json!({
            "v": 1, "request_id": "r1", "method": "GET", "uri": "/page.php?q=1&id=r1", "proto": "HTTP/1.1",
            "client": "127.0.0.1", "tls": false, "relay": false,
            "headers": [["last-event-id", "r:7"], ["origin", "https://shop.test"], ["traceparent", "00-1-2-01"]]
        });
        assert_eq!(envelope, Some(expected), "{world:?}");
        assert!(
            taken.message.ends_with(b"}\n{\"prompt\":\"hi\"}"),
            "{world:?}: {}",
            taken.message.escape_ascii()
        );
    }
}

#[test]
fn with_the_headers_that_the_site_names_and_the_client_that_mod_remoteip_knows() {
    for world in World::ALL {
        let taker = Taker::listen(Door::SeqPacket, 10);
        let setup = Setup::to_socket(world, taker.path())
            .modules(["remoteip", "unique_id"])
            .directives("RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.0/8\nSocketHandoffForwardHeaders Cookie X-Own");
        let lines = "X-Forwarded-For: 203.0.113.9\r\nCookie: a=1\r\nx-own: 1\r\nOrigin: https://shop.test\r\nX-Own: 2\r\n";
        let taken = take(setup, &taker, "/page.php", lines);
        let envelope = taken.parts().0.expect("an envelope");
        assert_eq!(envelope["client"], "203.0.113.9", "{world:?}");
        let headers = envelope["headers"].as_array().expect("headers");
        let named = |name: &str| headers.iter().any(|header| header[0] == name);
        assert!(named("cookie") && named("x-own") && !named("origin"), "{world:?}: {envelope}");
        // mod_unique_id's: 27 characters.
        assert_eq!(envelope["request_id"].as_str().map(str::len), Some(27), "{world:?}: {envelope}");
    }
}

#[test]
fn with_the_path_that_the_client_has_asked_for() {
    for world in World::ALL {
        let taker = Taker::listen(Door::SeqPacket, 10);
        // As a front controller has it: an internal redirect.
        let setup = Setup::to_socket(world, taker.path()).directives(
            "<Directory ${DIRECTORY}/htdocs>\nRewriteEngine On\nRewriteRule !^page.php$ page.php [L]\n</Directory>",
        );
        let taken = take(setup, &taker, "/chat/7?q=1", "");
        let envelope = taken.parts().0.expect("an envelope");
        assert_eq!(envelope["uri"], "/chat/7?q=1", "{world:?}");
    }
}

#[test]
fn or_not_where_the_site_wants_none() {
    for world in World::ALL {
        for (door, directive) in [(Door::SeqPacket, "Off"), (Door::Stream, "Off"), (Door::Stream, "On")] {
            let taker = Taker::listen(door, 10);
            let setup = Setup::to_socket(world, taker.path())
                .directives(&format!("SocketHandoffEnvelope {directive}\nSocketHandoffForwardHeaders None"));
            let taken = take(setup, &taker, "/page.php", "Origin: https://shop.test\r\n");
            let (envelope, payload) = taken.parts();
            assert_eq!(payload, br#"{"prompt":"hi"}"#, "{world:?}, {door:?}, {directive}");
            assert_eq!(envelope.is_some(), directive == "On", "{world:?}, {door:?}, {directive}");
            if let Some(envelope) = envelope {
                assert_eq!(envelope["headers"], json!([]), "{world:?}");
            }
        }
    }
}

#[test]
fn and_tells_its_log_and_the_upstream() {
    const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    for world in World::ALL {
        let llm = Upstream::start(Protocol::H1);
        let backend = llm.backend_toml("llm", Dialect::OpenAi);
        let daemon =
            httpd::daemon(&format!("[backend]\nprovider = \"llm\"\n{backend}x_forwarded_for = true\n"));
        let httpd = Setup::new(world, &daemon)
            .modules(["remoteip"])
            .directives("RemoteIPHeader X-Forwarded-For\nRemoteIPInternalProxy 127.0.0.0/8")
            .file("page.php", PAGE)
            .start();
        let mut client = httpd.connect();
        let lines = format!("X-Forwarded-For: 203.0.113.9\r\nTraceparent: {PARENT}\r\n");
        client.write_all(httpd.request("GET", "/page.php?id=r1", &lines).as_bytes()).expect("a request");
        assert!(client.response().is_complete(), "{world:?}");
        let asked = llm.wait_for_request(0).request;
        let told = ["x-forwarded-for", "traceparent"].map(|name| asked.header(name));
        assert_eq!(told, [Some("203.0.113.9"), Some(PARENT)], "{world:?}");
        let session = daemon.session("r1");
        let logged = ["client", "method", "path", "proto"].map(|key| session[key].as_str());
        assert_eq!(logged, ["203.0.113.9", "GET", "/page.php", "HTTP/1.1"].map(Some), "{world:?}: {session}");
    }
}

#[test]
fn and_the_socket_is_the_daemons_alone() {
    for world in World::ALL {
        let taker = Taker::listen(Door::SeqPacket, 10);
        let httpd = Setup::to_socket(world, taker.path()).file("page.php", PAGE).start();
        let client = httpd.ask("/page.php?id=mine");
        let mut taken = taker.take();
        let theirs: OwnedFd = taken.fds.remove(0);
        httpd.accessed("mine");
        // Apache has finished with the request: nobody else has the socket, so this end is the end.
        let mut theirs = std::fs::File::from(theirs);
        theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it").expect("a client");
        let closed = std::time::Instant::now();
        drop(theirs);
        let response = client.response();
        assert_eq!((response.body.as_str(), response.broken), ("all of it", None), "{world:?}");
        let took = closed.elapsed();
        assert!(took < std::time::Duration::from_millis(1500), "{world:?}: the end came after {took:?}");
    }
}

#[test]
fn and_nothing_of_the_request_is_left_in_it() {
    const BODY_BYTES: usize = 1_000_000;
    for world in World::ALL {
        let taker = Taker::listen(Door::SeqPacket, 10);
        let httpd = Setup::to_socket(world, taker.path()).file("page.php", PAGE).start();
        let mut client = httpd.connect();
        // Of a type that mod_php leaves unread.
        let lines = format!("Content-Type: application/octet-stream\r\nContent-Length: {BODY_BYTES}\r\n");
        client.write_all(httpd.request("POST", "/page.php", &lines).as_bytes()).expect("a head");
        client.write_all(&vec![b'b'; BODY_BYTES]).expect("a body");
        let mut taken = taker.take();
        let mut theirs = TcpStream::from(taken.fds.remove(0));
        theirs.set_nonblocking(true).expect("a socket");
        let left = theirs.read(&mut [0; 1000]).map_err(|error| error.kind());
        assert_eq!(left, Err(ErrorKind::WouldBlock), "{world:?}");
        drop(client);
    }
}
