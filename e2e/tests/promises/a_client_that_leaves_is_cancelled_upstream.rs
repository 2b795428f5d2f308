//! Whatever its answer is waiting for: 100 ms after a client has left, nobody upstream works for it any more.

use std::time::{Duration, Instant};

use handoff_e2e::apache::Kind;
use handoff_e2e::upstream::{Answer, Dialect, End, Opening, Options, Protocol, Step, Upstream, code};
use handoff_e2e::{Client, Daemon, Door, eventually};
use nix::unistd::geteuid;

/// From the client's leaving to the upstream's seeing it, for 99 of 100.
const CANCELLED_WITHIN: Duration = Duration::from_millis(100);
/// In each phase, over each protocol.
const CLIENTS: usize = 51;
const PROTOCOLS: [Protocol; 4] = [Protocol::H1, Protocol::H2c, Protocol::H2Tls, Protocol::Unix];

/// Every way to leave: a Unix socket has no reset.
#[derive(Clone, Copy, Debug)]
enum Way {
    Close,
    Reset,
}
const WAYS: [(Way, Kind); 3] = [(Way::Close, Kind::Tcp), (Way::Reset, Kind::Tcp), (Way::Close, Kind::Unix)];

fn confined(workers: usize, backend: &str) -> Daemon {
    let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    Daemon::start(&format!(
        "[workers]\ncount = {workers}\nsandbox = \"require\"\n{run_as}[backend]\nprovider = \"llm\"\n{backend}"
    ))
}

