use std::collections::BTreeSet;

use super::*;
use crate::fleet::{HeldLease, HeldPage, HeldStage};

#[test]
fn the_least_loaded_worker_gets_the_lease_and_among_equals_the_one_that_rested_longest() {
    let mut stage = Stage::ready(policy(3));
    let given: Vec<u32> = (0..6).map(|_| stage.lend().1.0).collect();
    assert_eq!(given, [0, 1, 2, 0, 1, 2]);
    let first = LeaseId::first(1);
    stage.release(first.next(), worker(1));
    assert_eq!(stage.lend().1, worker(1), "fewest leases");
    stage.release(first.next().next(), worker(2));
    stage.release(first, worker(0));
    assert_eq!(stage.lend().1, worker(0), "one each, and 0 was used before 2");
}

#[test]
fn a_handoff_waits_until_a_worker_is_ready() {
    let mut stage = Stage::new(policy(2));
    stage.said();
    let lease = stage.receive();
    assert_eq!(stage.said(), []);
    stage.tell(Event::Ready { worker: worker(1) });
    assert_eq!(stage.said(), [Action::Lend { lease, worker: worker(1), attempt: 0 }]);
}

#[test]
fn a_worker_has_no_more_untaken_handoffs_than_credits() {
    let mut stage = Stage::ready(policy(1));
    let lent: Vec<LeaseId> = (0..CREDITS_PER_WORKER).map(|_| stage.lend().0).collect();
    let waiting = stage.receive();
    assert_eq!(stage.said(), []);
    stage.take(lent[0], worker(0));
    assert_eq!(stage.said(), [Action::Lend { lease: waiting, worker: worker(0), attempt: 0 }]);
}

#[test]
fn nothing_leaves_a_killed_worker_before_its_death_is_confirmed() {
    let mut stage = Stage::ready(policy(2));
    let (lease, first) = stage.lend();
    stage.tell(Event::Misbehaved { worker: first });
    assert_eq!(stage.said(), [Action::Kill { worker: first, cause: Cause::Protocol }]);
    stage.pass(SECOND);
    assert_eq!(stage.said(), [], "it may still answer");
    // Its last words count.
    stage.release(lease, first);
    assert_eq!(stage.die(first), []);
}

#[test]
fn a_committed_lease_gets_one_epitaph_and_never_a_second_one() {
    let mut stage = Stage::ready(policy(3));
    let (lease, first) = stage.stream();
    let said = stage.die_with(first, BTreeMap::from([(lease, true)]));
    let [
        Action::ForgetPayload { .. },
        Action::LendEpitaph { lease: ended, worker: second, format: Format::Text },
    ] = said[..]
    else {
        panic!("{said:?}")
    };
    assert_eq!(ended, lease);
    assert_eq!(stage.die(second), [Action::Close { lease, ending: LeaseEnding::EpitaphLost }]);
}

#[test]
fn a_committed_lease_of_which_no_byte_went_out_gets_502() {
    let mut stage = Stage::ready(policy(2));
    let (lease, first) = stage.stream();
    let said = stage.die_with(first, BTreeMap::from([(lease, false)]));
    assert_eq!(said, [Action::Refuse { lease, refusal: Refusal::WorkerCrashed }]);
}

#[test]
fn an_epitaph_of_which_no_byte_went_out_is_given_to_another_worker_a_bounded_number_of_times() {
    let mut stage = Stage::ready(policy(2));
    let (lease, mut holder) = stage.stream();
    let mut written = true;
    for lends in 2.. {
        let written = BTreeMap::from([(lease, std::mem::take(&mut written))]);
        stage.tell(Event::Dead { worker: holder, exit: Exit::Crashed, written });
        let mut said = stage.said();
        // Whoever takes the dead one's place is Ready within the queue timeout.
        stage.wait(SECOND + SECOND / 4);
        said.append(&mut stage.said());
        for action in &said {
            if let Action::Spawn { worker, .. } = action {
                stage.tell(Event::Ready { worker: *worker });
            }
        }
        said.append(&mut stage.said());
        let is_epitaph = |action: &&Action| matches!(action, Action::LendEpitaph { .. });
        let Some(Action::LendEpitaph { worker: next, .. }) = said.iter().find(is_epitaph) else {
            let lost = Action::Close { lease, ending: LeaseEnding::EpitaphLost };
            assert!(lends == 17 && said.contains(&lost), "{lends}: {said:?}");
            return;
        };
        stage.take(lease, *next);
        holder = *next;
    }
}

