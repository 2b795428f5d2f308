//! One response on its way out. In: what PHP has said, piece by piece. Out: the same response; or none, since the
//! client's socket is the daemon's now; or an error page.
//! Never: lets a header of ours, or a payload, through to a client; writes one byte to a socket that was handed over.

mod refusal;

use std::ffi::CStr;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::PathBuf;

use crate::envelope::{self, Envelope};
use crate::httpd::{self, Brigade, DeadSocket, Filter, Level, Piece, Request, SUCCESS, Status};
use crate::payload::{Collector, Payload};
use crate::relay;
use crate::send::{self, Patience};
use crate::target;
use refusal::Refusal;

const SOCKET: &CStr = c"X-Socket-Handoff";
const PAYLOAD: &CStr = c"X-Handoff-Data";
const BODY: &CStr = c"X-Handoff-Body";
const OURS: [&CStr; 3] = [SOCKET, PAYLOAD, BODY];
const REQUEST_ID: &CStr = c"X-Request-Id";
/// `%{socket_handoff}n`
const OUTCOME_NOTE: &CStr = c"socket_handoff";
/// `%{socket_handoff_id}n`
const ID_NOTE: &CStr = c"socket_handoff_id";
/// Where PHP puts no body (HEAD), its body cannot be the payload.
const NO_PAYLOAD: &[u8] = br#"{"method":"HEAD"}"#;

const OK: i32 = 200;
const CLIENT_ERROR: i32 = 400;

/// How far a response is.
#[derive(Debug)]
pub(crate) enum State {
    /// Its head is not known yet.
    Undecided,
    /// It will be handed over when it is complete.
    Collecting(Box<Handoff>),
    /// It will be refused when it is complete: behind an error page httpd would send on what the page still says.
    Refused(Refusal),
    /// It has been handed over, or refused: what still comes is for nobody.
    Done,
}

/// What PHP wants.
#[derive(Debug)]
pub(crate) struct Handoff {
    targets: Vec<PathBuf>,
    request_id: String,
    payload: Collector,
    body_is_payload: bool,
    /// The socket itself cannot be passed.
    relay: bool,
}

/// The client's socket for the daemon, or our end of a pair in its place.
enum Client<'a> {
    Socket(BorrowedFd<'a>, DeadSocket),
    Relay { daemons: OwnedFd, ours: OwnedFd },
}

/// Without a word of ours.
pub(crate) fn pass_on(filter: Filter<'_>, brigade: Brigade<'_>) -> Status {
    filter.remove();
    filter.pass(&brigade)
}

/// The filter that hands over.
pub(crate) fn hand_off(filter: Filter<'_>, state: &mut State, mut brigade: Brigade<'_>) -> Status {
    let Some(request) = filter.request() else { return pass_on(filter, brigade) };
    if let State::Undecided = state {
        *state = match decide(request) {
            Ok(Some(handoff)) => State::Collecting(Box::new(handoff)),
            Ok(None) => return pass_on(filter, brigade),
            Err(refusal) => State::Refused(refusal),
        };
    }
    if !collect(state, &mut brigade) {
        return SUCCESS;
    }
    let result = match std::mem::replace(state, State::Done) {
        State::Collecting(handoff) => finish(filter, request, *handoff),
        State::Refused(refusal) => Err(refusal),
        State::Undecided | State::Done => Ok(SUCCESS),
    };
    result.unwrap_or_else(|refusal| refuse(filter, request, &refusal))
}

/// The filter behind all others: our headers are for nobody else's eyes, and a payload is neither.
pub(crate) fn strip(filter: Filter<'_>, state: &mut State, mut brigade: Brigade<'_>) -> Status {
    let Some(request) = filter.request() else { return pass_on(filter, brigade) };
    if let State::Undecided = state {
        let shows_payload = request.status() == OK && wants_body(request);
        strip_headers(request);
        if !shows_payload {
            note_again(request);
            return pass_on(filter, brigade);
        }
        *state = State::Refused(Refusal::failed(if request.is_main() {
            "a response with X-Handoff-Body came without X-Socket-Handoff, or where SocketHandoffEnabled is Off"
        } else {
            "a page with X-Handoff-Body was to be a part of another one"
        }));
    }
    if !request.is_main() {
        // The page around it is what it is; this part of it stays empty.
        if let State::Refused(refusal) = std::mem::replace(state, State::Done) {
            note(request, refusal.outcome, Level::Error, &refusal.why);
        }
    }
    match collect(state, &mut brigade) {
        true => match std::mem::replace(state, State::Done) {
            State::Refused(refusal) => refuse(filter, request, &refusal),
            State::Undecided | State::Collecting(_) | State::Done => SUCCESS,
        },
        false => SUCCESS,
    }
}

