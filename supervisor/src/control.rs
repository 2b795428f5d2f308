//! The control socket: where `handoffctl` asks and orders. In: one JSON line a connection. Out: replies, one JSON
//! line each, made by the event loop between two turns.
//!
//! Never: answers anybody but our own user and root, lets who is silent, endless or does not read hold anything
//! but one of a bounded number of places for a bounded time.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener as StdListener;
use std::sync::Arc;
use std::time::Duration;

use handoff_config::Server;
use handoff_shared::control::{
    REPLY_TIMEOUT, REQUEST_BYTES_MAX, REQUEST_TIMEOUT, Refusal, Reply, Request, StreamStatus,
};
use handoff_shared::fdpass;
use handoff_shared::ids::{LeaseId, WorkerId};
use handoff_shared::message::SessionView;
use nix::unistd::geteuid;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::unix::OwnedWriteHalf;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::time::{sleep, timeout};

use crate::listener::{BindError, Bound, Kind, Wanted, bind};

/// Connections at the same time; more wait in the kernel.
const CONNECTIONS_MAX: usize = 64;
/// How long a worker may take to show a page of its sessions.
const PAGE_TIMEOUT: Duration = Duration::from_secs(2);
/// How long an order may take that nobody waits for longer: the end of a stream whose client does not read.
const ORDER_TIMEOUT: Duration = Duration::from_secs(10);

/// Something for the event loop.
#[derive(Debug)]
pub(crate) enum Order {
    /// A request as it came, to be answered once.
    Request { request: Request, reply: oneshot::Sender<Reply> },
    /// Who has sessions.
    Workers { reply: oneshot::Sender<Vec<WorkerView>> },
    /// A page of one worker's sessions. No answer: the worker is gone.
    Page { worker: WorkerId, after: Option<LeaseId>, reply: oneshot::Sender<Page> },
}

/// A worker, for the list of streams.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WorkerView {
    pub(crate) worker: WorkerId,
    pub(crate) slot: u16,
    pub(crate) generation: u32,
    pub(crate) pid: u32,
    /// It can be asked.
    pub(crate) speaks_ours: bool,
}

/// Some of a worker's sessions.
#[derive(Debug)]
pub(crate) struct Page {
    pub(crate) sessions: Vec<SessionView>,
    pub(crate) last: bool,
}

/// The event loop's side.
#[derive(Debug)]
pub(crate) struct Control {
    pub(crate) orders: mpsc::Receiver<Order>,
    /// A dup of the one that is served, for a successor in this process.
    socket: OwnedFd,
    bound: Bound,
}

impl Control {
    /// Serves the configured socket; none: there is to be none. Its file is for the user that we become. The one
    /// that an earlier image of this process served is served on: to bind it again we may lack the privilege.
    ///
    /// # Errors
    /// When it cannot be made, or another instance answers there.
    pub(crate) fn serve(server: &Server, inherited: Option<OwnedFd>) -> Result<Option<Self>, BindError> {
        let inherited = inherited.map(|socket| (Bound::inherited(&socket, true), socket));
        let Some(path) = server.control_socket_path.as_deref() else {
            inherited.iter().for_each(|(bound, _)| bound.unlink());
            return Ok(None);
        };
        let (owner, group) = (server.run_as.map(|user| user.uid), server.run_as.map(|user| user.gid));
        let key = "server.control_socket_path";
        let wanted = Wanted { key, path, kind: Kind::Stream, owner, group, mode: 0o600 };
        let (socket, bound) = match inherited {
            Some((bound, socket)) if bound.path() == path => (socket, bound),
            Some((elsewhere, _)) => {
                elsewhere.unlink();
                bind(wanted)?
            }
            None => bind(wanted)?,
        };
        let fail = |source| BindError::Io { path: path.to_owned(), source };
        fdpass::set_nonblocking(socket.as_fd()).map_err(fail)?;
        let ours = socket.try_clone().map_err(fail)?;
        let listener = UnixListener::from_std(StdListener::from(socket)).map_err(fail)?;
        let (sender, orders) = mpsc::channel(CONNECTIONS_MAX);
        tokio::spawn(accept(listener, sender));
        Ok(Some(Self { orders, socket: ours, bound }))
    }

    /// For a successor in this process.
    pub(crate) fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Nobody can connect any more.
    pub(crate) fn unlink(&self) {
        self.bound.unlink();
    }
}

/// A refusal in words.
pub(crate) fn refused(code: Refusal, reason: impl Into<String>) -> Reply {
    Reply::Refused { code, reason: reason.into() }
}

async fn accept(listener: UnixListener, orders: mpsc::Sender<Order>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else { return };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "control socket cannot accept");
                sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let orders = orders.clone();
        tokio::spawn(async move {
            if let Err(error) = connection(stream, orders).await {
                tracing::debug!(%error, "control connection ended");
            }
            drop(place);
        });
    }
}

