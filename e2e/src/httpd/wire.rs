//! Responses on connections that stay open. In: bytes of HTTP/1.1. Out: one response, and nothing of the next one. Never:
//! more than tests need of RFC 9112.

use std::io::Read;

use crate::client::Response;

/// Reads one response whose end is told by Content-Length or chunks (one without either has no body), byte by byte.
///
/// # Panics
/// When the connection ends before, or the framing is wrong.
#[track_caller]
pub fn read_one(client: &mut impl Read) -> Response {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.extend(exactly(client, 1));
    }
    let mut response = Response::parse(&head, None);
    if is_chunked(&response) {
        let mut body = Vec::new();
        while let chunk = read_chunk(client)
            && !chunk.is_empty()
        {
            body.extend(chunk);
        }
        response.body = String::from_utf8_lossy(&body).into_owned();
    } else if let Some(length) = response.header("Content-Length") {
        let length = length.parse().expect("a length");
        response.body = String::from_utf8_lossy(&exactly(client, length)).into_owned();
    }
    response
}

/// A whole response with its chunks put together. What is no whole row of chunks stays as it is, and counts as broken.
#[must_use]
pub fn unchunked(mut response: Response) -> Response {
    if !is_chunked(&response) {
        return response;
    }
    let mut rest = response.body.as_bytes();
    let mut body = Vec::new();
    loop {
        let Some(chunk) = take_chunk(&mut rest) else {
            response.broken = response.broken.or(Some(std::io::ErrorKind::UnexpectedEof));
            return response;
        };
        if chunk.is_empty() {
            break;
        }
        body.extend_from_slice(chunk);
    }
    response.body = String::from_utf8_lossy(&body).into_owned();
    response
}

fn is_chunked(response: &Response) -> bool {
    response.header("Transfer-Encoding").is_some_and(|value| value.eq_ignore_ascii_case("chunked"))
}

fn take_chunk<'a>(rest: &mut &'a [u8]) -> Option<&'a [u8]> {
    let line = rest.windows(2).position(|two| two == b"\r\n")?;
    let length = length(&rest[..line])?;
    let chunk = rest.get(line + 2..line + 2 + length)?;
    *rest = rest.get(line + 2 + length + 2..)?;
    Some(chunk)
}

#[track_caller]
fn read_chunk(client: &mut impl Read) -> Vec<u8> {
    let mut line = Vec::new();
    while !line.ends_with(b"\r\n") {
        line.extend(exactly(client, 1));
    }
    let length = length(line.trim_ascii_end()).expect("a chunk's length");
    let chunk = exactly(client, length);
    assert_eq!(exactly(client, 2), b"\r\n", "the end of a chunk");
    chunk
}

fn length(line: &[u8]) -> Option<usize> {
    let digits = line.split(|byte| *byte == b';').next()?;
    usize::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

#[track_caller]
fn exactly(client: &mut impl Read, bytes: usize) -> Vec<u8> {
    let mut buffer = vec![0; bytes];
    client.read_exact(&mut buffer).expect("the rest of a response");
    buffer
}
