//! A connection's bytes. In: a socket, with or without TLS. Out: what the other side sends, in clear; what it is sent, as
//! far as it takes it. Never: waits.

use std::io::{self, ErrorKind, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::net::{SendFlags, send};
use rustls::ServerConnection;

/// What a read said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Inbound {
    Open,
    /// The other side sends nothing more.
    AtEnd,
}

pub(crate) struct Link {
    socket: Socket,
    tls: Option<Box<ServerConnection>>,
    /// To be sent; [`Link::flush`] does.
    pub(crate) out: Vec<u8>,
}

impl Link {
    pub(crate) fn new(socket: OwnedFd, tls: Option<ServerConnection>) -> Self {
        let tls = tls.map(|mut tls| {
            // The bound is that of `out`.
            tls.set_buffer_limit(None);
            Box::new(tls)
        });
        Self { socket: Socket(socket), tls, out: Vec::new() }
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.socket.0.as_fd()
    }

    /// Reads once, to the end of `input`.
    pub(crate) fn receive(&mut self, buffer: &mut [u8], input: &mut Vec<u8>) -> io::Result<Inbound> {
        let Some(tls) = &mut self.tls else {
            return Ok(match or_nothing((&self.socket).read(buffer))? {
                Some(0) => Inbound::AtEnd,
                read => {
                    input.extend_from_slice(&buffer[..read.unwrap_or(0)]);
                    Inbound::Open
                }
            });
        };
        if or_nothing(tls.read_tls(&mut &self.socket))? == Some(0) {
            return Ok(Inbound::AtEnd);
        }
        let state = match tls.process_new_packets() {
            Ok(state) => state,
            Err(error) => {
                // The alert says to the other side what is wrong.
                let _ = tls.write_tls(&mut &self.socket);
                return Err(io::Error::other(error));
            }
        };
        let mut left = state.plaintext_bytes_to_read();
        while left > 0 {
            let read = tls.reader().read(buffer)?;
            input.extend_from_slice(&buffer[..read]);
            left = left.saturating_sub(read.max(1));
        }
        Ok(if state.peer_has_closed() { Inbound::AtEnd } else { Inbound::Open })
    }

    /// Whether anything waits to be sent.
    pub(crate) fn has_output(&self) -> bool {
        !self.out.is_empty() || self.tls.as_ref().is_some_and(|tls| tls.wants_write())
    }

    /// Sends all that the socket takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        if let Some(tls) = &mut self.tls {
            // One batch at a time: the next one is not encrypted before this one has gone.
            loop {
                while tls.wants_write() {
                    if or_nothing(tls.write_tls(&mut &self.socket))?.is_none() {
                        return Ok(());
                    }
                }
                if self.out.is_empty() {
                    return Ok(());
                }
                tls.writer().write_all(&self.out)?;
                self.out.clear();
            }
        }
        let mut sent = 0;
        while sent < self.out.len() {
            match or_nothing((&self.socket).write(&self.out[sent..]))? {
                Some(bytes) => sent += bytes,
                None => break,
            }
        }
        self.out.drain(..sent);
        Ok(())
    }
}

/// None: it would have to wait.
fn or_nothing(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => Ok(None),
        Err(error) => Err(error),
    }
}

struct Socket(OwnedFd);

impl Read for &Socket {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.0, buffer)?)
    }
}

impl Write for &Socket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(send(&self.0, bytes, SendFlags::NOSIGNAL | SendFlags::DONTWAIT)?)
    }

    // TLS has its records apart from each other.
    fn write_vectored(&mut self, bytes: &[io::IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.0, bytes)?)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
