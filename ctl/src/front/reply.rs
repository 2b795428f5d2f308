//! The front's own replies. In: what happened. Out: a complete HTTP/1.1 response, and the connection's end.
//! Never: touches a connection that was handed over.

use std::io::{self, Read, Write};
use std::net::{Shutdown, TcpStream};
use std::time::Duration;

use serde_json::json;

use super::request::Method;

/// How long a client that has its reply may go on sending, and how much: unread bytes at close would cost it
/// the reply's tail.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 2 * 1024 * 1024;

/// A response.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reply {
    pub(super) status: &'static str,
    headers: Vec<(&'static str, &'static str)>,
    body: String,
}

impl Reply {
    pub(super) fn page(html: &str) -> Self {
        Self {
            status: "200 OK",
            headers: vec![("Content-Type", "text/html; charset=utf-8")],
            body: html.into(),
        }
    }

    pub(super) fn nothing() -> Self {
        Self { status: "204 No Content", headers: Vec::new(), body: String::new() }
    }

    pub(super) fn bad_request(message: &str) -> Self {
        Self::error("400 Bad Request", "bad_request", message)
    }

    pub(super) fn not_found() -> Self {
        Self::error("404 Not Found", "not_found", "there is only / and /stream")
    }

    pub(super) fn method_not_allowed(allow: &'static str) -> Self {
        let message = format!("only {allow}");
        Self::error("405 Method Not Allowed", "method_not_allowed", &message).with("Allow", allow)
    }

    pub(super) fn timed_out() -> Self {
        Self::error("408 Request Timeout", "request_timeout", "the request took too long")
    }

    pub(super) fn length_required() -> Self {
        Self::error(
            "411 Length Required",
            "length_required",
            "a body needs a Content-Length; chunks are not read",
        )
    }

    pub(super) fn too_large() -> Self {
        Self::error("413 Content Too Large", "payload_too_large", "the request is too large")
    }

    pub(super) fn head_too_large() -> Self {
        Self::error("431 Request Header Fields Too Large", "head_too_large", "the request head is too long")
    }

    pub(super) fn unavailable() -> Self {
        Self::error("503 Service Unavailable", "overloaded", "the streaming service is not available")
            .with("Retry-After", "1")
    }

    fn error(status: &'static str, code: &str, message: &str) -> Self {
        let kind = if status.starts_with('5') { "server_error" } else { "invalid_request_error" };
        let body = json!({"error": {"message": message, "type": kind, "code": code}});
        Self { status, headers: vec![("Content-Type", "application/json")], body: format!("{body}\n") }
    }

    fn with(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Writes the reply and ends the connection so that all of it arrives.
    pub(super) fn send(self, mut client: TcpStream, method: Method) -> io::Result<()> {
        client.write_all(&self.bytes(method))?;
        client.shutdown(Shutdown::Write)?;
        client.set_read_timeout(Some(LINGER))?;
        io::copy(&mut client.take(LINGER_BYTES_MAX), &mut io::sink()).map(drop)
    }

    /// A HEAD gets the head alone.
    fn bytes(&self, method: Method) -> Vec<u8> {
        let mut text =
            format!("HTTP/1.1 {}\r\nConnection: close\r\nCache-Control: no-store\r\n", self.status);
        for (name, value) in &self.headers {
            text.push_str(&format!("{name}: {value}\r\n"));
        }
        if !self.status.starts_with("204") {
            text.push_str(&format!("Content-Length: {}\r\n", self.body.len()));
        }
        text.push_str("\r\n");
        if method != Method::Head {
            text.push_str(&self.body);
        }
        text.into_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(reply: &Reply, method: Method) -> String {
        String::from_utf8(reply.bytes(method)).unwrap()
    }

    #[test]
    fn an_error_is_json_with_its_length() {
        let reply = Reply::unavailable();
        let bytes = text(&reply, Method::Get);
        let (head, body) = bytes.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("\r\nRetry-After: 1"));
        assert!(head.ends_with(&format!("Content-Length: {}", body.len())));
        let json: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!(json["error"]["code"], "overloaded");
    }

    #[test]
    fn a_head_has_the_length_and_no_body() {
        let reply = text(&Reply::page("<p>"), Method::Head);
        assert!(reply.ends_with("Content-Length: 3\r\n\r\n"));
    }

    #[test]
    fn a_reply_without_content_has_no_length() {
        assert!(!text(&Reply::nothing(), Method::Get).contains("Content-Length"));
    }
}
