//! Signals as events. SIGTERM, SIGINT: stop. SIGHUP: reload. SIGUSR1: show the fleet in the log.

use std::io;
use std::task::{Context, Poll};

use tokio::signal::unix::{Signal as Stream, SignalKind, signal};

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Signal {
    Stop,
    Reload,
    Show,
}

/// The signals that the supervisor listens to.
#[derive(Debug)]
pub(crate) struct Signals {
    streams: [(Stream, Signal); 4],
}

impl Signals {
    /// From here on these signals do nothing else.
    ///
    /// # Errors
    /// When the kernel refuses a handler.
    pub(crate) fn listen() -> io::Result<Self> {
        Ok(Self {
            streams: [
                (signal(SignalKind::terminate())?, Signal::Stop),
                (signal(SignalKind::interrupt())?, Signal::Stop),
                (signal(SignalKind::hangup())?, Signal::Reload),
                (signal(SignalKind::user_defined1())?, Signal::Show),
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
