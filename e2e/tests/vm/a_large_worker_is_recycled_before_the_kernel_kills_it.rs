//! With `workers.rss_max_mb` below what the unit may have, a worker that grows is replaced by draining: nobody is cut,
//! and the kernel has no reason to kill.

use std::time::{Duration, Instant};

use handoff_e2e::process::is_alive;
use handoff_e2e::{Crowd, eventually};

use crate::guest::{Guest, all_complete, run};
use crate::memory_that_runs_out_costs_workers_alone::{MEMORY_MAX_MB, begun, large};

/// Costs its worker more than a megabyte for half a minute.
const GROWING: &str = r#"{"mock":{"first_token_delay_ms":30000,"length":3},"prompt":""#;

#[test]
fn its_streams_finish_and_nobody_is_killed() {
    let toml =
        "rss_max_mb = 30\n[server]\nhandoff_buffer_size = 1048576\n[client]\ncommit_after_secs = 0.1\n";
    let guest = Guest::start(toml, &format!("MemoryMax={}M\nMemorySwapMax=0", 2 * MEMORY_MAX_MB));
    let (supervisor, first) = (guest.main_pid(), guest.workers());
    let killed = || run("dmesg | grep --count 'Killed process'").1;
    let killed_before = killed();
    let (mut crowd, payload) = (Crowd::default(), large(GROWING));
    let recycled = || {
        guest.metric("handoffd_worker_restarts_total{slot=\"0\",reason=\"recycle\"}")
            + guest.metric("handoffd_worker_restarts_total{slot=\"1\",reason=\"recycle\"}")
    };
    let began_at = Instant::now();
    while recycled() < 0.5 {
        assert!(began_at.elapsed() < Duration::from_secs(60), "nobody was recycled: {:?}", guest.status());
        crowd.join(guest.hand_over(&payload));
        begun(&mut crowd, || true);
    }
    let large_ones = crowd.waiting();
    let responses = crowd.responses(Duration::from_secs(60));
    all_complete(&responses);
    eventually("a drained worker ends", || first.iter().any(|(pid, _)| !is_alive(*pid)).then_some(()));
    eprintln!(
        "{} streams, {large_ones} of them when a worker was recycled: all complete; {} recycled",
        responses.len(),
        recycled()
    );
    assert!(recycled() > 0.0 && (recycled() - guest.restarts()).abs() < 0.5, "{:?}", guest.status());
    assert_eq!((guest.main_pid(), killed()), (supervisor, killed_before));
}
