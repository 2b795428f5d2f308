//! What wakes the sessions: their clients' sockets, watched by an epoll of our own, and time. In: sockets, and how long
//! their sessions can wait. Out: wake-ups of the sessions.
//!
//! The runtime would keep a quarter of a kilobyte for each socket, and as much for each timer, and look each up by itself;
//! it watches our epoll instead, which is one fd to it, and the next tick of all sessions.
//!
//! Never: reads or writes a client's socket, keeps one open.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::pin::{Pin, pin};
use std::rc::{Rc, Weak};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use handoff_shared::fdpass::Watched;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio::io::Interest;
use tokio::time::Sleep;

use crate::moment::Moment;
use crate::progress::Progress;
use crate::runner::Runner;
use crate::timers::{Tick, Timers};

/// Taken from the kernel at once.
const EVENTS_MAX: usize = 256;
/// Who has gone is still noted for his tick: for so long at most.
const AHEAD_MAX: Duration = Duration::from_secs(60);
const NO_WAIT: Timespec = Timespec { tv_sec: 0, tv_nsec: 0 };

/// All sockets of a worker that somebody waits for.
#[derive(Debug)]
pub(crate) struct Poller {
    epoll: Watched,
    /// By the fd's number.
    ports: RefCell<Vec<Weak<Port>>>,
    timers: RefCell<Timers>,
    runner: Rc<Runner>,
}

/// A client's socket, and how far its session is.
#[derive(Debug)]
pub(crate) struct Port {
    pub(crate) progress: Progress,
    fd: OwnedFd,
    poller: Rc<Poller>,
    is_watched: Cell<bool>,
    ready: Cell<EventFlags>,
    /// The tick at which it is called.
    called_at: Cell<Tick>,
}

impl Poller {
    /// Watches nobody yet. Sessions run at the places of their clients.
    ///
    /// # Errors
    /// When we are out of fds.
    pub(crate) fn new(runner: Rc<Runner>) -> io::Result<Rc<Self>> {
        let epoll = Watched::new(epoll::create(CreateFlags::CLOEXEC)?, Interest::READABLE)?;
        Ok(Rc::new(Self { epoll, ports: RefCell::default(), timers: RefCell::default(), runner }))
    }

    /// Takes a client's socket. The kernel is told when somebody has to wait for it.
    pub(crate) fn port(self: &Rc<Self>, fd: OwnedFd, progress: Progress) -> Rc<Port> {
        let number = place(&fd) as usize;
        let port = Rc::new(Port {
            progress,
            fd,
            poller: Rc::clone(self),
            is_watched: Cell::new(false),
            ready: Cell::new(EventFlags::empty()),
            called_at: Cell::new(Tick::NEVER),
        });
        let mut ports = self.ports.borrow_mut();
        if ports.len() <= number {
            ports.resize_with(number + 1, Weak::new);
        }
        ports[number] = Rc::downgrade(&port);
        port
    }

    /// Wakes those whose sockets have news or whose time has come, until the runtime ends.
    pub(crate) async fn run(self: Rc<Self>) {
        let mut sleep = pin!(tokio::time::sleep(Duration::ZERO));
        let _ = poll_fn(|cx| {
            if let Poll::Ready(error) = self.poll_sockets(cx) {
                return Poll::Ready(error);
            }
            self.poll_time(cx, sleep.as_mut());
            Poll::Pending
        })
        .await;
    }

    fn poll_time(&self, cx: &mut Context<'_>, mut sleep: Pin<&mut Sleep>) {
        loop {
            let now = Moment::now();
            loop {
                let Some((tick, places)) = self.timers.borrow_mut().pop(now) else { break };
                let ports = self.ports.borrow();
                let called = places.into_iter().filter_map(|place| ports.get(place as usize)?.upgrade());
                called.for_each(|port| port.called(tick));
            }
            if self.timers.borrow_mut().poll(cx, sleep.as_mut()).is_pending() {
                return;
            }
        }
    }

    fn poll_sockets(&self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let mut events = [const { MaybeUninit::uninit() }; EVENTS_MAX];
        loop {
            let mut readable = match ready!(self.epoll.poll_read_ready(cx)) {
                Ok(readable) => readable,
                Err(error) => return Poll::Ready(error),
            };
            let (known, _) = match epoll::wait(self.epoll.get_ref(), &mut events, Some(&NO_WAIT)) {
                Ok(events) => events,
                Err(rustix::io::Errno::INTR) => continue,
                Err(error) => return Poll::Ready(error.into()),
            };
            if known.len() < EVENTS_MAX {
                readable.clear_ready();
            }
            let ports = self.ports.borrow();
            for event in known {
                let port = ports.get(usize::try_from(event.data.u64()).unwrap_or(usize::MAX));
                if let Some(port) = port.and_then(Weak::upgrade) {
                    port.rang(event.flags);
                }
            }
        }
    }
}

