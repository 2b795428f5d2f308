//! Takes handoffs from Apache. In: connections on the handoff sockets, one message each. Out: [`Arrival`]s.
//!
//! Never: reads the payload's meaning, touches the client's fd, closes a connection whose message it has not
//! received (that would destroy the client's fd in flight), waits for a peer.

mod bind;
mod client_fd;
mod peers;
mod room;

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use handoff_config::Server;
use handoff_shared::fdpass::{self, Watched};
use tokio::io::Interest;

use crate::inherit::InheritedSocket;
pub(crate) use bind::{BindError, Bound, Wanted, bind};
use peers::Peers;
pub(crate) use peers::{Arrival, ENVELOPE_MARK, Handoff, Rejection};
use room::Room;

/// What a peer that was silent at first may have sent meanwhile, and its own.
const FDS_PER_PEER: usize = 3;
/// How long accepting pauses at the fd limit.
const PAUSE: Duration = Duration::from_millis(100);
/// Connections taken in one turn of the loop.
pub(crate) const BURST: usize = 64;

/// The handoff sockets and the peers that have connected.
#[derive(Debug)]
pub(crate) struct Listener {
    doors: Vec<Door>,
    peers: Peers,
    /// Accepted at the fd limit; their messages are received when there is room again.
    set_aside: VecDeque<(OwnedFd, Kind)>,
    paused_until: Option<Instant>,
    room: Room,
}

#[derive(Debug)]
struct Door {
    socket: Watched,
    kind: Kind,
    bound: Bound,
}

/// How a handoff arrives on a socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One message.
    SeqPacket,
    /// Bytes until EOF; the fd comes with the first ones.
    Stream,
}

/// What one look at the doors brought.
#[derive(Debug)]
pub(crate) enum Accepted {
    /// Nobody is waiting (or we are paused).
    Nobody,
    /// A connection whose message is still on its way.
    Silent,
    /// A handoff, or a peer that was turned away.
    Arrived(Arrival),
    /// We are short of fds: paused.
    ShortOfFds,
}

impl Listener {
    /// Takes the sockets that came along, and binds the configured ones of which none did.
    ///
    /// # Errors
    /// When a socket cannot be bound, or another instance answers on it.
    pub(crate) fn open(
        server: &Server,
        silent_peers_max: usize,
        inherited: Vec<InheritedSocket>,
    ) -> Result<Self, BindError> {
        let mut doors = Vec::new();
        for InheritedSocket { socket, kind, is_ours } in inherited {
            fdpass::set_nonblocking(socket.as_fd())
                .map_err(|source| BindError::Io { path: PathBuf::new(), source })?;
            let bound = Bound::inherited(&socket, is_ours);
            doors.push(Door::open((socket, bound), kind)?);
        }
        for (key, path, kind) in configured(server) {
            if let Some(path) = path
                && !doors.iter().any(|door: &Door| door.kind == kind)
            {
                doors.push(Door::open(bind(Wanted::of_handoffs(server, key, path, kind))?, kind)?);
            }
        }
        Ok(Self {
            doors,
            peers: Peers::new(server, silent_peers_max),
            set_aside: VecDeque::new(),
            paused_until: None,
            room: Room::default(),
        })
    }

    /// Logs what about the sockets is not as configured.
    pub(crate) fn warn(&self, server: &Server) {
        bind::warn_if_backlog_is_cut();
        for (_, path, kind) in configured(server) {
            let door = self.doors.iter().find(|door| door.kind == kind);
            if let (Some(path), Some(door)) = (path, door)
                && door.bound.path() != path
            {
                tracing::warn!(
                    inherited = %door.bound.path().display(),
                    configured = %path.display(),
                    "the socket that came along is used, not the configured path"
                );
            }
        }
    }

    /// Who may hand over, and how long peers may be silent, may change with a reload.
    pub(crate) fn configure(&mut self, server: &Server) {
        self.peers.configure(server);
    }

