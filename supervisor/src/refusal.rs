//! The supervisor's own answers: the constant 503 and 502. In: a client's fd. Out: one non-blocking write.
//!
//! Never: reads from a client, waits for one, keeps more than a bounded number of fds for longer than 2 s.

use std::collections::VecDeque;
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Instant;

use handoff_shared::limits::REFUSED_LINGER;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{MsgFlags, Shutdown, send, shutdown};
use std::os::fd::AsFd;

use crate::fleet::Refusal;

const OVERLOADED: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\n",
    "Content-Type: application/json\r\n",
    "Cache-Control: no-cache\r\n",
    "Connection: close\r\n",
    "Retry-After: 1\r\n",
    "Content-Length: 109\r\n\r\n",
    r#"{"error":{"message":"all workers are busy, please try again soon","type":"server_error","code":"overloaded"}}"#,
);
const SHUTTING_DOWN: &str = concat!(
    "HTTP/1.1 503 Service Unavailable\r\n",
    "Content-Type: application/json\r\n",
    "Cache-Control: no-cache\r\n",
    "Connection: close\r\n",
    "Retry-After: 2\r\n",
    "Content-Length: 111\r\n\r\n",
    r#"{"error":{"message":"the server is restarting, please try again","type":"server_error","code":"shutting_down"}}"#,
);
const WORKER_CRASHED: &str = concat!(
    "HTTP/1.1 502 Bad Gateway\r\n",
    "Content-Type: application/json\r\n",
    "Cache-Control: no-cache\r\n",
    "Connection: close\r\n",
    "Content-Length: 115\r\n\r\n",
    r#"{"error":{"message":"the request could not be served, please retry","type":"server_error","code":"worker_crashed"}}"#,
);

/// Clients that were told, and have not hung up yet. Closing at once would cost those the answer that have
/// sent bytes which nobody will read: the kernel resets such a connection.
#[derive(Debug)]
pub(crate) struct Refused {
    lingering: VecDeque<(Instant, OwnedFd)>,
    max: usize,
}

impl Refused {
    pub(crate) fn new(max: usize) -> Self {
        Self { lingering: VecDeque::new(), max }
    }

    /// Writes the constant answer. A client that takes no byte at once gets none.
    pub(crate) fn answer(&mut self, now: Instant, client: OwnedFd, refusal: Refusal) {
        let flags = MsgFlags::MSG_NOSIGNAL | MsgFlags::MSG_DONTWAIT;
        let told = send(client.as_raw_fd(), text(refusal).as_bytes(), flags).is_ok();
        let _ = shutdown(client.as_raw_fd(), Shutdown::Write);
        if told {
            if self.lingering.len() >= self.max {
                self.lingering.pop_front();
            }
            self.lingering.push_back((now + REFUSED_LINGER, client));
        }
    }

    /// Lets go of those that have hung up, and of those that are late.
    pub(crate) fn sweep(&mut self, now: Instant) {
        self.lingering.retain(|(deadline, client)| *deadline > now && !has_hung_up(client));
    }

    /// When [`Self::sweep`] has something to do at the latest.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.lingering.front().map(|(deadline, _)| *deadline)
    }
}

fn text(refusal: Refusal) -> &'static str {
    match refusal {
        Refusal::Full | Refusal::NoWorker => OVERLOADED,
        Refusal::ShuttingDown => SHUTTING_DOWN,
        Refusal::WorkerCrashed => WORKER_CRASHED,
    }
}

fn has_hung_up(client: &OwnedFd) -> bool {
    // Our direction is shut down already: when the client's ends too, the kernel says POLLHUP unasked.
    let mut fds = [PollFd::new(client.as_fd(), PollFlags::empty())];
    let hung_up = PollFlags::POLLHUP | PollFlags::POLLERR;
    poll(&mut fds, PollTimeout::ZERO).is_ok()
        && fds[0].revents().is_some_and(|events| events.intersects(hung_up))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_constant_answer_is_a_whole_http_response_with_a_json_error() {
        for refusal in [Refusal::Full, Refusal::NoWorker, Refusal::ShuttingDown, Refusal::WorkerCrashed] {
            let (head, body) = text(refusal).split_once("\r\n\r\n").unwrap();
            let length = format!("Content-Length: {}", body.len());
            assert!(head.lines().any(|line| line == length), "{refusal:?}: {length} in {head}");
            let json: serde_json::Value = serde_json::from_str(body).unwrap();
            assert!(json["error"]["message"].is_string() && json["error"]["code"].is_string());
            let is_503 = head.starts_with("HTTP/1.1 503 ");
            assert_eq!(is_503, head.contains("\r\nRetry-After: "));
        }
    }
}