fn ask(daemon: &Daemon, number: usize, more: &str) -> Client {
    let payload = format!(r#"{{"prompt":"x","request_id":"{number}"{more}}}"#);
    daemon.hand_over_by(Door::SeqPacket, WAYS[number % WAYS.len()].1, payload.as_bytes())
}

fn leave(client: Client, number: usize) -> Instant {
    let left_at = Instant::now();
    match WAYS[number % WAYS.len()].0 {
        Way::Close => drop(client),
        Way::Reset => client.reset(),
    }
    left_at
}

/// All leave, one after another; `end` waits for what comes of it, and says when that was.
fn all_leave(what: &str, clients: impl IntoIterator<Item = (usize, Client)>, end: impl Fn(usize) -> Instant) {
    let delays = clients.into_iter().map(|(number, client)| {
        let left_at = leave(client, number);
        end(number).saturating_duration_since(left_at)
    });
    let mut delays: Vec<Duration> = delays.collect();
    delays.sort();
    let (median, p99) = (delays[delays.len() / 2], delays[delays.len() * 99 / 100 - 1]);
    eprintln!("{what}: median {median:?}, p99 {p99:?} of {}", delays.len());
    assert!(p99 < CANCELLED_WITHIN, "{what}: {delays:?}");
}

/// When the answer to the client of this number was given up, and how.
fn given_up(llm: &Upstream, number: usize) -> (Instant, End) {
    let id = number.to_string();
    eventually(&format!("the answer to client {number} is given up"), || {
        let requests = llm.requests();
        requests.iter().find(|seen| seen.request.header("x-request-id") == Some(&id))?.end
    })
}

/// When the log has said that this session ended because its client had left.
fn session_over(daemon: &Daemon, number: usize) -> Instant {
    let session = daemon.session(&number.to_string());
    assert_eq!(session["outcome"], "client_gone", "{session}");
    Instant::now()
}

/// Nobody waits, nobody is asked any more, nothing is left open but `connections`.
fn nothing_is_left(daemon: &Daemon, llm: &Upstream, fds: usize, connections: usize) {
    eventually("no lease is left", || (daemon.metric("daemon_active_connections") == 0.0).then_some(()));
    eventually("nobody waits for a place", || {
        (daemon.metric("handoffd_backend_queued{backend=\"llm\"") == 0.0).then_some(())
    });
    eventually("connections without use are closed", || {
        (llm.open_connections() <= connections).then_some(())
    });
    let open = llm.open_connections();
    eventually("every other fd is closed", || (daemon.fds() <= fds + open).then_some(()));
}

/// The word that is there, and nothing more; for ever.
fn stuck_after(pieces: usize) -> Answer {
    Answer::openai().broken_after(pieces, [Step::Hang])
}

#[test]
fn while_it_waits_for_the_head_the_first_word_or_the_next() {
    for protocol in PROTOCOLS {
        let is_h2 = matches!(protocol, Protocol::H2c | Protocol::H2Tls);
        let llm = Upstream::start(protocol);
        let daemon = confined(2, &llm.backend_toml("llm", Dialect::OpenAi));
        let fds = daemon.fds();
        let phases = [
            ("waiting for the head", Answer::sse().hang()),
            ("waiting for the first word", Answer::sse().head().send(": hello\n\n").hang()),
            ("waiting for the next word", stuck_after(1)),
            (
                "words without end",
                Answer::sse().head().step(Step::SendForever(
                    Answer::openai().parts().content.swap_remove(0),
                    Duration::from_millis(1),
                )),
            ),
        ];
        for (phase, (name, answer)) in phases.into_iter().enumerate() {
            llm.script(answer);
            let before = phase * CLIENTS;
            let mut clients: Vec<_> =
                (before..before + CLIENTS).map(|number| (number, ask(&daemon, number, ""))).collect();
            eventually("all have asked", || (llm.request_count() == before + CLIENTS).then_some(()));
            if phase >= 2 {
                for (_, client) in &mut clients {
                    client.read_until("w0 \"}\n\n");
                }
            }
            all_leave(&format!("{protocol:?}, {name}"), clients, |number| {
                let (at, end) = given_up(&llm, number);
                assert_eq!(end, if is_h2 { End::Reset(code::CANCEL) } else { End::Closed });
                at
            });
            (before..before + CLIENTS).for_each(|number| {
                session_over(&daemon, number);
            });
        }
        let all = 4 * CLIENTS;
        eventually("all are counted as cancelled", || {
            (daemon.metric("handoffd_backend_cancelled_total{backend=\"llm\"") == all as f64).then_some(())
        });
        assert_eq!(daemon.metric("handoffd_backend_retries_total"), 0.0);
        assert_eq!(daemon.metric("handoffd_lease_endings_total{outcome=\"client_gone\""), all as f64);
        assert_eq!(llm.request_count(), all, "nobody is asked again for a client that has left");
        nothing_is_left(&daemon, &llm, fds, if is_h2 { 2 } else { 0 });
    }
}

#[test]
fn while_it_waits_for_a_place() {
    for protocol in PROTOCOLS {
        let llm = Upstream::with(Options { max_concurrent_streams: Some(1), ..Options::new(protocol) });
        llm.script(stuck_after(1));
        let daemon = confined(
            1,
            &(llm.backend_toml("llm", Dialect::OpenAi)
                + "connections_max = 1\nstreams_max = 1\nqueue_timeout_secs = 60\n"),
        );
        let fds = daemon.fds();
        let mut first = ask(&daemon, 999, "");
        first.read_until("w0 \"}\n\n");
        let clients: Vec<_> = (0..CLIENTS).map(|number| (number, ask(&daemon, number, ""))).collect();
        eventually("all wait", || {
            (daemon.metric("handoffd_backend_queued{backend=\"llm\"") == CLIENTS as f64).then_some(())
        });
        all_leave(&format!("{protocol:?}, waiting for a place"), clients, |number| {
            session_over(&daemon, number)
        });
        assert_eq!(llm.request_count(), 1, "{protocol:?}: nobody was asked");
        leave(first, 999);
        given_up(&llm, 999);
        nothing_is_left(&daemon, &llm, fds, 1);
    }
}

#[test]
fn while_its_connection_is_being_opened() {
    let phases = [
        (Protocol::H1Tls, Opening::Silent),
        (Protocol::H2Tls, Opening::Silent),
        (Protocol::H2c, Opening::Silent),
    ];
    for (protocol, opening) in phases {
        let llm = Upstream::with(Options { opening, ..Options::new(protocol) });
        let patience = "connect_timeout_secs = 60\ntls_timeout_secs = 60\nqueue_timeout_secs = 60\n";
        let daemon = confined(1, &(llm.backend_toml("llm", Dialect::OpenAi) + patience));
        let fds = daemon.fds();
        let clients = (0..CLIENTS).map(|number| {
            let client = ask(&daemon, number, "");
            eventually("a connection comes", || (llm.open_connections() > 0).then_some(()));
            (number, client)
        });
        all_leave(&format!("{protocol:?}, waiting for TLS or a word"), clients, |number| {
            session_over(&daemon, number);
            eventually("the connection is closed", || {
                llm.connections().last()?.closed.filter(|_| llm.open_connections() == 0)
            })
        });
        assert_eq!(llm.request_count(), 0, "{protocol:?}: nobody was asked");
        nothing_is_left(&daemon, &llm, fds, 0);
    }
}

#[test]
fn while_the_upstream_accepts_nobody() {
    for protocol in [Protocol::H1, Protocol::H2Tls, Protocol::Unix] {
        let llm = Upstream::with(Options { backlog: 1, ..Options::new(protocol) });
        let patience = "connect_timeout_secs = 60\ntls_timeout_secs = 60\nhead_timeout_secs = 60\n";
        let daemon = confined(1, &(llm.backend_toml("llm", Dialect::OpenAi) + patience));
        let fds = daemon.fds();
        llm.pause_accepting();
        // The first ones fill the backlog; all others knock in vain.
        let clients: Vec<_> = (0..CLIENTS).map(|number| (number, ask(&daemon, number, ""))).collect();
        eventually("all have a worker", || {
            (daemon.metric("daemon_active_streams") == CLIENTS as f64).then_some(())
        });
        all_leave(&format!("{protocol:?}, knocking"), clients, |number| session_over(&daemon, number));
        eventually("nobody knocks any more", || (daemon.fds() <= fds).then_some(()));
        llm.listen();
        nothing_is_left(&daemon, &llm, fds, 0);
        // A Unix socket's backlog has room for all of them: those have asked.
        let asked_max = if protocol == Protocol::Unix { CLIENTS } else { 2 };
        assert!(llm.request_count() <= asked_max, "{protocol:?}: {} have asked", llm.request_count());
    }
}

#[test]
fn while_it_waits_to_be_tried_again() {
    for protocol in [Protocol::H1, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        llm.script(Answer::openai_error(503, "server_error", "x", "no").header("retry-after", "9"));
        let more = "retries = 5\nretry_budget = 5\nbreaker_failures = 0\n";
        let daemon = confined(1, &(llm.backend_toml("llm", Dialect::OpenAi) + more));
        let fds = daemon.fds();
        // Each asks for another model: one that has asked for a pause is not asked again by others. One after another:
        // the budget for further attempts is small.
        let clients = (0..CLIENTS).map(|number| {
            let client = ask(&daemon, number, &format!(r#","model":"{number}""#));
            eventually("it waits for its second attempt", || {
                let log = daemon.log();
                (log.matches("\"next\":\"Same { wait: 9.").count() == number + 1).then_some(())
            });
            (number, client)
        });
        let what = format!("{protocol:?}, waiting to be tried again");
        all_leave(&what, clients, |number| session_over(&daemon, number));
        nothing_is_left(&daemon, &llm, fds, llm.open_connections());
        assert_eq!(llm.request_count(), CLIENTS, "nobody is asked again for a client that has left");
    }
}
