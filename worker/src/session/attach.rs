//! Before a question is asked: the files that belong to it. In: a request that names them. Out: a request that has
//! them; the files go when the lease is committed.
//!
//! Never: waits without watching the client.

use std::future::poll_fn;

use super::Session;
use crate::client::Client;
use crate::cut::Why;
use crate::failure::{Code, Failure};
use crate::files::Refused;
use crate::request::ChatRequest;

/// Reads what is attached. None: the client has left meanwhile.
pub(super) async fn attach(
    session: &Session,
    client: &mut Client,
    request: ChatRequest,
) -> Option<Result<ChatRequest, Refused>> {
    if request.attached.is_empty() {
        return Some(Ok(request));
    }
    let method = request.method;
    tokio::select! {
        biased;
        () = poll_fn(|_| client.poll_gone()) => None,
        why = session.leash().pulled() => Some(Err((cut(why), method))),
        resolved = session.room.files.resolve(request) => Some(resolved.map(|(request, claimed)| {
            session.held.remove_at_commit(claimed);
            request
        })),
    }
}

pub(super) fn cut(why: Why) -> Failure {
    match why {
        Why::Drain => Failure::new(Code::ShuttingDown, "the server is restarting, please retry"),
        Why::Canceled => Failure::new(Code::Canceled, "the answer was ended by the site's operator"),
    }
}
