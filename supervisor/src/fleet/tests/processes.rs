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

/// How long nobody is started after each of so many deaths in a row.
fn delays(deaths: u32, live: impl Fn(&mut Stage, WorkerId)) -> Vec<Duration> {
    let mut stage = Stage::new(policy(1));
    stage.said();
    let mut delays = Vec::new();
    let mut id = worker(0);
    for _ in 0..deaths {
        live(&mut stage, id);
        stage.tell(Event::Dead { worker: id, exit: Exit::Crashed, written: BTreeMap::new() });
        let died_at = stage.now;
        id = loop {
            if let [next] = stage.spawned()[..] {
                break next;
            }
            stage.wait(Duration::from_millis(10));
        };
        delays.push(stage.now - died_at);
    }
    delays
}

#[test]
fn who_dies_before_ready_is_replaced_ever_more_slowly() {
    let delays = delays(10, |_, _| ());
    assert!(delays[9] > 20 * SECOND && delays.is_sorted_by(|one, next| *one < *next * 3 / 2), "{delays:?}");
}

#[test]
fn who_dies_right_after_ready_with_nothing_done_is_replaced_within_about_a_second() {
    let delays = delays(10, |stage, id| stage.tell(Event::Ready { worker: id }));
    assert!(delays[1] >= SECOND / 20, "{delays:?}");
    assert!(delays[9] >= SECOND * 3 / 4 && delays.iter().all(|delay| *delay < SECOND * 5 / 4), "{delays:?}");
}

#[test]
fn who_has_done_something_is_replaced_at_once_or_when_many_die_after_a_tenth_of_a_second() {
    let delays = delays(20, |stage, id| {
        stage.tell(Event::Ready { worker: id });
        let (lease, holder) = stage.lend();
        stage.release(lease, holder);
    });
    assert!(delays[..5].iter().all(Duration::is_zero) && !delays[5].is_zero(), "{delays:?}");
    assert!(delays.iter().all(|delay| *delay <= SECOND / 8), "{delays:?}");
}

#[test]
fn a_worker_above_the_hard_limit_is_killed_and_its_streams_get_their_last_event() {
    let mut stage = Stage::ready(Policy { rss_hard_max_bytes: Some(100), ..policy(2) });
    let (lease, first) = stage.stream();
    stage.tell(Event::Beat { worker: first, rss_bytes: 100, draining: false });
    assert_eq!(stage.said(), []);
    stage.tell(Event::Beat { worker: first, rss_bytes: 101, draining: false });
    assert_eq!(stage.said(), [Action::Kill { worker: first, cause: Cause::Memory }]);
    let said = stage.die(first);
    assert!(matches!(said[1], Action::LendEpitaph { lease: ended, .. } if ended == lease), "{said:?}");
}

#[test]
fn a_draining_worker_above_the_hard_limit_is_killed_too() {
    let mut stage = Stage::ready(Policy { rss_hard_max_bytes: Some(100), ..policy(1) });
    let (_, first) = stage.stream();
    stage.tell(Event::Stop { deadline: stage.now + SECOND });
    stage.said();
    stage.tell(Event::Beat { worker: first, rss_bytes: 101, draining: true });
    assert_eq!(stage.said(), [Action::Kill { worker: first, cause: Cause::Memory }]);
}

#[test]
fn while_stopping_a_draining_worker_that_has_streams_writes_the_last_event_of_a_dead_one() {
    let mut stage = Stage::ready(policy(3));
    let (lease, first) = stage.stream();
    let (_, second) = stage.stream();
    stage.tell(Event::Stop { deadline: stage.now + 10 * SECOND });
    stage.said();
    assert_eq!(
        stage.die(first),
        [
            Action::ForgetPayload { lease },
            Action::LendEpitaph { lease, worker: second, format: Format::Text }
        ]
    );
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
