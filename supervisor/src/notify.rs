//! What systemd is told: READY, STATUS, STOPPING. Without systemd nothing happens.
//!
//! Never: lets the loop wait. `sd-notify` sends blocking, so a thread of its own does.

use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;

use sd_notify::NotifyState;

/// States that may wait for the thread.
const WAITING_MAX: usize = 16;

/// The way to systemd.
#[derive(Debug)]
pub(crate) struct Notify {
    states: Option<SyncSender<State>>,
}

#[derive(Debug)]
enum State {
    Ready,
    Stopping,
    Status(String),
}

impl Notify {
    /// Starts the thread, when systemd waits for us.
    pub(crate) fn start() -> Self {
        if std::env::var_os("NOTIFY_SOCKET").is_none() {
            return Self { states: None };
        }
        let (states, waiting) = sync_channel(WAITING_MAX);
        let thread = thread::Builder::new().name("notify".to_owned()).spawn(move || {
            for state in waiting {
                let told = match &state {
                    State::Ready => sd_notify::notify(&[NotifyState::Ready]),
                    State::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
                    State::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
                };
                if let Err(error) = told {
                    tracing::warn!(%error, ?state, "systemd could not be told");
                }
            }
        });
        Self { states: thread.is_ok().then_some(states) }
    }

    /// False: say it again later.
    pub(crate) fn ready(&self) -> bool {
        self.send(State::Ready)
    }

    pub(crate) fn stopping(&self) {
        self.send(State::Stopping);
    }

    /// False: say it again later.
    pub(crate) fn status(&self, text: String) -> bool {
        self.send(State::Status(text))
    }

    /// Whether the thread has it, or nobody wants it.
    fn send(&self, state: State) -> bool {
        self.states.as_ref().is_none_or(|states| states.try_send(state).is_ok())
    }
}
