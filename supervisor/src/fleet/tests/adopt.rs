use super::*;

/// What an adopted worker says.
fn page(slot: u16, generation: u32, leases: &[HeldLease]) -> HeldPage {
    HeldPage {
        last: true,
        speaks_ours: true,
        slot: SlotId(slot),
        generation: Generation(generation),
        drain_remaining: None,
        leases: leases.to_vec(),
    }
}

fn held(number: u32, stage: HeldStage) -> HeldLease {
    HeldLease { lease: past(number), attempt: 0, stage, has_fd: true }
}

/// A lease of an earlier supervisor.
fn past(number: u32) -> LeaseId {
    (0..number).fold(LeaseId::first(0), |lease, _| lease.next())
}

/// Has been asked and has not answered; generations 1 and 2 are known.
fn adopting(slots: u16, workers: u32) -> Stage {
    let now = Instant::now();
    let fleet = Fleet::new(now, policy(slots), 7);
    let mut stage = Stage { fleet, now, said: VecDeque::new(), next_lease: LeaseId::first(1) };
    let known = [Generation(1), Generation(2)].into();
    stage.tell(Event::Adopt { workers: (0..workers).map(WorkerId).collect(), known });
    let asked: Vec<Action> = (0..workers).map(|id| Action::Resync { worker: WorkerId(id) }).collect();
    assert_eq!(stage.said(), asked);
    stage
}

/// Worker 0 has slot 0, worker 1 slot 1, and so on; the first holds these leases.
fn adopted(slots: u16, leases: &[HeldLease]) -> Stage {
    let mut stage = adopting(slots, slots.into());
    for slot in 0..slots {
        let leases = if slot == 0 { leases } else { &[] };
        stage.hold(slot.into(), page(slot, 1, leases));
    }
    assert_eq!(stage.said(), [taken_over(1)]);
    stage
}

fn taken_over(generation: u32) -> Action {
    Action::Adopted { generation: Generation(generation) }
}

fn kill(id: u32, cause: Cause) -> Action {
    Action::Kill { worker: WorkerId(id), cause }
}

impl Stage {
    fn hold(&mut self, id: u32, page: HeldPage) {
        self.tell(Event::Held { worker: WorkerId(id), page });
    }
}

#[test]
fn nothing_is_accepted_or_started_until_everybody_has_answered() {
    let mut stage = adopting(3, 2);
    stage.hold(1, page(1, 1, &[]));
    stage.wait(SECOND);
    assert_eq!((stage.fleet.intake(stage.now), stage.fleet.shed_at()), (Intake::Hold, None));
    assert_eq!(stage.said(), []);
    stage.hold(0, page(0, 1, &[]));
    assert_eq!(stage.said(), [taken_over(1), spawn(2, 2, 1, Cause::Start)]);
    assert_eq!(stage.fleet.intake(stage.now), Intake::Open);
}

#[test]
fn all_pages_are_waited_for_and_load_is_what_is_on_them() {
    let mut stage = adopting(1, 1);
    let committed = HeldStage::Committed(Format::Text);
    stage.hold(0, HeldPage { last: false, ..page(0, 1, &[held(1, HeldStage::Taken), held(2, committed)]) });
    assert_eq!(stage.said(), []);
    stage.hold(0, page(0, 1, &[held(3, HeldStage::Epitaph)]));
    assert_eq!(stage.said(), [taken_over(1)]);
    assert_eq!((stage.fleet.load(), stage.fleet.report(stage.now).workers[0].leases), ((3, 3), 3));
    for number in 1..=3 {
        let (worker, lease, outcome) = (worker(0), past(number), Outcome::Complete);
        stage.tell(Event::Released { worker, lease, outcome });
    }
    let closed =
        |number| Action::Close { lease: past(number), ending: LeaseEnding::Released(Outcome::Complete) };
    assert_eq!(stage.said(), [closed(1), closed(2), closed(3)]);
    assert_eq!(stage.fleet.report(stage.now).workers[0].leases, 0);
}

