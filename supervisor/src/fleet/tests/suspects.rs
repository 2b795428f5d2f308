use super::*;

const QUARANTINE: u16 = SlotId::QUARANTINE.0;

impl Stage {
    /// So many handoffs are lent to and taken by a fleet of one worker, which dies; then the sacrificial worker
    /// is Ready, and has the first one.
    fn suspects(policy: Policy, number: usize) -> (Self, Vec<LeaseId>, WorkerId) {
        let mut stage = Self::ready(policy);
        let lent: Vec<(LeaseId, WorkerId)> = (0..number).map(|_| stage.lend()).collect();
        let dead = lent[0].1;
        let leases = lent.into_iter().filter(|(_, holder)| *holder == dead).map(|(lease, _)| lease).collect();
        stage.tell(Event::Dead { worker: dead, exit: Exit::Crashed, written: BTreeMap::new() });
        let sacrificial = stage.sacrificial();
        for id in stage.spawned() {
            stage.tell(Event::Ready { worker: id });
        }
        (stage, leases, sacrificial)
    }

    /// The one that is in quarantine, or was started last.
    fn sacrificial(&self) -> WorkerId {
        self.fleet.quarantine.current().expect("a sacrificial worker")
    }

    /// It dies; the next one is started and Ready.
    fn sacrifice(&mut self, id: WorkerId) -> (Vec<Action>, WorkerId) {
        let mut said = self.die(id);
        let late = self.now + SECOND;
        while self.fleet.quarantine.current().is_none() {
            assert!(self.now < late, "nobody is started: {said:?}");
            self.wait(SECOND / 100);
        }
        let next = self.sacrificial();
        said.extend(self.said().into_iter().filter(|action| !matches!(action, Action::Spawn { .. })));
        self.tell(Event::Ready { worker: next });
        (said, next)
    }

    fn commit(&mut self, lease: LeaseId, worker: WorkerId) {
        self.tell(Event::Committed { worker, lease, format: Format::Text });
    }
}

fn again(lease: LeaseId, worker: WorkerId, attempt: u8) -> Action {
    Action::Lend { lease, worker, attempt }
}

fn convicted(lease: LeaseId) -> [Action; 2] {
    [Action::Poison { lease }, Action::Refuse { lease, refusal: Refusal::WorkerCrashed }]
}

#[test]
fn an_uncommitted_lease_goes_to_a_sacrificial_worker_and_is_poison_when_that_one_dies_too() {
    let mut stage = Stage::ready(policy(2));
    let (lease, first) = stage.lend();
    stage.take(lease, first);
    stage.tell(Event::Dead { worker: first, exit: Exit::Crashed, written: BTreeMap::new() });
    assert_eq!(stage.said(), [spawn(2, 0, 1, Cause::Crash), spawn(3, QUARANTINE, 1, Cause::Suspects)]);
    stage.tell(Event::Ready { worker: worker(3) });
    assert_eq!(stage.said(), [again(lease, worker(3), 1)], "nobody else may die of it");
    assert_eq!(stage.die(worker(3)), convicted(lease));
}

#[test]
fn without_redispatch_the_first_death_is_the_end() {
    let mut stage = Stage::ready(Policy { redispatch_max: 0, ..policy(2) });
    let (lease, first) = stage.lend();
    assert_eq!(stage.die(first), [Action::Refuse { lease, refusal: Refusal::WorkerCrashed }]);
}

#[test]
fn as_many_sacrificial_workers_die_alone_with_a_lease_as_configured() {
    let (mut stage, leases, first) = Stage::suspects(Policy { redispatch_max: 3, ..policy(1) }, 1);
    let (_, second) = stage.sacrifice(first);
    let (_, third) = stage.sacrifice(second);
    assert_eq!(stage.said().last(), Some(&again(leases[0], third, 3)));
    assert_eq!(stage.die(third), convicted(leases[0]));
}

