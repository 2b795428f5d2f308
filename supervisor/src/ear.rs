//! When the supervisor listens to its workers. In: their channels, and whether leases come and go. Out: that it is time
//! to listen, and who has said something.
//!
//! A worker says three things of each handoff, in a moment: they return a credit, let go of a payload, count an end.
//! Nobody waits for them, and being woken for each would cost more than the handoff itself. So while leases come and go
//! the words of all workers are heard together, every [`REST`]. When nothing was said in that time, the next word wakes
//! the loop. Whoever has to know earlier (deadlines, deaths, questions, a lack of credits) listens at once.
//!
//! Never: reads a message, lets one wait for longer than [`REST`], wakes anybody while nothing is said.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use handoff_shared::fdpass::Watched;
use handoff_shared::ids::WorkerId;
use rustix::buffer::spare_capacity;
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use tokio::io::Interest;

/// So long at most nobody listens.
pub(crate) const REST: Duration = Duration::from_millis(5);
/// In a turn that happens anyway, somebody listens as much earlier: a turn of its own costs more.
const EARLY: Duration = Duration::from_millis(1);
/// Workers that are named at once; the others come next.
const SPEAKERS_MAX: usize = 64;

/// What hears whether any worker has said something.
pub(crate) struct Ear {
    /// Every channel, with its worker's id.
    channels: OwnedFd,
    /// A duplicate: while it is watched the next word wakes the loop.
    watched: Option<Watched>,
    /// The same one while nobody is to be woken: the number of our fds says nothing about that.
    unwatched: Option<OwnedFd>,
    /// Unless a word wakes the loop, words wait until then.
    until: Instant,
    /// A lease has come or gone since we listened.
    is_lively: bool,
    /// Not everything that was said has been heard.
    is_behind: bool,
    speakers: Vec<Event>,
}

impl Ear {
    /// # Errors
    /// When we are out of fds.
    pub(crate) fn new(now: Instant) -> io::Result<Self> {
        let channels = epoll::create(CreateFlags::CLOEXEC)?;
        Ok(Self {
            watched: None,
            unwatched: Some(channels.try_clone()?),
            channels,
            until: now,
            is_lively: false,
            is_behind: false,
            speakers: Vec::with_capacity(SPEAKERS_MAX),
        })
    }

    /// This channel is listened to from here on.
    ///
    /// # Errors
    /// When the kernel cannot watch it.
    pub(crate) fn add(&self, worker: WorkerId, channel: impl AsFd) -> io::Result<()> {
        Ok(epoll::add(&self.channels, channel, EventData::new_u64(worker.0.into()), EventFlags::IN)?)
    }

    /// It is not any more. A successor's keeper may have it open for longer than we have: it does not go by itself.
    pub(crate) fn remove(&self, channel: impl AsFd) {
        let _ = epoll::delete(&self.channels, channel);
    }

    /// A lease comes, or has gone: more will be said of leases.
    pub(crate) fn enliven(&mut self) {
        self.is_lively = true;
    }

    /// Whether it is time to listen.
    pub(crate) fn poll(&self, cx: &mut Context<'_>, now: Instant) -> bool {
        let mut is_time = self.is_behind;
        match &self.watched {
            None => is_time |= self.until <= now + EARLY,
            // Once more, so that the next word wakes us.
            Some(watched) => {
                while let Poll::Ready(Ok(mut ready)) = watched.poll_read_ready(cx) {
                    ready.clear_ready();
                    is_time = true;
                }
            }
        }
        is_time
    }

    /// Who has said something that nobody has read.
    pub(crate) fn speakers(&mut self) -> Vec<WorkerId> {
        self.speakers.clear();
        let at_once = Timespec::default();
        if let Err(error) = epoll::wait(&self.channels, spare_capacity(&mut self.speakers), Some(&at_once)) {
            // Nothing that epoll_wait(2) has for a call that does not wait.
            tracing::error!(%error, "workers' channels cannot be looked at");
        }
        let ids = self.speakers.iter().map(|event| event.data.u64());
        ids.filter_map(|id| u32::try_from(id).ok().map(WorkerId)).collect()
    }

    /// Those were heard. `is_behind`: they may have said more, or others have.
    pub(crate) fn heard(&mut self, now: Instant, is_behind: bool) {
        self.is_behind = is_behind || self.speakers.len() == SPEAKERS_MAX;
        if self.watched.is_none() {
            self.until = if std::mem::take(&mut self.is_lively) { now + REST } else { now };
        }
    }

    /// Whether somebody has said more than was heard.
    pub(crate) fn is_behind(&self) -> bool {
        self.is_behind
    }

