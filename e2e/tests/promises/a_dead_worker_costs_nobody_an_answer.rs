//! A worker dies: what it had not begun is answered whole by another one, what it had begun ends with an
//! explicit error.

use handoff_e2e::apache::Kind;
use handoff_e2e::process::{is_alive, signal};
use handoff_e2e::{Client, Daemon, Door, Response, eventually};
use nix::sys::signal::Signal;

const SLOW_TO_BEGIN: &[u8] = br#"{"prompt":"x","mock":{"first_token_delay_ms":500}}"#;
const LONG_ENOUGH: &str = r#"{"prompt":"x","format":"FORMAT","mock":{"length":200,"token_delay_ms":10}}"#;

#[test]
fn before_the_first_byte_another_worker_answers_the_whole() {
    let daemon = Daemon::start("");
    for (deadly, kind) in deaths() {
        let client = daemon.hand_over_by(Door::SeqPacket, kind, SLOW_TO_BEGIN);
        strike(holder(&daemon), deadly);
        let response = client.response();
        assert!(response.is_complete() && response.heads() == 1, "{deadly} {kind:?}: {response:?}");
        all_ready(&daemon);
    }
    assert_eq!(daemon.metric("handoffd_redispatches_total"), 4.0);
    assert_eq!(daemon.metric("handoffd_epitaphs_total"), 0.0);
}

#[test]
fn after_the_first_byte_the_stream_ends_with_one_error_event() {
    for (deadly, kind) in deaths() {
        let daemon = Daemon::start("");
        // Two of each, so that each worker has one of each.
        let formats = ["content", "text", "openai", "events"].into_iter().flat_map(|format| [format; 2]);
        let streams = formats.map(|format| {
            let payload = LONG_ENOUGH.replace("FORMAT", format);
            let mut client = daemon.hand_over_by(Door::SeqPacket, kind, payload.as_bytes());
            let heard = client.read_until("\n\n");
            (format, client, heard)
        });
        let streams: Vec<_> = streams.collect();
        let holders = daemon.holders();
        assert_eq!(
            holders.iter().map(|(_, leases)| *leases).collect::<Vec<_>>(),
            [4, 4],
            "{deadly} {kind:?}"
        );
        strike(holders[0].0, deadly);
        let mut crashed = Vec::new();
        for (format, client, heard) in streams {
            let rest = client.response();
            if rest.body.contains("worker_crashed") {
                assert_ends_with_a_crash(&heard, rest, &format!("{deadly} {kind:?} {format}"));
                crashed.push(format);
            } else {
                assert!(
                    rest.body.ends_with("data: [DONE]\n\n") || format == "events",
                    "{kind:?} {format}: {rest:?}"
                );
            }
        }
        assert_eq!(crashed, ["content", "text", "openai", "events"], "{deadly} {kind:?}");
        assert_eq!(daemon.metric("handoffd_redispatches_total"), 0.0);
        assert_eq!(daemon.metric("handoffd_epitaphs_total"), 4.0);
    }
}

