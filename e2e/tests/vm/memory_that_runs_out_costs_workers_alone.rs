//! The unit's MemoryMax is reached: the kernel kills the worker that has grown, and the supervisor lives. Begun streams
//! end with `worker_crashed`, the others are answered by somebody else; systemd lets the service go on.
//!
//! The kernel sometimes takes a second worker, small as it is, while the first one's memory is not yet free. Nobody is
//! without an answer then either: this test counts them by who died.

use std::fs;
use std::time::{Duration, Instant};

use handoff_e2e::process::{is_alive, status};
use handoff_e2e::{Crowd, Response, eventually};

use crate::guest::{Guest, run};

/// With this much for all of its processes.
pub(crate) const MEMORY_MAX_MB: u64 = 100;
/// A handoff that costs its worker more than a megabyte until its answer ends. Its head goes out at once.
const GROWING: &str = r#"{"mock":{"first_token_delay_ms":60000,"length":3},"prompt":""#;
/// A handoff that costs nothing, and stays as long.
const SMALL: &str = r#"{"mock":{"first_token_delay_ms":60000,"length":3},"prompt":"x"}"#;

/// A payload of a million bytes.
pub(crate) fn large(begin: &str) -> String {
    format!("{begin}{}\"}}", "word ".repeat(200_000))
}

#[test]
fn the_supervisor_lives_and_everybody_is_answered() {
    let toml = "[server]\nhandoff_buffer_size = 1048576\n[client]\ncommit_after_secs = 0.1\n";
    let guest = Guest::start(toml, &format!("MemoryMax={MEMORY_MAX_MB}M\nMemorySwapMax=0"));
    let (supervisor, workers) = (guest.main_pid(), guest.workers());
    let score = |pid: u32| fs::read_to_string(format!("/proc/{pid}/oom_score_adj")).unwrap_or_default();
    assert_eq!((score(supervisor).trim(), score(workers[0].0).trim()), ("-500", "500"));
    let (payload, began_at) = (large(GROWING), Instant::now());
    let (mut growing, mut small) = (Crowd::default(), Crowd::default());
    let mut largest = (0, 0);
    let all_live = || workers.iter().all(|(pid, _)| is_alive(*pid));
    // Large and small ones take turns, and the least-loaded worker is the next one: one worker gets all large ones.
    // Each has begun when the next one comes: so whoever has not begun when memory runs out is the last one.
    while all_live() {
        assert!(growing.waiting() < 200, "200 MB are in there, and nobody was killed");
        growing.join(guest.hand_over(&payload));
        begun(&mut growing, all_live);
        if all_live() {
            largest = (0..2)
                .map(|slot| (workers[slot].0, resident(workers[slot].0)))
                .max_by_key(|one| one.1)
                .unwrap_or_default();
        }
        small.join(guest.hand_over(SMALL));
        begun(&mut small, all_live);
    }
    let handed_over = growing.waiting();
    let took = began_at.elapsed();
    eventually("both slots have a worker again", || (guest.workers().len() == 2).then_some(()));
    let dead: Vec<u32> = workers.iter().map(|(pid, _)| *pid).filter(|pid| !is_alive(*pid)).collect();
    let killed = run("dmesg | grep 'Killed process'").1;
    eprintln!("{MEMORY_MAX_MB} MiB for all processes; {handed_over} large handoffs in {took:.0?}; {killed}");
    // The first one is the large one; nobody else than the dead is named.
    assert!(killed.contains(&format!("Killed process {} (handoffd-worker)", largest.0)), "{killed}");
    assert_eq!(
        (killed.matches("(handoffd-worker)").count(), killed.lines().count()),
        (dead.len(), dead.len())
    );
    assert_eq!((guest.main_pid(), guest.property("NRestarts").as_str()), (supervisor, "0"));
    assert_eq!(
        (guest.property("ActiveState").as_str(), guest.property("OOMPolicy").as_str()),
        ("active", "continue")
    );
    let unit = run("journalctl --unit=handoffd.service --no-pager --output=cat | grep -i 'OOM killer'").1;
    assert!(unit.contains("killed by the OOM killer"), "{unit}");
    answered(&guest, growing, small, dead.len());
}

/// Everybody has one answer: whole, or with the word that the worker crashed, by an epitaph or, where a second worker
/// died too, by a 502.
fn answered(guest: &Guest, growing: Crowd, small: Crowd, dead: usize) {
    let patience = Duration::from_secs(120);
    let responses = [growing.responses(patience), small.responses(patience)].concat();
    assert!(responses.iter().all(|response| response.heads() == 1 && response.broken.is_none()));
    let count = |is: &dyn Fn(&&Response) -> bool| responses.iter().filter(is).count();
    let crashed = |response: &Response| response.error_code().is_some_and(|code| code == "worker_crashed");
    let complete = count(&|response| response.is_complete());
    let told = count(&|response| response.status == 200 && crashed(response));
    let refused = count(&|response| response.status == 502 && crashed(response));
    let (epitaphs, again) =
        (guest.metric("handoffd_epitaphs_total"), guest.metric("handoffd_redispatches_total"));
    eprintln!(
        "{} streams: {complete} complete, {told} told worker_crashed, {refused} refused; {epitaphs} epitaphs, {again} tried again",
        responses.len()
    );
    assert_eq!(told + complete + refused, responses.len());
    assert!(told > 0 && again > 0.5, "begun ones and others");
    assert!((epitaphs - told as f64).abs() < 0.5);
    assert!(refused == 0 || dead > 1);
}

/// Resident memory in KiB.
fn resident(pid: u32) -> u64 {
    status(pid, "VmRSS").split(' ').next().and_then(|kib| kib.parse().ok()).unwrap_or(0)
}

/// Waits until everybody has heard the head, or there is no reason to.
pub(crate) fn begun(crowd: &mut Crowd, is_worth_it: impl Fn() -> bool) {
    eventually("the head of each answer", || {
        crowd.listen(Duration::from_millis(50));
        (crowd.heard().iter().all(|heard| !heard.is_empty()) || !is_worth_it()).then_some(())
    });
}
