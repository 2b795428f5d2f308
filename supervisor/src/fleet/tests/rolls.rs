use super::*;

#[test]
fn a_roll_replaces_slot_by_slot_and_the_old_worker_goes_when_its_successor_is_ready() {
    let mut stage = Stage::ready(policy(2));
    stage.tell(Event::Reload);
    assert_eq!(stage.said(), [Action::Load]);
    stage.load(2, policy(2));
    assert_eq!(stage.said(), [spawn(2, 0, 2, Cause::Roll)]);
    stage.tell(Event::Ready { worker: worker(2) });
    assert_eq!(stage.said(), [drain(0), spawn(3, 1, 2, Cause::Roll)]);
    assert_eq!(stage.fleet.ready(), 2);
    stage.tell(Event::Ready { worker: worker(3) });
    let done = Action::RollEnded { generation: Generation(2), result: RollResult::Done };
    assert_eq!(stage.said(), [drain(1), done]);
    assert_eq!(stage.fleet.ready(), 2);
}

#[test]
fn a_roll_brings_the_number_of_slots_to_what_the_new_policy_says() {
    let mut stage = Stage::ready(policy(3));
    stage.load(2, policy(1));
    stage.said();
    stage.tell(Event::Ready { worker: worker(3) });
    let done = |number| Action::RollEnded { generation: Generation(number), result: RollResult::Done };
    assert_eq!(stage.said(), [drain(0), drain(2), drain(1), done(2)]);
    stage.load(3, policy(2));
    stage.said();
    stage.tell(Event::Ready { worker: worker(4) });
    assert_eq!(stage.said(), [drain(3), spawn(5, 1, 3, Cause::Roll)]);
    stage.tell(Event::Ready { worker: worker(5) });
    assert_eq!(stage.said(), [done(3)]);
}

#[test]
fn a_generation_that_cannot_start_takes_nobody_away() {
    let mut stage = Stage::ready(policy(2));
    stage.load(2, policy(1));
    stage.said();
    stage.wait(Duration::ZERO);
    assert_eq!(
        stage.die(worker(2)),
        [Action::RollEnded { generation: Generation(2), result: RollResult::CannotStart }]
    );
    stage.pass(START_TIMEOUT);
    assert_eq!((stage.fleet.ready(), stage.said()), (2, vec![]));
}

#[test]
fn a_roll_waits_while_a_worker_of_the_new_generation_is_missing() {
    let mut stage = Stage::ready(policy(3));
    stage.load(2, policy(3));
    stage.tell(Event::Ready { worker: worker(3) });
    stage.die(worker(3));
    // The second successor was on its way already; it dies too.
    assert_eq!(stage.die(worker(4)), []);
    stage.wait(SECOND / 5);
    assert_eq!(stage.said(), [spawn(5, 0, 2, Cause::Crash)], "first of all the slot that has nobody");
    assert_eq!(stage.fleet.ready(), 2);
    stage.tell(Event::Ready { worker: worker(5) });
    assert_eq!(stage.said(), [spawn(6, 1, 2, Cause::Roll)]);
}

#[test]
fn a_storm_of_reloads_becomes_one_roll_and_one_more() {
    let mut stage = Stage::ready(policy(1));
    (0..100).for_each(|_| stage.tell(Event::Reload));
    assert_eq!(stage.said(), [Action::Load]);
    stage.load(2, policy(1));
    (0..100).for_each(|_| stage.tell(Event::Reload));
    assert_eq!(stage.said(), [spawn(1, 0, 2, Cause::Roll)]);
    stage.tell(Event::Ready { worker: worker(1) });
    let done = |number| Action::RollEnded { generation: Generation(number), result: RollResult::Done };
    assert_eq!(stage.said(), [drain(0), done(2)], "not within a second");
    stage.pass(RELOAD_INTERVAL);
    assert_eq!(stage.said(), [Action::Load]);
    stage.load(3, policy(1));
    stage.tell(Event::Ready { worker: worker(2) });
    assert_eq!(stage.said(), [spawn(2, 0, 3, Cause::Roll), drain(1), done(3)]);
}

#[test]
fn a_third_reload_waits_while_two_generations_drain() {
    let mut stage = Stage::ready(policy(1));
    for number in [2, 3] {
        stage.load(number, policy(1));
        stage.tell(Event::Ready { worker: worker(number - 1) });
    }
    stage.said();
    stage.tell(Event::Reload);
    assert_eq!(stage.said(), []);
    assert_eq!(stage.die(worker(0)), [Action::Load]);
}

