//! systemd's fd store: what a successor of this supervisor needs, kept by the service manager. In: names and fds.
//! Out: the word that they are kept. Without it nothing happens.
//!
//! Never: lets the loop wait (a thread of its own talks to systemd), keeps what has ended: a name is taken out
//! again before its fds are closed on purpose.
//!
//! Source: sd_pid_notify_with_fds(3), sd_notify(3): FDSTORE, FDNAME, FDPOLL, FDSTOREREMOVE, BARRIER.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::task::{Context, Poll};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use sd_notify::NotifyState;
use tokio::sync::mpsc;

/// Words that may wait for the thread.
const WAITING_MAX: usize = 4096;
/// systemd is waited for so long; then it is as if it had answered.
const PATIENCE: Duration = Duration::from_secs(3);

/// The way to the store.
#[derive(Debug)]
pub(crate) struct Store {
    words: Option<SyncSender<Word>>,
    kept: mpsc::Receiver<String>,
}

#[derive(Debug)]
enum Word {
    Keep(String, Vec<OwnedFd>),
    Forget(String),
}

impl Store {
    /// Starts the thread, where there is a store.
    pub(crate) fn start(is_there: bool) -> Self {
        let (tell, kept) = mpsc::channel(WAITING_MAX);
        if !is_there {
            return Self { words: None, kept };
        }
        let (words, waiting) = sync_channel(WAITING_MAX);
        let thread = thread::Builder::new().name("fd-store".to_owned()).spawn(move || {
            for word in waiting {
                match word {
                    Word::Keep(name, fds) => {
                        if let Err(error) = keep(&name, &fds) {
                            tracing::error!(%error, name, "systemd does not keep it: it would not survive us");
                        }
                        let _ = tell.blocking_send(name);
                    }
                    Word::Forget(name) => {
                        let states = [NotifyState::FdStoreRemove, NotifyState::FdName(&name)];
                        if let Err(error) = sd_notify::notify(&states) {
                            tracing::warn!(%error, name, "systemd could not be told to forget it");
                        }
                    }
                }
            }
        });
        Self { words: thread.is_ok().then_some(words), kept }
    }

    /// A successor will find what we keep.
    pub(crate) fn is_there(&self) -> bool {
        self.words.is_some()
    }

    /// Keeps dups of these fds under one name. False: there is no store, and nothing to wait for; else
    /// [`Self::poll_kept`] says when it is done, or given up.
    pub(crate) fn keep(&self, name: &str, fds: &[BorrowedFd<'_>]) -> bool {
        let Some(words) = &self.words else { return false };
        let dups: io::Result<Vec<OwnedFd>> = fds.iter().map(|fd| fd.try_clone_to_owned()).collect();
        match dups {
            Ok(dups) => words.try_send(Word::Keep(name.to_owned(), dups)).is_ok(),
            Err(error) => {
                tracing::error!(%error, name, "it cannot be kept: it would not survive us");
                false
            }
        }
    }

    /// What has this name is not needed any more.
    pub(crate) fn forget(&self, name: &str) {
        if let Some(words) = &self.words
            && words.try_send(Word::Forget(name.to_owned())).is_err()
        {
            tracing::warn!(name, "systemd could not be told to forget it");
        }
    }

    /// A name that is kept now.
    pub(crate) fn poll_kept(&mut self, cx: &mut Context<'_>) -> Poll<String> {
        match self.kept.poll_recv(cx) {
            Poll::Ready(Some(name)) => Poll::Ready(name),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    }
}

/// Stores, and waits until systemd has really taken it.
fn keep(name: &str, fds: &[OwnedFd]) -> io::Result<()> {
    let fds: Vec<BorrowedFd<'_>> = fds.iter().map(OwnedFd::as_fd).collect();
    // Not polled: systemd would drop a dead worker's channel, and its last words with it.
    let states = [NotifyState::FdStore, NotifyState::FdName(name), NotifyState::Custom("FDPOLL=0")];
    sd_notify::notify_with_fds(&states, &fds)?;
    let (theirs_closes, ours) = nix::unistd::pipe2(nix::fcntl::OFlag::O_CLOEXEC)?;
    sd_notify::notify_with_fds(&[NotifyState::Custom("BARRIER=1")], &[ours.as_fd()])?;
    drop(ours);
    let mut wait = [PollFd::new(theirs_closes.as_fd(), PollFlags::empty())];
    let patience = PollTimeout::try_from(PATIENCE).unwrap_or(PollTimeout::MAX);
    match poll(&mut wait, patience)? {
        0 => Err(io::Error::from(io::ErrorKind::TimedOut)),
        _ => Ok(()),
    }
}
