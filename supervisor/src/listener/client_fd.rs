//! What may be a client: a connected stream socket of the families INET, INET6 and UNIX.

use std::os::fd::{AsFd, AsRawFd};

use handoff_shared::fdpass;
use nix::sys::socket::{
    AddressFamily, SockType, SockaddrLike, SockaddrStorage, getsockname, getsockopt, sockopt,
};

/// Why an fd is no client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadFd {
    /// A pipe, a file, anything without socket options.
    #[error("it is not a socket")]
    NotASocket,
    /// UDP, seqpacket, raw.
    #[error("it is not a stream socket")]
    NotAStream,
    /// A socket that accepts connections.
    #[error("it is a listening socket")]
    Listening,
    /// Netlink, vsock, …
    #[error("it is not an INET, INET6 or UNIX socket")]
    Family,
}

/// Returns how many bytes the kernel has counted as written; none: it is no TCP connection.
pub(super) fn check(fd: &impl AsFd) -> Result<Option<u64>, BadFd> {
    // One question instead of four: what has the state of a TCP socket is a stream socket of the families INET and INET6.
    match fdpass::tcp(fd.as_fd()) {
        Some(tcp) if tcp.is_listening => return Err(BadFd::Listening),
        Some(tcp) => return Ok(Some(tcp.written)),
        None => {}
    }
    match getsockopt(fd, sockopt::SockType) {
        Ok(SockType::Stream) => {}
        Ok(_) => return Err(BadFd::NotAStream),
        Err(_) => return Err(BadFd::NotASocket),
    }
    if getsockopt(fd, sockopt::AcceptConn).unwrap_or(true) {
        return Err(BadFd::Listening);
    }
    let address = getsockname::<SockaddrStorage>(fd.as_fd().as_raw_fd()).map_err(|_| BadFd::NotASocket)?;
    match address.family() {
        Some(AddressFamily::Inet | AddressFamily::Inet6 | AddressFamily::Unix) => Ok(None),
        _ => Err(BadFd::Family),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::{TcpListener, TcpStream, UdpSocket};
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_connected_stream_sockets_are_clients() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let tcp = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        assert_eq!(check(&tcp), Ok(Some(0)));
        assert_eq!(check(&UnixStream::pair().unwrap().0), Ok(None));
        assert_eq!(check(&listener), Err(BadFd::Listening));
        assert_eq!(check(&UdpSocket::bind("127.0.0.1:0").unwrap()), Err(BadFd::NotAStream));
        assert_eq!(check(&nix::unistd::pipe().unwrap().0), Err(BadFd::NotASocket));
        assert_eq!(check(&std::fs::File::open("/dev/null").unwrap()), Err(BadFd::NotASocket));
    }
}