#[test]
fn suspects_go_one_at_a_time_the_next_one_after_commit_release_or_probation() {
    let (mut stage, leases, sacrificial) = Stage::suspects(policy(1), 4);
    assert_eq!(stage.said(), [again(leases[0], sacrificial, 1)]);
    stage.take(leases[0], sacrificial);
    stage.commit(leases[0], sacrificial);
    assert_eq!(
        stage.said(),
        [Action::ForgetPayload { lease: leases[0] }, again(leases[1], sacrificial, 1)],
        "committed"
    );
    stage.take(leases[1], sacrificial);
    stage.tell(Event::Released { worker: sacrificial, lease: leases[1], outcome: Outcome::ClientGone });
    assert_eq!(stage.said()[1..], [again(leases[2], sacrificial, 1)], "released");
    stage.wait(PROBATION * 2);
    assert_eq!(stage.said(), [], "probation begins when it is taken");
    stage.take(leases[2], sacrificial);
    stage.wait(PROBATION - Duration::from_millis(1));
    assert_eq!(stage.said(), []);
    stage.wait(Duration::from_millis(1));
    assert_eq!(stage.said(), [again(leases[3], sacrificial, 1)], "survived");
}

#[test]
fn committed_streams_of_the_sacrificial_worker_do_not_make_its_one_suspect_less_guilty() {
    let (mut stage, leases, sacrificial) = Stage::suspects(policy(1), 2);
    stage.take(leases[0], sacrificial);
    stage.commit(leases[0], sacrificial);
    stage.said();
    let said = stage.die(sacrificial);
    assert_eq!(said[0], Action::ForgetPayload { lease: leases[0] });
    assert_eq!(said[1..3], convicted(leases[1]));
    assert!(matches!(said[3], Action::LendEpitaph { lease, .. } if lease == leases[0]), "{said:?}");
}

#[test]
fn who_was_in_company_goes_again_strictly_alone() {
    let (mut stage, leases, first) = Stage::suspects(policy(1), 2);
    stage.take(leases[0], first);
    stage.wait(PROBATION);
    stage.take(leases[1], first);
    stage.said();
    let (said, second) = stage.sacrifice(first);
    assert_eq!(said, [], "it could have been either");
    assert_eq!(stage.said(), [again(leases[1], second, 2)], "first the one that came last");
    stage.take(leases[1], second);
    stage.pass(5 * SECOND);
    assert_eq!(stage.said(), [], "a long time does not make it innocent");
    stage.commit(leases[1], second);
    assert_eq!(stage.said()[1..], [again(leases[0], second, 2)]);
    assert_eq!(stage.die(second)[..2], convicted(leases[0]));
}

#[test]
fn when_the_poison_is_found_its_company_is_believed_once_more() {
    let (mut stage, leases, first) = Stage::suspects(policy(1), 4);
    for lease in &leases {
        stage.take(*lease, first);
        stage.wait(PROBATION);
    }
    let (_, second) = stage.sacrifice(first);
    let (said, third) = stage.sacrifice(second);
    assert_eq!(said[1..], convicted(leases[3]));
    let mut next = stage.said();
    for _ in 0..3 {
        let [Action::Lend { lease, .. }] = next[..] else { panic!("{next:?}") };
        stage.take(lease, third);
        stage.wait(PROBATION);
        next = stage.said();
    }
    // Once: now they are alone to the end.
    let (said, fourth) = stage.sacrifice(third);
    assert_eq!(said, []);
    let (said, fifth) = stage.sacrifice(fourth);
    assert_eq!(said.len(), 3, "{said:?}");
    let last = stage.said().pop();
    let Some(Action::Lend { lease, attempt: 3, .. }) = last else { panic!("{last:?}") };
    stage.take(lease, fifth);
    stage.pass(SECOND);
    assert_eq!(stage.said(), []);
}

#[test]
fn when_many_wait_their_probation_is_shorter() {
    let (mut stage, leases, sacrificial) = Stage::suspects(policy(1), 32);
    stage.take(leases[0], sacrificial);
    stage.said();
    stage.wait(PROBATION / 2);
    assert_eq!(stage.said(), [again(leases[1], sacrificial, 1)]);
}

#[test]
fn ordinary_handoffs_and_epitaphs_never_go_to_the_sacrificial_worker() {
    let mut stage = Stage::ready(policy(2));
    let (streaming, first) = stage.stream();
    let (suspect, second) = stage.lend();
    stage.die(second);
    let sacrificial = stage.sacrificial();
    stage.tell(Event::Ready { worker: sacrificial });
    assert_eq!(stage.said(), [again(suspect, sacrificial, 1)]);
    assert_eq!(stage.die(first), [Action::ForgetPayload { lease: streaming }]);
    let fresh = stage.receive();
    assert_eq!(stage.said(), [], "{fresh} and the epitaph wait for a worker in a slot");
}

