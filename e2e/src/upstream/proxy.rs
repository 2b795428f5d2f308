//! An egress proxy. In: CONNECT, or requests with a whole address (RFC 9110, section 9.3.6; RFC 9112, section 3.2.2).
//! Out: what the server behind it says, and what was asked of the proxy. Never: looks into a tunnel; forwards two requests
//! over one connection.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;

use crate::own_address;

const HEAD_BYTES_MAX: usize = 1 << 16;

/// A running proxy, at an address of its own.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    desk: Arc<Desk>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// What was asked of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Asked {
    /// `CONNECT` or another method.
    pub method: String,
    /// `HOST:PORT` of a tunnel, or the whole address of what is forwarded.
    pub target: String,
    /// The whole head, for what must not be in it.
    pub head: String,
    /// What it has answered, or the server behind it will.
    pub is_served: bool,
}

#[derive(Debug, Default)]
struct Desk {
    /// `Proxy-Authorization`'s value; none: everybody may.
    wanted: Option<String>,
    asked: Mutex<Vec<Asked>>,
    /// Names that the proxy resolves otherwise, with their ports.
    routes: Mutex<HashMap<String, String>>,
}

impl Proxy {
    /// Serves everybody.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn start() -> Self {
        Self::with(Desk::default())
    }

    /// Serves who shows this `Proxy-Authorization`, such as `Basic dXNlcjpwYXNz`.
    ///
    /// # Panics
    /// When it cannot listen.
    #[must_use]
    pub fn for_whom(authorization: &str) -> Self {
        Self::with(Desk { wanted: Some(authorization.to_owned()), ..Desk::default() })
    }

    fn with(desk: Desk) -> Self {
        let listener = std::net::TcpListener::bind((own_address(), 0)).expect("a listening socket");
        listener.set_nonblocking(true).expect("a socket for tokio");
        let address = listener.local_addr().expect("an address");
        let desk = Arc::new(desk);
        let shared = Arc::clone(&desk);
        let (stop, stopped) = oneshot::channel::<()>();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let listener = TcpListener::from_std(listener).expect("a listening socket");
                tokio::select! {
                    () = accept(listener, shared) => {}
                    _ = stopped => {}
                }
            });
        });
        Self { address, desk, stop: Some(stop), thread: Some(thread) }
    }

    /// `ADDRESS:PORT`.
    #[must_use]
    pub fn address(&self) -> String {
        self.address.to_string()
    }

    /// Who asks for this `HOST:PORT` gets to that `ADDRESS:PORT`.
    pub fn route(&self, host: &str, address: &str) {
        lock(&self.desk.routes).insert(host.to_owned(), address.to_owned());
    }

    /// All that was asked of it so far.
    #[must_use]
    pub fn asked(&self) -> Vec<Asked> {
        lock(&self.desk.asked).clone()
    }

    /// Tunnels that it has opened so far.
    #[must_use]
    pub fn tunnels(&self) -> usize {
        self.asked().iter().filter(|asked| asked.method == "CONNECT" && asked.is_served).count()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn accept(listener: TcpListener, desk: Arc<Desk>) {
    loop {
        if let Ok((client, _)) = listener.accept().await {
            tokio::spawn(serve(client, Arc::clone(&desk)));
        }
    }
}

async fn serve(mut client: TcpStream, desk: Arc<Desk>) -> io::Result<()> {
    let (head, rest) = read_head(&mut client).await?;
    let first = head.lines().next().unwrap_or_default().to_owned();
    let mut words = first.split(' ');
    let (method, target) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let shown = header(&head, "proxy-authorization");
    let may = desk.wanted.is_none() || desk.wanted.as_deref() == shown;
    let is_tunnel = method == "CONNECT";
    let (host, path) = if is_tunnel { (target, "") } else { split(target) };
    let address = lock(&desk.routes).get(host).cloned().unwrap_or_else(|| host.to_owned());
    let server = if may { TcpStream::connect(address).await.ok() } else { None };
    lock(&desk.asked).push(Asked {
        method: method.to_owned(),
        target: target.to_owned(),
        head: head.clone(),
        is_served: server.is_some(),
    });
    let Some(mut server) = server else {
        let refusal = if may {
            "502 Bad Gateway\r\n"
        } else {
            "407 Proxy Authentication Required\r\nproxy-authenticate: Basic realm=\"egress\"\r\n"
        };
        let answer = format!("HTTP/1.1 {refusal}content-length: 0\r\nconnection: close\r\n\r\n");
        return client.write_all(answer.as_bytes()).await;
    };
    if is_tunnel {
        client.write_all(b"HTTP/1.1 200 Connection Established\r\n\r\n").await?;
    } else {
        // One request a connection, and both sides are told so.
        let head = without(&head, &["proxy-authorization", "proxy-connection", "connection"]);
        let fields = head.split_once("\r\n").map_or("", |(_, fields)| fields);
        let request = format!("{method} {path} HTTP/1.1\r\nconnection: close\r\n{fields}");
        server.write_all(request.as_bytes()).await?;
        server.write_all(&rest).await?;
        return forward(client, server).await;
    }
    server.write_all(&rest).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

/// The request's rest goes on while the answer's head is awaited: it is changed.
async fn forward(mut client: TcpStream, mut server: TcpStream) -> io::Result<()> {
    let mut body = vec![0; 16_384];
    let mut answer = Vec::new();
    let end = loop {
        if let Some(end) = answer.windows(4).position(|window| window == b"\r\n\r\n") {
            break end + 4;
        }
        tokio::select! {
            read = client.read(&mut body) => match read? {
                0 => return Ok(()),
                read => server.write_all(&body[..read]).await?,
            },
            read = server.read_buf(&mut answer) => if read? == 0 { return Ok(()) },
        }
    };
    let head = without(&String::from_utf8_lossy(&answer[..end]), &["connection"]);
    let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    client.write_all(head.as_bytes()).await?;
    client.write_all(&answer[end..]).await?;
    tokio::io::copy_bidirectional(&mut client, &mut server).await?;
    Ok(())
}

async fn read_head(client: &mut TcpStream) -> io::Result<(String, Vec<u8>)> {
    let mut bytes = Vec::new();
    loop {
        if let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            return Ok((String::from_utf8_lossy(&bytes).into_owned(), rest));
        }
        if bytes.len() > HEAD_BYTES_MAX || client.read_buf(&mut bytes).await? == 0 {
            return Err(io::ErrorKind::InvalidData.into());
        }
    }
}

/// `http://HOST:PORT/PATH`, in two.
fn split(target: &str) -> (&str, &str) {
    let rest = target.strip_prefix("http://").unwrap_or_default();
    rest.split_at(rest.find('/').unwrap_or(rest.len()))
}

fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (key, value) = line.split_once(':')?;
        key.eq_ignore_ascii_case(name).then_some(value.trim())
    })
}

fn without(head: &str, names: &[&str]) -> String {
    let is_kept = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        !names.iter().any(|other| name.eq_ignore_ascii_case(other))
    };
    head.split_inclusive("\r\n").filter(is_kept).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