#[test]
fn words_to_an_earlier_supervisor_break_no_rule_and_its_endings_are_counted() {
    let mut stage = adopting(1, 1);
    let (id, lease, outcome) = (worker(0), past(9), Outcome::Complete);
    stage.tell(Event::Ready { worker: id });
    stage.tell(Event::Taken { worker: id, leases: vec![lease] });
    stage.tell(Event::Committed { worker: id, lease, format: Format::Text });
    assert_eq!(stage.said(), []);
    stage.tell(Event::Released { worker: id, lease, outcome });
    assert_eq!(stage.said(), [Action::Close { lease, ending: LeaseEnding::Released(outcome) }]);
    // Too late to be asked, but they are its last words.
    stage.wait(ADOPT_TIMEOUT);
    assert_eq!(stage.said(), [kill(0, Cause::Hang)]);
    stage.tell(Event::Released { worker: id, lease: past(8), outcome });
    assert_eq!(stage.said(), [Action::Close { lease: past(8), ending: LeaseEnding::Released(outcome) }]);
}

/// A sacrificial worker is started for suspects, and is Ready.
fn sacrifice(stage: &mut Stage, said: &mut Vec<Action>) -> WorkerId {
    let is_it = |action: &Action| matches!(action, Action::Spawn { cause: Cause::Suspects, .. });
    let at = said.iter().position(is_it).expect("a sacrificial worker");
    let Action::Spawn { worker, .. } = said.remove(at) else { unreachable!("it is one") };
    said.retain(|action| !matches!(action, Action::Spawn { .. }));
    stage.tell(Event::Ready { worker });
    worker
}

/// What is said about a death, with the processes.
fn bury(stage: &mut Stage, id: u32) -> Vec<Action> {
    stage.tell(Event::Dead { worker: worker(id), exit: Exit::Crashed, written: BTreeMap::new() });
    stage.said()
}

fn lend(number: u32, to: WorkerId, attempt: u8) -> Action {
    Action::Lend { lease: past(number), worker: to, attempt }
}

#[test]
fn unknown_leases_are_violations_again_once_everything_is_said() {
    let words: [fn(WorkerId) -> Event; 3] = [
        |worker| Event::Taken { worker, leases: vec![past(9)] },
        |worker| Event::Committed { worker, lease: past(9), format: Format::Text },
        |worker| Event::Released { worker, lease: past(9), outcome: Outcome::Complete },
    ];
    for word in words {
        // Also while others have not answered.
        let mut stage = adopting(2, 2);
        stage.hold(0, page(0, 1, &[]));
        stage.tell(word(worker(0)));
        assert_eq!(stage.said(), [kill(0, Cause::Protocol)]);
    }
}

#[test]
fn who_says_again_what_it_holds_is_killed_and_its_clients_are_looked_after() {
    let mut stage = adopted(2, &[]);
    stage.hold(0, page(0, 1, &[held(1, HeldStage::Taken)]));
    assert_eq!(stage.said(), [kill(0, Cause::Protocol)]);
    let mut said = bury(&mut stage, 0);
    let sacrificial = sacrifice(&mut stage, &mut said);
    assert_eq!((said, stage.said()), (vec![], vec![lend(1, sacrificial, 1)]));
}

#[test]
fn who_does_not_answer_in_time_is_killed_and_its_death_waited_for() {
    let mut stage = adopting(2, 2);
    stage.hold(0, page(0, 1, &[held(1, HeldStage::Taken)]));
    assert_eq!(stage.fleet.next_deadline(), Some(stage.now + ADOPT_TIMEOUT));
    stage.now += ADOPT_TIMEOUT;
    stage.tell(Event::Beat { worker: worker(0), rss_bytes: 0, draining: false });
    stage.tell(Event::Tick);
    assert_eq!(stage.said(), [kill(1, Cause::Hang)]);
    assert_eq!(stage.fleet.intake(stage.now), Intake::Hold);
    stage.tell(Event::Dead { worker: worker(1), exit: Exit::Crashed, written: BTreeMap::new() });
    assert_eq!(stage.said(), [taken_over(1), spawn(2, 1, 1, Cause::Start)]);
}

