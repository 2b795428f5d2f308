//! However an answer ends that Apache relays, the client can tell: a whole one is whole, one that was cut is cut, and where
//! there was none, it gets an error.

use std::io::{Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::time::Duration;

use handoff_e2e::httpd::{self, Setup, Taker, TlsClient, World, unchunked};
use handoff_e2e::process::signal;
use handoff_e2e::{Daemon, Door, Httpd, Response, eventually};
use nix::sys::signal::Signal;

use crate::pages;

const HEAD: &str = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
const SLOW: &str = "/handoff.php?length=100000&delay=20";

fn site(daemon: &Daemon) -> Httpd {
    pages::setup(World::Event, daemon).modules(["http2"]).tls("SocketHandoffRelay On").start()
}

fn over_tls(httpd: &Httpd, path: &str) -> TlsClient {
    let mut client = httpd.tls_connect();
    client.write_all(httpd.request("GET", path, "").as_bytes()).expect("a request");
    client
}

/// Everything that comes until this has.
fn read_until(client: &mut TlsClient, text: &str) -> String {
    let mut seen = Vec::new();
    while !String::from_utf8_lossy(&seen).contains(text) {
        let mut byte = [0];
        client.read_exact(&mut byte).expect("more of the answer");
        seen.extend(byte);
    }
    String::from_utf8_lossy(&seen).into_owned()
}

/// The rest of an answer whose beginning has been read, whole or cut.
fn rest(begun: &str, mut client: TlsClient) -> Response {
    let mut bytes = begun.as_bytes().to_vec();
    let broken = client.read_to_end(&mut bytes).err().map(|error| error.kind());
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").expect("a head");
    unchunked(Response { status: 200, head: head.to_owned(), body: body.to_owned(), broken })
}

#[test]
fn with_a_word_when_its_worker_dies() {
    let daemon = httpd::daemon("");
    let httpd = site(&daemon);
    let mut tls = over_tls(&httpd, SLOW);
    let begun = read_until(&mut tls, "Hello");
    let http2 = httpd.http2_connect();
    let mut stream = http2.ask("GET", SLOW, b"");
    stream.read_until("Hello");
    // One after the other: somebody must be there to say it.
    for (worker, _) in daemon.holders() {
        signal(worker, Signal::SIGKILL);
        eventually("another worker in its place", || {
            let ready = daemon.workers("ready");
            (ready.len() == 2 && !ready.contains(&worker)).then_some(())
        });
    }
    let response = rest(&begun, tls);
    assert_eq!(response.broken, None, "{response:?}");
    assert!(response.body.contains("worker_crashed"), "{response:?}");
    assert_eq!(stream.read_to_end(), Ok(()), "{}", stream.text);
    assert!(stream.text.contains("worker_crashed"), "{}", stream.text);
}

#[test]
fn cut_when_all_of_the_daemon_dies() {
    let mut daemon = httpd::daemon("");
    let httpd = site(&daemon);
    let mut tls = over_tls(&httpd, SLOW);
    let begun = read_until(&mut tls, "Hello");
    let http2 = httpd.http2_connect();
    let mut stream = http2.ask("GET", SLOW, b"");
    stream.read_until("Hello");
    let workers: Vec<u32> = daemon.holders().into_iter().map(|(worker, _)| worker).collect();
    daemon.end_supervisor(Signal::SIGKILL);
    workers.into_iter().for_each(|worker| signal(worker, Signal::SIGKILL));
    let response = rest(&begun, tls);
    assert!(response.broken.is_some(), "it looks whole: {response:?}");
    assert!(stream.read_to_end().is_err(), "it looks whole: {}", stream.text);
    httpd.complained("has cut its answer off");
}

#[test]
fn cut_when_less_has_come_than_was_promised() {
    let taker = Taker::listen(Door::SeqPacket, 10);
    let httpd = Setup::to_socket(World::Event, taker.path())
        .modules(["http2"])
        .file("handoff.php", pages::HANDOFF)
        .tls("SocketHandoffRelay On")
        .start();
    for (bytes, is_whole) in [(10, true), (11, false)] {
        let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\n\r\n0123456789");
        let tls = over_tls(&httpd, "/handoff.php");
        UnixStream::from(taker.take().fds.remove(0)).write_all(head.as_bytes()).expect("Apache");
        let response = tls.response();
        let came = response.body.len() == bytes && response.broken.is_none();
        assert_eq!(came, is_whole, "{response:?}");
        let http2 = httpd.http2_connect();
        let mut stream = http2.ask("GET", "/handoff.php", b"");
        let mut taken = taker.take();
        UnixStream::from(taken.fds.remove(0)).write_all(head.as_bytes()).expect("Apache");
        assert_eq!(stream.read_to_end().is_ok(), is_whole, "{}", stream.text);
    }
}

#[test]
fn with_a_502_where_there_was_no_answer() {
    let taker = Taker::listen(Door::SeqPacket, 10);
    for world in World::ALL {
        let httpd = Setup::to_socket(world, taker.path())
            .file("handoff.php", pages::HANDOFF)
            .tls("SocketHandoffRelay On")
            .start();
        for said in [
            "",
            "garbage",
            "HTTP/1.1 200 OK\r\nContent-Ty",
            "HTTP/1.1 wonderful\r\n\r\n",
            "HTTP/2 200\r\n\r\n",
        ] {
            let client = over_tls(&httpd, "/handoff.php?prompt=secret");
            let mut daemon = UnixStream::from(taker.take().fds.remove(0));
            daemon.write_all(said.as_bytes()).expect("Apache");
            drop(daemon);
            let response = client.response();
            assert_eq!((response.status, response.heads()), (502, 1), "{world:?}, {said:?}: {response:?}");
            assert!(!format!("{response:?}").contains("secret"), "{world:?}, {said:?}: {response:?}");
        }
    }
}

#[test]
fn in_time_where_the_daemon_says_nothing() {
    let taker = Taker::listen(Door::SeqPacket, 10);
    for world in World::ALL {
        let httpd = Setup::to_socket(world, taker.path())
            .directives("Timeout 1")
            .file("handoff.php", pages::HANDOFF)
            .tls("SocketHandoffRelay On")
            .start();
        // At first: an error.
        let client = over_tls(&httpd, "/handoff.php");
        let daemon = taker.take();
        let response = client.response();
        assert_eq!(response.status, 504, "{world:?}: {response:?}");
        drop(daemon);
        // Later: what it is, a cut answer.
        let mut client = over_tls(&httpd, "/handoff.php");
        let mut daemon = UnixStream::from(taker.take().fds.remove(0));
        daemon.write_all(format!("{HEAD}data: hi\n\n").as_bytes()).expect("Apache");
        let begun = read_until(&mut client, "data: hi");
        let response = rest(&begun, client);
        assert!(response.broken.is_some(), "{world:?}: {response:?}");
        // Its end is closed: a daemon that talks again would notice.
        eventually("Apache has let go", || {
            let mut fds = [nix::poll::PollFd::new(daemon.as_fd(), nix::poll::PollFlags::empty())];
            nix::poll::poll(&mut fds, nix::poll::PollTimeout::ZERO).ok().filter(|ready| *ready > 0)
        });
    }
}

/// The daemon shuts its side down, and waits; then it closes. In between is no time that anybody could measure.
#[test]
fn whole_when_the_daemon_has_said_all() {
    let taker = Taker::listen(Door::SeqPacket, 10);
    for (envelope, farewell) in [("On", true), ("Off", false)] {
        let httpd = Setup::to_socket(World::Event, taker.path())
            .file("handoff.php", pages::HANDOFF)
            .tls(&format!("SocketHandoffRelay On\nSocketHandoffEnvelope {envelope}"))
            .start();
        let client = over_tls(&httpd, "/handoff.php");
        let mut daemon = UnixStream::from(taker.take().fds.remove(0));
        daemon.write_all(format!("{HEAD}data: hi\n\n").as_bytes()).expect("Apache");
        if farewell {
            daemon.set_nonblocking(false).expect("a socket");
            daemon.shutdown(std::net::Shutdown::Write).expect("a socket");
            daemon.set_read_timeout(Some(Duration::from_secs(20))).expect("a timeout");
            assert_eq!(daemon.read(&mut [0]).expect("Apache's end"), 0);
        }
        drop(daemon);
        let response = unchunked(client.response());
        assert_eq!(
            (response.body.as_str(), response.broken),
            ("data: hi\n\n", None),
            "{envelope}: {response:?}"
        );
    }
}
