//! From a lease to the beginning of its answer. In: a client and its payload. Out: a stream, or a whole response, to be
//! written.
//!
//! Never: writes to the client.

use std::rc::Rc;

use handoff_shared::message::Outcome;

use super::stream::Stream;
use super::{Session, attach, read};
use crate::client::Client;
use crate::failure::Failure;
use crate::head::Reply;
use crate::holdings::Task;
use crate::request::{Caller, ChatRequest, Method};

/// What the client gets.
pub(super) enum Begun {
    /// An answer as it comes.
    Stream(Box<Stream>),
    /// All at once.
    Whole(Box<Whole>),
    /// Nothing: it has left.
    Gone(Box<Session>),
}

/// A whole response, and how the session ends with it.
pub(super) struct Whole {
    pub(super) session: Session,
    pub(super) client: Client,
    pub(super) bytes: Vec<u8>,
    pub(super) told: Outcome,
}

/// Parses the request, and asks an upstream.
pub(super) async fn begin(mut session: Session, task: Rc<Task>) -> Begun {
    let config = session.config();
    let (port, half_close) = (Rc::clone(&session.held.port), config.client.half_close);
    let mut client = Client::new(port, half_close, config.server.write_timeout);
    // The task is kept for another worker until this lease is committed, and no longer.
    let request = match read::read(&mut session, &mut client, task).await {
        None => {
            client.abort();
            return Begun::Gone(Box::new(session));
        }
        Some(Ok(request)) if request.attached.is_empty() => Ok(request),
        Some(Ok(request)) => {
            let caller = Caller::of(&request, &session.config().logging.request_headers);
            // Few have attachments, and reading them takes much room.
            match Box::pin(attach::attach(&session, &mut client, request)).await {
                Some(request) => {
                    request.map_err(|(failure, method)| (failure, Box::new(Caller { method, ..caller })))
                }
                None => {
                    session.story.refuse(caller);
                    client.abort();
                    return Begun::Gone(Box::new(session));
                }
            }
        }
        Some(Err(refused)) => Err(refused),
    };
    match request {
        Ok(request) => {
            session.story.tell(&request, &session.room.configure.config);
            session.held.progress.name(request.user_id.as_deref(), request.request_id.as_deref());
            answer(session, client, request)
        }
        Err((failure, caller)) => {
            session.held.progress.name(None, caller.request_id.as_deref());
            let request_id = caller.request_id.clone().unwrap_or_else(|| session.held.lease.to_string());
            let head_only = caller.method == Method::Head;
            session.story.refuse(*caller);
            let reply = Reply { request_id: &request_id, response_headers: &[], head_only };
            refuse(session, client, &reply, &failure)
        }
    }
}

/// A request that makes sense: a head alone, the word that there is no more, or a stream.
fn answer(session: Session, client: Client, mut request: ChatRequest) -> Begun {
    let request_id: Rc<str> = match &request.request_id {
        Some(request_id) => request_id.as_str().into(),
        None => session.held.lease.to_string().into(),
    };
    let head_only = request.method == Method::Head;
    let response_headers = std::mem::take(&mut request.response_headers);
    let reply = Reply { request_id: &request_id, response_headers: &response_headers, head_only };
    let mut bytes = Vec::new();
    if head_only {
        reply.stream_head(&mut bytes);
        return Begun::Whole(Box::new(Whole { session, client, bytes, told: Outcome::Answered }));
    }
    if request.already_finished() {
        reply.no_content(&mut bytes);
        return Begun::Whole(Box::new(Whole { session, client, bytes, told: Outcome::Answered }));
    }
    let request = Rc::new(request);
    match session.room.upstreams.ask(Rc::clone(&request), Rc::clone(&request_id), session.held.lease) {
        // From here on the request is the upstream's, who lets it go when the answer begins.
        Ok(upstream) => {
            let stream = Stream::new(session, client, &request, request_id, response_headers, upstream);
            Begun::Stream(Box::new(stream))
        }
        Err(failure) => refuse(session, client, &reply, &failure),
    }
}

fn refuse(mut session: Session, client: Client, reply: &Reply<'_>, failure: &Failure) -> Begun {
    session.story.fail(failure);
    let mut bytes = Vec::new();
    reply.error(&mut bytes, failure);
    Begun::Whole(Box::new(Whole { session, client, bytes, told: Outcome::Refused }))
}
