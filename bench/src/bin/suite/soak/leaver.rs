//! A client that leaves when it likes. In: the handoff socket. Out: the client's end of a connection, whose other end was
//! handed over. Never: reads.

use std::io;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::{AsFd, AsRawFd};
use std::path::Path;

use handoff_shared::fdpass;
use nix::sys::socket::{AddressFamily, SockFlag, SockType, UnixAddr, connect, socket};

/// Hands over one end of a loopback connection.
///
/// # Errors
/// As of connect(2) and sendmsg(2).
pub(crate) fn hand_over(path: &Path, payload: &[u8]) -> io::Result<TcpStream> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let client = TcpStream::connect(listener.local_addr()?)?;
    let (server, _) = listener.accept()?;
    let connection = socket(AddressFamily::Unix, SockType::SeqPacket, SockFlag::SOCK_CLOEXEC, None)?;
    connect(connection.as_raw_fd(), &UnixAddr::new(path)?)?;
    fdpass::send(connection.as_fd(), payload, &[server.as_fd()])?;
    Ok(client)
}
