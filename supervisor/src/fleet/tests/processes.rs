use super::*;

#[test]
fn a_worker_without_a_beat_is_killed_and_replaced() {
    let mut stage = Stage::ready(policy(2));
    stage.tell(Event::Beat { worker: worker(0), rss_bytes: 0, draining: false });
    stage.now += BEAT_TIMEOUT - SECOND;
    stage.tell(Event::Beat { worker: worker(1), rss_bytes: 0, draining: false });
    stage.wait(SECOND);
    assert_eq!(stage.said(), [Action::Kill { worker: worker(0), cause: Cause::Hang }]);
    stage.tell(Event::Dead { worker: worker(0), exit: Exit::Crashed, written: BTreeMap::new() });
    assert_eq!(stage.said(), [spawn(2, 0, 1, Cause::Hang)]);
}

#[test]
fn a_worker_that_takes_nothing_is_killed() {
    let mut stage = Stage::ready(policy(1));
    let (_, worker) = stage.lend();
    stage.pass(TAKE_TIMEOUT - SECOND / 4);
    assert_eq!(stage.said(), []);
    stage.pass(SECOND / 4);
    assert_eq!(stage.said(), [Action::Kill { worker, cause: Cause::Hang }]);
}

#[test]
fn nobody_is_late_when_the_supervisor_was_away() {
    let mut stage = Stage::ready(policy(2));
    stage.lend();
    stage.now += 60 * SECOND;
    stage.tell(Event::Away);
    stage.tell(Event::Tick);
    assert_eq!(stage.said(), []);
}

#[test]
fn a_crash_is_replaced_at_once_and_a_crash_loop_backs_off() {
    let mut stage = Stage::ready(policy(1));
    stage.tell(Event::Closed { worker: worker(0) });
    assert_eq!(stage.said(), [Action::Kill { worker: worker(0), cause: Cause::Crash }]);
    stage.tell(Event::Dead { worker: worker(0), exit: Exit::Crashed, written: BTreeMap::new() });
    assert_eq!(stage.said(), [spawn(1, 0, 1, Cause::Crash)]);
    stage.die(worker(1));
    assert!(stage.fleet.next_deadline() > Some(stage.now));
    stage.wait(SECOND / 5);
    assert_eq!(stage.said(), [spawn(2, 0, 1, Cause::Crash)]);
}

#[test]
fn a_worker_that_leaves_by_itself_is_replaced_and_may_finish() {
    let mut stage = Stage::ready(policy(2));
    let (lease, first) = stage.stream();
    stage.tell(Event::Beat { worker: first, rss_bytes: 0, draining: true });
    assert_eq!(stage.said(), [drain(first.0), spawn(2, 0, 1, Cause::Left)]);
    stage.tell(Event::Released { worker: first, lease, outcome: Outcome::Complete });
    stage.said();
    assert_eq!(stage.die(first), []);
}

#[test]
fn a_worker_that_always_leaves_at_once_backs_off() {
    let mut stage = Stage::new(policy(1));
    stage.said();
    stage.tell(Event::Ready { worker: worker(0) });
    stage.tell(Event::Beat { worker: worker(0), rss_bytes: 0, draining: true });
    assert_eq!(stage.said(), [drain(0)]);
}

#[test]
fn stop_drains_and_nothing_is_started_any_more() {
    let mut stage = Stage::ready(policy(2));
    let (lease, first) = stage.stream();
    stage.tell(Event::Stop { deadline: stage.now + 10 * SECOND });
    let drain = |id| Action::Drain { worker: WorkerId(id), remaining: 10 * SECOND };
    assert_eq!(stage.said(), [drain(0), drain(1)]);
    assert_eq!(stage.fleet.intake(stage.now), Intake::Closed);
    let refused = stage.receive();
    assert_eq!(stage.said(), [Action::Refuse { lease: refused, refusal: Refusal::ShuttingDown }]);
    assert_eq!(stage.die(worker(1)), []);
    stage.pass(10 * SECOND + DRAIN_GRACE);
    assert_eq!(stage.said(), [Action::Kill { worker: first, cause: Cause::DrainTimeout }]);
    assert_eq!(
        stage.die(first),
        [
            Action::ForgetPayload { lease },
            Action::Close { lease, ending: LeaseEnding::EpitaphLost },
            Action::Exit
        ]
    );
}

#[test]
fn a_second_signal_ends_at_once() {
    let mut stage = Stage::ready(policy(1));
    stage.tell(Event::Stop { deadline: stage.now + SECOND });
    stage.said();
    stage.tell(Event::StopNow);
    assert_eq!(stage.said.pop_back(), Some(Action::Exit));
    assert_eq!(stage.said.pop_back(), Some(Action::Kill { worker: worker(0), cause: Cause::Stop }));
    assert_eq!(stage.die(worker(0)), [], "nothing is said after Exit");
}

#[test]
fn an_operator_replaces_one_worker_at_a_time_and_never_during_a_roll() {
    let mut stage = Stage::ready(policy(2));
    let replace = |slot| Event::Replace { slot: SlotId(slot) };
    let may = |stage: &Stage, slot| stage.fleet.may_replace_worker(stage.now, SlotId(slot));
    assert_eq!(may(&stage, 2), Err(NotReplaced::NoSlot { slots: 2 }));
    stage.tell(replace(1));
    assert_eq!(stage.said(), [spawn(2, 1, 1, Cause::Operator)]);
    assert_eq!(may(&stage, 0), Err(NotReplaced::Rolling));
    stage.tell(replace(0));
    assert_eq!(stage.said(), [], "refused");
    stage.tell(Event::Ready { worker: worker(2) });
    assert_eq!(stage.said(), [drain(1)]);
    assert_eq!(may(&stage, 1), Err(NotReplaced::StillDraining));
    // A successor that dies takes nobody away.
    stage.tell(replace(0));
    assert_eq!(stage.said(), [spawn(3, 0, 1, Cause::Operator)]);
    assert_eq!(stage.die(worker(3)), []);
    assert_eq!(may(&stage, 0), Err(NotReplaced::DiedEarly));
    stage.die(worker(1));
    assert_eq!(may(&stage, 1), Ok(()));
    stage.load(2, policy(2));
    assert_eq!(may(&stage, 1), Err(NotReplaced::Rolling));
    stage.tell(Event::Stop { deadline: stage.now + SECOND });
    assert_eq!(may(&stage, 1), Err(NotReplaced::Stopping));
}
