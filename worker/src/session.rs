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

use handoff_config::Config;
use handoff_shared::message::{Format, Outcome};
use handoff_shared::metric::DURATION_FIRST_BOUND;

use crate::client::{Client, WriteError};
use crate::cut::{Leash, Why};
use crate::failure::{Code, Failure};
use crate::format;
use crate::holdings::Task;
use crate::inbox::Room;
use crate::report::Held;
use crate::runner::Part;
use begin::Whole;
pub(crate) use read::Readers;
use story::Story;

/// An epitaph's client is waited for this long at most.
const EPITAPH_LINGER: Duration = Duration::from_millis(500);

/// What belongs to one client from start to end.
#[derive(Debug)]
struct Session {
    room: Rc<Room>,
    held: Held,
    story: Story,
}

impl Session {
    fn config(&self) -> &Config {
        &self.room.configure.config
    }

    /// What may end this session from outside.
    fn leash(&self) -> Leash<'_> {
        leash(&self.room, &self.held)
    }

    /// Bytes have gone out, or were tried.
    fn wrote(&mut self, bytes: usize, events: u64) {
        self.story.wrote(&self.room, bytes, events);
        self.held.port.progress.wrote(bytes);
    }

    fn end(self, outcome: Outcome) {
        self.story.log(outcome, self.held.lease, &self.room.configure);
        let took = self.story.received_at().elapsed().as_secs_f64();
        self.room.counts.borrow_mut().stream_duration.record(DURATION_FIRST_BOUND, took);
        self.held.end(outcome);
    }
}

/// Serves one client. The guard tells the supervisor when this ends, however it ends.
pub(crate) fn serve(room: Rc<Room>, held: Held, task: Rc<Task>, received_at: Instant) -> Part {
    let session = Session { room, held, story: Story::new(received_at.into()) };
    Part::new(begin::begin(session, task))
}

impl Whole {
    /// All of it at once.
    fn say(self) -> Part {
        let Self { mut session, mut client, bytes, told } = self;
        Part::new(async move {
            session.held.commit(Format::Content).await;
            let written = client.write(&bytes, session.leash()).await;
            session.wrote(bytes.len(), 0);
            let outcome = match written {
                Ok(()) => {
                    session.held.port.progress.ending();
                    client.finish(session.config().client.linger, session.leash()).await;
                    told
                }
                Err(error) => {
                    client.abort();
                    outcome_of(&error)
                }
            };
            session.end(outcome);
            None
        })
    }
}

/// The last event of a stream whose worker died: one write, and a short wait for the client to hang up.
pub(crate) fn bury(room: Rc<Room>, held: Held, format: Format) -> Part {
    Part::new(async move {
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
        None
    })
}

fn leash<'a>(room: &'a Room, held: &'a Held) -> Leash<'a> {
    Leash { drain: &room.drain, own: &held.port.progress.cut }
}

fn outcome_of(error: &WriteError) -> Outcome {
    match error {
        WriteError::Gone => Outcome::ClientGone,
        WriteError::TooSlow => Outcome::ClientTooSlow,
        WriteError::Cut(Why::Drain) => Outcome::ShuttingDown,
        WriteError::Cut(Why::Canceled) => Outcome::Canceled,
    }
}
