//! From a lease to the beginning of its answer. In: a client and its payload. Out: a stream, or a whole response, to be
//! written; nothing for a client that has left.
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
use crate::runner::Part;

/// A whole response, and how the session ends with it.
pub(super) struct Whole {
    pub(super) session: Session,
    pub(super) client: Client,
    pub(super) bytes: Vec<u8>,
    pub(super) told: Outcome,
}

/// Parses the request, and asks an upstream.
pub(super) async fn begin(mut session: Session, task: Rc<Task>) -> Option<Part> {
    let config = session.config();
    let (port, half_close) = (Rc::clone(&session.held.port), config.client.half_close);
    let mut client = Client::new(port, half_close, config.server.write_timeout);
    // The task is kept for another worker until this lease is committed, and no longer.
    let request = match read::read(&mut session, &mut client, task).await {
        None => {
            client.abort();
            session.end(Outcome::ClientGone);
            return None;
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
                    session.end(Outcome::ClientGone);
                    return None;
                }
            }
        }
        Some(Err(refused)) => Err(refused),
    };
    Some(match request {
        Ok(request) => {
            session.story.tell(&request, &session.room.configure.config);
            session.held.port.progress.name(request.user_id.as_deref(), request.request_id.as_deref());
            answer(session, client, request)
        }
        Err((failure, caller)) => {
            session.held.port.progress.name(None, caller.request_id.as_deref());
            let request_id = caller.request_id.clone().unwrap_or_else(|| session.held.lease.to_string());
            let head_only = caller.method == Method::Head;
            session.story.refuse(*caller);
            let reply = Reply { request_id: &request_id, response_headers: &[], head_only };
            refuse(session, client, &reply, &failure)
        }
    })
}

/// A request that makes sense: a head alone, the word that there is no more, or a stream.
fn answer(session: Session, client: Client, mut request: ChatRequest) -> Part {
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
        return Whole { session, client, bytes, told: Outcome::Answered }.say();
    }
    if request.already_finished() {
        reply.no_content(&mut bytes);
        return Whole { session, client, bytes, told: Outcome::Answered }.say();
    }
    let request = Rc::new(request);
    match session.room.upstreams.ask(Rc::clone(&request), Rc::clone(&request_id), session.held.lease) {
        // From here on the request is the upstream's, who lets it go when the answer begins.
        Ok(upstream) => {
            Stream::new(session, client, &request, request_id, response_headers, upstream).serve()
        }
        Err(failure) => refuse(session, client, &reply, &failure),
    }
}

fn refuse(mut session: Session, client: Client, reply: &Reply<'_>, failure: &Failure) -> Part {
    session.story.fail(failure);
    let mut bytes = Vec::new();
    reply.error(&mut bytes, failure);
    Whole { session, client, bytes, told: Outcome::Refused }.say()
}
