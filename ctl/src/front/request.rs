//! One HTTP/1 request. In: a client's connection. Out: its parts, or the reply that refuses it.
//! Never: reads past the body, waits longer than [`READ_TIMEOUT`] altogether, takes a chunked body.

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::reply::Reply;

/// From the connection to the last byte of the request.
const READ_TIMEOUT: Duration = Duration::from_secs(10);
const HEAD_BYTES_MAX: usize = 16 * 1024;
const BODY_BYTES_MAX: usize = 1024 * 1024;

/// The methods that some route takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Method {
    Get,
    Head,
    Post,
}

impl Method {
    /// As it stands in a request line.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
        }
    }
}

/// A whole request.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Request {
    pub(super) method: Method,
    pub(super) path: String,
    pub(super) query: String,
    pub(super) last_event_id: Option<String>,
    pub(super) body: Vec<u8>,
}

/// A request whose body has not been read.
#[derive(Debug)]
pub(super) struct Head {
    request: Request,
    body_bytes: usize,
    expects_continue: bool,
}

/// Reads one request; nothing from a client that sent nothing (browsers connect in advance).
pub(super) fn read(client: &mut TcpStream) -> io::Result<Option<Result<Request, Reply>>> {
    client.set_write_timeout(Some(READ_TIMEOUT))?;
    let mut input = Input { client, seen: Vec::new(), deadline: Instant::now() + READ_TIMEOUT };
    match input.request() {
        Ok(request) => Ok(Some(request)),
        Err(_) if input.seen.is_empty() => Ok(None),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Some(Err(Reply::timed_out()))),
        Err(error) => Err(error),
    }
}

struct Input<'a> {
    client: &'a mut TcpStream,
    seen: Vec<u8>,
    deadline: Instant,
}

impl Input<'_> {
    fn request(&mut self) -> io::Result<Result<Request, Reply>> {
        let head_end = loop {
            if let Some(end) = head_end(&self.seen) {
                break end;
            }
            if self.seen.len() > HEAD_BYTES_MAX {
                return Ok(Err(Reply::head_too_large()));
            }
            self.read_more()?;
        };
        let head = match parse(&self.seen[..head_end]) {
            Ok(head) => head,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let whole = head_end + head.body_bytes;
        if head.expects_continue && self.seen.len() < whole {
            self.client.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        while self.seen.len() < whole {
            self.read_more()?;
        }
        // Whatever was pipelined behind it is dropped: one connection, one request.
        Ok(Ok(Request { body: self.seen[head_end..whole].to_vec(), ..head.request }))
    }

    fn read_more(&mut self) -> io::Result<()> {
        let rest = self.deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        self.client.set_read_timeout(Some(rest))?;
        let mut buffer = [0; 16 * 1024];
        let length = self.client.read(&mut buffer)?;
        if length == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.seen.extend_from_slice(&buffer[..length]);
        Ok(())
    }
}

/// The length of the head, its empty line included.
fn head_end(bytes: &[u8]) -> Option<usize> {
    const END: &[u8] = b"\r\n\r\n";
    bytes.windows(END.len()).position(|window| window == END).map(|start| start + END.len())
}

/// Reads a whole head.
pub(super) fn parse(head: &[u8]) -> Result<Head, Reply> {
    if head.len() > HEAD_BYTES_MAX {
        return Err(Reply::head_too_large());
    }
    let text = str::from_utf8(head).map_err(|_| Reply::bad_request("the request head is not UTF-8"))?;
    let mut lines = text.trim_end().split("\r\n");
    let mut head = parse_request_line(lines.next().unwrap_or_default())?;
    let mut length = None;
    for line in lines {
        let (name, value) = line.split_once(':').ok_or(Reply::bad_request("a header has no colon"))?;
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" if length.is_some_and(|known| known != value) => {
                return Err(Reply::bad_request("two different Content-Lengths"));
            }
            "content-length" => length = Some(value),
            "transfer-encoding" => return Err(Reply::length_required()),
            "expect" => head.expects_continue = value.eq_ignore_ascii_case("100-continue"),
            "last-event-id" => head.request.last_event_id = Some(value.to_owned()),
            _ => {}
        }
    }
    head.body_bytes = body_length(head.request.method, length)?;
    Ok(head)
}