/// An error page of a request that was refused: what the access log shall have is asked of its notes, not the request's.
fn note_again(request: Request<'_>) {
    for name in [OUTCOME_NOTE, ID_NOTE] {
        if let Some(value) = request.noted(name) {
            request.note(name, &value);
        }
    }
    // Here, and not where it was refused: httpd clears all headers before it makes an error page.
    if request.noted(OUTCOME_NOTE).as_deref() == Some(refusal::UNAVAILABLE_OUTCOME) {
        request.set_error_header(c"Retry-After", c"2");
    }
}

/// Whether this response is a handoff, and may be one.
fn decide(request: Request<'_>) -> Result<Option<Handoff>, Refusal> {
    let settings = request.settings();
    if !settings.enabled() || !request.is_main() {
        return Ok(None);
    }
    let Some(targets) = request.response_header(SOCKET) else { return Ok(None) };
    #[cfg(feature = "fault-injection")]
    assert!(targets != b"panic", "as the response has asked");
    let body_is_payload = wants_body(request);
    // PHP has changed its mind, or failed: its page is the answer.
    if request.status() >= CLIENT_ERROR || body_is_payload && request.status() != OK {
        return Ok(None);
    }
    let data = request.response_header(PAYLOAD);
    // At once: an error document of this request must not be taken for a handoff.
    strip_headers(request);
    let request_id = request_id(request);
    request.note(ID_NOTE, &request_id);
    if body_is_payload && !settings.body() {
        return Err(Refusal::refused("a response has X-Handoff-Body, and SocketHandoffBody is Off"));
    }
    let targets = target::admit(&String::from_utf8_lossy(&targets), settings.prefix())
        .map_err(|forbidden| Refusal::forbidden(&forbidden.0))?;
    let connection = request.connection();
    let relay = connection.is_tls() || connection.is_stream();
    if relay && !settings.relay() {
        let what = if connection.is_stream() { "HTTP/2" } else { "TLS" };
        return Err(Refusal::refused(&format!(
            "the socket of a client that came by {what} cannot be passed; SocketHandoffRelay On relays its answer"
        )));
    }
    let mut payload = Collector::new(settings.envelope());
    if let Some(data) = data.filter(|_| !body_is_payload) {
        payload.add(&data).map_err(Refusal::from)?;
    }
    Ok(Some(Handoff { targets, request_id, payload, body_is_payload, relay }))
}

fn strip_headers(request: Request<'_>) {
    for header in OURS {
        request.remove_response_header(header);
    }
}

fn wants_body(request: Request<'_>) -> bool {
    request.response_header(BODY).is_some_and(|value| value.trim_ascii() == b"1")
}

/// PHP's, else mod_unique_id's, else a random one.
fn request_id(request: Request<'_>) -> String {
    let is_token =
        |id: &String| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic());
    let from_php = request.response_header(REQUEST_ID).and_then(|id| String::from_utf8(id).ok());
    from_php
        .filter(is_token)
        .or_else(|| request.environment(c"UNIQUE_ID").filter(is_token))
        .unwrap_or_else(httpd::random_id)
}

/// Takes what has come, all of it. True: that was the end.
fn collect(state: &mut State, brigade: &mut Brigade<'_>) -> bool {
    let mut is_end = false;
    brigade.take(|piece| {
        match piece {
            Piece::Bytes(bytes) => {
                if let State::Collecting(handoff) = state
                    && handoff.body_is_payload
                    && let Err(refused) = handoff.payload.add(bytes)
                {
                    *state = State::Refused(refused.into());
                }
            }
            Piece::Other => {}
            Piece::End => is_end = true,
            Piece::Error => {
                *state = State::Refused(Refusal::failed("the response broke off before its end"));
                is_end = true;
            }
        }
        !is_end
    });
    brigade.clear();
    is_end
}

