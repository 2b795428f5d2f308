//! What a handoff says. In: a lease's message, inline or in a memfd. Out: a request, or why it is refused and whose it is.
//!
//! Never: keeps the other sessions waiting for a payload of megabytes: such are read in a thread of their own.

use std::borrow::Cow;
use std::future::poll_fn;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::sync::Arc;

use handoff_shared::limits::{HANDOFF_BYTES_MAX, MEMFD_BYTES_MAX};
use handoff_shared::memfd;
use handoff_shared::message::Handoff;
use tokio::sync::Semaphore;

use super::Session;
use super::attach::cut;
use crate::client::Client;
use crate::failure::{Code, Failure};
use crate::holdings::Task;
use crate::request::{self, Caller, ChatRequest};

/// Messages that are read in a thread at the same time: each takes a core and twice its size.
const READERS_MAX: usize = 2;

/// What a sender is told who has sent more than is taken.
const TOO_LARGE: &str =
    "the handoff is too large: at most server.handoff_buffer_size bytes in its message, 32 MiB in a memfd";
const _: () = assert!(MEMFD_BYTES_MAX == 32 * 1024 * 1024, "TOO_LARGE says so");

/// A request that is refused, and whose it is.
pub(super) type Refusal = (Failure, Box<Caller>);

/// The places for those who read large messages.
#[derive(Debug)]
pub(crate) struct Readers(Arc<Semaphore>);

impl Default for Readers {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(READERS_MAX)))
    }
}

/// Reads a message. None: the client has left meanwhile.
pub(super) async fn read(
    session: &mut Session,
    client: &mut Client,
    task: Rc<Task>,
) -> Option<Result<ChatRequest, Refusal>> {
    let room = Rc::clone(&session.room);
    let logged = &room.configure.config.logging.request_headers;
    let bytes = task.handoff.memfd_bytes.map_or(0, |bytes| bytes as usize);
    if bytes <= HANDOFF_BYTES_MAX {
        return Some(understand(&task.handoff, task.memfd.as_deref(), logged));
    }
    let (handoff, memfd, names) = (task.handoff.clone(), task.memfd.clone(), logged.clone());
    let reading = async {
        let place = Arc::clone(&room.readers.0).acquire_owned().await;
        let reading = tokio::task::spawn_blocking(move || {
            let _place = place;
            understand(&handoff, memfd.as_deref(), &names)
        });
        reading.await
    };
    let refused = |failure| (failure, Box::new(Caller::of_message(&task.handoff.inline.0, logged)));
    tokio::select! {
        biased;
        () = poll_fn(|_| client.poll_gone()) => {
            session.story.refuse(Caller::of_message(&task.handoff.inline.0, logged));
            None
        }
        why = session.leash().pulled() => Some(Err(refused(cut(why)))),
        read = reading => Some(read.unwrap_or_else(|_| {
            // Threads end only with this process.
            Err(refused(Failure::new(Code::ShuttingDown, "the server is restarting, please retry")))
        })),
    }
}

fn understand(handoff: &Handoff, memfd: Option<&OwnedFd>, logged: &[String]) -> Result<ChatRequest, Refusal> {
    let message = match message(handoff, memfd) {
        Ok(message) => message,
        Err(failure) => return Err((failure, Box::new(Caller::of_message(&handoff.inline.0, logged)))),
    };
    request::parse(&message)
        .map_err(|bad| (Failure::from(bad), Box::new(Caller::of_message(&message, logged))))
}

/// The whole message: what came inline, and the memfd that continues it.
fn message<'a>(handoff: &'a Handoff, memfd: Option<&OwnedFd>) -> Result<Cow<'a, [u8]>, Failure> {
    if handoff.truncated {
        return Err(Failure::new(Code::PayloadTooLarge, TOO_LARGE));
    }
    let mut message = Cow::Borrowed(handoff.inline.0.as_slice());
    if let (Some(memfd), Some(bytes)) = (memfd, handoff.memfd_bytes) {
        let bytes = (bytes as usize).min(MEMFD_BYTES_MAX);
        if let Err(error) = memfd::read_into(memfd, bytes, message.to_mut()) {
            tracing::warn!(%error, "payload cannot be read from its memfd");
            return Err(Failure::new(Code::BadHandoff, "the payload cannot be read"));
        }
    }
    Ok(message)
}