    /// At the end of a turn: whether the next word wakes the loop. `is_awaited`: somebody waits for it.
    pub(crate) fn settle(&mut self, cx: &mut Context<'_>, now: Instant, is_awaited: bool) {
        let is_over = self.watched.is_some() || self.until <= now;
        if self.is_behind || (!is_over && !is_awaited) {
            return;
        }
        let is_lively = std::mem::take(&mut self.is_lively);
        if is_lively && !is_awaited {
            self.until = now + REST;
            self.unwatched = self.watched.take().map(Watched::into_fd).or(self.unwatched.take());
        } else if self.watched.is_none() {
            self.wake_up(cx, now);
        }
    }

    /// When to listen again, whatever is said.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        self.watched.is_none().then_some(self.until)
    }

    fn wake_up(&mut self, cx: &mut Context<'_>, now: Instant) {
        let Some(unwatched) = self.unwatched.take() else { return };
        match Watched::or_back(unwatched, Interest::READABLE) {
            Ok(watched) => {
                self.watched = Some(watched);
                // What was said meanwhile counts.
                if self.poll(cx, now) {
                    cx.waker().wake_by_ref();
                }
            }
            // Out of memory: then by time.
            Err((unwatched, _)) => {
                self.unwatched = Some(unwatched);
                self.until = now + REST;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::poll_fn;
    use std::io::Write;
    use std::os::unix::net::UnixStream;
    use std::time::Duration;

    const PATIENCE: Duration = Duration::from_secs(5);

    /// One turn of a loop that is awaited by nobody, and hears nothing but that somebody spoke.
    fn turn(ear: &mut Ear, cx: &mut Context<'_>, now: Instant) -> Option<Vec<WorkerId>> {
        let heard = ear.poll(cx, now).then(|| {
            let speakers = ear.speakers();
            ear.heard(now, false);
            speakers
        });
        ear.settle(cx, now, false);
        heard
    }

    fn ear(now: Instant) -> (Ear, UnixStream, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        let ear = Ear::new(now).unwrap();
        ear.add(WorkerId(7), &ours).unwrap();
        (ear, ours, theirs)
    }

    #[tokio::test]
    async fn while_nothing_goes_on_a_word_wakes_the_loop() {
        let now = Instant::now();
        let (mut ear, _ours, mut theirs) = ear(now);
        poll_fn(|cx| Poll::Ready(turn(&mut ear, cx, now))).await;
        assert_eq!(ear.next_deadline(), None, "nothing goes on, and nothing ticks");
        let word = poll_fn(|cx| match turn(&mut ear, cx, now) {
            Some(speakers) => Poll::Ready(speakers),
            None => {
                theirs.write_all(b"word").unwrap();
                Poll::Pending
            }
        });
        assert_eq!(tokio::time::timeout(PATIENCE, word).await.unwrap(), [WorkerId(7)]);
    }

    #[tokio::test]
    async fn while_leases_come_and_go_words_wait_for_a_bounded_time_and_wake_nobody() {
        let now = Instant::now();
        let (mut ear, _ours, mut theirs) = ear(now);
        poll_fn(|cx| Poll::Ready(turn(&mut ear, cx, now))).await;
        ear.enliven();
        poll_fn(|cx| Poll::Ready(turn(&mut ear, cx, now))).await;
        assert_eq!(ear.next_deadline(), Some(now + REST));
        theirs.write_all(b"word").unwrap();
        let woken = poll_fn(|cx| match turn(&mut ear, cx, now) {
            Some(_) => Poll::Ready(()),
            None => Poll::Pending,
        });
        assert!(tokio::time::timeout(4 * REST, woken).await.is_err(), "nobody is woken");
        let heard = poll_fn(|cx| Poll::Ready(turn(&mut ear, cx, now + REST))).await;
        assert_eq!(heard, Some(vec![WorkerId(7)]));
    }

    #[tokio::test]
    async fn who_waits_for_a_word_is_woken_by_it() {
        let now = Instant::now();
        let (mut ear, _ours, mut theirs) = ear(now);
        ear.enliven();
        poll_fn(|cx| {
            ear.settle(cx, now, true);
            Poll::Ready(())
        })
        .await;
        theirs.write_all(b"word").unwrap();
        let word = poll_fn(|cx| if ear.poll(cx, now) { Poll::Ready(()) } else { Poll::Pending });
        tokio::time::timeout(PATIENCE, word).await.expect("woken");
    }

    #[tokio::test]
    async fn what_was_left_unheard_is_heard_in_the_next_turn() {
        let now = Instant::now();
        let (mut ear, _ours, _theirs) = ear(now);
        ear.heard(now, true);
        poll_fn(|cx| {
            ear.settle(cx, now, false);
            Poll::Ready(())
        })
        .await;
        assert!(poll_fn(|cx| Poll::Ready(ear.poll(cx, now))).await);
    }
}