#[test]
fn the_clients_of_one_that_answers_too_late_are_not_forgotten() {
    let mut stage = adopting(2, 2);
    stage.hold(1, page(1, 1, &[]));
    stage.tell(Event::Misbehaved { worker: worker(0) });
    assert_eq!(stage.said(), [kill(0, Cause::Protocol)]);
    stage.hold(0, page(0, 1, &[held(1, HeldStage::Taken)]));
    assert_eq!(stage.said(), []);
    let mut said = bury(&mut stage, 0);
    let sacrificial = sacrifice(&mut stage, &mut said);
    assert_eq!((said, stage.said()), (vec![taken_over(1)], vec![lend(1, sacrificial, 1)]));
}

#[test]
fn who_dies_between_its_pages_gives_back_what_it_has_said() {
    let mut stage = adopting(2, 2);
    stage.hold(0, HeldPage { last: false, ..page(0, 1, &[held(1, HeldStage::Taken)]) });
    assert_eq!(stage.die(worker(0)), [], "nobody is known yet who could take it");
    stage.wait(3 * SECOND);
    assert_eq!(stage.said(), [], "while nobody can take it nobody waits in vain");
    stage.hold(1, page(1, 1, &[]));
    let mut said = stage.said();
    let sacrificial = sacrifice(&mut stage, &mut said);
    assert_eq!((said, stage.said()), (vec![taken_over(1)], vec![lend(1, sacrificial, 1)]));
}

#[test]
fn the_newest_generation_with_a_ready_worker_is_the_current_one() {
    let mut stage = adopting(2, 3);
    stage.hold(0, page(0, 1, &[]));
    stage.hold(1, page(1, 2, &[]));
    stage.hold(2, HeldPage { drain_remaining: Some(SECOND), ..page(1, 3, &[]) });
    let again = Action::Drain { worker: worker(2), remaining: SECOND };
    assert_eq!(stage.said(), [taken_over(2), again, spawn(3, 0, 2, Cause::Roll)]);
    assert_eq!(stage.fleet.ready(), 2, "who is of an older one keeps its slot");
    stage.tell(Event::Ready { worker: worker(3) });
    let done = Action::RollEnded { generation: Generation(2), result: RollResult::Done };
    assert_eq!(stage.said(), [drain(0), done]);
}

#[test]
fn a_slot_never_has_two_workers() {
    let mut stage = adopting(1, 3);
    stage.hold(0, page(0, 2, &[]));
    stage.hold(1, page(0, 1, &[]));
    stage.hold(2, page(0, 1, &[]));
    assert_eq!(stage.said(), [taken_over(2), drain(1), drain(2)]);
    assert_eq!((stage.fleet.ready(), stage.lend().1), (1, worker(0)));
}

#[test]
fn who_speaks_another_version_drains_and_is_lent_nothing() {
    let mut stage = adopting(1, 1);
    stage.hold(0, HeldPage { speaks_ours: false, ..page(0, 1, &[held(1, HeldStage::Taken)]) });
    // Its generation cannot be told from ours by its number: ours is a new one.
    assert_eq!(stage.said(), [taken_over(3), drain(0), spawn(1, 0, 3, Cause::Start)]);
    stage.receive();
    assert_eq!(stage.said(), []);
    assert_eq!(stage.fleet.load(), (2, 1));
}

#[test]
fn drains_are_said_again_and_the_earlier_deadline_stays() {
    let mut stage = adopting(1, 2);
    stage.hold(0, HeldPage { drain_remaining: Some(7 * SECOND), ..page(0, 1, &[]) });
    stage.now += SECOND;
    stage.hold(1, page(0, 1, &[]));
    assert_eq!(stage.said(), [taken_over(1), Action::Drain { worker: worker(0), remaining: 6 * SECOND }]);
    stage.pass(6 * SECOND + DRAIN_GRACE);
    assert_eq!(stage.said(), [kill(0, Cause::DrainTimeout)]);
}

