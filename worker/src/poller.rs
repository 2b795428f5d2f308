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
use std::task::{Context, Poll, Waker, ready};
use std::time::Duration;

use handoff_shared::fdpass::Watched;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use tokio::io::Interest;
use tokio::time::Sleep;

use crate::moment::Moment;
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
}

/// A client's socket.
#[derive(Debug)]
pub(crate) struct Port {
    fd: OwnedFd,
    poller: Rc<Poller>,
    is_watched: Cell<bool>,
    ready: Cell<EventFlags>,
    /// The tick at which it is called.
    called_at: Cell<Tick>,
    waker: RefCell<Option<Waker>>,
}

impl Poller {
    /// Watches nobody yet.
    ///
    /// # Errors
    /// When we are out of fds.
    pub(crate) fn new() -> io::Result<Rc<Self>> {
        let epoll = Watched::new(epoll::create(CreateFlags::CLOEXEC)?, Interest::READABLE)?;
        Ok(Rc::new(Self { epoll, ports: RefCell::default(), timers: RefCell::default() }))
    }

    /// Takes a client's socket. The kernel is told when somebody has to wait for it.
    pub(crate) fn port(self: &Rc<Self>, fd: OwnedFd) -> Rc<Port> {
        let number = place(&fd) as usize;
        let port = Rc::new(Port {
            fd,
            poller: Rc::clone(self),
            is_watched: Cell::new(false),
            ready: Cell::new(EventFlags::empty()),
            called_at: Cell::new(Tick::NEVER),
            waker: RefCell::default(),
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
    /// The session's own task is woken by everything that concerns it from outside.
    pub(crate) fn wake_me(&self, cx: &mut Context<'_>) {
        let mut waker = self.waker.borrow_mut();
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
    }

    /// Something that the session waits for has happened.
    pub(crate) fn wake(&self) {
        if let Some(waker) = &*self.waker.borrow() {
            waker.wake_by_ref();
        }
    }

    /// The session is woken at this time, or up to a tick later; also too early, where it has wanted that before or wants
    /// to be woken in more than a minute.
    pub(crate) fn wake_by(&self, cx: &mut Context<'_>, at: Moment) {
        self.wake_me(cx);
        if Tick::after(at) < self.called_at.get() {
            let tick = Tick::after(at.min(Moment::now() + AHEAD_MAX));
            self.called_at.set(tick);
            self.poller.timers.borrow_mut().add(tick, place(&self.fd));
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
    pub(crate) fn poll_ready(&self, cx: &mut Context<'_>, wanted: EventFlags) -> Poll<()> {
        self.wake_me(cx);
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
        epoll::add(self.poller.epoll.get_ref(), &self.fd, EventData::new_u64(place(&self.fd).into()), flags)?;
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
    use std::sync::{Arc, OnceLock};
    use std::task::Wake;

    use super::*;

    /// When a session was woken.
    #[derive(Default)]
    struct Woken(OnceLock<Moment>);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            let _ = self.0.set(Moment::now());
        }
    }

    #[tokio::test]
    async fn a_session_is_woken_at_the_earliest_time_also_when_it_wanted_a_later_one_before() {
        let poller = Poller::new().unwrap();
        let port = poller.port(UnixStream::pair().unwrap().0.into());
        let (woken, began_at) = (Arc::new(Woken::default()), Moment::now());
        let waker = Waker::from(Arc::clone(&woken));
        for later in [Duration::from_secs(60), Duration::from_millis(20), Duration::from_secs(30)] {
            port.wake_by(&mut Context::from_waker(&waker), began_at + later);
        }
        let is_woken = async {
            while woken.0.get().is_none() {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        };
        tokio::select! {
            () = is_woken => {}
            () = poller.run() => panic!("it watches nobody any more"),
            () = tokio::time::sleep(Duration::from_secs(10)) => panic!("nobody is woken"),
        }
        assert!(*woken.0.get().unwrap() >= began_at + Duration::from_millis(20));
        assert_eq!(port.called_at.get(), Tick::NEVER);
    }

    #[tokio::test]
    async fn who_has_gone_is_forgotten_soon_however_late_he_wanted_to_be_woken() {
        let poller = Poller::new().unwrap();
        for _ in 0..3 {
            let port = poller.port(UnixStream::pair().unwrap().0.into());
            port.wake_by(&mut Context::from_waker(Waker::noop()), Moment::now() + Duration::MAX);
        }
        let soon = Moment::now() + AHEAD_MAX + Duration::from_secs(1);
        let forgotten =
            std::iter::from_fn(|| poller.timers.borrow_mut().pop(soon)).map(|(_, places)| places.len());
        assert_eq!(forgotten.sum::<usize>(), 3);
    }
}
