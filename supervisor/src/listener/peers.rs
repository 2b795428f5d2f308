//! Connected peers. In: a connection. Out: its handoff, or why it is turned away.
//! Never: holds more than a bounded number of silent ones, or one for longer than `handoff_timeout`.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use handoff_config::Server;
use handoff_shared::fdpass::{self, Received, Watched};
use handoff_shared::limits::{HANDOFF_BYTES_MAX, MEMFD_BYTES_MAX};
use handoff_shared::memfd;
use nix::sys::socket::{getsockopt, sockopt};
use tokio::io::Interest;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{sleep, timeout};

use super::client_fd::{self, BadFd};
use super::room::is_short_of_fds;
use super::{Kind, PAUSE};

/// A message that begins so carries our Apache module's envelope before the payload.
pub(crate) const ENVELOPE_MARK: u8 = 0x01;
/// The client, and a memfd behind an envelope; all others are closed as they come.
const FDS_MAX: usize = 2;
/// Arrivals that wait for the event loop; the senders wait, not the loop.
const ARRIVALS_WAITING_MAX: usize = 256;

/// What came of one connection.
#[derive(Debug)]
pub(crate) struct Arrival {
    pub(crate) accepted_at: Instant,
    pub(crate) result: Result<Handoff, Rejection>,
}

/// One client, with what its site says about it.
#[derive(Debug)]
pub(crate) struct Handoff {
    pub(crate) client: OwnedFd,
    /// What the kernel has counted as written to it; none: no TCP connection.
    pub(crate) written: Option<u64>,
    pub(crate) message: Vec<u8>,
    /// A sealed memfd that continues the message, and its size.
    pub(crate) memfd: Option<(OwnedFd, u32)>,
    /// The message was longer than we receive, or its memfd than anybody reads.
    pub(crate) truncated: bool,
}

/// Why a peer brought no handoff.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Rejection {
    /// SO_PEERCRED: not in `allowed_users` or `allowed_groups`.
    #[error("uid {uid}, gid {gid} are not in server.allowed_users or server.allowed_groups")]
    Forbidden { uid: u32, gid: u32 },
    /// Closed without a message: Apache changed its mind.
    #[error("the peer hung up without a handoff")]
    Aborted,
    /// Silent for `handoff_timeout`.
    #[error("the peer sent nothing for server.handoff_timeout_secs")]
    Timeout,
    /// Pushed out by newer ones.
    #[error("too many silent peers; this was the oldest")]
    Evicted,
    /// A message without an fd.
    #[error("a message of {bytes} bytes came without an fd")]
    NoFd { bytes: usize },
    /// The fd is no client.
    #[error("the fd is no client: {0}")]
    BadFd(BadFd),
    /// The kernel dropped the fd (`MSG_CTRUNC`).
    #[error("the kernel dropped the client's fd: too few free fds")]
    FdLost,
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Io(io::Error),
}

/// The peers that have connected and sent nothing yet.
#[derive(Debug)]
pub(super) struct Peers {
    rules: Rules,
    buffer: Vec<u8>,
    silent_max: usize,
    /// Oldest first; dropping one tells its task to give up after a last look.
    silent: VecDeque<oneshot::Sender<()>>,
    arrivals: mpsc::Receiver<Arrival>,
    report: mpsc::Sender<Arrival>,
}

#[derive(Clone, Debug)]
struct Rules {
    users: Vec<u32>,
    groups: Vec<u32>,
    patience: Duration,
    bytes_max: usize,
}

impl Peers {
    pub(super) fn new(server: &Server, silent_max: usize) -> Self {
        let (report, arrivals) = mpsc::channel(ARRIVALS_WAITING_MAX);
        let rules = Rules::of(server);
        let buffer = vec![0; rules.bytes_max];
        Self { rules, buffer, silent_max, silent: VecDeque::new(), arrivals, report }
    }

    pub(super) fn configure(&mut self, server: &Server) {
        self.rules = Rules::of(server);
        self.buffer.resize(self.rules.bytes_max, 0);
    }