#[test]
fn workers_of_which_nothing_is_known_serve_until_a_new_generation_replaces_them() {
    let mut stage = adopting(1, 1);
    stage.hold(0, page(0, 9, &[]));
    assert_eq!(stage.said(), [taken_over(10), spawn(1, 0, 10, Cause::Roll)]);
    assert_eq!(stage.lend().1, worker(0));
    stage.tell(Event::Ready { worker: worker(1) });
    let done = Action::RollEnded { generation: Generation(10), result: RollResult::Done };
    assert_eq!(stage.said(), [drain(0), done]);
}

#[test]
fn a_slot_that_no_configuration_can_have_drains() {
    let mut stage = adopting(1, 1);
    stage.hold(0, page(SLOTS_MAX, 1, &[]));
    assert_eq!(stage.said(), [taken_over(1), drain(0), spawn(1, 0, 1, Cause::Start)]);
}

#[test]
fn a_slot_of_an_earlier_larger_configuration_is_given_up_by_a_roll() {
    let mut stage = adopting(1, 2);
    stage.hold(0, page(3, 1, &[]));
    stage.hold(1, page(0, 1, &[]));
    let done = Action::RollEnded { generation: Generation(1), result: RollResult::Done };
    assert_eq!(stage.said(), [taken_over(1), drain(0), done]);
    assert_eq!(stage.fleet.report(stage.now).outline.slots, 1);
}

#[test]
fn a_lease_of_two_workers_ends_the_second_one_and_its_other_clients_are_looked_after() {
    let mut stage = adopting(2, 2);
    let (both, other) = (held(1, HeldStage::Taken), held(2, HeldStage::Taken));
    stage.hold(0, page(0, 1, &[both]));
    stage.hold(1, page(1, 1, &[held(3, HeldStage::Taken), both, other]));
    assert_eq!(stage.said(), [kill(1, Cause::Protocol)]);
    let load = stage.fleet.report(stage.now).workers.into_iter().find(|one| one.worker == Some(worker(1)));
    assert_eq!(load.map(|one| one.leases), Some(2));
    // Last words count, and count only once.
    stage.tell(Event::Released { worker: worker(0), lease: past(1), outcome: Outcome::Complete });
    assert_eq!(stage.said().len(), 1);
    let mut said = bury(&mut stage, 1);
    let sacrificial = sacrifice(&mut stage, &mut said);
    assert_eq!((said, stage.said()), (vec![taken_over(1)], vec![lend(2, sacrificial, 1)]));
    stage.tell(Event::Taken { worker: sacrificial, leases: vec![past(2)] });
    stage.tell(Event::Committed { worker: sacrificial, lease: past(2), format: Format::Text });
    assert_eq!(stage.said(), [Action::ForgetPayload { lease: past(2) }, lend(3, sacrificial, 1)]);
}

#[test]
fn a_lease_of_somebody_else_cannot_be_ended_by_words_to_an_earlier_supervisor() {
    let mut stage = adopting(2, 2);
    stage.hold(0, page(0, 1, &[held(1, HeldStage::Taken)]));
    stage.tell(Event::Released { worker: worker(1), lease: past(1), outcome: Outcome::Complete });
    assert_eq!(stage.said(), [kill(1, Cause::Protocol)]);
    assert_eq!(stage.fleet.load(), (1, 1));
}

#[test]
fn attempts_are_counted_across_adoptions() {
    let mut stage = adopted(2, &[HeldLease { attempt: 15, ..held(1, HeldStage::Taken) }]);
    let refuse = Action::Refuse { lease: past(1), refusal: Refusal::WorkerCrashed };
    assert_eq!(stage.die(worker(0)), [refuse]);
    let mut stage = adopted(2, &[HeldLease { attempt: 3, ..held(1, HeldStage::Taken) }]);
    let mut said = bury(&mut stage, 0);
    let sacrificial = sacrifice(&mut stage, &mut said);
    assert_eq!((said, stage.said()), (vec![], vec![lend(1, sacrificial, 4)]));
}

