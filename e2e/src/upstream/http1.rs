//! HTTP/1.1, written by hand, so that every byte can be wrong. In: a connection. Out: its requests' answers, one after
//! another. Never: answers two at once; reads on while it answers, beyond noticing that the client has left.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::answer::{Answer, Framing, LastStream};
use super::book::{End, Request, Spoken};
use super::serve::Socket;
use super::site::{Site, Writer};

const HEAD_BYTES_MAX: usize = 1 << 16;

/// Answers until the connection ends. `begin` has been read already.
pub(super) async fn serve<S: Socket>(socket: S, begin: Vec<u8>, site: &Arc<Site>, connection: usize) {
    let mut line = Line { socket, read: begin, answer: Framing::Chunked, wants_close: false, is_cut: false };
    while let Ok(Some(request)) = line.request(connection).await {
        line.wants_close = request.header("connection").is_some_and(|value| value == "close");
        let end = site.answer(request, &mut line).await;
        if end != End::Complete || line.wants_close {
            break;
        }
    }
    if !line.is_cut {
        let _ = line.socket.shutdown().await;
    }
}

struct Line<S> {
    socket: S,
    /// Read, and not used yet.
    read: Vec<u8>,
    /// How the answer under way says where it ends.
    answer: Framing,
    /// The connection ends after this answer.
    wants_close: bool,
    /// The connection ends without a word.
    is_cut: bool,
}

impl<S: Socket> Line<S> {
    /// The next request; none at the end of the connection.
    async fn request(&mut self, connection: usize) -> io::Result<Option<Request>> {
        let head = loop {
            if let Some(end) = find(&self.read, b"\r\n\r\n") {
                let rest = self.read.split_off(end + 4);
                break std::mem::replace(&mut self.read, rest);
            }
            if self.read.len() > HEAD_BYTES_MAX {
                return Err(io::ErrorKind::InvalidData.into());
            }
            if self.more().await? == 0 {
                return Ok(None);
            }
        };
        let head = String::from_utf8_lossy(&head).into_owned();
        let mut lines = head.split("\r\n");
        let mut words = lines.next().unwrap_or_default().split(' ');
        let (Some(method), Some(path), Some("HTTP/1.1")) = (words.next(), words.next(), words.next()) else {
            // HTTP/2's preface among others.
            self.socket
                .write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-length: 0\r\n\r\n")
                .await?;
            return Ok(None);
        };
        let header = |line: &str| {
            let (name, value) = line.split_once(':')?;
            Some((name.to_ascii_lowercase(), value.trim().to_owned()))
        };
        let (method, path) = (method.to_owned(), path.to_owned());
        let headers: Vec<(String, String)> = lines.filter_map(header).collect();
        let body = self.body(&headers).await?;
        let (number, stream, spoken, arrived) = (0, 0, Spoken::H1, Instant::now());
        Ok(Some(Request { number, connection, spoken, stream, method, path, headers, body, arrived }))
    }

    async fn body(&mut self, headers: &[(String, String)]) -> io::Result<Vec<u8>> {
        let value = |name| headers.iter().find(|(header, _)| header == name).map(|(_, value)| value.as_str());
        if value("transfer-encoding") == Some("chunked") {
            return self.chunks().await;
        }
        let length = value("content-length").and_then(|length| length.parse().ok()).unwrap_or(0);
        self.exactly(length).await
    }

    async fn chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let end = loop {
                if let Some(end) = find(&self.read, b"\r\n") {
                    break end;
                }
                self.more_or_broken().await?;
            };
            let size = String::from_utf8_lossy(&self.read[..end]).into_owned();
            let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16);
            let size = size.map_err(|_| io::ErrorKind::InvalidData)?;
            self.read.drain(..end + 2);
            body.extend(self.exactly(size).await?);
            self.exactly(2).await?;
            if size == 0 {
                return Ok(body);
            }
        }
    }

    async fn exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        while self.read.len() < length {
            self.more_or_broken().await?;
        }
        let rest = self.read.split_off(length);
        Ok(std::mem::replace(&mut self.read, rest))
    }

    async fn more(&mut self) -> io::Result<usize> {
        self.socket.read_buf(&mut self.read).await
    }

    async fn more_or_broken(&mut self) -> io::Result<()> {
        if self.more().await? == 0 { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
    }

    /// Writes all of it, unless the client leaves.
    async fn write(&mut self, bytes: &[u8]) -> Result<(), End> {
        let written = async {
            self.socket.write_all(bytes).await?;
            self.socket.flush().await
        };
        written.await.map_err(|_| End::Closed)
    }
}

impl<S: Socket> Writer for Line<S> {
    async fn head(&mut self, answer: &Answer) -> Result<(), End> {
        self.answer = answer.framing;
        let mut head = format!("HTTP/1.1 {} Scripted\r\n", answer.status);
        for (name, value) in &answer.headers {
            head += &format!("{name}: {value}\r\n");
        }
        match answer.framing {
            Framing::Raw => {
                self.wants_close = true;
                return Ok(());
            }
            // Neither has a body (RFC 9112, section 6.3).
            Framing::Chunked if matches!(answer.status, 204 | 304) => self.answer = Framing::Length(0),
            Framing::Chunked => head += "transfer-encoding: chunked\r\n",
            Framing::Length(length) => head += &format!("content-length: {length}\r\n"),
            Framing::UntilClose => {
                head += "connection: close\r\n";
                self.wants_close = true;
            }
        }
        head += "\r\n";
        self.write(head.as_bytes()).await
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        if bytes.is_empty() {
            return Ok(());
        }
        match self.answer {
            Framing::Chunked => {
                let mut chunk = format!("{:x}\r\n", bytes.len()).into_bytes();
                chunk.extend_from_slice(bytes);
                chunk.extend_from_slice(b"\r\n");
                self.write(&chunk).await
            }
            Framing::Length(_) | Framing::UntilClose | Framing::Raw => self.write(bytes).await,
        }
    }

    async fn finish(&mut self) -> Result<(), End> {
        match self.answer {
            Framing::Chunked => self.write(b"0\r\n\r\n").await,
            Framing::Length(_) | Framing::UntilClose | Framing::Raw => Ok(()),
        }
    }

    async fn gone(&mut self) -> End {
        // What comes meanwhile is the next request.
        while self.more().await.is_ok_and(|read| read > 0) {}
        End::Closed
    }

    async fn reset(&mut self, _code: u32) {
        self.cut(true).await;
    }

    async fn cut(&mut self, by_reset: bool) {
        self.is_cut = true;
        if by_reset {
            self.socket.reset_when_closed();
        }
    }

    fn go_away(&mut self, _last_stream: LastStream, _code: u32) {}

    fn max_streams(&mut self, _max: u32) {}
}

fn find(bytes: &[u8], what: &[u8]) -> Option<usize> {
    bytes.windows(what.len()).position(|window| window == what)
}