    /// Receives what is there; a peer that has sent nothing yet is waited for beside the loop.
    pub(super) fn receive(&mut self, peer: OwnedFd, kind: Kind) -> Option<Arrival> {
        let accepted_at = Instant::now();
        let arrival = |result| Some(Arrival { accepted_at, result });
        if let Err(forbidden) = self.rules.admit(&peer) {
            return arrival(Err(forbidden));
        }
        if kind == Kind::SeqPacket {
            // connect(2) wakes us before sendmsg(2) has happened: let the sender run, and look again.
            for _ in 0..3 {
                match fdpass::receive(peer.as_fd(), &mut self.buffer) {
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        let _ = nix::sched::sched_yield();
                    }
                    result => return arrival(finish_message(result, &self.buffer)),
                }
            }
        }
        self.wait(peer, kind, accepted_at);
        None
    }

    pub(super) fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<Arrival> {
        match self.arrivals.poll_recv(cx) {
            Poll::Ready(Some(arrival)) => Poll::Ready(arrival),
            // We hold a sender ourselves: the channel is never closed.
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }

    /// Peers that have not sent anything, as far as we have heard; too many rather than too few.
    pub(super) fn silent(&mut self) -> usize {
        if !self.silent.is_empty() {
            self.silent.retain(|task| !task.is_closed());
        }
        let unheard = self.arrivals.len();
        // When that many wait to be heard, others wait behind them.
        self.silent.len() + if unheard < ARRIVALS_WAITING_MAX { unheard } else { usize::from(u16::MAX) }
    }

    pub(super) fn are_none_silent(&mut self) -> bool {
        self.silent.retain(|task| !task.is_closed());
        self.silent.is_empty() && self.arrivals.is_empty()
    }

    fn wait(&mut self, peer: OwnedFd, kind: Kind, accepted_at: Instant) {
        self.silent.retain(|task| !task.is_closed());
        while self.silent.len() >= self.silent_max {
            self.silent.pop_front();
        }
        let (keep, evicted) = oneshot::channel::<()>();
        self.silent.push_back(keep);
        let (report, rules) = (self.report.clone(), self.rules.clone());
        tokio::spawn(async move {
            let result = rules.wait_for(peer, kind, evicted).await;
            // The loop is gone only when everything is.
            let _ = report.send(Arrival { accepted_at, result }).await;
        });
    }
}

impl Rules {
    fn of(server: &Server) -> Self {
        Self {
            users: server.allowed_users.clone(),
            groups: server.allowed_groups.clone(),
            patience: server.handoff_timeout,
            bytes_max: (server.handoff_buffer_bytes as usize).min(HANDOFF_BYTES_MAX),
        }
    }

    fn admit(&self, peer: &OwnedFd) -> Result<(), Rejection> {
        if self.users.is_empty() && self.groups.is_empty() {
            return Ok(());
        }
        let credentials =
            getsockopt(peer, sockopt::PeerCredentials).map_err(|error| Rejection::Io(error.into()))?;
        let (uid, gid) = (credentials.uid(), credentials.gid());
        match self.users.contains(&uid) || self.groups.contains(&gid) {
            true => Ok(()),
            false => Err(Rejection::Forbidden { uid, gid }),
        }
    }

    async fn wait_for(
        &self,
        peer: OwnedFd,
        kind: Kind,
        evicted: oneshot::Receiver<()>,
    ) -> Result<Handoff, Rejection> {
        let peer = Watched::new(peer, Interest::READABLE).map_err(Rejection::Io)?;
        let mut parts = Parts::default();
        let reading = timeout(self.patience, parts.read(&peer, kind, self.bytes_max));
        let outcome = tokio::select! {
            biased;
            read = reading => read.unwrap_or(Err(Rejection::Timeout)),
            _ = evicted => Err(Rejection::Evicted),
        };
        if let Err(rejection) = outcome {
            // A last look: closing a connection with a message in it would destroy the client's fd.
            let _ = parts.receive(&peer, self.bytes_max);
            if parts.fds.is_empty() {
                return Err(rejection);
            }
        }
        // A client that did arrive is answered, whatever else its peer failed to send.
        parts.finish()
    }
}