/// The response is complete: hands over. Returns what the filter returns.
fn finish(filter: Filter<'_>, request: Request<'_>, handoff: Handoff) -> Result<Status, Refusal> {
    let connection = request.connection();
    // What is not read now, nobody could tell from the next request.
    match request.discard_body() {
        0 => {}
        status @ 400..600 => return Err(Refusal::bad_body(status)),
        // httpd has answered already.
        status => {
            note(
                request,
                "failed",
                Level::Note,
                "the request's body could not be read, and httpd has said so",
            );
            return Ok(status);
        }
    }
    if !handoff.relay && connection.flush() != SUCCESS || connection.is_aborted() {
        note(request, "gone", Level::Note, "the client left before it could be handed over");
        connection.abort();
        return Ok(SUCCESS);
    }
    let mut payload = handoff.payload.finish().map_err(Refusal::from)?;
    if payload.is_empty() && handoff.body_is_payload && request.method() == "HEAD" {
        payload = Payload::Inline(NO_PAYLOAD.to_vec());
    }
    let client = Client::of(request, handoff.relay)
        .map_err(|error| Refusal::failed(&format!("cannot hand over: {error}")))?;
    let path = send(request, &handoff.targets, &handoff.request_id, &payload, &client)?;
    let (path, bytes) = (path.display(), payload.len());
    match client {
        Client::Socket(socket, dead) => {
            // From here on the client is the daemon's alone.
            let replaced = dead.replace(socket);
            connection.abort();
            let sentence = format!("handed over to {path}, with a payload of {bytes} bytes");
            note(request, "sent", Level::Note, &sentence);
            if let Err(error) = replaced {
                request.log(
                    Level::Warning,
                    &format!("mod_socket_handoff: cannot let go of the client: {error}"),
                );
            }
            Ok(SUCCESS)
        }
        Client::Relay { daemons, ours } => {
            drop((daemons, payload));
            relay::run(filter, request, ours)
        }
    }
}

impl Client<'_> {
    fn of(request: Request<'_>, relay: bool) -> std::io::Result<Client<'_>> {
        if relay {
            let (daemons, ours) = relay::pair()?;
            return Ok(Client::Relay { daemons, ours });
        }
        let socket = request.connection().socket();
        let socket = socket.ok_or_else(|| std::io::Error::other("the connection has no socket"))?;
        // Before the handoff: afterwards there must be nothing that can fail.
        Ok(Client::Socket(socket, DeadSocket::new()?))
    }

    fn for_the_daemon(&self) -> BorrowedFd<'_> {
        match self {
            Self::Socket(socket, _) => *socket,
            Self::Relay { daemons, .. } => daemons.as_fd(),
        }
    }
}

/// One message to the first daemon that takes it.
fn send(
    request: Request<'_>,
    targets: &[PathBuf],
    request_id: &str,
    payload: &Payload,
    client: &Client<'_>,
) -> Result<PathBuf, Refusal> {
    let settings = request.settings();
    let mut message = Vec::new();
    if settings.envelope() {
        message = envelope(request, request_id, matches!(client, Client::Relay { .. })).bytes();
        debug_assert!(message.len() <= envelope::BYTES_MAX);
    }
    let mut fds = vec![client.for_the_daemon()];
    match payload {
        Payload::Inline(bytes) => message.extend_from_slice(bytes),
        Payload::Memfd(memfd, _) => fds.push(memfd.as_fd()),
    }
    let patience = Patience {
        connect: settings.connect_timeout(),
        send: settings.send_timeout(),
        retries: settings.retries(),
    };
    send::hand_over(targets, &message, &fds, patience).map_err(|unsent| Refusal::unsent(&unsent))
}

fn envelope(request: Request<'_>, request_id: &str, relay: bool) -> Envelope {
    let settings = request.settings();
    let mut headers = Vec::new();
    request.each_request_header(|name, value| {
        let name = name.to_ascii_lowercase();
        if settings.forwards(&name) {
            headers.push((name, value.to_owned()));
        }
    });
    Envelope {
        request_id: request_id.to_owned(),
        method: request.method(),
        uri: request.uri(),
        proto: request.protocol(),
        client: request.client(),
        tls: request.connection().is_tls(),
        relay,
        headers,
    }
}

/// Answers with an error page in PHP's place.
fn refuse(filter: Filter<'_>, request: Request<'_>, refusal: &Refusal) -> Status {
    request.clear_response_headers();
    note(request, refusal.outcome, Level::Error, &refusal.why);
    let error = filter.brigade();
    error.push_error(refusal.status);
    error.push_end();
    filter.pass(&error)
}

/// One line an outcome: in the error log, and for the access log.
pub(crate) fn note(request: Request<'_>, outcome: &str, level: Level, sentence: &str) {
    request.note(OUTCOME_NOTE, outcome);
    request.log(level, &format!("mod_socket_handoff: {sentence}"));
}

pub(crate) use refusal::Refusal as RelayRefusal;
