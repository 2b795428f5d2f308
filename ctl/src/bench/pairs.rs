//! Clients, and the door that they are handed in at. In: nothing. Out: connected pairs; handoffs as Apache makes them.
//! Never: waits for the daemon, keeps an end that was handed over.

use std::io::{self, Write};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use handoff_shared::fdpass;
use rustix::io::Errno;
use rustix::net::{
    AddressFamily, SocketAddrUnix, SocketFlags, SocketType as Kind, accept_with, bind, connect, getsockname,
    listen, socket_with, socketpair, sockopt,
};

use super::plan::{Clients, SocketType};

/// Connections to one listening address: ephemeral ports are about 28,000 by default.
const STREAMS_PER_ADDRESS: u64 = 8_000;

/// Makes pairs of a client's end and the end that Apache would have accepted.
#[derive(Debug)]
pub(super) enum Pairs {
    Tcp { listeners: Vec<(OwnedFd, SocketAddrV4)>, next: usize },
    Unix,
}

impl Pairs {
    /// For so many at a time; `index` keeps processes apart.
    pub(super) fn new(clients: Clients, streams: u64, index: u64) -> io::Result<Self> {
        if clients == Clients::Unix {
            return Ok(Self::Unix);
        }
        let listeners =
            (0..streams.div_ceil(STREAMS_PER_ADDRESS).max(1)).map(|number| listener(index, number));
        Ok(Self::Tcp { listeners: listeners.collect::<io::Result<_>>()?, next: 0 })
    }

    /// The client's end, and Apache's: both do not block.
    pub(super) fn connect(&mut self) -> Result<(OwnedFd, OwnedFd), Errno> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let (listeners, next) = match self {
            Self::Tcp { listeners, next } => (listeners, next),
            Self::Unix => return socketpair(AddressFamily::UNIX, Kind::STREAM, flags, None),
        };
        let (listener, address) = &listeners[*next % listeners.len()];
        *next += 1;
        let client = socket_with(AddressFamily::INET, Kind::STREAM, flags, None)?;
        match connect(&client, address) {
            Ok(()) | Err(Errno::INPROGRESS) => {}
            Err(errno) => return Err(errno),
        }
        // Waits until the handshake is done: on the loopback it is. Nobody else knows this port.
        Ok((client, accept_with(listener, flags)?))
    }
}

/// Options are those that Apache's connections have; what is accepted inherits them.
fn listener(index: u64, number: u64) -> io::Result<(OwnedFd, SocketAddrV4)> {
    let octet = |value: u64| u8::try_from(1 + value % 250).unwrap_or(1);
    let address = Ipv4Addr::new(127, octet(index / 250), octet(index), octet(number));
    let listener = socket_with(AddressFamily::INET, Kind::STREAM, SocketFlags::CLOEXEC, None)?;
    sockopt::set_tcp_nodelay(&listener, true)?;
    sockopt::set_socket_keepalive(&listener, true)?;
    bind(&listener, &SocketAddrV4::new(address, 0))?;
    listen(&listener, 1024)?;
    let bound = SocketAddrV4::try_from(getsockname(&listener)?)?;
    Ok((listener, bound))
}

/// The daemon's socket.
#[derive(Debug)]
pub(super) struct Door {
    address: SocketAddrUnix,
    kind: Kind,
    is_stream: bool,
}

impl Door {
    pub(super) fn new(path: &Path, socket_type: SocketType) -> io::Result<Self> {
        let is_stream = socket_type == SocketType::Stream;
        let kind = if is_stream { Kind::STREAM } else { Kind::SEQPACKET };
        Ok(Self { address: SocketAddrUnix::new(path)?, kind, is_stream })
    }

    /// A connection of its own, as Apache makes for each handoff.
    pub(super) fn connect(&self) -> io::Result<OwnedFd> {
        let peer =
            socket_with(AddressFamily::UNIX, self.kind, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)?;
        connect(&peer, &self.address)?;
        Ok(peer)
    }

    /// The payload and the client's socket in one message. Of a stream socket the rest of a payload that is larger than
    /// a socket's buffer is waited for.
    pub(super) fn send(&self, peer: OwnedFd, payload: &[u8], server: &OwnedFd) -> io::Result<()> {
        let sent = fdpass::send(peer.as_fd(), payload, &[server.as_fd()])?;
        if self.is_stream && sent < payload.len() {
            let mut peer = UnixStream::from(peer);
            peer.set_nonblocking(false)?;
            peer.write_all(&payload[sent..])?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::io::{read, write};

    #[test]
    fn what_apache_hands_over_reaches_its_client() {
        for clients in [Clients::Tcp, Clients::Unix] {
            let mut pairs = Pairs::new(clients, 2 * STREAMS_PER_ADDRESS, 3).unwrap();
            let made: Vec<_> = (0..4).map(|_| pairs.connect().unwrap()).collect();
            for (number, (client, server)) in made.into_iter().enumerate() {
                write(&server, number.to_string().as_bytes()).unwrap();
                drop(server);
                let mut buffer = [0; 8];
                assert_eq!(read(&client, &mut buffer).unwrap(), 1, "{clients:?}");
                assert_eq!(buffer[0], number.to_string().as_bytes()[0], "{clients:?}");
                assert_eq!(read(&client, &mut buffer).unwrap(), 0, "nobody else holds the other end");
            }
        }
    }

    #[test]
    fn processes_and_their_addresses_are_apart() {
        let addresses = |index| -> Vec<Ipv4Addr> {
            match Pairs::new(Clients::Tcp, 20_000, index).unwrap() {
                Pairs::Tcp { listeners, .. } => {
                    listeners.into_iter().map(|(_, address)| *address.ip()).collect()
                }
                Pairs::Unix => Vec::new(),
            }
        };
        assert_eq!(addresses(0), [1, 2, 3].map(|number| Ipv4Addr::new(127, 1, 1, number)));
        assert_eq!(addresses(5)[0], Ipv4Addr::new(127, 1, 6, 1));
        assert_eq!(addresses(250)[0], Ipv4Addr::new(127, 2, 1, 1));
    }
}
