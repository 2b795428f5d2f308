//! The person waiting: reads an answer as a browser would.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpStream};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use serde_json::Value;

use crate::{PATIENCE, eventually, pause};

/// A client's end of its connection. Every read has a deadline.
#[derive(Debug)]
pub struct Client(Socket);

#[derive(Debug)]
enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
}

/// proc_net_tcp(5): whether the connection from `local` to `remote` has heard of no end.
fn is_established(local: SocketAddrV4, remote: SocketAddrV4) -> bool {
    const ESTABLISHED: &str = "01";
    let end = |address: SocketAddrV4| {
        format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
    };
    let wanted = format!("{} {} {ESTABLISHED} ", end(local), end(remote));
    fs::read_to_string("/proc/net/tcp").expect("/proc/net/tcp").contains(&wanted)
}

/// A whole answer.
#[derive(Clone, Default)]
pub struct Response {
    /// 0 when there is none.
    pub status: u16,
    /// The head, status line included; empty when there is none.
    pub head: String,
    /// What follows the head.
    pub body: String,
    /// How the connection ended, unless by a clean EOF.
    pub broken: Option<io::ErrorKind>,
}

impl Client {
    pub(crate) fn tcp(stream: TcpStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Self(Socket::Tcp(stream))
    }

    /// Hangs up, and returns when the other end's kernel knows: on a busy machine that takes its time.
    ///
    /// # Panics
    /// When it is not told.
    #[track_caller]
    pub fn leave(self) {
        let Socket::Tcp(stream) = &self.0 else { return };
        let ends = (stream.peer_addr(), stream.local_addr());
        drop(self);
        if let (Ok(SocketAddr::V4(theirs)), Ok(SocketAddr::V4(ours))) = ends {
            eventually("the other end is told", || (!is_established(theirs, ours)).then_some(()));
        }
    }

    pub(crate) fn unix(stream: UnixStream) -> Self {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        stream.set_write_timeout(Some(PATIENCE)).expect("a timeout");
        Self(Socket::Unix(stream))
    }

    /// Reads until the daemon ends the connection.
    #[must_use]
    pub fn response(mut self) -> Response {
        self.read_response()
    }

    /// Reads until the daemon ends the connection, and keeps it open on this side.
    pub fn read_response(&mut self) -> Response {
        self.read_on(Vec::new())
    }

    /// The same, and does something when this text has come.
    ///
    /// # Panics
    /// When it does not come.
    #[track_caller]
    pub fn response_with(mut self, text: &str, then: impl FnOnce()) -> Response {
        let bytes = self.read_until(text).into_bytes();
        then();
        self.read_on(bytes)
    }

    fn read_on(&mut self, mut bytes: Vec<u8>) -> Response {
        let mut buffer = [0; 65536];
        let broken = loop {
            match self.read(&mut buffer) {
                Ok(0) => break None,
                Ok(read) => bytes.extend_from_slice(&buffer[..read]),
                Err(error) => break Some(error.kind()),
            }
        };
        Response::parse(&bytes, broken)
    }

    /// Reads until the daemon ends the connection: this many bytes, then a pause of some milliseconds, and again.
    ///
    /// # Panics
    /// When the connection breaks.
    pub fn read_slowly(&mut self, bytes_at_once: usize) -> Response {
        let mut bytes = Vec::new();
        let mut buffer = vec![0; bytes_at_once];
        loop {
            match self.read(&mut buffer).expect("the rest of the answer") {
                0 => return Response::parse(&bytes, None),
                read => bytes.extend_from_slice(&buffer[..read]),
            }
            pause();
        }
    }

    /// Reads until this text has come; returns everything up to then.
    ///
    /// # Panics
    /// When the connection ends, or time runs out, before.
    #[track_caller]
    pub fn read_until(&mut self, text: &str) -> String {
        let mut bytes = Vec::new();
        let mut buffer = [0; 1];
        loop {
            let seen = String::from_utf8_lossy(&bytes);
            if seen.ends_with(text) {
                return seen.into_owned();
            }
            match self.read(&mut buffer) {
                Ok(0) => panic!("the connection ended before {text:?} came: {seen}"),
                Ok(_) => bytes.extend_from_slice(&buffer),
                Err(error) => panic!("{error} before {text:?} came: {seen}"),
            }
        }
    }

    /// Hangs up with a reset (TCP), or just closes (Unix).
    ///
    /// # Panics
    /// When the socket refuses the option.
    pub fn reset(self) {
        if let Socket::Tcp(stream) = &self.0 {
            let linger = nix::libc::linger { l_onoff: 1, l_linger: 0 };
            nix::sys::socket::setsockopt(stream, nix::sys::socket::sockopt::Linger, &linger).expect("linger");
        }
    }

