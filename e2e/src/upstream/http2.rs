//! HTTP/2, by h2's server over a [`Wire`]. In: a connection. Out: its requests' answers, all at once. Never: sends more
//! than the client's windows allow.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::Poll;
use std::time::Instant;

use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{Response, StatusCode};
use hyper::body::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;

use super::answer::{Answer, LastStream};
use super::book::{End, Request, Spoken};
use super::serve::{Prefixed, Socket};
use super::site::{Site, Writer};
use super::wire::{Control, Wire};

/// Streams that wait to give the connection an order.
const ORDERS_MAX: usize = 64;
const STREAM_MAX: u32 = 0x7fff_ffff;

/// What a stream wants of its connection.
#[derive(Debug)]
enum Order {
    /// It writes what it can, and says so.
    Flush(oneshot::Sender<()>),
    /// It ends here.
    Cut,
}

/// Answers until the connection ends. `begin` has been read already.
pub(super) async fn serve<S: Socket>(socket: S, begin: Vec<u8>, site: &Arc<Site>, connection: usize) {
    let (wire, control) = Wire::new(Prefixed::new(socket, begin), Arc::clone(site), connection);
    let options = &site.options;
    let mut builder = h2::server::Builder::new();
    // Nothing of this is under test: it must never be in the way.
    builder
        .initial_window_size(1 << 20)
        .initial_connection_window_size(1 << 24)
        .max_send_buffer_size(1 << 14);
    if let Some(max) = options.max_concurrent_streams {
        builder.max_concurrent_streams(max);
    }
    let Ok(mut h2) = builder.handshake::<_, Bytes>(wire).await else { return };
    let (sender, mut orders) = mpsc::channel(ORDERS_MAX);
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            // The connection first, always: what was sent before a cut has gone out.
            biased;
            accepted = h2.accept() => {
                let Some(Ok((request, respond))) = accepted else { break };
                let (site, control, orders) = (Arc::clone(site), control.clone(), sender.clone());
                streams.spawn(async move {
                    answer(&site, connection, request, Stream { respond, body: None, control, orders }).await;
                });
            }
            Some(order) = orders.recv() => match order {
                Order::Flush(done) => drop(done),
                Order::Cut => break,
            },
            Some(_) = streams.join_next() => {}
        }
    }
    // First the socket, then the streams: they see a connection that has ended.
    drop(h2);
    while streams.join_next().await.is_some() {}
}

async fn answer(site: &Site, connection: usize, request: http::Request<RecvStream>, mut stream: Stream) {
    let (head, mut body) = request.into_parts();
    let mut bytes = Vec::new();
    while let Some(piece) = body.data().await {
        let Ok(piece) = piece else { return };
        let _ = body.flow_control().release_capacity(piece.len());
        bytes.extend_from_slice(&piece);
    }
    let host = head.uri.authority().map(|authority| ("host".to_owned(), authority.to_string()));
    let headers = head.headers.iter().map(|(name, value)| {
        (name.as_str().to_owned(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    });
    let request = Request {
        number: 0,
        connection,
        spoken: Spoken::H2,
        stream: stream.respond.stream_id().as_u32(),
        method: head.method.to_string(),
        path: head.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
        headers: host.into_iter().chain(headers).collect(),
        body: bytes,
        arrived: Instant::now(),
    };
    site.answer(request, &mut stream).await;
}

struct Stream {
    respond: SendResponse<Bytes>,
    /// From the head on.
    body: Option<SendStream<Bytes>>,
    control: Control,
    orders: mpsc::Sender<Order>,
}

impl Stream {
    fn poll_gone(&mut self, cx: &mut std::task::Context<'_>) -> Poll<End> {
        let reset = match &mut self.body {
            Some(body) => body.poll_reset(cx),
            None => self.respond.poll_reset(cx),
        };
        reset.map(|reset| reset.map_or(End::Closed, |reason| End::Reset(reason.into())))
    }
}

impl Writer for Stream {
    async fn head(&mut self, answer: &Answer) -> Result<(), End> {
        let mut response = Response::new(());
        *response.status_mut() = StatusCode::from_u16(answer.status).unwrap_or_default();
        for (name, value) in &answer.headers {
            if let (Ok(name), Ok(value)) =
                (http::HeaderName::try_from(name), http::HeaderValue::try_from(value))
            {
                response.headers_mut().append(name, value);
            }
        }
        match self.respond.send_response(response, false) {
            Ok(body) => {
                self.body = Some(body);
                Ok(())
            }
            Err(_) => Err(self.gone().await),
        }
    }

    async fn send(&mut self, bytes: &[u8]) -> Result<(), End> {
        let mut rest = Bytes::copy_from_slice(bytes);
        while !rest.is_empty() {
            let wanted = rest.len();
            let may = poll_fn(|cx| {
                if let Poll::Ready(end) = self.poll_gone(cx) {
                    return Poll::Ready(Err(end));
                }
                let Some(body) = &mut self.body else { return Poll::Ready(Err(End::Closed)) };
                body.reserve_capacity(wanted);
                match body.poll_capacity(cx) {
                    Poll::Ready(Some(Ok(0))) | Poll::Pending => Poll::Pending,
                    Poll::Ready(Some(Ok(bytes))) => Poll::Ready(Ok(bytes)),
                    Poll::Ready(Some(Err(_)) | None) => Poll::Ready(Err(End::Closed)),
                }
            });
            let may = may.await?.min(wanted);
            let Some(body) = &mut self.body else { return Err(End::Closed) };
            body.send_data(rest.split_to(may), false).map_err(|_| End::Closed)?;
        }
        Ok(())
    }

    async fn finish(&mut self) -> Result<(), End> {
        let Some(body) = &mut self.body else { return Err(End::Closed) };
        body.send_data(Bytes::new(), true).map_err(|_| End::Closed)
    }

    async fn gone(&mut self) -> End {
        poll_fn(|cx| self.poll_gone(cx)).await
    }

    async fn reset(&mut self, code: u32) {
        // h2 throws away what it has not written yet.
        let (done, flushed) = oneshot::channel();
        let _ = self.orders.send(Order::Flush(done)).await;
        let _ = flushed.await;
        match &mut self.body {
            Some(body) => body.send_reset(Reason::from(code)),
            None => self.respond.send_reset(Reason::from(code)),
        }
    }

    async fn cut(&mut self, by_reset: bool) {
        if by_reset {
            self.control.reset_at_end();
        }
        let _ = self.orders.send(Order::Cut).await;
        // Were the stream let go before, h2 would still send RST_STREAM.
        self.gone().await;
    }

    fn go_away(&mut self, last_stream: LastStream, code: u32) {
        let this = self.respond.stream_id().as_u32();
        let last = match last_stream {
            LastStream::BeforeThis => this.saturating_sub(2),
            LastStream::This => this,
            LastStream::All => STREAM_MAX,
        };
        self.control.go_away(last, code);
        let (done, _) = oneshot::channel();
        let _ = self.orders.try_send(Order::Flush(done));
    }

    fn max_streams(&mut self, max: u32) {
        self.control.max_streams(max);
        let (done, _) = oneshot::channel();
        let _ = self.orders.try_send(Order::Flush(done));
    }
}
