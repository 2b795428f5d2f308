//! Relays the daemon's answer where the client's own socket is of no use to it: TLS, HTTP/2.
//! In: our end of a socket pair, whose other end the daemon has. Out: status, headers and body through httpd's filters.
//! Never: makes a cut answer look complete, keeps the daemon at work for a client that has left, waits longer than
//! Apache's `Timeout` for a word.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, recv, socketpair};

use crate::filter::{RelayRefusal as Refusal, note};
use crate::head::{self, Head};
use crate::httpd::{Brigade, Connection, Filter, Level, Request, SUCCESS, Status};

const READ_BYTES: usize = 16 * 1024;
/// Between two looks at whether httpd has given the client up: a stream of HTTP/2 has no socket to watch.
const LOOK_INTERVAL: Duration = Duration::from_millis(50);
/// handoffd shuts its side down when it has said all, and waits for us at least this long. A side that is closed sooner
/// belongs to a daemon that has died.
const FAREWELL: Duration = Duration::from_millis(250);
const BAD_GATEWAY: i32 = 502;
const GATEWAY_TIMEOUT: i32 = 504;

/// What the daemon has said.
enum Word<'a> {
    Bytes(&'a [u8]),
    /// It has ended its answer.
    End,
    /// The connection broke: its worker, or itself, is gone.
    Broken,
    Silence,
    ClientGone,
}

/// The daemon's end, and ours.
///
/// # Errors
/// As of socketpair(2).
pub(crate) fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(
        AddressFamily::Unix,
        SockType::Stream,
        None,
        SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK,
    )?)
}

/// Relays until one side has had enough.
///
/// # Errors
/// When the daemon has not said what could be relayed, and the client has got nothing.
pub(crate) fn run(filter: Filter<'_>, request: Request<'_>, daemon: OwnedFd) -> Result<Status, Refusal> {
    let mut relay = Relay {
        daemon,
        connection: request.connection(),
        patience: request.timeout(),
        brigade: filter.brigade(),
        left: None,
        lives_at: Instant::now(),
        says_farewell: request.settings().envelope(),
    };
    let mut buffer = vec![0; READ_BYTES];
    let Some((head, rest)) = relay.head(&mut buffer)? else { return Ok(gone(request)) };
    say_head(request, &head);
    relay.left = head.length();
    // Behind these heads there is nothing, whatever they say of a length (RFC 9112, section 6.3).
    let ended = match request.method() == "HEAD" || matches!(head.status, 204 | 304) {
        true => Ended::Complete,
        false => relay.body(filter, rest, &mut buffer),
    };
    match ended {
        Ended::Complete => {}
        Ended::ClientGone => return Ok(gone(request)),
        Ended::Cut(why) => return Ok(cut(filter, request, why)),
    }
    note(request, "relayed", Level::Note, "the daemon's answer was relayed");
    let end = filter.brigade();
    end.push_end();
    Ok(filter.pass(&end))
}

/// How a relayed answer has ended.
enum Ended {
    Complete,
    ClientGone,
    Cut(&'static str),
}

struct Relay<'a> {
    daemon: OwnedFd,
    connection: Connection<'a>,
    patience: Duration,
    /// One for all words: httpd frees none before the request's end.
    brigade: Brigade<'a>,
    /// Bytes of the body that are still to come, where the head says how many.
    left: Option<u64>,
    /// When the daemon's side was last seen open.
    lives_at: Instant,
    /// It is handoffd, and no daemon that may just close.
    says_farewell: bool,
}