async fn connection(stream: UnixStream, orders: mpsc::Sender<Order>) -> io::Result<()> {
    let uid = stream.peer_cred()?.uid();
    let (input, output) = stream.into_split();
    let mut desk = Desk { orders, output };
    if uid != 0 && uid != geteuid().as_raw() {
        tracing::warn!(uid, "control connection refused");
        let reason = format!("uid {uid} may not: only root and handoffd's own user may");
        return desk.say(&refused(Refusal::Forbidden, reason)).await;
    }
    let mut line = Vec::new();
    let mut input = BufReader::new(input.take(REQUEST_BYTES_MAX));
    match timeout(REQUEST_TIMEOUT, input.read_until(b'\n', &mut line)).await {
        Err(_) => {
            let reason = format!("no request came in {} s", REQUEST_TIMEOUT.as_secs());
            return desk.say(&refused(Refusal::BadRequest, reason)).await;
        }
        Ok(read) => drop(read?),
    }
    if line.is_empty() {
        return Ok(());
    }
    if !line.ends_with(b"\n") {
        let reason = format!("a request is one line of at most {REQUEST_BYTES_MAX} bytes, with its newline");
        return desk.say(&refused(Refusal::BadRequest, reason)).await;
    }
    match serde_json::from_slice(&line) {
        Ok(request) => desk.answer(uid, request).await,
        Err(error) => desk.say(&refused(Refusal::BadRequest, error.to_string())).await,
    }
}

/// One connection that may order.
struct Desk {
    orders: mpsc::Sender<Order>,
    output: OwnedWriteHalf,
}

impl Desk {
    async fn answer(&mut self, uid: u32, request: Request) -> io::Result<()> {
        match request {
            Request::Status {} => {}
            Request::Streams {} => return self.streams().await,
            Request::Reload { .. }
            | Request::Upgrade { .. }
            | Request::Drain { .. }
            | Request::Kill { .. }
            | Request::Log { .. } => tracing::info!(uid, ?request, "ordered by the control socket"),
        }
        let patience = request.patience().unwrap_or(ORDER_TIMEOUT);
        let (reply, answer) = oneshot::channel();
        self.order(Order::Request { request, reply }).await?;
        let reply = match timeout(patience, answer).await {
            Ok(Ok(reply)) => reply,
            Ok(Err(_)) => refused(Refusal::Stopping, "handoffd has ended"),
            Err(_) => {
                let reason = format!("not ended after {} s; it goes on", patience.as_secs());
                refused(Refusal::TimedOut, reason)
            }
        };
        self.say(&reply).await
    }

    /// Worker by worker, page by page: nothing is asked for before the page before is written.
    async fn streams(&mut self) -> io::Result<()> {
        let (reply, workers) = oneshot::channel();
        self.order(Order::Workers { reply }).await?;
        let workers = workers.await.map_err(|_| io::ErrorKind::BrokenPipe)?;
        let (mut shown, mut silent) = (0_usize, Vec::new());
        for view in workers {
            if !view.speaks_ours {
                silent.push(format!("slot {} (pid {}, of another version)", view.slot, view.pid));
                continue;
            }
            let mut after = None;
            loop {
                let (reply, page) = oneshot::channel();
                self.order(Order::Page { worker: view.worker, after, reply }).await?;
                let page = match timeout(PAGE_TIMEOUT, page).await {
                    Ok(Ok(page)) => page,
                    // It has ended, and its streams with it.
                    Ok(Err(_)) => break,
                    Err(_) => {
                        silent.push(format!("slot {} (pid {})", view.slot, view.pid));
                        break;
                    }
                };
                shown += page.sessions.len();
                let next = page.sessions.last().map(|session| session.lease);
                self.say_all(page.sessions.into_iter().map(|session| stream(&view, session))).await?;
                // A page that leads nowhere ends the list.
                if page.last || next <= after {
                    break;
                }
                after = next;
            }
        }
        let reply = match silent.is_empty() {
            true => Reply::Done { text: format!("{shown} streams") },
            false => {
                let reason = format!("workers that do not answer: {}", silent.join(", "));
                refused(Refusal::Incomplete, reason)
            }
        };
        self.say(&reply).await
    }

    async fn order(&self, order: Order) -> io::Result<()> {
        self.orders.send(order).await.map_err(|_| io::ErrorKind::BrokenPipe.into())
    }

    async fn say(&mut self, reply: &Reply) -> io::Result<()> {
        self.say_all([reply]).await
    }

    /// All of it in one write, by a deadline.
    async fn say_all<R: serde::Serialize>(&mut self, replies: impl IntoIterator<Item = R>) -> io::Result<()> {
        let mut lines = Vec::new();
        for reply in replies {
            serde_json::to_writer(&mut lines, &reply)?;
            lines.push(b'\n');
        }
        timeout(REPLY_TIMEOUT, self.output.write_all(&lines)).await.map_err(io::Error::from)?
    }
}

fn stream(view: &WorkerView, session: SessionView) -> Reply {
    let SessionView { lease, phase, age_ms, bytes, user_id, request_id } = session;
    Reply::Stream {
        stream: StreamStatus {
            id: lease.to_string(),
            slot: view.slot,
            generation: view.generation,
            pid: view.pid,
            phase: phase.as_str().to_owned(),
            age_ms,
            bytes,
            user_id,
            request_id,
        },
    }
}
