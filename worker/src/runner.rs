//! Runs the sessions. In: sessions, each at a place of its own, and calls from whoever has news for one. Out: each is polled
//! when it was called, in the order of the calls.
//!
//! To the runtime they are one task. It would keep a quarter of a kilobyte for each of its own.
//!
//! Never: polls whom nobody has called, lets one who calls itself keep the others waiting.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

use tokio::task::coop::unconstrained;

/// Then the inbox has its turn.
const POLLED_TOGETHER_MAX: usize = 64;

/// A part of a session's life. The next one, if there is one, has memory of its own: what was large and short is gone then.
pub(crate) struct Part(Pin<Box<dyn Future<Output = Option<Part>>>>);

/// All sessions of a worker.
#[derive(Debug, Default)]
pub(crate) struct Runner {
    /// By their places, which are small numbers.
    seats: RefCell<Vec<Seat>>,
    called: Arc<Called>,
}

#[derive(Debug, Default)]
struct Seat {
    /// None while it is polled, too.
    session: Option<Part>,
    /// Stays for whoever sits here next.
    bell: Option<Arc<Bell>>,
}

/// Calls the session of one place.
#[derive(Debug)]
struct Bell {
    place: u32,
    has_rung: AtomicBool,
    called: Arc<Called>,
}

#[derive(Debug, Default)]
struct Called(Mutex<Calls>);

#[derive(Debug, Default)]
struct Calls {
    places: VecDeque<u32>,
    runner: Option<Waker>,
    /// The runner knows that somebody was called.
    is_awake: bool,
}

impl Part {
    pub(crate) fn new(part: impl Future<Output = Option<Self>> + 'static) -> Self {
        Self(Box::pin(part))
    }
}

impl fmt::Debug for Part {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Part")
    }
}

impl Runner {
    /// A session begins, at a place that nobody else has.
    pub(crate) fn start(&self, place: u32, session: Part) {
        let mut seats = self.seats.borrow_mut();
        let index = place as usize;
        if seats.len() <= index {
            seats.resize_with(index + 1, Seat::default);
        }
        let seat = &mut seats[index];
        seat.session = Some(session);
        let bell = || Bell { place, has_rung: AtomicBool::new(false), called: Arc::clone(&self.called) };
        seat.bell.get_or_insert_with(|| Arc::new(bell())).wake_by_ref();
    }

    /// There is news for the session of this place, if there is one.
    pub(crate) fn call(&self, place: u32) {
        if let Some(bell) = self.seats.borrow().get(place as usize).and_then(|seat| seat.bell.as_ref()) {
            bell.wake_by_ref();
        }
    }

    /// Polls who was called, until the runtime ends.
    pub(crate) async fn run(self: Rc<Self>) {
        // What a session does counts for itself: the runtime sees one task, and would stop all for what many have done.
        unconstrained(poll_fn(|cx| {
            for _ in 0..self.called.begin_turn(cx.waker()) {
                self.called.next().into_iter().for_each(|place| self.poll(place));
            }
            self.called.end_turn();
            Poll::Pending
        }))
        .await
    }

    fn poll(&self, place: u32) {
        let index = place as usize;
        let taken = self.seats.borrow_mut().get_mut(index).and_then(|seat| {
            let bell = seat.bell.clone()?;
            // Before it is polled: what happens meanwhile is news.
            bell.has_rung.store(false, Ordering::Release);
            Some((seat.session.take()?, Waker::from(bell)))
        });
        let Some((mut session, waker)) = taken else { return };
        let mut context = Context::from_waker(&waker);
        loop {
            match session.0.as_mut().poll(&mut context) {
                Poll::Ready(Some(next)) => session = next,
                Poll::Ready(None) => return,
                Poll::Pending => break,
            }
        }
        self.seats.borrow_mut()[index].session = Some(session);
    }

    /// Ends all sessions where they are.
    pub(crate) fn clear(&self) {
        // One by one: a session that ends has something to say to others.
        let seats = self.seats.borrow().len();
        for index in 0..seats {
            let session = self.seats.borrow_mut()[index].session.take();
            drop(session);
        }
    }
}

impl Called {
    fn lock(&self) -> MutexGuard<'_, Calls> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are polled in this turn.
    fn begin_turn(&self, runner: &Waker) -> usize {
        let mut calls = self.lock();
        if calls.runner.as_ref().is_none_or(|known| !known.will_wake(runner)) {
            calls.runner = Some(runner.clone());
        }
        calls.is_awake = true;
        calls.places.len().min(POLLED_TOGETHER_MAX)
    }

