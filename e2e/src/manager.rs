//! Plays systemd: holds the listening socket and the fds that are stored, and starts the daemon with all of them.
//! In: what the daemon says on NOTIFY_SOCKET. Out: a started process.
//!
//! Source: sd_notify(3), sd_pid_notify_with_fds(3), sd_listen_fds(3).

use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, listen, socket};
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, recvmsg, sendmsg,
};

/// The most fds in one message (unix(7)).
const FDS_MAX: usize = 253;

/// A service manager for one daemon.
#[derive(Debug)]
pub struct Manager {
    notify: PathBuf,
    listener: OwnedFd,
    state: Arc<Mutex<State>>,
    is_over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct State {
    store: Vec<(String, OwnedFd)>,
    /// FileDescriptorStoreMax=.
    store_max: usize,
    words: Vec<String>,
    /// READY=1.
    readies: usize,
}

impl Manager {
    /// Binds the handoff socket, as a socket unit does, and listens to the daemon. The store takes `store_max` fds.
    ///
    /// # Panics
    /// When the directory cannot be used.
    #[must_use]
    pub fn new(directory: &Path, handoff: &Path, store_max: usize) -> Self {
        let notify = directory.join("notify");
        let words = UnixDatagram::bind(&notify).expect("a socket");
        words.set_read_timeout(Some(Duration::from_millis(50))).expect("a timeout");
        let flags = SockFlag::SOCK_CLOEXEC;
        let listener = socket(AddressFamily::Unix, SockType::SeqPacket, flags, None).expect("a socket");
        bind(listener.as_raw_fd(), &UnixAddr::new(handoff).expect("a path")).expect("a free path");
        listen(&listener, Backlog::new(4096).expect("a backlog")).expect("a socket that listens");
        let state =
            Arc::new(Mutex::new(State { store: Vec::new(), store_max, words: Vec::new(), readies: 0 }));
        let is_over = Arc::new(AtomicBool::new(false));
        let (heard, over) = (Arc::clone(&state), Arc::clone(&is_over));
        let thread = thread::spawn(move || {
            while !over.load(Ordering::Relaxed) {
                if let Some((text, fds)) = receive(words.as_fd()) {
                    lock(&heard).hear(&text, fds);
                }
            }
        });
        Self { notify, listener, state, is_over, thread: Some(thread) }
    }

    /// What the fds are called that the next process gets.
    #[must_use]
    pub fn names(&self) -> String {
        let state = lock(&self.state);
        let stored = state.store.iter().map(|(name, _)| name.as_str());
        std::iter::once("handoff").chain(stored).collect::<Vec<_>>().join(":")
    }

    /// Gives a command, which runs the launcher, the listening socket and everything that is stored.
    ///
    /// # Panics
    /// When the machine is out of fds.
    pub fn hand_on(&self, command: &mut Command) {
        let state = lock(&self.state);
        let stored = state.store.iter().map(|(_, fd)| fd.as_fd());
        let fds: Vec<BorrowedFd<'_>> = std::iter::once(self.listener.as_fd()).chain(stored).collect();
        let (ours, theirs) = UnixStream::pair().expect("a socket pair");
        send(ours.as_fd(), b"fds", &fds);
        command.env("NOTIFY_SOCKET", &self.notify).stdin(Stdio::from(OwnedFd::from(theirs)));
    }

    /// The names of what is stored, sorted; one for each fd.
    #[must_use]
    pub fn stored(&self) -> Vec<String> {
        let mut names: Vec<String> = lock(&self.state).store.iter().map(|(name, _)| name.clone()).collect();
        names.sort();
        names
    }

    /// Everything that the daemon has said, in order; several assignments in one message are several words.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        lock(&self.state).words.clone()
    }

    /// How often the daemon has said READY=1: once by each process, and by each program that one has become.
    #[must_use]
    pub fn readies(&self) -> usize {
        lock(&self.state).readies
    }

    /// Stores an fd as the daemon would.
    pub fn store(&self, name: &str, fd: OwnedFd) {
        lock(&self.state).store.push((name.to_owned(), fd));
    }

    /// A real stop: the store is emptied.
    pub fn drop_store(&self) {
        lock(&self.state).store.clear();
    }

    /// Takes some of what is stored away.
    pub fn lose(&self, is_lost: impl Fn(&str) -> bool) {
        lock(&self.state).store.retain(|(name, _)| !is_lost(name));
    }
}

impl Drop for Manager {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl State {
    fn hear(&mut self, text: &str, fds: Vec<OwnedFd>) {
        let value = |key: &str| text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let name = value("FDNAME").unwrap_or("stored").to_owned();
        if value("FDSTORE") == Some("1") {
            let room = self.store_max.saturating_sub(self.store.len());
            self.store.extend(fds.into_iter().take(room).map(|fd| (name.clone(), fd)));
        }
        if value("FDSTOREREMOVE") == Some("1") {
            self.store.retain(|(stored, _)| *stored != name);
        }
        self.readies += usize::from(value("READY") == Some("1"));
        self.words.extend(text.lines().map(str::to_owned));
        // Fds of a BARRIER are closed here: all that came before is done.
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One message with these fds.
///
/// # Panics
/// When they are too many, or nobody listens.
pub fn send(socket: BorrowedFd<'_>, bytes: &[u8], fds: &[BorrowedFd<'_>]) {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    assert!(
        control.push(SendAncillaryMessage::ScmRights(fds)),
        "{} fds are too many for a message",
        fds.len()
    );
    sendmsg(socket, &[IoSlice::new(bytes)], &mut control, SendFlags::NOSIGNAL).expect("a socket pair");
}

/// One message with its fds, as text; none when there is none for a while.
#[must_use]
pub fn receive(socket: BorrowedFd<'_>) -> Option<(String, Vec<OwnedFd>)> {
    let (bytes, fds) = receive_bytes(socket)?;
    Some((String::from_utf8_lossy(&bytes).into_owned(), fds))
}

/// One message with its fds; none when there is none for a while.
#[must_use]
pub fn receive_bytes(socket: BorrowedFd<'_>) -> Option<(Vec<u8>, Vec<OwnedFd>)> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut buffer = vec![0; 256 * 1024];
    let mut buffers = [IoSliceMut::new(&mut buffer)];
    let bytes = recvmsg(socket, &mut buffers, &mut control, RecvFlags::CMSG_CLOEXEC).ok()?.bytes;
    let mut fds = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(received) = message {
            fds.extend(received);
        }
    }
    buffer.truncate(bytes);
    Some((buffer, fds))
}