    /// Sends a FIN, and goes on reading.
    ///
    /// # Panics
    /// When the connection is gone.
    pub fn half_close(&self) {
        let how = std::net::Shutdown::Write;
        match &self.0 {
            Socket::Tcp(stream) => stream.shutdown(how),
            Socket::Unix(stream) => stream.shutdown(how),
        }
        .expect("a connection to half-close");
    }

    /// The kernel keeps as little as it can for a client that does not read.
    ///
    /// # Panics
    /// When the socket refuses the option.
    pub fn shrink_buffer(&self) {
        self.limit_buffer(2048);
    }

    /// Bounds how much the kernel keeps for a client that does not read; by itself it may keep tens of megabytes.
    ///
    /// # Panics
    /// When the socket refuses the option.
    pub fn limit_buffer(&self, bytes: usize) {
        nix::sys::socket::setsockopt(&self.as_fd(), nix::sys::socket::sockopt::RcvBuf, &bytes)
            .expect("a buffer");
    }

    /// Changes how long a read may take.
    ///
    /// # Panics
    /// When the socket refuses the option.
    pub fn patience(&self, patience: Duration) {
        match &self.0 {
            Socket::Tcp(stream) => stream.set_read_timeout(Some(patience)),
            Socket::Unix(stream) => stream.set_read_timeout(Some(patience)),
        }
        .expect("a timeout");
    }
}

impl Read for Client {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match &mut self.0 {
            Socket::Tcp(stream) => stream.read(buffer),
            Socket::Unix(stream) => stream.read(buffer),
        }
    }
}

impl Write for Client {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match &mut self.0 {
            Socket::Tcp(stream) => stream.write(bytes),
            Socket::Unix(stream) => stream.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Of a long body only its ends.
impl fmt::Debug for Response {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        const SHOWN_BYTES: usize = 1500;
        let Self { status, head, body, broken } = self;
        let mut shown = f.debug_struct("Response");
        shown.field("status", status).field("head", head).field("broken", broken);
        if body.len() <= 2 * SHOWN_BYTES {
            return shown.field("body", body).finish();
        }
        let (begins, ends) =
            (body.floor_char_boundary(SHOWN_BYTES), body.ceil_char_boundary(body.len() - SHOWN_BYTES));
        shown
            .field("bytes", &body.len())
            .field("begins", &&body[..begins])
            .field("ends", &&body[ends..])
            .finish()
    }
}

impl AsFd for Client {
    fn as_fd(&self) -> BorrowedFd<'_> {
        match &self.0 {
            Socket::Tcp(stream) => stream.as_fd(),
            Socket::Unix(stream) => stream.as_fd(),
        }
    }
}

impl From<Client> for OwnedFd {
    fn from(client: Client) -> Self {
        match client.0 {
            Socket::Tcp(stream) => stream.into(),
            Socket::Unix(stream) => stream.into(),
        }
    }
}

impl Response {
    pub(crate) fn parse(bytes: &[u8], broken: Option<io::ErrorKind>) -> Self {
        let text = String::from_utf8_lossy(bytes).into_owned();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or(("", &text));
        let status = head.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or(0);
        Self { status, head: head.to_owned(), body: body.to_owned(), broken }
    }

    /// The value of a header, by its name in any case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(": ")?;
            key.eq_ignore_ascii_case(name).then_some(value)
        })
    }

    /// The data of each event, in order.
    #[must_use]
    pub fn data(&self) -> Vec<&str> {
        self.body.lines().filter_map(|line| line.strip_prefix("data: ")).collect()
    }

    /// The answer's text, of a stream in the format `content`.
    #[must_use]
    pub fn text(&self) -> String {
        let events = self.data().into_iter().filter_map(|data| serde_json::from_str::<Value>(data).ok());
        events.filter_map(|event| event["content"].as_str().map(str::to_owned)).collect()
    }

    /// The code of the error: in a JSON body, or in an event.
    #[must_use]
    pub fn error_code(&self) -> Option<String> {
        let candidates = std::iter::once(self.body.as_str()).chain(self.data());
        candidates
            .filter_map(|text| serde_json::from_str::<Value>(text).ok())
            .find_map(|json| json["error"]["code"].as_str().map(str::to_owned))
    }

    /// A stream in the format `content` that ended as it should, by a clean EOF.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.status == 200 && self.broken.is_none() && self.body.ends_with("event: done\ndata: [DONE]\n\n")
    }

    /// One HTTP response, not two: nobody was answered twice.
    #[must_use]
    pub fn heads(&self) -> usize {
        self.head.matches("HTTP/1.1 ").count() + self.body.matches("HTTP/1.1 ").count()
    }
}