impl Relay<'_> {
    /// The head of the daemon's answer, and what has come behind it. None: the client is gone.
    fn head(&mut self, buffer: &mut [u8]) -> Result<Option<(Head, Vec<u8>)>, Refusal> {
        let bad_gateway = |why| Err(Refusal::bad_gateway(BAD_GATEWAY, why));
        let mut come = Vec::new();
        loop {
            match self.listen(buffer) {
                Word::Bytes(bytes) => come.extend_from_slice(bytes),
                Word::End | Word::Broken => {
                    return bad_gateway("the daemon has ended the relay without an answer");
                }
                Word::Silence => {
                    let why = "the daemon has not answered within Apache's Timeout";
                    return Err(Refusal::bad_gateway(GATEWAY_TIMEOUT, why));
                }
                Word::ClientGone => return Ok(None),
            }
            match head::parse(&come) {
                Ok(Some(head)) => {
                    let rest = come.split_off(head.bytes);
                    return Ok(Some((head, rest)));
                }
                Ok(None) => {}
                Err(head::NotHttp) => return bad_gateway("the daemon's answer to the relay is not HTTP/1"),
            }
        }
    }

    /// All of the body: what has come already, then what the daemon says.
    fn body(&mut self, filter: Filter<'_>, mut come: Vec<u8>, buffer: &mut [u8]) -> Ended {
        loop {
            if !self.pass(filter, &come) {
                return Ended::ClientGone;
            }
            match self.listen(buffer) {
                Word::Bytes(bytes) => {
                    come.clear();
                    come.extend_from_slice(bytes);
                }
                Word::End if self.left.is_none_or(|left| left == 0) => return Ended::Complete,
                Word::End | Word::Broken => return Ended::Cut("the daemon has cut its answer off"),
                Word::Silence => return Ended::Cut("the daemon was silent for longer than Apache's Timeout"),
                Word::ClientGone => return Ended::ClientGone,
            }
        }
    }

    /// Waits for a word of either side.
    fn listen<'b>(&mut self, buffer: &'b mut [u8]) -> Word<'b> {
        let deadline = Instant::now() + self.patience;
        while Instant::now() < deadline {
            match recv(self.daemon.as_raw_fd(), buffer, MsgFlags::MSG_DONTWAIT) {
                Ok(0) if self.has_died() => return Word::Broken,
                Ok(0) => return Word::End,
                Ok(read) => {
                    self.look();
                    return Word::Bytes(&buffer[..read]);
                }
                // First the daemon's word: a client that hangs up behind the last one has not left its answer.
                Err(Errno::EAGAIN | Errno::EINTR)
                    if self.connection.is_aborted() || self.is_client_gone() =>
                {
                    return Word::ClientGone;
                }
                Err(Errno::EAGAIN | Errno::EINTR) => {
                    self.look();
                    self.wait();
                }
                Err(_) => return Word::Broken,
            }
        }
        Word::Silence
    }

    fn look(&mut self) {
        if !self.is_closed() {
            self.lives_at = Instant::now();
        }
    }

    /// A word of farewell is missing, as far as can be known: whoever was held up by its client comes too late to see.
    fn has_died(&self) -> bool {
        self.says_farewell && self.left.is_none() && self.is_closed() && self.lives_at.elapsed() < FAREWELL
    }

    /// Not only shut down.
    fn is_closed(&self) -> bool {
        let mut fds = [PollFd::new(self.daemon.as_fd(), PollFlags::empty())];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Until the daemon says something, the client hangs up, or it is time to look again.
    fn wait(&self) {
        let mut fds = vec![PollFd::new(self.daemon.as_fd(), PollFlags::POLLIN)];
        fds.extend(self.connection.socket().map(hang_up));
        // Whatever it says, the caller looks for itself.
        let _ = poll(&mut fds, PollTimeout::try_from(LOOK_INTERVAL).unwrap_or(PollTimeout::ZERO));
    }

    /// A client that has closed its side is not going to read the rest.
    fn is_client_gone(&self) -> bool {
        let Some(socket) = self.connection.socket() else { return false };
        let mut fds = [hang_up(socket)];
        poll(&mut fds, PollTimeout::ZERO).is_ok_and(|ready| ready > 0)
    }

    /// Sends on, at once. False: the client is gone.
    fn pass(&mut self, filter: Filter<'_>, bytes: &[u8]) -> bool {
        self.left = self.left.map(|left| left.saturating_sub(bytes.len() as u64));
        if !bytes.is_empty() {
            self.brigade.push_bytes(bytes);
        }
        // Also without a byte: the head goes out when the daemon has said it.
        self.brigade.push_flush();
        let passed = filter.pass(&self.brigade);
        self.brigade.clear();
        passed == SUCCESS && !self.connection.is_aborted()
    }
}

impl Head {
    /// Of the body, in bytes, where the daemon says so.
    fn length(&self) -> Option<u64> {
        let value = self.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("content-length"))?;
        value.1.parse().ok()
    }
}

/// What PHP has said about its page is not about this answer; what httpd adds comes later.
fn say_head(request: Request<'_>, head: &Head) {
    request.clear_response_headers();
    request.set_status(head.status);
    for (name, value) in &head.headers {
        request.add_response_header(name, value);
    }
}

fn hang_up(socket: BorrowedFd<'_>) -> PollFd<'_> {
    // nix has no name for it.
    PollFd::new(socket, PollFlags::from_bits_retain(nix::libc::POLLRDHUP))
}

/// The daemon notices by our end, which is closed now.
fn gone(request: Request<'_>) -> Status {
    note(request, "gone", Level::Note, "the client has left a relayed answer");
    request.connection().abort();
    SUCCESS
}

/// The client must not take it for a whole answer. httpd leaves out the last chunk, or resets the stream, behind a bucket
/// that says that a gateway has failed.
fn cut(filter: Filter<'_>, request: Request<'_>, why: &str) -> Status {
    note(request, "failed", Level::Error, why);
    let end = filter.brigade();
    end.push_error(BAD_GATEWAY);
    end.push_end();
    filter.pass(&end)
}