impl Port {
    /// Where its session is.
    pub(crate) fn place(&self) -> u32 {
        place(&self.fd)
    }

    /// Something that the session waits for has happened.
    pub(crate) fn wake(&self) {
        self.poller.runner.call(self.place());
    }

    /// The session is woken at this time, or up to a tick later; also too early, where it has wanted that before or wants
    /// to be woken in more than a minute.
    pub(crate) fn wake_by(&self, at: Moment) {
        if Tick::after(at) < self.called_at.get() {
            let tick = Tick::after(at.min(Moment::now() + AHEAD_MAX));
            self.called_at.set(tick);
            self.poller.timers.borrow_mut().add(tick, self.place());
        }
    }

    fn called(&self, tick: Tick) {
        // Otherwise it was meant for whoever had this place before, or for an earlier mind of ours.
        if self.called_at.get() == tick {
            self.called_at.set(Tick::NEVER);
            self.wake();
        }
    }

    /// Whether the kernel knows that somebody waits.
    pub(crate) fn is_watched(&self) -> bool {
        self.is_watched.get()
    }

    /// Ready when one of these was seen since it was forgotten, or can be seen no more.
    pub(crate) fn poll_ready(&self, wanted: EventFlags) -> Poll<()> {
        if !self.is_watched.get() && self.watch().is_err() {
            return Poll::Ready(());
        }
        if self.ready.get().intersects(wanted) { Poll::Ready(()) } else { Poll::Pending }
    }

    /// What was seen is dealt with: the kernel tells what comes after it.
    pub(crate) fn forget(&self, seen: EventFlags) {
        self.ready.set(self.ready.get().difference(seen));
    }

    fn watch(&self) -> io::Result<()> {
        let flags = EventFlags::IN | EventFlags::OUT | EventFlags::RDHUP | EventFlags::ET;
        epoll::add(self.poller.epoll.get_ref(), &self.fd, EventData::new_u64(self.place().into()), flags)?;
        self.is_watched.set(true);
        Ok(())
    }

    fn rang(&self, seen: EventFlags) {
        self.ready.set(self.ready.get().union(seen));
        self.wake();
    }
}

/// Open fds have small numbers, and none below 0.
fn place(fd: &OwnedFd) -> u32 {
    u32::try_from(fd.as_raw_fd()).unwrap_or(0)
}

impl AsFd for Port {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        // Not only close: the supervisor's dup keeps the connection open, and it would ring for whoever has the number next.
        if self.is_watched.get() {
            let _ = epoll::delete(self.poller.epoll.get_ref(), &self.fd);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixStream;

    use handoff_shared::message::Phase;

    use super::*;
    use crate::runner::Part;

    #[tokio::test]
    async fn a_session_is_woken_at_the_earliest_time_also_when_it_wanted_a_later_one_before() {
        let runner = Rc::new(Runner::default());
        let poller = Poller::new(Rc::clone(&runner)).unwrap();
        let port = poller.port(UnixStream::pair().unwrap().0.into(), Progress::new(Phase::Waiting));
        let (polls, began_at) = (Rc::new(RefCell::new(Vec::new())), Moment::now());
        let (own_port, own_polls) = (Rc::clone(&port), Rc::clone(&polls));
        let session = poll_fn(move |_| {
            if own_polls.borrow().is_empty() {
                for later in [Duration::from_secs(60), Duration::from_millis(20), Duration::from_secs(30)] {
                    own_port.wake_by(began_at + later);
                }
            }
            own_polls.borrow_mut().push(Moment::now());
            Poll::Pending
        });
        runner.start(port.place(), Part::new(session));
        let is_woken = async {
            while polls.borrow().len() < 2 {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = is_woken => {}
            () = poller.run() => panic!("it watches nobody any more"),
            () = runner.run() => panic!("it runs nobody any more"),
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("nobody is woken"),
        }
        assert!(polls.borrow()[1] >= began_at + Duration::from_millis(20));
        assert_eq!(port.called_at.get(), Tick::NEVER);
    }

    #[tokio::test]
    async fn who_has_gone_is_forgotten_soon_however_late_he_wanted_to_be_woken() {
        let poller = Poller::new(Rc::default()).unwrap();
        for _ in 0..3 {
            let port = poller.port(UnixStream::pair().unwrap().0.into(), Progress::new(Phase::Waiting));
            port.wake_by(Moment::now() + Duration::MAX);
        }
        let soon = Moment::now() + AHEAD_MAX + Duration::from_secs(1);
        let forgotten =
            std::iter::from_fn(|| poller.timers.borrow_mut().pop(soon)).map(|(_, places)| places.len());
        assert_eq!(forgotten.sum::<usize>(), 3);
    }
}
