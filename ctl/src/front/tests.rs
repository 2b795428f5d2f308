//! The front as its clients see it, and its page.

use std::io::Read;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;

use clap::Parser;
use handoff_shared::fdpass;
use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use serde_json::{Value, json};

use super::*;

const IDS: [&str; 7] = ["prompt", "send-eventsource", "send-fetch", "stop", "answer", "status", "ttft"];

#[test]
fn the_page_has_the_ids_that_tests_and_people_rely_on() {
    for id in IDS {
        assert_eq!(PAGE.matches(&format!(" id=\"{id}\"")).count(), 1, "{id}");
    }
}

#[test]
fn the_page_loads_nothing_from_elsewhere() {
    for loader in ["http:", "https:", " src=", " href=", "url(", "@import"] {
        assert!(!PAGE.contains(loader), "{loader}");
    }
}

#[test]
fn only_what_exists_is_routed() {
    let status = |method, path: &str| {
        let (path, query) = (path.into(), String::new());
        match route(&Request { method, path, query, last_event_id: None, body: Vec::new() }) {
            Route::Answer(reply) => reply.status,
            Route::HandOver(_) => "handed over",
        }
    };
    assert_eq!(status(Method::Get, "/"), "200 OK");
    assert_eq!(status(Method::Post, "/"), "405 Method Not Allowed");
    assert_eq!(status(Method::Get, "/favicon.ico"), "204 No Content");
    assert_eq!(status(Method::Get, "/stream/"), "404 Not Found");
    for method in [Method::Get, Method::Head, Method::Post] {
        assert_eq!(status(method, "/stream"), "handed over");
    }
}

#[test]
fn a_stream_request_is_handed_over_and_its_connection_stays_open() {
    let mut scene = Scene::new();
    let request = b"POST /stream HTTP/1.1\r\nExpect: 100-continue\r\nContent-Length: 8\r\n\r\n";
    scene.client.write_all(request).unwrap();
    scene.serve_while(|client| {
        let mut interim = [0; 25];
        client.read_exact(&mut interim).unwrap();
        assert!(interim.starts_with(b"HTTP/1.1 100 Continue"));
        client.write_all(b"prompt=aGET /pipelined").unwrap();
    });

    let (payload, server) = scene.handoff();
    assert_eq!(payload, json!({"prompt": "a", "format": "content", "method": "POST"}));
    TcpStream::from(server).write_all(b"the daemon's answer").unwrap();
    assert_eq!(scene.answer(), "the daemon's answer");
}

#[test]
fn without_a_daemon_the_client_gets_a_503() {
    let mut scene = Scene::new();
    drop(scene.daemon.take());
    scene.client.write_all(b"GET /stream?prompt=a HTTP/1.0\r\n\r\n").unwrap();
    scene.serve_while(|client| client.shutdown(std::net::Shutdown::Write).unwrap());
    let answer = scene.answer();
    assert!(answer.starts_with("HTTP/1.1 503 ") && answer.contains("\r\nRetry-After: "), "{answer}");
}

#[test]
fn a_client_that_says_nothing_or_half_is_no_trouble() {
    for sent in ["", "GET /str"] {
        let mut scene = Scene::new();
        scene.client.write_all(sent.as_bytes()).unwrap();
        scene.serve_while(|client| client.shutdown(std::net::Shutdown::Write).unwrap());
        assert_eq!(scene.answer(), "");
    }
}

/// A client, the front's end of its connection, and a daemon that takes one handoff.
struct Scene {
    client: TcpStream,
    accepted: Option<TcpStream>,
    daemon: Option<OwnedFd>,
    socket: HandoffSocket,
    _directory: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("door.sock");
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        client.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        let accepted = Some(listener.accept().unwrap().0);
        let daemon = Some(daemon(&path));
        let args = Args::parse_line(&path);
        Self { client, accepted, daemon, socket: args.socket, _directory: directory }
    }

    fn serve_while(&mut self, act: impl FnOnce(&mut TcpStream)) {
        let accepted = self.accepted.take().unwrap();
        thread::scope(|scope| {
            scope.spawn(|| drop(serve(accepted, &self.socket)));
            act(&mut self.client);
        });
    }

    fn handoff(&self) -> (Value, OwnedFd) {
        let peer = fdpass::accept(self.daemon.as_ref().unwrap().as_fd()).unwrap();
        let mut buffer = [0; 1024];
        let mut received = fdpass::receive(peer.as_fd(), &mut buffer).unwrap();
        (serde_json::from_slice(&buffer[..received.bytes]).unwrap(), received.fds.pop().unwrap())
    }

    fn answer(&mut self) -> String {
        let mut answer = String::new();
        self.client.read_to_string(&mut answer).unwrap();
        answer
    }
}

fn daemon(path: &Path) -> OwnedFd {
    let listener = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None).unwrap();
    bind(listener.as_raw_fd(), &UnixAddr::new(path).unwrap()).unwrap();
    listen(&listener, Backlog::new(4).unwrap()).unwrap();
    listener
}

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    args: Args,
}

impl Args {
    fn parse_line(socket: &Path) -> Self {
        Line::parse_from(["front".as_ref(), "--socket".as_ref(), socket.as_os_str()]).args
    }
}
