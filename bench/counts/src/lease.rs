//! What the supervisor's fleet does for every lease, from its handoff to its end.

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::{Duration, Instant};

use handoff_shared::ids::LeaseId;
use handoff_shared::ids::WorkerId;
use handoff_shared::message::{Format, Outcome};

use crate::fleet::{Action, Event, Fleet, Policy};
use crate::{Case, Operation};

pub(crate) const CASES: &[Case] = &[
    Case::new("fleet.lease", || leasing(0)),
    Case::new("fleet.lease_among_10000", || leasing(10_000)),
    Case::new("fleet.deadline_among_10000", || asking(10_000)),
];

const SECOND: Duration = Duration::from_secs(1);

/// A fleet of two workers that are Ready, and so many streams.
struct Scene {
    fleet: Fleet,
    now: Instant,
    live: VecDeque<(LeaseId, WorkerId)>,
    next_lease: LeaseId,
}

impl Scene {
    fn new(streams: usize) -> Self {
        let now = Instant::now();
        let policy = Policy {
            slots: 2,
            leases_max: 100_000,
            leases_per_worker_max: 50_000,
            queue_timeout: 2 * SECOND,
            redispatch_max: 1,
            drain_timeout: 30 * SECOND,
            age_max: None,
            streams_max: None,
            rss_max_bytes: None,
            rss_hard_max_bytes: None,
        };
        let mut fleet = Fleet::new(now, policy, 7);
        fleet.handle(now, Event::Start);
        let spawned = std::iter::from_fn(|| fleet.poll_action());
        let workers: Vec<WorkerId> = spawned
            .filter_map(|action| if let Action::Spawn { worker, .. } = action { Some(worker) } else { None })
            .collect();
        let mut scene = Self { fleet, now, live: VecDeque::new(), next_lease: LeaseId::first(7) };
        for worker in workers {
            scene.tell(Event::Ready { worker });
        }
        for _ in 0..streams {
            scene.begin();
        }
        scene
    }

    /// The last action that follows.
    fn tell(&mut self, event: Event) -> Option<Action> {
        self.fleet.handle(self.now, event);
        std::iter::from_fn(|| self.fleet.poll_action()).last()
    }

    /// A handoff that becomes a stream.
    fn begin(&mut self) {
        let lease = self.next_lease;
        self.next_lease = lease.next();
        let Some(Action::Lend { worker, .. }) = self.tell(Event::Received { lease }) else {
            unreachable!("there are free places")
        };
        self.tell(Event::Taken { worker, leases: vec![lease] });
        self.tell(Event::Committed { worker, lease, format: Format::Content });
        self.live.push_back((lease, worker));
    }

    /// The oldest stream has ended.
    fn end(&mut self) {
        if let Some((lease, worker)) = self.live.pop_front() {
            black_box(self.tell(Event::Released { worker, lease, outcome: Outcome::Complete }));
        }
    }
}

/// A whole lease: Received, Taken, Committed, Released.
fn leasing(others: usize) -> Operation {
    let mut scene = Scene::new(others);
    Box::new(move || {
        scene.begin();
        scene.end();
    })
}

/// What the event loop asks in each of its turns.
fn asking(streams: usize) -> Operation {
    let scene = Scene::new(streams);
    Box::new(move || {
        black_box(scene.fleet.intake(scene.now));
        black_box(scene.fleet.next_deadline());
        black_box(scene.fleet.shed_at());
    })
}
