//! Relayed answers share their client's connection with other requests: before, behind and beside them; and who leaves one
//! is noticed at once.

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use handoff_e2e::httpd::{self, Setup, Taker, World, read_one};
use handoff_e2e::{Daemon, Door, Httpd, PATIENCE};

use crate::pages;

/// Apache looks every 50 ms; a slow machine needs more.
const SOON: Duration = Duration::from_millis(1000);
const ECHO: &str = r"<?php
header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
header('X-Handoff-Body: 1');
$body = file_get_contents('php://input');
echo json_encode(['prompt' => strlen($body) . ' bytes, ' . md5($body)]);
";
static POSTED: [u8; 300_000] = [b'p'; 300_000];
/// What is asked when all of [`POSTED`] has come.
const POSTED_IS: &str = "You asked: 300000 bytes, ";

fn site(world: World, daemon: &Daemon) -> Httpd {
    let setup = pages::setup(world, daemon).file("echo.php", ECHO).tls("SocketHandoffRelay On");
    match world {
        World::Prefork => setup.start(),
        World::Event => setup.modules(["http2"]).start(),
    }
}

#[test]
fn it_is_kept_for_the_next_request() {
    let daemon = httpd::daemon("");
    for world in World::ALL {
        let httpd = site(world, &daemon);
        let mut client = httpd.tls_connect();
        let host = httpd.address();
        for round in 0..3 {
            for (path, says) in
                [("/handoff.php?prompt=relayed", "You asked: relayed"), ("/plain.php", "plain")]
            {
                client
                    .write_all(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())
                    .expect("a request");
                let response = read_one(&mut client);
                let said = response.text() + &response.body;
                assert!(response.status == 200 && said.contains(says), "{world:?}, {round}: {response:?}");
            }
            let head = format!(
                "POST /echo.php HTTP/1.1\r\nHost: {host}\r\nContent-Length: {}\r\n\r\n",
                POSTED.len()
            );
            client.write_all(head.as_bytes()).and_then(|()| client.write_all(&POSTED)).expect("a request");
            let response = read_one(&mut client);
            assert!(response.text().contains(POSTED_IS), "{world:?}, {round}: {response:?}");
        }
    }
}

#[test]
fn streams_of_http2_are_beside_each_other() {
    let daemon = httpd::daemon("");
    let httpd = site(World::Event, &daemon);
    let client = httpd.http2_connect();
    let mut left = client.ask("GET", "/handoff.php?prompt=left&length=100000&delay=20", b"");
    let mut streams: Vec<_> = (0..4)
        .map(|number| client.ask("GET", &format!("/handoff.php?prompt=n{number}&length=40&delay=20"), b""))
        .collect();
    let mut posted = client.ask("POST", "/echo.php", &POSTED[..60_000]);
    left.read_until("Hello");
    streams.iter_mut().for_each(|stream| stream.read_until("Hello"));
    left.leave();
    for stream in streams.iter_mut().chain([&mut posted]) {
        assert_eq!(stream.read_to_end(), Ok(()), "{}", stream.text);
        assert!(stream.status == 200 && stream.text.ends_with("data: [DONE]\n\n"), "{}", stream.text);
    }
    // And a new one on the same connection.
    let mut plain = client.ask("GET", "/plain.php", b"");
    assert_eq!((plain.read_to_end(), plain.text.as_str()), (Ok(()), "plain"));
}

/// How long it takes until the daemon's end says that the client has gone.
fn noticed(daemon: &mut UnixStream, left_at: Instant) -> Duration {
    daemon.set_nonblocking(false).expect("a socket");
    daemon.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    assert_eq!(daemon.read(&mut [0]).expect("Apache's end"), 0);
    left_at.elapsed()
}

#[test]
fn who_leaves_is_noticed_at_once() {
    const BEGINS: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\ndata: Hello\n\n";
    for world in World::ALL {
        let taker = Taker::listen(Door::SeqPacket, 10);
        let mut setup = Setup::to_socket(world, taker.path())
            .file("handoff.php", pages::HANDOFF)
            .tls("SocketHandoffRelay On");
        if world == World::Event {
            setup = setup.modules(["http2"]);
        }
        let httpd = setup.start();
        for begun in [true, false] {
            let mut client = httpd.tls_connect();
            client.write_all(httpd.request("GET", "/handoff.php", "").as_bytes()).expect("a request");
            let mut daemon = UnixStream::from(taker.take().fds.remove(0));
            if begun {
                daemon.write_all(BEGINS).expect("Apache");
                client.read_exact(&mut [0; 100]).expect("the beginning");
            }
            let left_at = Instant::now();
            drop(client);
            let took = noticed(&mut daemon, left_at);
            assert!(took < SOON, "{world:?}, begun: {begun}: after {took:?}");
        }
        if world == World::Event {
            let client = httpd.http2_connect();
            let mut stream = client.ask("GET", "/handoff.php", b"");
            let mut daemon = UnixStream::from(taker.take().fds.remove(0));
            daemon.write_all(BEGINS).expect("Apache");
            stream.read_until("Hello");
            let left_at = Instant::now();
            stream.leave();
            let took = noticed(&mut daemon, left_at);
            assert!(took < SOON, "HTTP/2: after {took:?}");
        }
    }
}
