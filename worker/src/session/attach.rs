//! Before a question is asked: the files that belong to it. In: a request that names them. Out: a request that has
//! them; the files go when the lease is committed.
//!
//! Never: waits without watching the client.

use std::future::poll_fn;

use super::leash;
use crate::client::Client;
use crate::cut::Why;
use crate::failure::{Code, Failure};
use crate::files::Refused;
use crate::inbox::Room;
use crate::report::Held;
use crate::request::ChatRequest;

/// Reads what is attached. None: the client has left meanwhile.
pub(super) async fn attach(
    room: &Room,
    held: &Held,
    client: &mut Client,
    request: ChatRequest,
) -> Option<Result<ChatRequest, Refused>> {
    if request.attached.is_empty() {
        return Some(Ok(request));
    }
    let method = request.method;
    tokio::select! {
        biased;
        () = poll_fn(|cx| client.poll_gone(cx)) => None,
        why = leash(room, held).pulled() => Some(Err((cut(why), method))),
        resolved = room.files.resolve(request) => Some(resolved.map(|(request, claimed)| {
            held.remove_at_commit(claimed);
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
