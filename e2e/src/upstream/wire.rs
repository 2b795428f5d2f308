//! HTTP/2's bytes, under h2's server. In: a connection. Out: the same connection, whose incoming frames are noted, and
//! into which frames of a test's own are put. Never: understands more than the frames' heads (RFC 9113, section 4.1).

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use super::answer::code::ENHANCE_YOUR_CALM;
use super::serve::Socket;
use super::site::Site;

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEAD_BYTES: usize = 9;
const OUT_BYTES_MAX: usize = 1 << 16;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;
const MAX_CONCURRENT_STREAMS: u16 = 3;
/// Early PINGs that are let pass, as gRPC's servers do it.
const PING_STRIKES: usize = 2;

/// Orders to a connection's bytes.
#[derive(Clone, Debug, Default)]
pub(super) struct Control(Arc<Mutex<Orders>>);

#[derive(Debug, Default)]
struct Orders {
    /// Goes out between two frames.
    inject: Vec<u8>,
    /// Acknowledgements of injected SETTINGS, which h2 must not see.
    acks_to_drop: usize,
    reset_at_end: bool,
    is_over: bool,
}

impl Control {
    /// GOAWAY, beside what h2 knows.
    pub(super) fn go_away(&self, last_stream: u32, code: u32) {
        let mut payload = last_stream.to_be_bytes().to_vec();
        payload.extend(code.to_be_bytes());
        self.orders().inject.extend(frame(GOAWAY, &payload));
    }

    /// SETTINGS_MAX_CONCURRENT_STREAMS, beside what h2 knows.
    pub(super) fn max_streams(&self, max: u32) {
        let mut payload = MAX_CONCURRENT_STREAMS.to_be_bytes().to_vec();
        payload.extend(max.to_be_bytes());
        let mut orders = self.orders();
        orders.inject.extend(frame(SETTINGS, &payload));
        orders.acks_to_drop += 1;
    }

    /// When the connection is dropped, by a reset.
    pub(super) fn reset_at_end(&self) {
        self.orders().reset_at_end = true;
    }

    fn orders(&self) -> MutexGuard<'_, Orders> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A frame of stream 0.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or(u32::MAX).to_be_bytes();
    let mut frame = vec![length[1], length[2], length[3], kind, 0, 0, 0, 0, 0];
    frame.extend_from_slice(payload);
    frame
}

/// The connection.
pub(super) struct Wire<S: Socket> {
    socket: S,
    control: Control,
    incoming: Incoming,
    /// What h2 reads next.
    ready: Vec<u8>,
    out: Vec<u8>,
    out_frame: OutFrame,
    /// Until then nothing is written.
    held: Option<Pin<Box<Sleep>>>,
}

impl<S: Socket> Wire<S> {
    pub(super) fn new(socket: S, site: Arc<Site>, connection: usize) -> (Self, Control) {
        let control = Control::default();
        let held = site.options.settings_delay;
        let wire = Self {
            socket,
            control: control.clone(),
            incoming: Incoming {
                site,
                connection,
                preface: PREFACE.len(),
                bytes: Vec::new(),
                is_acknowledged: false,
                strikes: 0,
            },
            ready: Vec::new(),
            out: Vec::new(),
            out_frame: OutFrame::default(),
            held: (!held.is_zero()).then(|| Box::pin(tokio::time::sleep(held))),
        };
        (wire, control)
    }

    fn poll_out(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.out_frame.is_between() {
            let mut orders = self.control.orders();
            self.out.append(&mut orders.inject);
        }
        if let Some(held) = &mut self.held {
            if held.as_mut().poll(cx).is_pending() {
                // As far as h2 knows it is written: it must go on reading.
                return Poll::Ready(Ok(()));
            }
            self.held = None;
        }
        while !self.out.is_empty() {
            let written = ready!(Pin::new(&mut self.socket).poll_write(cx, &self.out))?;
            if written == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.out.drain(..written);
        }
        if self.control.orders().is_over {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> AsyncRead for Wire<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // What was held back, or injected, goes out whenever h2 is awake.
        if let Poll::Ready(Err(error)) = this.poll_out(cx) {
            return Poll::Ready(Err(error));
        }
        while this.ready.is_empty() {
            let mut space = [0; 16_384];
            let mut read = ReadBuf::new(&mut space);
            ready!(Pin::new(&mut this.socket).poll_read(cx, &mut read))?;
            if read.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            this.ready = this.incoming.take(read.filled(), &this.control);
            // What is answered to a PING must not wait for h2.
            if let Poll::Ready(Err(error)) = this.poll_out(cx) {
                return Poll::Ready(Err(error));
            }
        }
        let taken = buf.remaining().min(this.ready.len());
        buf.put_slice(&this.ready[..taken]);
        this.ready.drain(..taken);
        Poll::Ready(Ok(()))
    }
}

impl<S: Socket> AsyncWrite for Wire<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.out.len() >= OUT_BYTES_MAX && this.held.is_none() {
            ready!(this.poll_out(cx))?;
        }
        this.out_frame.pass(bytes);
        this.out.extend_from_slice(bytes);
        Poll::Ready(Ok(bytes.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.socket).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_out(cx))?;
        Pin::new(&mut this.socket).poll_shutdown(cx)
    }
}

