//! An upstream that fails is not asked more and more: further attempts are a fraction of the questions, who has asked for
//! a pause gets it from all workers, and who has failed too often in a row is left alone for a while.

use std::time::Duration;

use handoff_e2e::upstream::{Dialect, Protocol, words};
use handoff_e2e::{Answer, Client, Daemon, Upstream, eventually};

fn backed_by(llm: &Upstream, workers: u16, keys: &str) -> Daemon {
    Daemon::confined(
        workers,
        &format!(
            "[backend]\nprovider = \"llm\"\n{}{keys}\n[backends.rehearsal]\nkind = \"mock\"\ntoken_delay_ms = 60000\n",
            llm.backend_toml("llm", Dialect::OpenAi)
        ),
    )
}

fn failure() -> Answer {
    Answer::openai_error(500, "server_error", "internal", "no")
}

/// Somebody keeps the worker that this goes to busy: the next handoff goes to the other one.
fn occupy(daemon: &Daemon) -> Client {
    let mut client = daemon.hand_over(r#"{"prompt":"x","backend":"rehearsal"}"#);
    client.read_until("\"}\n\n");
    client
}

#[test]
fn further_attempts_are_a_fifth_of_the_questions() {
    const QUESTIONS: usize = 100;
    let llm = Upstream::start(Protocol::H2c);
    llm.script(failure());
    let daemon = backed_by(&llm, 2, "breaker_failures = 0\n");
    let clients: Vec<_> = (0..QUESTIONS).map(|_| daemon.hand_over(r#"{"prompt":"x"}"#)).collect();
    for client in clients {
        let response = client.response();
        assert_eq!(response.status, 502, "{response:?}");
    }
    // A fifth, and ten that each of the two workers may have saved in quiet times.
    let (asked, most) = (llm.request_count(), QUESTIONS + QUESTIONS / 5 + 2 * 10);
    assert!((QUESTIONS + 10..=most).contains(&asked), "{QUESTIONS} questions, asked {asked} times");
    eventually("all are counted", || {
        let retries = daemon.metric("handoffd_backend_retries_total{backend=\"llm\"");
        (retries == (asked - QUESTIONS) as f64).then_some(())
    });
}

#[test]
fn five_failures_in_a_row_are_enough_for_a_while() {
    let llm = Upstream::start(Protocol::H1);
    llm.script(failure());
    let daemon = backed_by(&llm, 1, "retries = 0\ncooldown_secs = 1.5\n");
    for _ in 0..5 {
        assert_eq!(daemon.hand_over(r#"{"prompt":"x"}"#).response().status, 502);
    }
    for _ in 0..3 {
        let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
        assert_eq!(
            (response.status, response.error_code().as_deref()),
            (503, Some("overloaded")),
            "{response:?}"
        );
        assert!(matches!(response.header("retry-after"), Some("1" | "2")), "{response:?}");
    }
    assert_eq!(llm.request_count(), 5, "nobody asks");
    llm.script(Answer::openai());
    eventually("it is asked again", || {
        daemon.hand_over(r#"{"prompt":"x"}"#).response().is_complete().then_some(())
    });
    let waited = llm.wait_for_request(5).request.arrived - llm.wait_for_request(4).request.arrived;
    assert!(waited >= Duration::from_millis(1500), "asked again after {waited:?}");
    for _ in 0..6 {
        let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
        assert!(response.is_complete() && response.text() == words(10), "{response:?}");
    }
}

#[test]
fn who_asks_for_a_pause_gets_it_from_all_workers() {
    let llm = Upstream::start(Protocol::H1);
    let refusal = Answer::openai_error(429, "requests", "rate_limit_exceeded", "not now");
    llm.script(refusal.header("retry-after", "30"));
    let daemon = backed_by(&llm, 2, "");
    let first = occupy(&daemon);
    let response = daemon.hand_over(r#"{"prompt":"x","model":"m"}"#).response();
    assert_eq!((response.status, response.header("retry-after")), (429, Some("30")), "{response:?}");
    eventually("it is known", || {
        (daemon.metric("handoffd_backend_cooling{backend=\"llm\"") == 1.0).then_some(())
    });
    // Whoever asked is busy now, and the other one is not.
    let one_is_busy = || (daemon.holders().iter().map(|(_, leases)| leases).sum::<u64>() == 1).then_some(());
    eventually("it is free again", one_is_busy);
    let second = occupy(&daemon);
    drop(first);
    eventually("one worker is free", one_is_busy);
    let response = daemon.hand_over(r#"{"prompt":"x","model":"m"}"#).response();
    assert_eq!(response.status, 503, "{response:?}");
    let later: u64 = response.header("retry-after").expect("a time").parse().expect("seconds");
    assert!((10..=30).contains(&later), "{response:?}");
    assert_eq!(llm.request_count(), 1, "the other worker did not ask");
    // Another model has limits of its own.
    llm.script(Answer::openai());
    assert!(daemon.hand_over(r#"{"prompt":"x","model":"other"}"#).response().is_complete());
    drop(second);
    let slots: std::collections::BTreeSet<_> =
        eventually("all sessions end", || Some(daemon.sessions()).filter(|sessions| sessions.len() == 5))
            .iter()
            .filter(|session| session["backend"] == "llm" && session["model"] == "m")
            .map(|session| session["slot"].as_u64())
            .collect();
    assert_eq!(slots.len(), 2, "both workers were asked");
}
