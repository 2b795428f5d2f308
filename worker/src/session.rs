//! One client, from start to end. In: a lease with its fd and payload. Out: bytes to the client, and exactly
//! one outcome.
//!
//! Never: writes a byte before the supervisor knows it will, waits for anything without watching the client,
//! lets a truncated answer look complete.

mod attach;
mod clock;
mod read;
mod story;
mod stream;

use std::rc::Rc;
use std::time::{Duration, Instant};

use handoff_shared::fdpass::Watched;
use handoff_shared::message::{Format, Outcome};
use handoff_shared::metric::DURATION_FIRST_BOUND;

use crate::client::{Client, WriteError};
use crate::cut::{Leash, Why};
use crate::failure::{Code, Failure};
use crate::format;
use crate::head::Reply;
use crate::holdings::Task;
use crate::inbox::Room;
use crate::report::Held;
use crate::request::{Caller, ChatRequest, Method};
pub(crate) use read::Readers;
use story::Story;
use stream::Stream;

/// An epitaph's client is waited for this long at most.
const EPITAPH_LINGER: Duration = Duration::from_millis(500);

/// Serves one client. The guard tells the supervisor when this ends, however it ends.
pub(crate) async fn serve(
    room: Rc<Room>,
    held: Held,
    socket: Option<Rc<Watched>>,
    task: Rc<Task>,
    received_at: Instant,
) {
    let mut story = Story::new(held.lease, received_at);
    let config = &room.configure.config;
    let outcome = match socket {
        Some(socket) => {
            let client = Client::new(socket, config.client.half_close, config.server.write_timeout);
            converse(&room, &held, client, task, &mut story).await
        }
        None => Outcome::ClientGone,
    };
    story.log(outcome, &room.configure);
    room.counts
        .borrow_mut()
        .stream_duration
        .record(DURATION_FIRST_BOUND, received_at.elapsed().as_secs_f64());
    held.end(outcome);
}

/// Parses the request, and answers it.
async fn converse(
    room: &Room,
    held: &Held,
    mut client: Client,
    task: Rc<Task>,
    story: &mut Story,
) -> Outcome {
    let lease = held.lease.to_string();
    let config = &room.configure.config;
    // The task is kept for another worker until this lease is committed, and no longer.
    let read = read::read(room, held, &mut client, task, story).await;
    let request = match read {
        None => {
            client.abort();
            return Outcome::ClientGone;
        }
        Some(Ok(request)) => {
            let caller = Caller::of(&request, &config.logging.request_headers);
            match attach::attach(room, held, &mut client, request).await {
                Some(request) => {
                    request.map_err(|(failure, method)| (failure, Box::new(Caller { method, ..caller })))
                }
                None => {
                    story.refuse(caller);
                    client.abort();
                    return Outcome::ClientGone;
                }
            }
        }
        Some(Err(refused)) => Err(refused),
    };
    match request {
        Ok(request) => {
            story.tell(&request, config);
            held.progress.name(request.user_id.as_deref(), request.request_id.as_deref());
            answer(room, held, client, request, lease, story).await
        }
        Err((failure, caller)) => {
            story.fail(&failure);
            held.progress.name(None, caller.request_id.as_deref());
            let head_only = caller.method == Method::Head;
            let request_id = caller.request_id.clone().unwrap_or(lease);
            story.refuse(*caller);
            let reply = Reply { request_id: &request_id, response_headers: &[], head_only };
            let mut out = Vec::new();
            reply.error(&mut out, &failure);
            say(room, held, client, &out, Outcome::Refused, story).await
        }
    }
}

/// A request that makes sense: a head alone, the word that there is no more, or a stream.
async fn answer(
    room: &Room,
    held: &Held,
    client: Client,
    mut request: ChatRequest,
    lease: String,
    story: &mut Story,
) -> Outcome {
    let request_id = request.request_id.clone().unwrap_or(lease);
    let head_only = request.method == Method::Head;
    let response_headers = std::mem::take(&mut request.response_headers);
    let reply = Reply { request_id: &request_id, response_headers: &response_headers, head_only };
    let mut out = Vec::new();
    if head_only {
        reply.stream_head(&mut out);
        return say(room, held, client, &out, Outcome::Answered, story).await;
    }
    if request.already_finished() {
        reply.no_content(&mut out);
        return say(room, held, client, &out, Outcome::Answered, story).await;
    }
    let request = Rc::new(request);
    match room.upstreams.ask(Rc::clone(&request), &request_id, held.lease) {
        Ok(upstream) => {
            let stream = Stream::new(room, held, client, &request, reply, upstream, story);
            // From here on it is the upstream's, who lets it go when the answer begins.
            drop(request);
            stream.run().await
        }
        Err(failure) => {
            story.fail(&failure);
            reply.error(&mut out, &failure);
            say(room, held, client, &out, Outcome::Refused, story).await
        }
    }
}

/// A whole response at once.
async fn say(
    room: &Room,
    held: &Held,
    mut client: Client,
    bytes: &[u8],
    told: Outcome,
    story: &mut Story,
) -> Outcome {
    held.commit(Format::Content).await;
    let written = client.write(bytes, leash(room, held)).await;
    story.wrote(room, bytes.len(), 0);
    held.progress.wrote(bytes.len());
    match written {
        Ok(()) => {
            held.progress.ending();
            client.finish(room.configure.config.client.linger, leash(room, held)).await;
            told
        }
        Err(error) => {
            client.abort();
            outcome_of(&error)
        }
    }
}

/// The last event of a stream whose worker died: one write, and a short wait for the client to hang up.
pub(crate) async fn bury(room: Rc<Room>, held: Held, socket: Option<Rc<Watched>>, format: Format) {
    let config = &room.configure.config;
    let failure =
        Failure::new(Code::WorkerCrashed, "the answer was cut off by an internal error, please retry");
    let mut out = Vec::new();
    format::epitaph(&mut out, format, &failure);
    let client =
        socket.map(|socket| Client::new(socket, config.client.half_close, config.server.write_timeout));
    let outcome = match client {
        Some(mut client) => match client.write(&out, leash(&room, &held)).await {
            Ok(()) => {
                client.finish(EPITAPH_LINGER.min(config.client.linger), leash(&room, &held)).await;
                Outcome::EpitaphWritten
            }
            Err(WriteError::Gone) => {
                client.abort();
                Outcome::UnreportedEnd
            }
            Err(error) => {
                client.abort();
                outcome_of(&error)
            }
        },
        None => Outcome::UnreportedEnd,
    };
    tracing::info!(lease = %held.lease, outcome = outcome.as_str(), "epitaph");
    held.end(outcome);
}

/// What may end this session from outside.
fn leash<'a>(room: &'a Room, held: &'a Held) -> Leash<'a> {
    Leash { drain: &room.drain, own: &held.progress.cut }
}

fn outcome_of(error: &WriteError) -> Outcome {
    match error {
        WriteError::Gone => Outcome::ClientGone,
        WriteError::TooSlow => Outcome::ClientTooSlow,
        WriteError::Cut(Why::Drain) => Outcome::ShuttingDown,
        WriteError::Cut(Why::Canceled) => Outcome::Canceled,
    }
}