impl<S: Socket> Drop for Wire<S> {
    fn drop(&mut self) {
        if self.control.orders().reset_at_end {
            self.socket.reset_when_closed();
        }
    }
}

/// Where in a frame the bytes that h2 writes are.
#[derive(Debug, Default)]
struct OutFrame {
    head: Vec<u8>,
    payload_left: usize,
}

impl OutFrame {
    fn is_between(&self) -> bool {
        self.head.is_empty() && self.payload_left == 0
    }

    fn pass(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.payload_left > 0 {
                let passed = self.payload_left.min(bytes.len());
                self.payload_left -= passed;
                bytes = &bytes[passed..];
                continue;
            }
            let passed = (HEAD_BYTES - self.head.len()).min(bytes.len());
            self.head.extend_from_slice(&bytes[..passed]);
            bytes = &bytes[passed..];
            if self.head.len() == HEAD_BYTES {
                self.payload_left = length(&self.head);
                self.head.clear();
            }
        }
    }
}

/// What comes from the client, frame by frame.
struct Incoming {
    site: Arc<Site>,
    connection: usize,
    preface: usize,
    bytes: Vec<u8>,
    is_acknowledged: bool,
    strikes: usize,
}

impl Incoming {
    /// Notes whole frames, and returns those that h2 shall see.
    fn take(&mut self, mut bytes: &[u8], control: &Control) -> Vec<u8> {
        let mut seen = Vec::new();
        let preface = self.preface.min(bytes.len());
        self.preface -= preface;
        seen.extend_from_slice(&bytes[..preface]);
        bytes = &bytes[preface..];
        self.bytes.extend_from_slice(bytes);
        while self.bytes.len() >= HEAD_BYTES {
            let whole = HEAD_BYTES + length(&self.bytes);
            if self.bytes.len() < whole {
                break;
            }
            let rest = self.bytes.split_off(whole);
            let frame = std::mem::replace(&mut self.bytes, rest);
            if self.note(&frame, control) {
                seen.extend(frame);
            }
        }
        seen
    }

    /// Whether h2 shall see it.
    fn note(&mut self, frame: &[u8], control: &Control) -> bool {
        let (kind, is_ack, payload) = (frame[3], frame[4] & ACK != 0, &frame[HEAD_BYTES..]);
        let book = &self.site.book;
        match kind {
            RST_STREAM => {
                let reset = (number(&frame[5..]) & 0x7fff_ffff, number(payload));
                book.on(self.connection, |connection| connection.resets.push(reset));
            }
            SETTINGS if is_ack => {
                // h2's own are the first that go out, and acknowledgements keep the order.
                let is_ours = std::mem::replace(&mut self.is_acknowledged, true);
                let mut orders = control.orders();
                if is_ours && orders.acks_to_drop > 0 {
                    orders.acks_to_drop -= 1;
                    return false;
                }
            }
            SETTINGS => {
                let settings = payload
                    .chunks_exact(6)
                    .map(|one| (u16::from_be_bytes([one[0], one[1]]), number(&one[2..])));
                book.on(self.connection, |connection| connection.settings.extend(settings));
            }
            PING if !is_ack => return self.ping(control),
            _ => {}
        }
        true
    }

    fn ping(&mut self, control: &Control) -> bool {
        let now = Instant::now();
        let mut before = None;
        self.site.book.on(self.connection, |connection| {
            before = connection.pings.last().copied();
            connection.pings.push(now);
        });
        let options = &self.site.options;
        let is_early = before.is_some_and(|before| now - before < options.ping_interval_min);
        self.strikes += usize::from(is_early);
        if is_early && self.strikes > PING_STRIKES {
            control.go_away(0x7fff_ffff, ENHANCE_YOUR_CALM);
            control.orders().is_over = true;
        }
        options.answers_pings
    }
}

fn length(head: &[u8]) -> usize {
    usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2])
}

fn number(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |number, byte| number << 8 | u32::from(*byte))
}
