//! Any sequence of events: the places are never over a limit, nobody starves, all is given back.

use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::super::places::*;
use super::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    Ask,
    GiveUp(usize),
    Open(usize),
    DialFails(usize),
    Allow(usize, Option<u32>),
    Release(usize),
    Refuse(usize),
    Retire(usize),
    Stale(usize),
    Break(usize),
    Pass(u64),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => Just(Op::Ask),
        1 => any::<usize>().prop_map(Op::GiveUp),
        4 => any::<usize>().prop_map(Op::Open),
        1 => any::<usize>().prop_map(Op::DialFails),
        3 => (any::<usize>(), prop::option::of(0u32..12)).prop_map(|(at, streams)| Op::Allow(at, streams)),
        5 => any::<usize>().prop_map(Op::Release),
        1 => any::<usize>().prop_map(Op::Refuse),
        1 => any::<usize>().prop_map(Op::Retire),
        1 => any::<usize>().prop_map(Op::Stale),
        1 => any::<usize>().prop_map(Op::Break),
        2 => (1u64..120_000).prop_map(Op::Pass),
    ]
}

/// What is true of a connection, as the world knows it.
#[derive(Debug)]
struct Known {
    limit: Option<usize>,
    used: usize,
    takes: bool,
}

struct World {
    places: Places,
    limits: Limits,
    protocol: Protocol,
    now: Instant,
    waiting: BTreeSet<Ticket>,
    granted: Vec<ConnectionId>,
    connections: BTreeMap<ConnectionId, Known>,
    dialling: BTreeSet<DialId>,
}

impl World {
    fn new(limits: Limits, protocol: Protocol) -> Self {
        Self {
            places: Places::new(limits),
            limits,
            protocol,
            now: Instant::now(),
            waiting: BTreeSet::new(),
            granted: vec![],
            connections: BTreeMap::new(),
            dialling: BTreeSet::new(),
        }
    }

    fn step(&mut self, op: Op) {
        let connections = self.connections.keys().copied().collect::<Vec<_>>();
        let connection = |at: usize| connections.get(at % connections.len().max(1)).copied();
        let now = self.now;
        match op {
            Op::Ask => {
                let ticket = self.places.ask(now).unwrap();
                self.waiting.insert(ticket);
            }
            Op::GiveUp(at) => {
                let ticket = self.waiting.iter().nth(at % self.waiting.len().max(1)).copied();
                if let Some(ticket) = ticket {
                    self.waiting.remove(&ticket);
                    self.places.give_up(now, ticket);
                }
            }
            Op::Open(at) => self.open(at),
            Op::DialFails(at) => {
                if let Some(dial) = self.dialling.iter().nth(at % self.dialling.len().max(1)).copied() {
                    self.dialling.remove(&dial);
                    for ticket in self.places.dial_failed(now, dial) {
                        assert!(self.waiting.remove(&ticket), "failed without waiting");
                    }
                }
            }
            Op::Allow(at, streams) => {
                if let Some(id) = connection(at)
                    && self.protocol == Protocol::Http2
                {
                    let known = self.connections.get_mut(&id).unwrap();
                    let max = self.limits.streams_max;
                    let unchanged = known.limit.unwrap_or(max);
                    known.limit = Some(streams.map_or(unchanged, |streams| max.min(streams as usize)));
                    self.places.allowed(now, id, streams);
                }
            }
            Op::Release(at) => self.release(at),
            Op::Refuse(at) => {
                if let Some(id) = self.granted.get(at % self.granted.len().max(1)).copied() {
                    self.places.refused(now, id);
                    let at = self.granted.iter().position(|granted| *granted == id).unwrap();
                    self.release(at);
                }
            }
            Op::Retire(at) => {
                if let Some(id) = connection(at) {
                    self.connections.get_mut(&id).unwrap().takes = false;
                    self.places.retire(now, id);
                }
            }
            Op::Stale(at) => {
                if let Some(id) = connection(at)
                    && self.protocol == Protocol::Http1
                {
                    self.connections.get_mut(&id).unwrap().takes = false;
                    self.places.stale(now, id);
                }
            }
            Op::Break(at) => {
                if let Some(id) = connection(at) {
                    self.connections.remove(&id);
                    self.places.closed(now, id);
                }
            }
            Op::Pass(ms) => {
                self.now += Duration::from_millis(ms);
                self.places.tick(self.now);
            }
        }
        self.perform();
    }

