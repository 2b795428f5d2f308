//! One client, from start to end. In: a lease with its fd and payload. Out: bytes to the client, and exactly
//! one outcome.
//!
//! What comes before the answer is large and short; it has memory of its own ([`begin`]). What stays for as long as the
//! answer takes is a [`Stream`].
//!
//! Never: writes a byte before the supervisor knows it will, waits for anything without watching the client,
//! lets a truncated answer look complete.

mod attach;
mod begin;
mod clock;
mod read;
mod story;
mod stream;

use std::rc::Rc;
use std::time::{Duration, Instant};

use handoff_shared::message::{Format, Outcome};
use handoff_shared::metric::DURATION_FIRST_BOUND;

use crate::client::{Client, WriteError};
use crate::cut::{Leash, Why};
use crate::failure::{Code, Failure};
use crate::format;
use crate::holdings::Task;
use crate::inbox::Room;
use crate::report::Held;
use begin::{Begun, Whole};
pub(crate) use read::Readers;
use story::Story;

/// An epitaph's client is waited for this long at most.
const EPITAPH_LINGER: Duration = Duration::from_millis(500);

/// Serves one client. The guard tells the supervisor when this ends, however it ends.
#[expect(
    clippy::manual_async_fn,
    reason = "an async fn keeps its arguments twice, and there is one for each stream"
)]
pub(crate) fn serve(
    room: Rc<Room>,
    held: Held,
    task: Rc<Task>,
    received_at: Instant,
) -> impl Future<Output = ()> {
    async move {
        let mut story = Story::new(held.lease, received_at);
        let outcome = match Box::pin(begin::begin(&room, &held, task, &mut story)).await {
            Begun::Stream(mut stream) => stream.run(&room, &held, &mut story).await,
            Begun::Whole(whole) => Box::pin(say(&room, &held, whole, &mut story)).await,
            Begun::Gone => Outcome::ClientGone,
        };
        story.log(outcome, &room.configure);
        room.counts
            .borrow_mut()
            .stream_duration
            .record(DURATION_FIRST_BOUND, received_at.elapsed().as_secs_f64());
        held.end(outcome);
    }
}

/// A whole response at once.
async fn say(room: &Room, held: &Held, whole: Box<Whole>, story: &mut Story) -> Outcome {
    let Whole { mut client, bytes, told } = *whole;
    held.commit(Format::Content).await;
    let written = client.write(&bytes, leash(room, held)).await;
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
pub(crate) async fn bury(room: Rc<Room>, held: Held, format: Format) {
    let config = &room.configure.config;
    let failure =
        Failure::new(Code::WorkerCrashed, "the answer was cut off by an internal error, please retry");
    let mut out = Vec::new();
    format::epitaph(&mut out, format, &failure);
    let port = Rc::clone(&held.port);
    let mut client = Client::new(port, config.client.half_close, config.server.write_timeout);
    let outcome = match client.write(&out, leash(&room, &held)).await {
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
    };
    tracing::info!(lease = %held.lease, outcome = outcome.as_str(), "epitaph");
    held.end(outcome);
}

/// What may end this session from outside.
fn leash<'a>(room: &'a Room, held: &'a Held) -> Leash<'a> {
    Leash { drain: &room.drain, own: &held.progress.cut, port: &held.port }
}

fn outcome_of(error: &WriteError) -> Outcome {
    match error {
        WriteError::Gone => Outcome::ClientGone,
        WriteError::TooSlow => Outcome::ClientTooSlow,
        WriteError::Cut(Why::Drain) => Outcome::ShuttingDown,
        WriteError::Cut(Why::Canceled) => Outcome::Canceled,
    }
}