    fn next(&self) -> Option<u32> {
        self.lock().places.pop_front()
    }

    fn end_turn(&self) {
        let mut calls = self.lock();
        calls.is_awake = false;
        if !calls.places.is_empty() {
            calls.wake();
        }
    }

    fn add(&self, place: u32) {
        let mut calls = self.lock();
        calls.places.push_back(place);
        calls.wake();
    }
}

impl Calls {
    fn wake(&mut self) {
        if let Some(runner) = self.runner.as_ref().filter(|_| !self.is_awake) {
            self.is_awake = true;
            runner.wake_by_ref();
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.has_rung.swap(true, Ordering::AcqRel) {
            self.called.add(self.place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::time::Duration;

    use tokio::task::{LocalSet, spawn_local, yield_now};
    use tokio::time::sleep;

    use super::*;

    /// In a runtime, with a runner at work.
    fn with_runner<F: Future>(test: impl FnOnce(Rc<Runner>) -> F) -> F::Output {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        LocalSet::new().block_on(&runtime, async {
            let runner = Rc::new(Runner::default());
            spawn_local(Rc::clone(&runner).run());
            test(runner).await
        })
    }

    async fn until(is_true: impl Fn() -> bool) {
        let turns = async {
            while !is_true() {
                yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), turns).await.expect("it comes to pass");
    }

    #[test]
    fn a_session_is_polled_when_it_is_called_and_never_otherwise() {
        with_runner(async |runner| {
            let polls = Rc::new(Cell::new([0; 2]));
            for place in [0, 1] {
                let polls = Rc::clone(&polls);
                runner.start(
                    place,
                    Part::new(poll_fn(move |_| {
                        let mut counts = polls.get();
                        counts[place as usize] += 1;
                        polls.set(counts);
                        Poll::Pending
                    })),
                );
            }
            until(|| polls.get() == [1, 1]).await;
            for _ in 0..3 {
                runner.call(1);
            }
            runner.call(7);
            until(|| polls.get() == [1, 2]).await;
            sleep(Duration::from_millis(20)).await;
            assert_eq!(polls.get(), [1, 2], "three calls before one poll are one");
        });
    }

    #[test]
    fn a_session_goes_on_as_its_next_part_and_is_woken_from_anywhere() {
        with_runner(async |runner| {
            let (sender, receiver) = tokio::sync::oneshot::channel();
            let end = Rc::new(Cell::new(0));
            let own = Rc::clone(&end);
            runner.start(
                3,
                Part::new(async {
                    sleep(Duration::from_millis(1)).await;
                    Some(Part::new(async move {
                        own.set(receiver.await.unwrap());
                        None
                    }))
                }),
            );
            std::thread::spawn(|| sender.send(5).unwrap());
            until(|| end.get() == 5).await;
            let place_is_free = || runner.seats.borrow()[3].session.is_none();
            assert!(place_is_free());
        });
    }

    #[test]
    fn one_who_calls_itself_lets_the_others_have_their_turn() {
        with_runner(async |runner| {
            let greedy = poll_fn(|cx: &mut Context<'_>| {
                cx.waker().wake_by_ref();
                Poll::Pending
            });
            runner.start(0, Part::new(greedy));
            let served = Rc::new(Cell::new(0));
            for place in 1..=1000 {
                let served = Rc::clone(&served);
                runner.start(
                    place,
                    Part::new(async move {
                        served.set(served.get() + 1);
                        None
                    }),
                );
            }
            until(|| served.get() == 1000).await;
        });
    }

    #[test]
    fn sessions_that_are_cleared_let_go_of_what_they_have_also_of_each_other() {
        with_runner(async |runner| {
            let shared = Rc::new(());
            for place in 0..3 {
                let (shared, runner_of_it) = (Rc::clone(&shared), Rc::clone(&runner));
                runner.start(
                    place,
                    Part::new(poll_fn(move |_| {
                        let _ = (&shared, &runner_of_it);
                        Poll::Pending
                    })),
                );
            }
            assert_eq!(Rc::strong_count(&shared), 4);
            runner.clear();
            assert_eq!((Rc::strong_count(&shared), Rc::strong_count(&runner)), (1, 2));
        });
    }
}
