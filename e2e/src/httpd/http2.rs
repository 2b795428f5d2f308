//! A browser's HTTP/2 connection to a private Apache: several requests at a time. In: paths. Out: what comes on each
//! stream, and how it ends. Never: waits without a deadline.

use std::path::Path;
use std::sync::Arc;
use std::thread;

use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream};
use http::Request;
use rustls::pki_types::ServerName;
use tokio::net::TcpStream;
use tokio::runtime::{Builder, Handle};
use tokio::sync::oneshot;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;

use super::tls::trusting;
use crate::PATIENCE;

/// One connection. Dropped, it ends with all its streams.
#[derive(Debug)]
pub struct Http2Client {
    runtime: Handle,
    /// Dropped, it ends the thread that the connection lives on.
    _stop: oneshot::Sender<()>,
    sender: SendRequest<&'static [u8]>,
    origin: String,
}

/// One request, and what comes to it.
#[derive(Debug)]
pub struct Http2Stream<'a> {
    client: &'a Http2Client,
    answer: Option<ResponseFuture>,
    body: Option<RecvStream>,
    /// 0 until it is known.
    pub status: u16,
    /// The body, as far as it has come.
    pub text: String,
}

impl Http2Client {
    pub(super) fn connect(address: &str, port: u16, authority: &Path) -> Self {
        let own = Builder::new_current_thread().enable_all().build().expect("a runtime");
        let runtime = own.handle().clone();
        let (_stop, stopped) = oneshot::channel();
        // The connection goes on whatever a test waits for.
        thread::spawn(move || drop(own.block_on(stopped)));
        let mut config = trusting(authority);
        config.alpn_protocols = vec![b"h2".to_vec()];
        let name = ServerName::try_from(address.to_owned()).expect("an address");
        let sender = runtime.block_on(async {
            let stream = TcpStream::connect((address, port)).await.expect("Apache takes the connection");
            let stream = TlsConnector::from(Arc::new(config)).connect(name, stream).await.expect("TLS");
            assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]), "Apache speaks HTTP/2");
            let (sender, connection) = h2::client::Builder::new().handshake(stream).await.expect("HTTP/2");
            // Its end is what the streams say.
            tokio::spawn(async { drop(connection.await) });
            sender
        });
        Self { runtime, _stop, sender, origin: format!("https://{address}:{port}") }
    }

    /// Asks, with this body.
    ///
    /// # Panics
    /// When the connection is gone.
    #[must_use]
    pub fn ask(&self, method: &str, path: &str, body: &'static [u8]) -> Http2Stream<'_> {
        let request = Request::builder().method(method).uri(format!("{}{path}", self.origin));
        let request = request.body(()).expect("a request");
        let answer = self.wait(async {
            let mut sender = self.sender.clone().ready().await.expect("a connection");
            let (answer, mut rest) = sender.send_request(request, body.is_empty()).expect("a stream");
            if !body.is_empty() {
                rest.send_data(body, true).expect("a body");
            }
            Some(answer)
        });
        Http2Stream { client: self, answer, body: None, status: 0, text: String::new() }
    }

    #[track_caller]
    fn wait<T>(&self, what: impl Future<Output = T>) -> T {
        self.runtime.block_on(async { timeout(PATIENCE, what).await }).expect("a word of Apache in time")
    }
}

impl Http2Stream<'_> {
    /// The next piece of the body; false at its end.
    ///
    /// # Errors
    /// How the stream was reset.
    ///
    /// # Panics
    /// When nothing comes in time.
    #[track_caller]
    pub fn read(&mut self) -> Result<bool, Reason> {
        let reason = |error: h2::Error| error.reason().unwrap_or(Reason::CONNECT_ERROR);
        if let Some(answer) = self.answer.take() {
            let (head, body) = self.client.wait(answer).map_err(reason)?.into_parts();
            self.status = head.status.as_u16();
            self.body = Some(body);
        }
        let Some(body) = &mut self.body else { return Ok(false) };
        let Some(bytes) = self.client.wait(body.data()) else { return Ok(false) };
        let bytes = bytes.map_err(reason)?;
        let _ = body.flow_control().release_capacity(bytes.len());
        self.text.push_str(&String::from_utf8_lossy(&bytes));
        Ok(true)
    }

    /// Reads until this has come.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn read_until(&mut self, text: &str) {
        while !self.text.contains(text) {
            assert_eq!(self.read(), Ok(true), "{text:?} did not come: {}", self.text);
        }
    }

    /// Reads to the end of the stream.
    ///
    /// # Errors
    /// How it was reset.
    #[track_caller]
    pub fn read_to_end(&mut self) -> Result<(), Reason> {
        while self.read()? {}
        Ok(())
    }

    /// Leaves: `RST_STREAM`, as a browser's stop button does. The connection goes on.
    pub fn leave(self) {}
}