/// A handoff in the making.
#[derive(Debug, Default)]
struct Parts {
    message: Vec<u8>,
    fds: Vec<OwnedFd>,
    truncated: bool,
    fds_lost: bool,
}

impl Parts {
    async fn read(&mut self, peer: &Watched, kind: Kind, bytes_max: usize) -> Result<(), Rejection> {
        loop {
            let mut ready = peer.readable().await.map_err(Rejection::Io)?;
            while is_short_of_fds(peer.get_ref()) {
                sleep(PAUSE).await;
            }
            match self.receive(peer, bytes_max) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                Err(error) => return Err(Rejection::Io(error)),
                Ok(0) => return Ok(()),
                Ok(_) if kind == Kind::SeqPacket => return Ok(()),
                Ok(_) => {}
            }
        }
    }

    /// What is there now. The buffer lives no longer than the call: a slow peer holds only what it has sent.
    fn receive(&mut self, peer: &Watched, bytes_max: usize) -> io::Result<usize> {
        let mut buffer = vec![0; bytes_max];
        let received = fdpass::receive(peer.get_ref().as_fd(), &mut buffer)?;
        let bytes = received.bytes;
        self.add(received, &buffer, bytes_max);
        Ok(bytes)
    }

    fn add(&mut self, received: Received, buffer: &[u8], bytes_max: usize) {
        let room = bytes_max - self.message.len();
        self.truncated |= received.truncated || received.bytes > room;
        self.message.extend_from_slice(&buffer[..received.bytes.min(room)]);
        let free = FDS_MAX - self.fds.len();
        self.fds.extend(received.fds.into_iter().take(free));
        self.fds_lost |= received.fds_lost;
    }

    fn finish(&mut self) -> Result<Handoff, Rejection> {
        let mut fds = std::mem::take(&mut self.fds).into_iter();
        let Some(client) = fds.next() else {
            return Err(match (self.fds_lost, self.message.len()) {
                (true, _) => Rejection::FdLost,
                (false, 0) => Rejection::Aborted,
                (false, bytes) => Rejection::NoFd { bytes },
            });
        };
        let written = client_fd::check(&client).map_err(Rejection::BadFd)?;
        let message = std::mem::take(&mut self.message);
        let memfd =
            fds.next().filter(|_| message.first() == Some(&ENVELOPE_MARK)).map_or(Second::Nothing, second);
        let (memfd, is_too_large) = match memfd {
            Second::Nothing => (None, false),
            Second::Payload(memfd, bytes) => (Some((memfd, bytes)), false),
            Second::TooLarge => (None, true),
        };
        // Lost fds where one arrived: surplus ones that did not fit. Every other surplus fd is closed here.
        Ok(Handoff { client, written, message, memfd, truncated: self.truncated || is_too_large })
    }
}

fn finish_message(result: io::Result<Received>, buffer: &[u8]) -> Result<Handoff, Rejection> {
    let mut parts = Parts::default();
    parts.add(result.map_err(Rejection::Io)?, buffer, buffer.len());
    parts.finish()
}

/// What the fd behind an envelope is.
enum Second {
    /// Nothing that we read.
    Nothing,
    /// A sealed memfd of so many bytes.
    Payload(OwnedFd, u32),
    /// A sealed memfd of more bytes than anybody reads.
    TooLarge,
}

fn second(fd: OwnedFd) -> Second {
    match memfd::sealed_bytes(fd.as_fd()).map(u32::try_from) {
        None => {
            tracing::debug!("the fd behind an envelope is no memfd with all its seals; ignored");
            Second::Nothing
        }
        Some(Ok(bytes)) if bytes as usize <= MEMFD_BYTES_MAX => Second::Payload(fd, bytes),
        Some(Ok(_) | Err(_)) => Second::TooLarge,
    }
}
