//! One handoff, to the end: the daemon is asked for the head alone, which costs nothing at any API.
//! In: a socket. Out: a finding. Never: waits for more than its patience.

use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use super::finding::Finding;
use crate::answer::{Decoder, Head, Piece};
use crate::handover::{HandoffSocket, Kind};

const CHECK: &str = "trial.head";
const PAYLOAD: &[u8] = br#"{"method":"HEAD"}"#;
const PATIENCE: Duration = Duration::from_secs(2);

/// Hands a socketpair over and reads what is answered.
pub(super) fn run(path: &Path, kind: Kind) -> Finding {
    let began_at = Instant::now();
    let shown = path.display();
    let pair = UnixStream::pair();
    let Ok((client, server)) = pair else {
        return Finding::unseen(
            CHECK,
            "no socketpair could be made",
            "raise the limit on open files: ulimit -n",
        );
    };
    if let Err(error) = HandoffSocket::at(path, kind).hand_over(PAYLOAD, &server) {
        return Finding::problem(CHECK, error.to_string(), "see the other findings about this socket");
    }
    drop(server);
    match head(client, began_at + PATIENCE) {
        Ok(Some(head)) if head.status == 200 => {
            let took_ms = began_at.elapsed().as_millis();
            Finding::ok(CHECK, format!("{shown}: a handoff was answered 200 in {took_ms} ms"))
        }
        Ok(Some(head)) => {
            let found = format!("{shown}: a handoff was answered {} {}", head.status, head.reason);
            Finding::problem(CHECK, found, advice(head.status))
        }
        Ok(None) => {
            let found = format!("{shown}: a handoff was taken, and its client left without an answer");
            Finding::problem(CHECK, found, "see the daemon's log; server.allowed_users may not name you")
        }
        Err(error) if error.kind() == io::ErrorKind::TimedOut => {
            let found = format!("{shown}: a handoff was not answered in {} s", PATIENCE.as_secs());
            Finding::problem(
                CHECK,
                found,
                "handoffctl status says whether workers are ready; the daemon's log says why not",
            )
        }
        Err(error) => {
            Finding::problem(CHECK, format!("{shown}: {error}"), "whoever listens there is no handoffd")
        }
    }
}

fn advice(status: u16) -> &'static str {
    match status {
        503 => "no worker is ready, or all places are taken: handoffctl status; max_connections",
        502 => "a worker died of it: see the daemon's log",
        _ => "see the daemon's log for the request id",
    }
}

/// The head of the answer; none: the connection ended before it.
fn head(mut client: UnixStream, deadline: Instant) -> io::Result<Option<Head>> {
    let mut decoder = Decoder::new();
    let mut buffer = [0; 4096];
    loop {
        let rest = deadline.saturating_duration_since(Instant::now());
        if rest.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        client.set_read_timeout(Some(rest))?;
        let length = match client.read(&mut buffer) {
            Ok(0) => return Ok(None),
            Ok(length) => length,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        for piece in decoder.feed(&buffer[..length]).map_err(io::Error::other)? {
            if let Piece::Head(head) = piece {
                return Ok(Some(head));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn answered(bytes: &[u8]) -> io::Result<Option<Head>> {
        let (client, mut server) = UnixStream::pair().unwrap();
        server.write_all(bytes).unwrap();
        drop(server);
        head(client, Instant::now() + Duration::from_secs(10))
    }

    #[test]
    fn a_head_is_read_or_its_absence_is() {
        let found =
            answered(b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 1\r\n\r\n{}").unwrap().unwrap();
        assert_eq!((found.status, found.header("retry-after")), (503, Some("1")));
        assert!(answered(b"").unwrap().is_none());
        assert!(answered(b"hello").is_err());
        let (client, _silent) = UnixStream::pair().unwrap();
        let error = head(client, Instant::now() + Duration::from_millis(20)).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    }
}