    fn open(&mut self, at: usize) {
        if let Some(dial) = self.dialling.iter().nth(at % self.dialling.len().max(1)).copied() {
            self.dialling.remove(&dial);
            let id = self.places.opened(self.now, dial, self.protocol, Duration::from_secs(300));
            let limit = (self.protocol == Protocol::Http1).then_some(1);
            self.connections.insert(id, Known { limit, used: 0, takes: true });
        }
    }

    fn release(&mut self, at: usize) {
        if !self.granted.is_empty() {
            let id = self.granted.remove(at % self.granted.len());
            if let Some(known) = self.connections.get_mut(&id) {
                known.used -= 1;
            }
            self.places.release(self.now, id);
        }
    }

    fn perform(&mut self) {
        while let Some(action) = self.places.poll_action() {
            match action {
                Action::Grant(ticket, id) => {
                    assert_eq!(self.waiting.pop_first(), Some(ticket), "out of turn");
                    let known =
                        self.connections.get_mut(&id).expect("granted on a connection that has ended");
                    assert!(known.takes, "granted on a connection that takes no more");
                    known.used += 1;
                    assert!(known.used <= known.limit.unwrap_or(1), "over the limit: {known:?}");
                    self.granted.push(id);
                }
                Action::Dial(dial) => {
                    self.dialling.insert(dial);
                    let all = self.dialling.len() + self.connections.len();
                    let each = match self.protocol {
                        Protocol::Http1 => self.limits.streams_max,
                        Protocol::Http2 => 1,
                    };
                    assert!(all <= 2 * each * self.limits.connections_max, "{all} connections");
                }
                Action::Abort(dial) => assert!(self.dialling.remove(&dial)),
                // It is gone with the next event.
                Action::Close(id) => {
                    let known = self.connections.remove(&id).expect("closed twice");
                    assert_eq!(known.used, 0, "closed with requests");
                    self.places.closed(self.now, id);
                }
            }
        }
        assert_eq!(self.places.waiting(), self.waiting.len());
        assert_eq!(self.places.open(), self.connections.len());
        if let Some(next) = self.places.next_deadline(self.now) {
            assert!(next > self.now, "a deadline that has passed: the clock would spin");
        }
    }

    /// Everything works from here on: everybody gets a place, and then nothing is left.
    fn come_to_rest(&mut self) {
        for _ in 0..10_000 {
            while !self.dialling.is_empty() {
                self.step(Op::Open(0));
            }
            for at in 0..self.connections.len() {
                self.step(Op::Allow(at, Some(3)));
            }
            if self.waiting.is_empty() {
                break;
            }
            self.step(Op::Release(0));
            self.step(Op::Pass(1000));
        }
        assert!(self.waiting.is_empty(), "{} starve: {:?}", self.waiting.len(), self.places);
        while !self.granted.is_empty() {
            self.step(Op::Release(0));
        }
        for _ in 0..10 {
            while !self.dialling.is_empty() {
                self.step(Op::Open(0));
            }
            self.step(Op::Pass(91_000));
        }
        assert!(self.connections.is_empty() && self.dialling.is_empty(), "left: {:?}", self.places);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]