#[test]
fn half_an_event_is_ended_by_an_empty_line_before_the_error() {
    let daemon = Daemon::start("");
    for kind in [Kind::Tcp, Kind::Unix] {
        let prompt = "word ".repeat(10_000);
        let payload = format!(r#"{{"prompt":"{prompt}","mock":{{"length":1000000,"token_delay_ms":0}}}}"#);
        let client = daemon.hand_over_by(Door::SeqPacket, kind, payload.as_bytes());
        // Nobody reads: what the worker writes ends wherever the kernel's buffers are full.
        let mut sent = 0.0;
        eventually("the worker cannot write any more", || {
            let before = std::mem::replace(&mut sent, daemon.metric("daemon_bytes_sent_total"));
            (sent > 0.0 && sent == before && is_idle(holder(&daemon))).then_some(())
        });
        signal(holder(&daemon), Signal::SIGKILL);
        let response = client.response();
        let end = response.body.trim_end().rsplit_once("\n\n");
        let (before, error) =
            end.unwrap_or_else(|| panic!("{kind:?}: no end in {} bytes", response.body.len()));
        assert!(error.starts_with(r#"data: {"error":{"#), "{kind:?}: {error}");
        let whole =
            before.split("\n\n").filter(|event| event.starts_with("id: ") || event.starts_with("data: "));
        assert!(whole.count() > 100, "{kind:?}: {} bytes", before.len());
        assert_eq!(response.error_code().as_deref(), Some("worker_crashed"), "{kind:?}");
        assert!(!response.body.contains("[DONE]"), "{kind:?}: a broken answer looks whole");
        all_ready(&daemon);
    }
}

#[test]
fn a_worker_killed_after_the_end_adds_nothing_to_a_complete_answer() {
    let daemon = Daemon::start("[client]\nlinger_secs = 30\n");
    for kind in [Kind::Tcp, Kind::Unix] {
        let mut client = daemon.hand_over_by(Door::SeqPacket, kind, br#"{"prompt":"x"}"#);
        let response = client.read_response();
        // The client has its answer and stays connected: the worker waits for it to hang up.
        signal(holder(&daemon), Signal::SIGKILL);
        all_ready(&daemon);
        eventually("the lease has ended", || {
            (daemon.metric("daemon_active_connections") == 0.0).then_some(())
        });
        assert!(response.is_complete(), "{kind:?}: {response:?}");
        assert_eq!(client.response().body, "", "{kind:?}: something came after the end");
    }
    let ended = |outcome| daemon.metric(&format!("handoffd_lease_endings_total{{outcome=\"{outcome}\""));
    assert_eq!(ended("unreported_end") + ended("epitaph_written"), 2.0);
}

#[test]
fn streams_on_the_other_worker_are_untouched() {
    let daemon = Daemon::start("");
    let payload = r#"{"prompt":"x","mock":{"length":200,"token_delay_ms":10}}"#;
    let mut clients: Vec<(Client, String)> = (0..20)
        .map(|_| daemon.hand_over(payload))
        .map(|mut client| {
            let heard = client.read_until("\n\n");
            (client, heard)
        })
        .collect();
    let holders = daemon.holders();
    assert_eq!(holders.iter().map(|(_, leases)| *leases).collect::<Vec<_>>(), [10, 10], "least-loaded");
    signal(holders[0].0, Signal::SIGKILL);
    let (mut whole, mut crashed) = (0, 0);
    for (client, heard) in clients.drain(..) {
        let rest = client.response();
        match rest.body.ends_with("[DONE]\n\n") {
            true => whole += 1,
            false => {
                assert_ends_with_a_crash(&heard, rest, "a stream of the killed worker");
                crashed += 1;
            }
        }
    }
    assert_eq!((whole, crashed), (10, 10));
}

fn deaths() -> impl Iterator<Item = (Signal, Kind)> {
    let signals = [Signal::SIGKILL, Signal::SIGSEGV];
    signals.into_iter().flat_map(|signal| [Kind::Tcp, Kind::Unix].map(|kind| (signal, kind)))
}

/// The one worker that holds the one lease.
fn holder(daemon: &Daemon) -> u32 {
    eventually("one worker holds the lease", || match daemon.holders()[..] {
        [(pid, 1)] => Some(pid),
        _ => None,
    })
}

/// A program's own handler may swallow the first SIGSEGV that comes from outside: Rust's does.
fn strike(pid: u32, deadly: Signal) {
    eventually("the worker is dead", || {
        signal(pid, deadly);
        (!is_alive(pid)).then_some(())
    });
}

fn all_ready(daemon: &Daemon) {
    eventually("both workers are ready, and nobody is served", || {
        (daemon.workers("ready").len() == 2 && daemon.holders().is_empty()).then_some(())
    });
}

/// It spends no time for longer than its beats are apart.
fn is_idle(pid: u32) -> bool {
    let before = handoff_e2e::process::cpu_ticks(pid);
    handoff_e2e::throughout(std::time::Duration::from_millis(600), || {});
    handoff_e2e::process::cpu_ticks(pid) <= before + 1
}

fn assert_ends_with_a_crash(heard: &str, rest: Response, what: &str) {
    let all = format!("{heard}{}{}", rest.head, rest.body);
    assert!(heard.starts_with("HTTP/1.1 200 OK\r\n"), "{what}: {all}");
    assert_eq!(all.matches("HTTP/1.1 ").count(), 1, "{what}: answered twice: {all}");
    assert_eq!(all.matches("worker_crashed").count(), 1, "{what}: {all}");
    assert!(!all.contains("[DONE]") && rest.broken.is_none(), "{what}: {:?} {all}", rest.broken);
    let last = all.trim_end_matches('\n').rsplit_once("\n\n").map_or("", |(_, last)| last);
    assert!(
        last.contains("worker_crashed") && all.ends_with("\n\n"),
        "{what}: no empty line before the error: {all}"
    );
}