fn parse_request_line(line: &str) -> Result<Head, Reply> {
    let parts: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.0" | "HTTP/1.1"] = parts[..] else {
        return Err(Reply::bad_request("the request line is not METHOD TARGET HTTP/1.x"));
    };
    let (path, query) = target.split_once('?').unwrap_or((target, ""));
    let method = match method {
        "GET" => Method::Get,
        "HEAD" => Method::Head,
        "POST" => Method::Post,
        _ => return Err(Reply::method_not_allowed("GET, HEAD, POST")),
    };
    let request =
        Request { method, path: path.into(), query: query.into(), last_event_id: None, body: Vec::new() };
    Ok(Head { request, body_bytes: 0, expects_continue: false })
}

fn body_length(method: Method, header: Option<&str>) -> Result<usize, Reply> {
    let Some(text) = header else {
        return if method == Method::Post { Err(Reply::length_required()) } else { Ok(0) };
    };
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(Reply::bad_request("Content-Length is not a number"));
    }
    // A number that does not even parse is larger than any limit.
    text.parse().ok().filter(|length| *length <= BODY_BYTES_MAX).ok_or_else(Reply::too_large)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status_of(head: &str) -> &'static str {
        parse(head.as_bytes()).unwrap_err().status
    }

    #[test]
    fn a_request_is_taken_apart() {
        let head =
            parse(b"POST /stream?a=1 HTTP/1.1\r\nContent-Length: 7\r\nexpect: 100-Continue\r\nLast-Event-ID: r:3\r\n\r\n")
                .unwrap();
        assert_eq!((head.body_bytes, head.expects_continue), (7, true));
        let expected = Request {
            method: Method::Post,
            path: "/stream".into(),
            query: "a=1".into(),
            last_event_id: Some("r:3".into()),
            body: Vec::new(),
        };
        assert_eq!(head.request, expected);
    }

    #[test]
    fn what_is_no_request_is_refused() {
        for bad in ["\r\n\r\n", "GET /\r\n\r\n", "GET / HTTP/2.0\r\n\r\n", "GET / x HTTP/1.1\r\n\r\n"] {
            assert_eq!(status_of(bad), "400 Bad Request", "{bad:?}");
        }
        assert_eq!(status_of("GET / HTTP/1.1\r\nnonsense\r\n\r\n"), "400 Bad Request");
    }

    #[test]
    fn a_method_that_nothing_takes_is_refused() {
        assert_eq!(status_of("BREW / HTTP/1.1\r\n\r\n"), "405 Method Not Allowed");
    }

    #[test]
    fn a_body_has_one_length_and_a_limit() {
        let post = |headers: &str| status_of(&format!("POST /stream HTTP/1.1\r\n{headers}\r\n\r\n"));
        assert_eq!(post("A: b"), "411 Length Required");
        assert_eq!(post("Transfer-Encoding: chunked"), "411 Length Required");
        assert_eq!(post("Content-Length: +5"), "400 Bad Request");
        assert_eq!(post("Content-Length: 5\r\nContent-Length: 6"), "400 Bad Request");
        assert_eq!(post("Content-Length: 1048577"), "413 Content Too Large");
        assert_eq!(post("Content-Length: 99999999999999999999999"), "413 Content Too Large");
    }

    #[test]
    fn a_head_has_a_limit() {
        let head = format!("GET /{} HTTP/1.1\r\n\r\n", "a".repeat(HEAD_BYTES_MAX));
        assert_eq!(status_of(&head), "431 Request Header Fields Too Large");
    }
}