#[test]
fn who_was_writing_gets_its_last_event_from_somebody_else_also_after_an_adoption() {
    let mut stage = adopted(2, &[held(1, HeldStage::Committed(Format::Text))]);
    let (lease, worker, format) = (past(1), worker(1), Format::Text);
    let said = stage.die(WorkerId(0));
    assert_eq!(said, [Action::ForgetPayload { lease }, Action::LendEpitaph { lease, worker, format }]);
    let mut stage = adopted(2, &[held(1, HeldStage::Epitaph)]);
    assert_eq!(stage.die(WorkerId(0)), [Action::Close { lease, ending: LeaseEnding::EpitaphLost }]);
}

#[test]
fn a_lease_whose_fd_did_not_come_along_ends_with_its_worker() {
    for stage in [HeldStage::Taken, HeldStage::Committed(Format::Text)] {
        let mut stage = adopted(2, &[HeldLease { has_fd: false, ..held(1, stage) }]);
        let lost = Action::Close { lease: past(1), ending: LeaseEnding::EpitaphLost };
        assert_eq!(stage.die(worker(0)), [lost]);
    }
}

#[test]
fn stop_during_an_adoption_starts_nobody_and_everybody_drains() {
    let mut stage = adopting(2, 2);
    stage.hold(0, page(0, 1, &[]));
    stage.tell(Event::Stop { deadline: stage.now + 10 * SECOND });
    let drain = |id| Action::Drain { worker: WorkerId(id), remaining: 10 * SECOND };
    assert_eq!(stage.said(), [drain(0), drain(1)]);
    stage.hold(1, page(1, 1, &[held(1, HeldStage::Taken)]));
    assert_eq!((stage.said(), stage.fleet.intake(stage.now)), (vec![], Intake::Closed));
    assert_eq!(stage.die(worker(0)), []);
    let refuse = Action::Refuse { lease: past(1), refusal: Refusal::ShuttingDown };
    assert_eq!(stage.die(worker(1)), [refuse, Action::Exit]);
}

#[test]
fn a_drain_and_a_stop_during_an_adoption_end_at_the_earlier_deadline() {
    for own in [3 * SECOND, 20 * SECOND] {
        let mut stage = adopting(1, 1);
        stage.tell(Event::Stop { deadline: stage.now + 10 * SECOND });
        stage.hold(0, HeldPage { drain_remaining: Some(own), ..page(0, 1, &[]) });
        stage.said();
        stage.pass(own.min(10 * SECOND) + DRAIN_GRACE - SECOND);
        assert_eq!(stage.said(), []);
        stage.pass(SECOND);
        assert_eq!(stage.said(), [kill(0, Cause::DrainTimeout)]);
    }
}

#[test]
fn who_waited_for_an_adoption_has_the_whole_queue_timeout_after_it() {
    let mut stage = adopting(1, 2);
    let streaming = held(1, HeldStage::Committed(Format::Text));
    stage.hold(0, HeldPage { last: false, ..page(0, 1, &[streaming]) });
    assert_eq!(stage.die(worker(0)), [Action::ForgetPayload { lease: past(1) }]);
    stage.wait(3 * SECOND);
    assert_eq!(stage.die(worker(1)), [taken_over(3)]);
    stage.wait(2 * SECOND - Duration::from_millis(1));
    assert_eq!(stage.said(), []);
    stage.wait(Duration::from_millis(1));
    assert_eq!(stage.said(), [Action::Close { lease: past(1), ending: LeaseEnding::EpitaphLost }]);
}

#[test]
fn a_reload_during_an_adoption_waits_for_its_end() {
    let mut stage = adopting(1, 1);
    stage.tell(Event::Reload);
    assert_eq!(stage.said(), []);
    stage.hold(0, page(0, 1, &[]));
    assert_eq!(stage.said(), [taken_over(1)]);
    assert!(stage.fleet.next_deadline() <= Some(stage.now));
    stage.tell(Event::Tick);
    assert_eq!(stage.said(), [Action::Load]);
}

#[test]
fn nobody_is_late_with_an_answer_when_the_supervisor_was_away() {
    let mut stage = adopting(1, 1);
    stage.now += 60 * SECOND;
    stage.tell(Event::Away);
    stage.tell(Event::Tick);
    assert_eq!(stage.said(), []);
}