    /// Accepts one connection and, where its message is there already, receives it.
    pub(crate) fn poll_accept(&mut self, cx: &mut Context<'_>, now: Instant) -> Accepted {
        if self.paused_until.is_some_and(|until| now < until) {
            return Accepted::Nobody;
        }
        self.paused_until = None;
        let next = match self.set_aside.pop_front() {
            Some(waiting) => Ok(waiting),
            None => match self.poll_doors(cx) {
                Poll::Ready(result) => result,
                Poll::Pending => return Accepted::Nobody,
            },
        };
        match next {
            Ok((peer, kind)) if self.room.is_short(now, &peer, FDS_PER_PEER * self.peers.silent()) => {
                self.set_aside.push_back((peer, kind));
                self.pause(now)
            }
            Ok((peer, kind)) => {
                let arrival = self.peers.receive(peer, kind);
                arrival.iter().for_each(|arrival| self.note_arrival(arrival));
                arrival.map_or(Accepted::Silent, Accepted::Arrived)
            }
            Err(error) => {
                tracing::warn!(%error, "accept failed; pausing");
                self.pause(now)
            }
        }
    }

    /// What peers that were silent at first have sent.
    pub(crate) fn poll_arrival(&mut self, cx: &mut Context<'_>) -> Poll<Arrival> {
        self.peers.poll_arrival(cx).map(|arrival| {
            self.note_arrival(&arrival);
            arrival
        })
    }

    /// An fd that came in another way.
    pub(crate) fn note(&mut self, fd: impl AsFd) {
        self.room.note(fd);
    }

    fn note_arrival(&mut self, arrival: &Arrival) {
        if let Ok(handoff) = &arrival.result {
            self.room.note(&handoff.client);
            handoff.memfd.iter().for_each(|(memfd, _)| self.room.note(memfd));
        }
    }

    /// When a pause ends.
    pub(crate) fn paused_until(&self) -> Option<Instant> {
        self.paused_until
    }

    /// Nobody can connect any more: the socket files are removed, if they are still ours. Who has connected
    /// already can still be accepted.
    pub(crate) fn unlink(&mut self) {
        // What is in the backlog of a socket that others keep is not lost: whoever comes after us finds it.
        self.doors.retain(|door| door.bound.is_ours());
        for door in &self.doors {
            door.bound.unlink();
        }
    }

    /// The sockets, each with whether its file is ours to remove.
    pub(crate) fn sockets(&self) -> impl Iterator<Item = (BorrowedFd<'_>, Kind, bool)> {
        self.doors.iter().map(|door| (door.socket.get_ref().as_fd(), door.kind, door.bound.is_ours()))
    }

    /// Where handoffs come in.
    pub(crate) fn paths(&self) -> Vec<&Path> {
        self.doors.iter().map(|door| door.bound.path()).collect()
    }

    /// Nobody is on the way any more.
    pub(crate) fn is_idle(&mut self) -> bool {
        self.set_aside.is_empty() && self.peers.are_none_silent()
    }

    fn pause(&mut self, now: Instant) -> Accepted {
        self.paused_until = Some(now + PAUSE);
        Accepted::ShortOfFds
    }

    fn poll_doors(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<(OwnedFd, Kind)>> {
        // The doors take turns: a busy one must not keep the other shut.
        let turn = 1.min(self.doors.len());
        self.doors.rotate_left(turn);
        for door in &self.doors {
            while let Poll::Ready(guard) = door.socket.poll_read_ready(cx) {
                match fdpass::accept(door.socket.get_ref().as_fd()) {
                    Ok(peer) => return Poll::Ready(Ok((peer, door.kind))),
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => guard?.clear_ready(),
                    // The peer has hung up before we came.
                    Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                    Err(error) => return Poll::Ready(Err(error)),
                }
            }
        }
        Poll::Pending
    }
}

fn configured(server: &Server) -> [(&'static str, Option<&PathBuf>, Kind); 2] {
    [
        ("server.socket_path", Some(&server.socket_path), Kind::SeqPacket),
        ("server.stream_socket_path", server.stream_socket_path.as_ref(), Kind::Stream),
    ]
}

impl Door {
    fn open((socket, bound): (OwnedFd, Bound), kind: Kind) -> Result<Self, BindError> {
        let path = bound.path().to_owned();
        let socket =
            Watched::new(socket, Interest::READABLE).map_err(|source| BindError::Io { path, source })?;
        Ok(Self { socket, kind, bound })
    }
}
