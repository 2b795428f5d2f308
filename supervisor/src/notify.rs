//! What systemd is told (sd_notify(3)): READY, RELOADING, STATUS, STOPPING, EXTEND_TIMEOUT_USEC, WATCHDOG. In: what
//! the loop knows, turn by turn. Out: datagrams to NOTIFY_SOCKET. Without systemd nothing happens.
//!
//! Never: lets the loop wait. `sd-notify` sends blocking, so a thread of its own does; what that cannot take yet
//! waits here, of each kind the newest. Only at the end the thread is waited for, and not for long.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, channel, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use sd_notify::NotifyState;

/// States that may wait for the thread.
const WAITING_MAX: usize = 16;
/// While draining we ask for this much more time to stop ...
const EXTENSION: Duration = Duration::from_secs(15);
/// ... this often: a loop that no longer turns gets no more.
const EXTENSION_INTERVAL: Duration = Duration::from_secs(5);
/// For so long what was said last may be on its way when the process ends.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// The way to systemd. Dropped, it lets the thread say what it has.
#[derive(Debug)]
pub(crate) struct Notify {
    states: Option<SyncSender<State>>,
    /// Closed when the thread has ended.
    end: Option<Receiver<Infallible>>,
    /// Not taken by the thread yet, oldest first. At most one of each kind.
    waiting: VecDeque<State>,
    /// A RELOADING is not answered by a READY yet.
    is_reloading: bool,
    is_ready: bool,
    /// How often systemd wants to see that we live; none: it does not.
    watchdog: Option<Duration>,
    barked_at: Option<Instant>,
    extended_at: Option<Instant>,
}

#[derive(Debug)]
enum State {
    Ready,
    /// With CLOCK_MONOTONIC of its beginning.
    Reloading(Option<NotifyState<'static>>),
    Stopping,
    Status(String),
    ExtendTimeout,
    Watchdog,
}

impl Notify {
    /// Starts the thread, when systemd waits for us.
    pub(crate) fn start() -> Self {
        let (states, end) = std::env::var_os("NOTIFY_SOCKET").and_then(|_| start_thread()).unzip();
        // Only if WATCHDOG_PID is ours. Twice as often as it must be.
        let watchdog =
            sd_notify::watchdog_enabled().filter(|timeout| !timeout.is_zero()).map(|timeout| timeout / 2);
        Self {
            states,
            end,
            waiting: VecDeque::new(),
            is_reloading: false,
            is_ready: false,
            watchdog,
            barked_at: None,
            extended_at: None,
        }
    }

    /// The fleet serves for the first time.
    pub(crate) fn ready(&mut self) {
        self.is_ready = true;
        self.say(State::Ready);
    }

    /// A reload begins. Before the first READY systemd knows of none.
    pub(crate) fn reloading(&mut self) {
        if !self.is_ready {
            return;
        }
        self.is_reloading = true;
        // What a reload before has said and nobody has heard is of no use.
        if let Some(index) = self.waiting.iter().position(|state| matches!(state, State::Reloading(_))) {
            self.waiting.remove(index);
            self.waiting.retain(|state| !matches!(state, State::Ready));
        }
        self.say(State::Reloading(NotifyState::monotonic_usec_now().ok()));
    }

    /// The new generation serves, or there is none.
    pub(crate) fn reloaded(&mut self) {
        if std::mem::take(&mut self.is_reloading) {
            self.say(State::Ready);
        }
    }

    pub(crate) fn stopping(&mut self) {
        self.say(State::Stopping);
    }

    pub(crate) fn status(&mut self, text: String) {
        self.waiting.retain(|state| !matches!(state, State::Status(_)));
        self.say(State::Status(text));
    }

    /// In every turn of the loop: says that we live, asks for more time to stop, and tries again what could not be
    /// said. `is_well`: a worker takes handoffs, or we stop.
    pub(crate) fn turn(&mut self, now: Instant, is_well: bool, is_stopping: bool) {
        if self.states.is_none() {
            return;
        }
        let is_due = |at: Option<Instant>, every| at.is_none_or(|at| now.duration_since(at) >= every);
        if is_well && self.watchdog.is_some_and(|every| is_due(self.barked_at, every)) {
            self.barked_at = Some(now);
            self.waiting.retain(|state| !matches!(state, State::Watchdog));
            self.say(State::Watchdog);
        }
        if is_stopping && is_due(self.extended_at, EXTENSION_INTERVAL) {
            self.extended_at = Some(now);
            self.waiting.retain(|state| !matches!(state, State::ExtendTimeout));
            self.say(State::ExtendTimeout);
        }
        self.flush();
    }

    /// When the next sign of life is due.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let watchdog = self.watchdog.filter(|_| self.states.is_some())?;
        self.barked_at.map(|at| at + watchdog)
    }

    fn say(&mut self, state: State) {
        if self.states.is_some() {
            self.waiting.push_back(state);
            self.flush();
        }
    }

    fn flush(&mut self) {
        let Some(states) = &self.states else { return };
        while let Some(state) = self.waiting.pop_front() {
            match states.try_send(state) {
                Ok(()) => {}
                Err(TrySendError::Full(state)) => return self.waiting.push_front(state),
                Err(TrySendError::Disconnected(_)) => return self.waiting.clear(),
            }
        }
    }
}

impl Drop for Notify {
    fn drop(&mut self) {
        self.flush();
        drop(self.states.take());
        if let Some(end) = self.end.take() {
            let _ = end.recv_timeout(LAST_WORDS);
        }
    }
}

fn start_thread() -> Option<(SyncSender<State>, Receiver<Infallible>)> {
    let (states, waiting) = sync_channel(WAITING_MAX);
    let (alive, end) = channel();
    let thread = thread::Builder::new().name("notify".to_owned()).spawn(move || {
        let _alive = alive;
        for state in waiting {
            let told = match &state {
                State::Ready => sd_notify::notify(&[NotifyState::Ready]),
                State::Reloading(Some(since)) => sd_notify::notify(&[NotifyState::Reloading, since.clone()]),
                State::Reloading(None) => sd_notify::notify(&[NotifyState::Reloading]),
                State::Stopping => sd_notify::notify(&[NotifyState::Stopping]),
                State::Status(text) => sd_notify::notify(&[NotifyState::Status(text)]),
                State::ExtendTimeout => {
                    sd_notify::notify(&[NotifyState::ExtendTimeoutUsec(micros(EXTENSION))])
                }
                State::Watchdog => sd_notify::notify(&[NotifyState::Watchdog]),
            };
            if let Err(error) = told {
                tracing::warn!(%error, ?state, "systemd could not be told");
            }
        }
    });
    thread.is_ok().then_some((states, end))
}

fn micros(duration: Duration) -> u32 {
    u32::try_from(duration.as_micros()).unwrap_or(u32::MAX)
}