#[test]
fn bytes_that_nobody_announced_are_never_followed_by_a_second_answer() {
    let mut stage = Stage::ready(policy(2));
    let (lease, first) = stage.lend();
    stage.take(lease, first);
    let said = stage.die_with(first, BTreeMap::from([(lease, true)]));
    assert!(matches!(said[1], Action::LendEpitaph { .. }), "{said:?}");
}

#[test]
fn a_lease_without_its_dup_ends_with_its_worker() {
    let mut stage = Stage::ready(policy(2));
    let (lease, first) = stage.stream();
    stage.tell(Event::FdDropped { lease });
    assert_eq!(stage.die(first), [Action::Close { lease, ending: LeaseEnding::EpitaphLost }]);
}

#[test]
fn an_epitaph_that_loses_its_dup_while_it_waits_is_not_lent() {
    let mut stage = Stage::ready(policy(1));
    let (lease, first) = stage.stream();
    assert_eq!(stage.die(first), [Action::ForgetPayload { lease }]);
    stage.tell(Event::FdDropped { lease });
    assert_eq!(stage.said(), [Action::Close { lease, ending: LeaseEnding::EpitaphLost }]);
}

#[test]
fn who_waits_longer_than_the_queue_timeout_gets_503() {
    let mut stage = Stage::new(policy(1));
    stage.now += SECOND;
    let lease = stage.receive();
    stage.said();
    stage.wait(2 * SECOND - Duration::from_millis(1));
    assert_eq!(stage.said(), []);
    stage.wait(Duration::from_millis(1));
    assert_eq!(stage.said(), [Action::Refuse { lease, refusal: Refusal::NoWorker }]);
}

#[test]
fn max_connections_is_exact() {
    let mut stage = Stage::ready(Policy { leases_max: 2, ..policy(2) });
    let (first, worker) = stage.lend();
    stage.lend();
    let third = stage.receive();
    assert_eq!(stage.said(), [Action::Refuse { lease: third, refusal: Refusal::Full }]);
    stage.release(first, worker);
    stage.lend();
}

#[test]
fn handoffs_stay_in_the_backlog_without_credit_and_are_shed_after_the_queue_timeout() {
    let mut stage = Stage::ready(Policy { leases_per_worker_max: 1, ..policy(1) });
    assert_eq!(stage.fleet.intake(stage.now), Intake::Open);
    let (lease, worker) = stage.lend();
    stage.take(lease, worker);
    assert_eq!(stage.fleet.intake(stage.now), Intake::Hold);
    stage.pass(2 * SECOND);
    assert_eq!(stage.fleet.intake(stage.now), Intake::Shed);
    let shed = stage.receive();
    assert_eq!(stage.said(), [Action::Refuse { lease: shed, refusal: Refusal::NoWorker }]);
    stage.tell(Event::Released { worker, lease, outcome: Outcome::Complete });
    assert_eq!(stage.fleet.intake(stage.now), Intake::Open);
}

#[test]
fn at_a_takeover_nobody_ends_what_somebody_else_holds() {
    let [honest, liar] = [WorkerId(0), WorkerId(1)];
    let fleet = Fleet::new(Instant::now(), policy(2), 7);
    let mut stage =
        Stage { fleet, now: Instant::now(), said: VecDeque::new(), next_lease: LeaseId::first(2) };
    stage.tell(Event::Adopt { workers: vec![honest, liar], known: BTreeSet::from([Generation::FIRST]) });
    let lease = LeaseId::first(1);
    let held = HeldLease { lease, attempt: 0, stage: HeldStage::Committed(Format::Text), has_fd: true };
    let page = HeldPage {
        last: true,
        speaks_ours: true,
        slot: SlotId(0),
        generation: Generation::FIRST,
        drain_remaining: None,
        leases: vec![held],
    };
    stage.tell(Event::Held { worker: honest, page });
    stage.said();
    stage.tell(Event::Released { worker: liar, lease, outcome: Outcome::Complete });
    assert_eq!(stage.said(), [Action::Kill { worker: liar, cause: Cause::Protocol }]);
    assert_eq!(stage.fleet.held_by(honest), [lease]);
}
