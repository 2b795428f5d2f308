//! 500 handoffs a second while workers are killed again and again: everybody gets exactly one answer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use handoff_e2e::apache::Kind;
use handoff_e2e::process::{children, fds, signal};
use handoff_e2e::{Crowd, Daemon, Door, PATIENCE, Response, eventually};
use nix::sys::signal::Signal;

const HANDOFFS: u32 = 2_000;
const PER_SECOND: u32 = 500;
const KILL_EVERY: Duration = Duration::from_millis(400);
/// Half of its life a stream has not begun.
const PAYLOAD: &[u8] =
    br#"{"prompt":"x","mock":{"first_token_delay_ms":100,"length":10,"token_delay_ms":10}}"#;
/// The end of a whole stream, then the beginning of an error event.
const AFTER_THE_END: &str = "event: done\ndata: [DONE]\n\n\n\ndata: {\"error\":";

#[test]
fn everybody_is_answered_once_and_the_numbers_add_up() {
    let daemon = Daemon::start("[workers]\ncount = 4\n[logging]\nformat = \"json\"\nlevel = \"info\"\n");
    let fds_before = fds(daemon.pid());
    let mut crowd = Crowd::default();
    let (began_at, mut kills) = (Instant::now(), 0_u32);
    let mut next_kill_at = began_at + KILL_EVERY;
    for number in 0..HANDOFFS {
        crowd.join(daemon.hand_over_by(Door::SeqPacket, kind(number as usize), PAYLOAD));
        if Instant::now() >= next_kill_at {
            // One at a time, also when this test itself was held up.
            next_kill_at = Instant::now() + KILL_EVERY;
            let workers = daemon.workers("ready");
            signal(workers[kills as usize % workers.len()], Signal::SIGKILL);
            kills += 1;
        }
        crowd.listen(
            (began_at + Duration::from_secs(1) * number / PER_SECOND)
                .saturating_duration_since(Instant::now()),
        );
    }
    let responses = crowd.responses(PATIENCE);
    assert!(kills >= 5, "only {kills} workers were killed");

    let ended = |outcome| daemon.metric(&format!("handoffd_lease_endings_total{{outcome=\"{outcome}\""));
    assert_eq!(ended("epitaph_lost"), 0.0, "a stream has no end");
    let mut verdicts = BTreeMap::new();
    for (number, response) in responses.iter().enumerate() {
        *verdicts.entry(verdict(kind(number), response)).or_insert(0.0) += 1.0;
    }
    let count = |verdict| verdicts.get(verdict).copied().unwrap_or(0.0);
    assert!(count("crashed") > 0.0, "no stream was cut: {verdicts:?}");
    // Announced, and killed before the kernel saw a byte: rare, and never more than one a kill.
    assert!(count("refused") + count("headless") <= f64::from(kills), "{verdicts:?}");
    // Killed between the last word and the end of the connection: as rare, and no reader looks that far.
    assert!(count("ended") <= f64::from(kills), "{verdicts:?}");

    eventually("nobody is served any more", || {
        (daemon.metric("daemon_active_connections") == 0.0).then_some(())
    });
    assert_eq!(daemon.metric("daemon_handoffs_total"), f64::from(HANDOFFS));
    assert_eq!(daemon.metric("handoffd_lease_endings_total"), f64::from(HANDOFFS));
    assert_eq!(
        ended("epitaph_written"),
        count("crashed") + count("ended") + count("headless"),
        "{verdicts:?}"
    );
    assert_eq!(ended("refused_worker_crashed"), count("refused"), "{verdicts:?}");
    assert_eq!(ended("complete") + ended("unreported_end"), count("complete"), "{verdicts:?}");
    assert!(daemon.metric("handoffd_redispatches_total") > 0.0, "no handoff went to another worker");
    eventually("the supervisor's fds are back", || {
        (daemon.workers("ready").len() == 4 && fds(daemon.pid()) <= fds_before + 1).then_some(())
    });
}

#[test]
fn nobody_waits_in_vain_while_two_workers_are_killed_fifty_times_a_second() {
    let daemon = Daemon::start("max_connections = 5000\n");
    let (mut crowd, mut kills, mut joined_at_kill) = (Crowd::default(), 0_usize, 0);
    let began_at = Instant::now();
    let mut next_kill_at = began_at;
    // On a busy machine it takes longer until that many are dead.
    while began_at.elapsed() < Duration::from_secs(5) || (kills <= 100 && began_at.elapsed() < PATIENCE) {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","mock":{"length":5,"token_delay_ms":1}}"#));
        // Where every worker is killed before it is Ready there is no service, and 503 is the right answer: a busy machine
        // starts none in 20 ms. So somebody has been served between two kills.
        if Instant::now() >= next_kill_at && crowd.has_completed_since(joined_at_kill) {
            next_kill_at = Instant::now() + Duration::from_millis(20);
            // Whoever lives: also the sacrificial worker, and those that have just begun.
            let workers = children(daemon.pid());
            if let Some(worker) = workers.get(kills % workers.len().max(1)) {
                signal(*worker, Signal::SIGKILL);
                (kills, joined_at_kill) = (kills + 1, crowd.joined());
            }
        }
        crowd.listen(Duration::from_millis(4));
    }
    let responses = crowd.responses(PATIENCE);
    assert!(kills > 100 && responses.len() > 300, "{kills} kills, {} handoffs", responses.len());
    let mut verdicts = BTreeMap::new();
    for response in &responses {
        // The worker that was to write the last event of a dead one was killed too: counted, and never a 503.
        let is_cut = response.status == 200 && response.error_code().is_none() && !response.is_complete();
        let verdict = if is_cut { "cut" } else { verdict(Kind::Tcp, response) };
        *verdicts.entry(verdict).or_insert(0) += 1;
    }
    let lost = daemon.metric(r#"handoffd_lease_endings_total{outcome="epitaph_lost""#);
    assert!(f64::from(verdicts.get("cut").copied().unwrap_or(0)) <= lost, "{verdicts:?}, {lost} lost");
    let count = |verdict| verdicts.get(verdict).copied().unwrap_or(0);
    assert!(count("complete") > 0 && count("refused") as usize <= kills, "{verdicts:?}, {kills} kills");
}

fn kind(number: usize) -> Kind {
    if number.is_multiple_of(2) { Kind::Tcp } else { Kind::Unix }
}

/// What became of one client; anything else is a broken promise.
fn verdict(kind: Kind, response: &Response) -> &'static str {
    let code = response.error_code();
    match (response.status, response.heads(), code.as_deref()) {
        (200, 1, None) if response.is_complete() => "complete",
        (200, 1, Some("worker_crashed")) if response.body.contains(AFTER_THE_END) => "ended",
        (200, 1, Some("worker_crashed"))
            if !response.body.contains("[DONE]") && response.broken.is_none() =>
        {
            "crashed"
        }
        (502, 1, Some("worker_crashed")) => "refused",
        // Announced, and killed before the first byte: a Unix socket has no witness that nothing went out.
        (0, 0, Some("worker_crashed")) if kind == Kind::Unix => "headless",
        _ => panic!("neither whole nor explained: {response:?}"),
    }
}
