//! Response heads, and the responses that are no stream. In: valid values. Out: bytes at the end of a buffer.
//! Never: lets a value end its line, whatever it holds.

use std::io::Write;

use crate::failure::Failure;

/// What every response to one request says.
#[derive(Clone, Copy, Debug)]
pub struct Reply<'a> {
    /// For `X-Request-Id`.
    pub request_id: &'a str,
    /// The site's own. Errors carry them too: without its CORS headers a browser keeps the error from the
    /// page, and answers a 204 by reconnecting.
    pub response_headers: &'a [(String, String)],
    /// The method is HEAD.
    pub head_only: bool,
}

impl Reply<'_> {
    /// The head of a stream, whose body ends with the connection.
    pub fn stream_head(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n");
        self.own_headers(out, b"X-Accel-Buffering: no\r\n");
        out.extend_from_slice(b"\r\n");
    }

    /// The whole response to a client that has seen its stream's end.
    pub fn no_content(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(b"HTTP/1.1 204 No Content\r\n");
        self.own_headers(out, b"");
        out.extend_from_slice(b"\r\n");
    }

    /// The whole response to a request that failed before its head was sent.
    pub fn error(&self, out: &mut Vec<u8>, failure: &Failure) {
        let mut body = Vec::new();
        failure.write_json(&mut body);
        let status = failure.code.status();
        append(
            out,
            format_args!("HTTP/1.1 {status} {}\r\nContent-Type: application/json\r\n", reason(status)),
        );
        self.own_headers(out, b"");
        append(out, format_args!("Content-Length: {}\r\n", body.len()));
        if let Some(secs) = failure.retry_after_secs() {
            append(out, format_args!("Retry-After: {secs}\r\n"));
        }
        out.extend_from_slice(b"\r\n");
        if !self.head_only {
            out.extend_from_slice(&body);
        }
    }

    fn own_headers(&self, out: &mut Vec<u8>, after_connection: &[u8]) {
        out.extend_from_slice(b"Cache-Control: no-cache\r\nConnection: close\r\n");
        out.extend_from_slice(after_connection);
        header(out, "X-Request-Id", self.request_id);
        for (name, value) in self.response_headers {
            header(out, name, value);
        }
    }
}

/// The values were checked when they were parsed. This is the second lock on the same door: what could end
/// the line is left out.
fn header(out: &mut Vec<u8>, name: &str, value: &str) {
    out.extend(name.bytes().filter(|byte| byte.is_ascii_graphic() && *byte != b':'));
    out.extend_from_slice(b": ");
    out.extend(value.bytes().filter(|byte| !byte.is_ascii_control()));
    out.extend_from_slice(b"\r\n");
}

fn append(out: &mut Vec<u8>, text: std::fmt::Arguments<'_>) {
    let written = out.write_fmt(text);
    debug_assert!(written.is_ok(), "numbers and words into memory");
}

/// The phrase for each status that [`crate::failure::Code`] knows.
const fn reason(status: u16) -> &'static str {
    match status {
        400 => "Bad Request",
        408 => "Request Timeout",
        413 => "Content Too Large",
        429 => "Too Many Requests",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;
    use crate::failure::Code;

    fn reply(headers: &[(String, String)]) -> Reply<'_> {
        Reply { request_id: "r-1", response_headers: headers, head_only: false }
    }

    fn text(write: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut out = Vec::new();
        write(&mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_stream_head_has_its_headers_in_order() {
        let headers =
            [("Set-Cookie".to_owned(), "a=1".to_owned()), ("Set-Cookie".to_owned(), "b=2".to_owned())];
        assert_eq!(
            text(|out| reply(&headers).stream_head(out)),
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nCache-Control: no-cache\r\n\
             Connection: close\r\nX-Accel-Buffering: no\r\nX-Request-Id: r-1\r\n\
             Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n\r\n"
        );
    }

    #[test]
    fn a_finished_stream_is_answered_204() {
        assert_eq!(
            text(|out| reply(&[]).no_content(out)),
            "HTTP/1.1 204 No Content\r\nCache-Control: no-cache\r\nConnection: close\r\nX-Request-Id: r-1\r\n\r\n"
        );
    }

    #[test]
    fn an_error_is_a_whole_response() {
        let mut failure = Failure::new(Code::RateLimited, "slow down");
        failure.retry_after = Some(Duration::from_secs(7));
        let body = r#"{"error":{"message":"slow down","type":"rate_limit_error","code":"rate_limited"}}"#;
        let head = format!(
            "HTTP/1.1 429 Too Many Requests\r\nContent-Type: application/json\r\nCache-Control: no-cache\r\n\
             Connection: close\r\nX-Request-Id: r-1\r\nContent-Length: {}\r\nRetry-After: 7\r\n\r\n",
            body.len()
        );
        assert_eq!(text(|out| reply(&[]).error(out, &failure)), format!("{head}{body}"));
        let to_head = Reply { head_only: true, ..reply(&[]) };
        assert_eq!(text(|out| to_head.error(out, &failure)), head);
    }

    #[test]
    fn every_status_has_its_phrase() {
        for code in Code::ALL {
            assert_ne!(reason(code.status()), "Error", "{}", code.as_str());
        }
    }

    proptest! {
        #[test]
        fn no_value_ends_its_line(request_id: String, headers: Vec<(String, String)>) {
            let reply = Reply { request_id: &request_id, response_headers: &headers, head_only: false };
            let head = text(|out| reply.stream_head(out));
            let lines = head.strip_suffix("\r\n\r\n").unwrap();
            prop_assert!(lines.split("\r\n").all(|line| !line.contains(['\r', '\n', '\0'])));
            prop_assert_eq!(lines.split("\r\n").count(), 6 + headers.len());
        }
    }
}
