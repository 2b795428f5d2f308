//! Signals as events. SIGTERM: stop, or leave. SIGINT: stop. SIGHUP: reload. SIGUSR1: show the fleet in the log.
//! SIGUSR2: upgrade.
//!
//! Never: loses one while one image of this process follows another.

use std::io;
use std::task::{Context, Poll};

use nix::sys::signal::SigSet;
use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    /// End; workers may be left to a successor.
    Terminate,
    /// End, and the workers with us.
    Interrupt,
    Reload,
    Show,
    Upgrade,
}

/// The signals that the supervisor listens to.
#[derive(Debug)]
pub(crate) struct Signals {
    streams: [(Stream, Signal); 5],
}

impl Signals {
    /// From here on these signals do nothing else; those that have waited come now.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            streams: [
                (signal(SignalKind::terminate())?, Signal::Terminate),
                (signal(SignalKind::interrupt())?, Signal::Interrupt),
                (signal(SignalKind::hangup())?, Signal::Reload),
                (signal(SignalKind::user_defined1())?, Signal::Show),
                (signal(SignalKind::user_defined2())?, Signal::Upgrade),
            ],
        })
    }

    /// The next one. Several of a kind at once are one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Signal> {
        for (stream, meaning) in &mut self.streams {
            if let Poll::Ready(Some(())) = stream.poll_recv(cx) {
                return Poll::Ready(*meaning);
            }
        }
        Poll::Pending
    }
}

/// Lets our signals wait. A thread that is started meanwhile never gets one: so none is lost in a thread that an
/// upgrade ends. They stay pending across execve(2).
pub(crate) fn block() {
    let _ = ours().thread_block();
}

/// Those that wait come now, to this thread.
pub(crate) fn unblock() {
    let _ = ours().thread_unblock();
}

fn ours() -> SigSet {
    SigSet::from_iter([
        nix::sys::signal::Signal::SIGTERM,
        nix::sys::signal::Signal::SIGINT,
        nix::sys::signal::Signal::SIGHUP,
        nix::sys::signal::Signal::SIGUSR1,
        nix::sys::signal::Signal::SIGUSR2,
    ])
}