#[test]
fn a_reload_replaces_a_roll_that_cannot_go_on() {
    let mut stage = Stage::ready(policy(2));
    stage.load(2, policy(2));
    stage.tell(Event::Ready { worker: worker(2) });
    stage.tell(Event::Reload);
    stage.said();
    assert_eq!(stage.die(worker(3)), [Action::Load], "its successor in slot 1 died");
    stage.load(3, policy(2));
    let superseded = Action::RollEnded { generation: Generation(2), result: RollResult::Superseded };
    assert_eq!(stage.said(), [superseded, spawn(4, 0, 3, Cause::Roll)]);
    // It cannot start either: the roll before it is finished.
    let cannot = Action::RollEnded { generation: Generation(3), result: RollResult::CannotStart };
    assert_eq!(stage.die(worker(4)), [cannot]);
    stage.wait(SECOND);
    assert_eq!(stage.said(), [spawn(5, 1, 2, Cause::Roll)]);
}

#[test]
fn recycling_starts_a_successor_first_and_one_drains_at_a_time() {
    let mut stage = Stage::ready(Policy { rss_max_bytes: Some(10), ..policy(1) });
    let large = |id| Event::Beat { worker: WorkerId(id), rss_bytes: 11, draining: false };
    stage.tell(large(0));
    assert_eq!(stage.said(), [spawn(1, 0, 1, Cause::Recycle)]);
    stage.tell(Event::Ready { worker: worker(1) });
    assert_eq!(stage.said(), [drain(0)]);
    stage.tell(large(1));
    assert_eq!(stage.said(), []);
    stage.die(worker(0));
    stage.tell(large(1));
    assert_eq!(stage.said(), [], "it is young: the limit may be below what every worker needs");
    stage.pass(RECYCLE_AGE_MIN);
    stage.tell(large(1));
    assert_eq!(stage.said(), [spawn(2, 0, 1, Cause::Recycle)]);
}

#[test]
fn a_successor_takes_the_place_of_a_worker_that_dies_meanwhile() {
    let mut stage = Stage::ready(Policy { rss_max_bytes: Some(10), ..policy(1) });
    stage.tell(Event::Beat { worker: worker(0), rss_bytes: 11, draining: false });
    stage.said();
    stage.tell(Event::Dead { worker: worker(0), exit: Exit::Crashed, written: BTreeMap::new() });
    assert_eq!(stage.said(), [], "nobody else is started");
    stage.tell(Event::Ready { worker: worker(1) });
    assert_eq!((stage.fleet.ready(), stage.said()), (1, vec![]));
}

#[test]
fn a_slot_that_is_to_go_gets_no_successor_when_the_roll_that_began_it_is_gone() {
    let mut stage = mixed(1);
    stage.load(5, policy(1));
    stage.said();
    stage.tell(Event::Dead { worker: worker(3), exit: Exit::Crashed, written: BTreeMap::new() });
    assert_eq!(stage.said(), [spawn(8, 0, 5, Cause::Roll)]);
    stage.die(worker(7));
    let cannot = Action::RollEnded { generation: Generation(5), result: RollResult::CannotStart };
    assert_eq!(stage.die(worker(8)), [cannot]);
    let may = stage.fleet.may_replace_worker(stage.now, SlotId(2));
    assert_eq!(may, Err(NotReplaced::Rolling));
}

/// Generation 4 is proven in slot 0, generations 2 and 3 drain, slots 1 and 2 still have generation 1.
fn mixed(slots: u16) -> Stage {
    let mut stage = Stage::ready(policy(3));
    stage.load(2, policy(3));
    stage.tell(Event::Ready { worker: worker(3) });
    stage.die(worker(4));
    stage.load(3, policy(3));
    stage.tell(Event::Ready { worker: worker(5) });
    stage.die(worker(6));
    stage.tell(Event::Reload);
    assert_eq!(stage.said(), [], "1 and 2 drain, 3 would be the third");
    assert_eq!(stage.die(worker(0)), [Action::Load]);
    stage.load(4, policy(slots));
    stage.said();
    stage.tell(Event::Ready { worker: worker(7) });
    assert_eq!(stage.said(), [drain(5)]);
    stage
}

#[test]
fn a_roll_waits_before_a_third_generation_would_drain() {
    let mut stage = mixed(3);
    stage.tell(Event::Dead { worker: worker(3), exit: Exit::Crashed, written: BTreeMap::new() });
    assert_eq!(stage.said(), [spawn(8, 1, 4, Cause::Roll)]);
}

#[test]
fn a_surplus_worker_stays_while_two_other_generations_drain() {
    let mut stage = mixed(1);
    let done = Action::RollEnded { generation: Generation(4), result: RollResult::Done };
    assert_eq!(stage.die(worker(3)), [drain(2), drain(1), done]);
}
