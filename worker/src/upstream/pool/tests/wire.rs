//! HTTP/2 by hand: a server that says what its script says.

use super::*;

pub(super) const DATA: u8 = 0;
pub(super) const HEADERS: u8 = 1;
pub(super) const RST_STREAM: u8 = 3;
pub(super) const SETTINGS: u8 = 4;
pub(super) const PING: u8 = 6;
pub(super) const GOAWAY: u8 = 7;
pub(super) const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const ACK: u8 = 1;

pub(super) const NO_ERROR: u32 = 0;
pub(super) const REFUSED_STREAM: u32 = 7;
pub(super) const CANCEL: u32 = 8;
pub(super) const CALM: u32 = 11;

/// The server's end of a connection, after the client's preface.
pub(super) struct Wire<S = tokio::net::TcpStream> {
    stream: S,
    /// What has come of the next frame: reading may be given up and begun again.
    part: Vec<u8>,
}

#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) kind: u8,
    pub(super) flags: u8,
    pub(super) stream: u32,
    pub(super) payload: Vec<u8>,
}

impl Frame {
    /// Of RST_STREAM.
    pub(super) fn code(&self) -> u32 {
        u32::from_be_bytes(self.payload[..4].try_into().unwrap())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Wire<S> {
    /// Reads the preface. None: the client has left.
    pub(super) async fn accept(mut stream: S) -> Option<Self> {
        let mut preface = [0; 24];
        stream.read_exact(&mut preface).await.ok()?;
        assert!(preface.starts_with(b"PRI * HTTP/2.0"), "{}", preface.escape_ascii());
        Some(Self { stream, part: vec![] })
    }

    /// With settings: how many streams.
    pub(super) async fn accept_with(stream: S, streams: Option<u32>) -> Option<Self> {
        let mut wire = Self::accept(stream).await?;
        wire.settings(streams).await;
        Some(wire)
    }

    pub(super) async fn settings(&mut self, streams: Option<u32>) {
        let payload = streams.map(|streams| [&[0, 3][..], &streams.to_be_bytes()].concat());
        self.send(SETTINGS, 0, 0, &payload.unwrap_or_default()).await;
    }

    pub(super) async fn send(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
        let head = [&length[1..], &[kind, flags], &stream.to_be_bytes()].concat();
        let _ = self.stream.write_all(&[&head, payload].concat()).await;
        let _ = self.stream.flush().await;
    }

    /// Status 200.
    pub(super) async fn head(&mut self, stream: u32) {
        self.send(HEADERS, END_HEADERS, stream, &[0x88]).await;
    }

    pub(super) async fn ok(&mut self, stream: u32) {
        self.head(stream).await;
        self.send(DATA, END_STREAM, stream, b"ok").await;
    }

    pub(super) async fn reset(&mut self, stream: u32, code: u32) {
        self.send(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub(super) async fn go_away(&mut self, last: u32, code: u32) {
        self.send(GOAWAY, 0, 0, &[last.to_be_bytes(), code.to_be_bytes()].concat()).await;
    }

    /// All that was said before is known to the client: it has answered a PING that stands behind it (RFC 9113, section
    /// 6.7). What it says meanwhile is lost.
    pub(super) async fn heard(&mut self) {
        self.send(PING, 0, 0, b"is heard").await;
        while self.frame().await.is_some_and(|frame| (frame.kind, frame.flags) != (PING, ACK)) {}
    }

    /// The next frame; settings and pings are answered. None: the end.
    pub(super) async fn frame(&mut self) -> Option<Frame> {
        loop {
            self.fill(9).await?;
            let length = u32::from_be_bytes([0, self.part[0], self.part[1], self.part[2]]) as usize;
            self.fill(9 + length).await?;
            let head = self.part.drain(..9).collect::<Vec<_>>();
            let payload = self.part.drain(..length).collect();
            let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
            match (head[3], head[4]) {
                (SETTINGS, 0) => self.send(SETTINGS, ACK, 0, &[]).await,
                (SETTINGS, _) => {}
                (kind, flags) => return Some(Frame { kind, flags, stream, payload }),
            }
        }
    }

    async fn fill(&mut self, bytes: usize) -> Option<()> {
        while self.part.len() < bytes {
            if self.stream.read_buf(&mut self.part).await.ok()? == 0 {
                return None;
            }
        }
        Some(())
    }

    /// The next request that is whole: its stream. None: the end.
    pub(super) async fn request(&mut self) -> Option<u32> {
        loop {
            let frame = self.frame().await?;
            if matches!(frame.kind, HEADERS | DATA) && frame.flags & END_STREAM != 0 {
                return Some(frame.stream);
            }
        }
    }

    /// The next RST_STREAM.
    pub(super) async fn reset_seen(&mut self) -> Option<Frame> {
        loop {
            let frame = self.frame().await?;
            if frame.kind == RST_STREAM {
                return Some(frame);
            }
        }
    }

    /// Answers everything with `ok`.
    pub(super) async fn serve_ok(&mut self) {
        while let Some(stream) = self.request().await {
            self.ok(stream).await;
        }
    }
}

/// A server that speaks HTTP/2 without TLS; the probe is answered, and not counted. `serve` gets the number of the
/// connection, from 1.
pub(super) async fn http2_server<F, S>(serve: S) -> (String, Count)
where
    S: Fn(usize, tokio::net::TcpStream) -> F + 'static,
    F: Future<Output = ()> + 'static,
{
    let count = Count::default();
    let counted = count.clone();
    let serve = Rc::new(serve);
    let (base, _) = tcp_server(move |number, stream| {
        let (counted, serve) = (counted.clone(), Rc::clone(&serve));
        async move {
            if number == 1 {
                let mut wire = Wire::accept_with(stream, None).await.unwrap();
                while wire.frame().await.is_some() {}
            } else {
                serve(counted.add(), stream).await;
            }
        }
    })
    .await;
    (base, count)
}
