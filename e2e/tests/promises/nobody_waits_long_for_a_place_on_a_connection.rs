//! A server takes few streams on a connection: there are more connections before anybody has to wait.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use handoff_e2e::upstream::{Answer, Dialect, Options, Protocol, Step, Upstream};
use handoff_e2e::{Crowd, Daemon, PATIENCE, eventually};
use nix::unistd::geteuid;

/// From the handoff until the upstream has the whole question, whatever else this machine does.
const WAITS_MAX: Duration = Duration::from_millis(250);

fn confined(workers: usize, llm: &Upstream, dialect: Dialect, more: &str) -> Daemon {
    let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    let backend = llm.backend_toml("llm", dialect);
    Daemon::start(&format!(
        "[workers]\ncount = {workers}\nsandbox = \"require\"\n{run_as}[backend]\nprovider = \"llm\"\n{backend}{more}"
    ))
}

/// So many clients come, one each `interval`, and all of them stream at once. How long it took from each handoff until
/// the upstream had its question, in order.
fn all_at_once(llm: &Upstream, daemon: &Daemon, clients: usize, interval: Duration) -> Vec<Duration> {
    llm.script(Answer::openai().with_after(1, [Step::WaitFor("all".to_owned())]));
    let (mut crowd, mut handed) = (Crowd::default(), HashMap::new());
    let began_at = Instant::now();
    for number in 0..clients {
        let due = began_at + interval * u32::try_from(number).expect("a small number");
        crowd.listen(due.saturating_duration_since(Instant::now()));
        handed.insert(number.to_string(), Instant::now());
        crowd.join(daemon.hand_over(format!(r#"{{"prompt":"x","request_id":"{number}"}}"#)));
    }
    eventually("all have asked", || (llm.request_count() == clients).then_some(()));
    let streaming: usize = llm.connections().iter().map(|connection| connection.streams).sum();
    assert_eq!(streaming, clients, "all stream at the same time");
    llm.open("all");
    for (number, response) in crowd.responses(PATIENCE).iter().enumerate() {
        assert!(response.is_complete(), "client {number}: {response:?}");
    }
    assert_eq!(llm.request_count(), clients, "nobody was refused and asked again");
    let requests = llm.requests();
    let waits = requests.iter().map(|seen| {
        let id = seen.request.header("x-request-id").expect("its id");
        seen.request.arrived.saturating_duration_since(handed[id])
    });
    let mut waits: Vec<Duration> = waits.collect();
    waits.sort();
    waits
}

fn show(what: &str, llm: &Upstream, waits: &[Duration]) -> String {
    let (median, p99, max) = (waits[waits.len() / 2], waits[waits.len() * 99 / 100], waits[waits.len() - 1]);
    let connections = llm.connections().len();
    let shown = format!("{what}: median {median:?}, p99 {p99:?}, max {max:?}; {connections} connections");
    eprintln!("{shown}");
    shown
}

#[test]
fn five_hundred_streams_against_eight_a_connection() {
    for protocol in [Protocol::H2c, Protocol::H2Tls] {
        let few = Options { max_concurrent_streams: Some(8), ..Options::new(protocol) };
        let llm = five_hundred(few, Duration::from_millis(2), WAITS_MAX);
        let connections = llm.connections();
        assert!(connections.iter().all(|connection| connection.streams_max <= 8), "{connections:?}");
        // One spare for each worker, one in which it found out what the server speaks, and what a roll of dice adds.
        assert!(connections.len() <= 500 / 8 + 1 + 6, "{} connections", connections.len());
    }
}

#[test]
fn five_hundred_in_the_same_moment() {
    for protocol in [Protocol::H2c, Protocol::H2Tls] {
        // What this machine needs for 500 questions when there is no lack of places.
        let llm = Upstream::start(protocol);
        let daemon = confined(2, &llm, Dialect::OpenAi, "");
        let waits = all_at_once(&llm, &daemon, 500, Duration::ZERO);
        show(&format!("{protocol:?}, at once, 100 a connection"), &llm, &waits);
        let few = Options { max_concurrent_streams: Some(8), ..Options::new(protocol) };
        // Eleven times as many connections have to be opened first.
        five_hundred(few, Duration::ZERO, 5 * waits[499] + WAITS_MAX);
    }
}

fn five_hundred(options: Options, interval: Duration, waits_max: Duration) -> Upstream {
    let llm = Upstream::with(options);
    let daemon = confined(2, &llm, Dialect::OpenAi, "");
    let waits = all_at_once(&llm, &daemon, 500, interval);
    let what = format!("{:?}, one each {interval:?}, 8 a connection", options.protocol);
    let shown = show(&what, &llm, &waits);
    assert!(waits[499] < waits_max, "{shown}, allowed {waits_max:?}");
    llm
}

#[test]
fn three_hundred_over_a_connection_each() {
    for protocol in [Protocol::H1, Protocol::Unix] {
        let llm = Upstream::start(protocol);
        let daemon = confined(2, &llm, Dialect::OpenAi, "connections_max = 200\n");
        let waits = all_at_once(&llm, &daemon, 300, Duration::from_millis(2));
        let shown = show(&format!("{protocol:?}"), &llm, &waits);
        // A server without TLS is first asked whether it speaks HTTP/2.
        assert!(waits[299] < WAITS_MAX, "{shown}");
        assert!((300..=306).contains(&llm.connections().len()), "{shown}");
    }
}