    #[test]
    fn places_are_never_over_a_limit_in_turn_and_given_back(
        ops in prop::collection::vec(op(), 1..150),
        connections_max in 1usize..6,
        streams_max in 1usize..10,
        idle_max in 0usize..4,
        http2: bool,
    ) {
        let protocol = if http2 { Protocol::Http2 } else { Protocol::Http1 };
        let mut world = World::new(Limits { streams_max, connections_max, idle_max }, protocol);
        for op in ops {
            world.step(op);
        }
        world.come_to_rest();
    }
}

fn world(streams_max: usize, connections_max: usize, protocol: Protocol) -> World {
    World::new(Limits { streams_max, connections_max, idle_max: 8 }, protocol)
}

#[test]
fn as_many_connections_as_those_who_wait_need_are_opened_at_once() {
    let mut world = world(100, 64, Protocol::Http2);
    (0..500).for_each(|_| world.step(Op::Ask));
    assert_eq!(world.dialling.len(), 1, "what is spoken is not known yet");
    world.step(Op::Open(0));
    world.step(Op::Allow(0, Some(8)));
    assert_eq!(world.granted.len(), 8);
    assert_eq!(world.dialling.len(), 62, "492 wait for 8 places each, with 2 to spare");
}

#[test]
fn the_least_loaded_connection_is_next() {
    let mut world = world(10, 4, Protocol::Http2);
    (0..30).for_each(|_| world.step(Op::Ask));
    for _ in 0..4 {
        world.step(Op::Open(0));
        (0..world.connections.len()).for_each(|at| world.step(Op::Allow(at, Some(10))));
    }
    while !world.granted.is_empty() {
        world.step(Op::Release(0));
    }
    (0..20).for_each(|_| world.step(Op::Ask));
    assert!(world.connections.values().all(|known| known.used == 20 / world.connections.len()));
}

#[test]
fn a_spare_connection_that_the_server_closes_is_not_opened_again_at_once() {
    let mut world = world(2, 8, Protocol::Http2);
    world.step(Op::Ask);
    world.step(Op::Open(0));
    world.step(Op::Allow(0, Some(1)));
    assert_eq!(world.dialling.len(), 1, "a spare one");
    world.step(Op::Open(0));
    let spare = world.connections.keys().position(|id| *id != world.granted[0]).unwrap();
    world.step(Op::Break(spare));
    assert_eq!(world.dialling.len(), 0);
    world.step(Op::Pass(1000));
    assert_eq!(world.dialling.len(), 1);
}

#[test]
fn a_dial_that_fails_beside_others_fails_one_and_the_last_one_fails_all() {
    let mut world = world(1, 4, Protocol::Http1);
    world.step(Op::Ask);
    world.step(Op::Open(0));
    (0..10).for_each(|_| world.step(Op::Ask));
    assert_eq!(world.dialling.len(), 3);
    world.step(Op::DialFails(0));
    assert_eq!(world.waiting.len(), 9);
    world.step(Op::Break(0));
    while world.dialling.len() > 1 && world.waiting.len() > 1 {
        world.step(Op::DialFails(0));
    }
    while !world.dialling.is_empty() {
        world.step(Op::DialFails(0));
    }
    assert!(world.waiting.is_empty());
}

#[test]
fn a_connection_grows_old_also_where_questions_come_all_the_time() {
    const SECOND: Duration = Duration::from_secs(1);
    let limits = Limits { streams_max: 100, connections_max: 4, idle_max: 0 };
    let (mut places, mut now) = (Places::new(limits), Instant::now());
    let _ = places.ask(now);
    let Some(Action::Dial(dial)) = places.poll_action() else { panic!("a connection is opened") };
    let old = places.opened(now, dial, Protocol::Http2, SECOND);
    places.allowed(now, old, None);
    assert!(matches!(places.poll_action(), Some(Action::Grant(_, id)) if id == old));
    // Nobody has the time to say that time has passed.
    now += SECOND;
    let _ = places.ask(now);
    assert!(matches!(places.poll_action(), Some(Action::Dial(_))), "whoever comes now goes elsewhere");
}