#[test]
fn the_time_of_a_suspect_does_not_run_while_its_worker_starts_or_has_others() {
    let mut stage = Stage::ready(policy(2));
    let (lease, first) = stage.lend();
    stage.die(first);
    stage.pass(START_TIMEOUT - SECOND);
    assert_eq!(stage.said(), []);
    let sacrificial = stage.sacrificial();
    stage.tell(Event::Ready { worker: sacrificial });
    assert_eq!(stage.said(), [again(lease, sacrificial, 1)]);
}

#[test]
fn when_no_sacrificial_worker_can_start_suspects_get_503_and_it_backs_off() {
    let mut stage = Stage::ready(policy(2));
    let (lease, first) = stage.lend();
    stage.die(first);
    let mut starts = 0;
    let began_at = stage.now;
    let refused = Action::Refuse { lease, refusal: Refusal::NoWorker };
    while !stage.said().contains(&refused) {
        assert!(stage.now < began_at + 4 * SECOND, "nobody answers");
        if let Some(sacrificial) = stage.fleet.quarantine.current() {
            starts += 1;
            stage.tell(Event::Dead { worker: sacrificial, exit: Exit::Crashed, written: BTreeMap::new() });
        }
        stage.pass(SECOND / 20);
    }
    assert!((4..=7).contains(&starts), "{starts} starts");
}

#[test]
fn no_suspect_waits_for_ever() {
    let (mut stage, leases, first) = Stage::suspects(policy(1), 3);
    stage.take(leases[0], first);
    stage.wait(PROBATION);
    stage.take(leases[1], first);
    let (_, second) = stage.sacrifice(first);
    stage.take(leases[1], second);
    stage.said();
    stage.pass(SUSPECT_WAIT_MAX);
    let refused: Vec<Action> =
        [leases[0], leases[2]].map(|lease| Action::Refuse { lease, refusal: Refusal::NoWorker }).into();
    assert_eq!(stage.said(), refused);
}

#[test]
fn an_idle_sacrificial_worker_is_let_go_and_the_next_suspect_gets_a_new_one() {
    let (mut stage, leases, first) = Stage::suspects(policy(2), 1);
    stage.said();
    stage.take(leases[0], first);
    stage.tell(Event::Released { worker: first, lease: leases[0], outcome: Outcome::Complete });
    stage.said();
    stage.pass(QUARANTINE_IDLE - SECOND / 4);
    assert_eq!(stage.said(), []);
    stage.pass(SECOND / 4);
    assert_eq!(stage.said(), [drain(first.0)]);
    let (_, holder) = stage.lend();
    stage.die(holder);
    assert_ne!(stage.sacrificial(), first);
}

#[test]
fn a_roll_replaces_the_sacrificial_worker_once_the_generation_is_proven() {
    let (mut stage, leases, first) = Stage::suspects(policy(1), 2);
    stage.take(leases[0], first);
    stage.said();
    stage.load(2, policy(1));
    let [successor] = stage.spawned()[..] else { panic!("one successor") };
    stage.tell(Event::Ready { worker: successor });
    let said = stage.said();
    assert!(said.contains(&drain(first.0)), "{said:?}");
    let next = stage.sacrificial();
    assert!(said.contains(&spawn(next.0, QUARANTINE, 2, Cause::Suspects)), "{said:?}");
    stage.tell(Event::Ready { worker: next });
    assert_eq!(stage.said(), [again(leases[1], next, 1)]);
}

#[test]
fn stop_answers_suspects_at_once_and_drains_the_sacrificial_worker() {
    let (mut stage, leases, first) = Stage::suspects(policy(1), 2);
    stage.said();
    stage.tell(Event::Stop { deadline: stage.now + 30 * SECOND });
    let said = stage.said();
    assert!(said.contains(&drain(first.0)), "{said:?}");
    let lease = leases[1];
    assert!(said.contains(&Action::Refuse { lease, refusal: Refusal::ShuttingDown }), "{said:?}");
    assert_eq!(stage.die(first), convicted(leases[0]));
}
