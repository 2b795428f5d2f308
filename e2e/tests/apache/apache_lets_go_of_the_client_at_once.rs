//! From the handoff on the client's socket is the daemon's alone, also where Apache is not done with the request: nobody
//! waits for Apache when the daemon has ended the answer.

use std::fs;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::time::{Duration, Instant};

use handoff_e2e::httpd::{Setup, Taker, World};
use handoff_e2e::{Door, eventually};

/// Its page is complete, but it goes on: Apache gives it three seconds to end before it ends the request.
const SCRIPT: &str = "#!/bin/sh
trap '' TERM
printf 'Content-Type: text/plain\r\nX-Socket-Handoff: %s\r\nX-Handoff-Data: {}\r\nX-Request-Id: mine\r\n\r\n' \"$SOCKET\"
exec >&- 2>&-
sleep 8
";
/// Less than those three seconds, more than a slow machine needs.
const AT_ONCE: Duration = Duration::from_millis(1500);

/// What this fd of that process refers to: `socket:[INODE]`.
fn open_by(pid: u32) -> Vec<String> {
    let fds = fs::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
    let links = fds.filter_map(|fd| fs::read_link(fd.path()).ok());
    links.map(|link| link.to_string_lossy().into_owned()).collect()
}

#[test]
fn also_while_the_request_goes_on() {
    for world in World::ALL {
        let taker = Taker::listen(Door::SeqPacket, 10);
        let httpd = Setup::to_socket(world, taker.path())
            .modules(["cgi"])
            .directives("AddHandler cgi-script .cgi\n<Directory />\nOptions +ExecCGI\n</Directory>")
            .file("page.cgi", SCRIPT)
            .start();
        fs::set_permissions(httpd.directory().join("htdocs/page.cgi"), fs::Permissions::from_mode(0o755))
            .expect("a mode");
        let client = httpd.ask("/page.cgi");
        let mut taken = taker.take();
        let taken_at = Instant::now();
        let mut theirs = TcpStream::from(taken.fds.remove(0));
        let socket = fs::read_link(format!("/proc/self/fd/{}", theirs.as_raw_fd())).expect("a socket");
        let socket = socket.to_string_lossy().into_owned();
        eventually("Apache has let go of the client", || {
            let mut processes = httpd.children().into_iter().chain([httpd.pid()]);
            (!processes.any(|pid| open_by(pid).contains(&socket))).then_some(())
        });
        theirs.write_all(b"HTTP/1.1 200 OK\r\n\r\nall of it").expect("a client");
        // Apache has sent nothing of its own, and shut nothing down.
        theirs.set_nonblocking(true).expect("a socket");
        assert_eq!(theirs.read(&mut [0; 9]).map_err(|error| error.kind()), Err(ErrorKind::WouldBlock));
        drop(theirs);
        let response = client.response();
        let took = taken_at.elapsed();
        assert_eq!((response.body.as_str(), response.broken), ("all of it", None), "{world:?}");
        assert!(took < AT_ONCE, "{world:?}: the end came after {took:?}");
    }
}

#[test]
fn and_leaves_no_byte_of_an_unread_body_in_it() {
    const BODY_BYTES: usize = 300_000;
    for world in World::ALL {
        let taker = Taker::listen(Door::SeqPacket, 10);
        // A page whose handler does not ask for a body.
        let page =
            format!("Status: 200 OK\nX-Socket-Handoff: {}\nX-Handoff-Data: {{}}\n\n", taker.path().display());
        let httpd = Setup::to_socket(world, taker.path())
            .modules(["asis"])
            .directives("AddHandler send-as-is .asis")
            .file("page.asis", &page)
            .start();
        for chunked in [false, true] {
            let mut client = httpd.connect();
            let (framing, end) = match chunked {
                true => ("Transfer-Encoding: chunked\r\n".to_owned(), "\r\n0\r\n\r\n"),
                false => (format!("Content-Length: {BODY_BYTES}\r\n"), ""),
            };
            let begin = if chunked { format!("{BODY_BYTES:x}\r\n") } else { String::new() };
            let head = httpd.request("GET", "/page.asis", &framing);
            let request = format!("{head}{begin}{}{end}", "b".repeat(BODY_BYTES));
            client.write_all(request.as_bytes()).expect("a request");
            let mut theirs = TcpStream::from(taker.take().fds.remove(0));
            theirs.set_nonblocking(true).expect("a socket");
            let left = theirs.read(&mut [0; 1000]).map_err(|error| error.kind());
            assert_eq!(left, Err(ErrorKind::WouldBlock), "{world:?}, chunked: {chunked}");
        }
    }
}