#[test]
fn a_supervisor_that_leaves_starts_nobody_and_goes_when_nothing_is_in_its_hands() {
    let mut stage = Stage::ready(policy(1));
    let (lease, first) = stage.lend();
    stage.load(2, policy(1));
    assert_eq!(stage.said(), [spawn(1, 0, 2, Cause::Roll)]);
    stage.tell(Event::Leave);
    assert_eq!(stage.said(), [kill(1, Cause::Stop)]);
    assert_eq!((stage.fleet.intake(stage.now), stage.fleet.is_quiet()), (Intake::Hold, false));
    stage.take(lease, first);
    assert!(!stage.fleet.is_quiet(), "a process is being ended");
    let cannot = Action::RollEnded { generation: Generation(2), result: RollResult::CannotStart };
    assert_eq!(stage.die(worker(1)), [cannot]);
    assert!(stage.fleet.is_quiet());
    stage.receive();
    assert_eq!(stage.said().len(), 1, "who was on the way in is lent on");
    let said = bury(&mut stage, 0);
    assert!(
        matches!(said[..], [Action::Spawn { cause: Cause::Suspects, .. }]),
        "for suspects alone: {said:?}"
    );
    stage.wait(SECOND);
    assert!(stage.spawned().is_empty() && !stage.fleet.is_quiet(), "two clients are in our hands");
    stage.tell(Event::Abandon);
    assert_eq!(stage.said().len(), 2);
}

#[test]
fn a_supervisor_that_leaves_starts_whom_a_begun_stream_needs() {
    let mut stage = Stage::ready(policy(1));
    let (lease, first) = stage.stream();
    assert_eq!(stage.die(first), [Action::ForgetPayload { lease }]);
    stage.tell(Event::Leave);
    assert_eq!(stage.said(), [], "whoever is on the way in will write its epitaph");
    assert_eq!(stage.die(worker(1)), []);
    stage.wait(SECOND / 2);
    assert_eq!(stage.spawned(), [worker(2)], "there is nobody else");
    assert!(!stage.fleet.is_quiet());
    stage.tell(Event::Ready { worker: worker(2) });
    let said = stage.said();
    assert!(matches!(said[..], [Action::LendEpitaph { lease: lent, .. }] if lent == lease), "{said:?}");
    stage.take(lease, worker(2));
    assert!(stage.fleet.is_quiet());
}

#[test]
fn nothing_is_lent_by_a_supervisor_that_gives_up_leaving_well() {
    let mut stage = Stage::ready(policy(2));
    let (lease, first) = stage.stream();
    let (_, second) = stage.stream();
    stage.tell(Event::Beat { worker: second, rss_bytes: 0, draining: true });
    stage.tell(Event::Leave);
    stage.said();
    assert_eq!(stage.die(first), [Action::ForgetPayload { lease }]);
    stage.tell(Event::Abandon);
    let lost = Action::Close { lease, ending: LeaseEnding::EpitaphLost };
    assert_eq!(stage.said(), [lost], "it would never be sent");
}

#[test]
fn a_supervisor_that_stays_goes_on() {
    let mut stage = Stage::ready(policy(1));
    stage.tell(Event::Leave);
    stage.tell(Event::Reload);
    assert_eq!((stage.die(worker(0)), stage.fleet.is_settled()), (vec![], false));
    stage.wait(SECOND);
    assert_eq!(stage.said(), []);
    stage.tell(Event::Stay);
    stage.wait(SECOND / 10);
    assert_eq!(stage.said(), [spawn(1, 0, 1, Cause::Crash), Action::Load]);
    stage.tell(Event::Ready { worker: worker(1) });
    assert_eq!(stage.fleet.intake(stage.now), Intake::Open);
}

#[test]
fn a_supervisor_that_leaves_while_it_adopts_starts_nobody_either() {
    let mut stage = adopting(2, 1);
    stage.tell(Event::Leave);
    assert!(!stage.fleet.is_quiet());
    stage.hold(0, page(0, 1, &[]));
    assert_eq!(stage.said(), [taken_over(1)]);
    assert!(stage.fleet.is_quiet());
    stage.tell(Event::Stay);
    stage.pass(SECOND);
    assert_eq!(stage.spawned(), [worker(1)]);
}
