//! What a client does not read is not read from its upstream either: nothing piles up, and nobody else on the same
//! connection waits for it.

use std::time::{Duration, Instant};

use handoff_e2e::apache::{self, Kind};
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};
use handoff_e2e::{Client, Crowd, Daemon, Door, PATIENCE, eventually, process};
use nix::unistd::geteuid;
use serde_json::json;

const MEGABYTE: u64 = 1 << 20;

/// One worker, so that all share its connections.
fn confined(llm: &Upstream, more: &str) -> Daemon {
    let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    let backend = llm.backend_toml("llm", Dialect::OpenAi);
    Daemon::start(&format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\n{run_as}[backend]\nprovider = \"llm\"\n{backend}{more}"
    ))
}

/// The client keeps as little as the kernel allows.
fn hand_over_small(daemon: &Daemon, kind: Kind, payload: &str) -> Client {
    let (ours, theirs) = apache::client_pair(kind);
    ours.shrink_buffer();
    apache::hand_over(&daemon.socket(), Door::SeqPacket, payload.as_bytes(), theirs).expect("a handoff");
    ours
}

/// What the worker has in memory, in bytes.
fn memory(daemon: &Daemon) -> u64 {
    let [worker] = daemon.workers("ready")[..] else { panic!("one worker") };
    process::own_memory(worker)
}

/// One event of 16 KB.
fn page() -> Vec<u8> {
    let chunk = json!({"choices": [{"index": 0, "delta": {"content": "x".repeat(16_000)}}]});
    format!("data: {chunk}\n\n").into_bytes()
}

/// How much the upstream could send of all answers, once it cannot send more.
fn sent_when_stuck(llm: &Upstream, of: impl Fn(&str) -> bool) -> u64 {
    let mut last = (0, Instant::now());
    eventually("the upstream is stuck", || {
        let requests = llm.requests();
        let stuck =
            requests.iter().filter(|seen| of(seen.request.header("x-request-id").unwrap_or_default()));
        let sent = stuck.map(|seen| seen.bytes_sent).sum();
        if sent != last.0 {
            last = (sent, Instant::now());
        }
        (sent > 0 && last.1.elapsed() > Duration::from_millis(500)).then_some(sent)
    })
}

#[test]
fn an_answer_of_fifty_megabytes_waits_at_the_upstream() {
    const PAGES: usize = 50 * (1 << 20) / 16_000;
    for (protocol, kind) in [(Protocol::H1, Kind::Tcp), (Protocol::H2Tls, Kind::Unix)] {
        let llm = Upstream::start(protocol);
        let mut answer = Answer::sse();
        answer.steps = vec![Step::Send(page()); PAGES];
        llm.script(answer.send(
            "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n",
        ));
        let daemon = confined(&llm, "");
        let before = memory(&daemon);
        let (client, theirs) = apache::client_pair(kind);
        // By itself the kernel may give it more than half of the answer.
        client.limit_buffer(256 << 10);
        let payload = br#"{"prompt":"x","request_id":"r"}"#;
        apache::hand_over(&daemon.socket(), Door::SeqPacket, payload, theirs).expect("a handoff");
        let sent = sent_when_stuck(&llm, |_| true);
        let grown = memory(&daemon).saturating_sub(before);
        eprintln!("{protocol:?}, {kind:?}: sent {sent}, the worker has grown by {grown}");
        // Buffers of the kernel at both ends; the answer is more than twice as much.
        assert!(
            sent < 20 * MEGABYTE,
            "{protocol:?}: {sent} bytes were taken for a client that does not read"
        );
        assert!(grown < 4 * MEGABYTE, "{protocol:?}: the worker has grown by {grown} bytes");

        let mut most = 0;
        let response = std::thread::scope(|scope| {
            let reading = scope.spawn(|| client.response());
            while !reading.is_finished() {
                most = most.max(memory(&daemon));
                handoff_e2e::throughout(Duration::from_millis(10), || {});
            }
            reading.join().expect("a reader")
        });
        assert!(response.is_complete(), "{protocol:?}: {response:?}");
        assert_eq!(response.body.matches('x').count(), PAGES * 16_000, "{protocol:?}");
        let grown = most.saturating_sub(before);
        eprintln!("{protocol:?}, {kind:?}: passed on, it had grown by {grown} at most");
        assert!(grown < 4 * MEGABYTE, "{protocol:?}: the worker has grown by {grown} bytes");
    }
}

/// 80 clients, each with 40 words, 10 ms apart; how long it took until all had theirs.
fn eighty(daemon: &Daemon) -> Duration {
    let began_at = Instant::now();
    let mut crowd = Crowd::default();
    for _ in 0..80 {
        crowd.join(daemon.hand_over(r#"{"prompt":"x","request_id":"reads"}"#));
    }
    for response in crowd.responses(PATIENCE) {
        assert!(response.is_complete(), "{response:?}");
        assert_eq!(response.text().split_whitespace().count(), 40);
    }
    began_at.elapsed()
}

#[test]
fn twenty_of_a_hundred_on_one_connection_never_read_and_the_others_finish_on_time() {
    for protocol in [Protocol::H2c, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        let endless = Answer::sse().step(Step::SendForever(page(), Duration::from_millis(1)));
        let words = Answer::openai().words(40).pause_ms(10).answer();
        llm.answer_with(move |request| match request.header("x-request-id") {
            Some("reads") => words.clone(),
            _ => endless.clone(),
        });
        let daemon = confined(&llm, "streams_max = 200\n");
        let alone = eighty(&daemon);
        let before = memory(&daemon);
        let kinds = [Kind::Tcp, Kind::Unix];
        let deaf: Vec<Client> = (0..20)
            .map(|number| {
                hand_over_small(&daemon, kinds[number % 2], r#"{"prompt":"x","request_id":"deaf"}"#)
            })
            .collect();
        let sent = sent_when_stuck(&llm, |id| id == "deaf");
        let beside = eighty(&daemon);
        let grown = memory(&daemon).saturating_sub(before);
        eprintln!(
            "{protocol:?}: alone {alone:?}, beside 20 deaf {beside:?}; sent to those {sent}; grown by {grown}"
        );
        let carried = llm.connections().iter().filter(|connection| connection.requests > 0).count();
        assert_eq!(carried, 1, "{protocol:?}: all are on one connection");
        assert!(
            beside < alone * 5 / 4 + Duration::from_millis(150),
            "{protocol:?}: {alone:?} became {beside:?}"
        );
        assert!(grown < 6 * MEGABYTE, "{protocol:?}: the worker has grown by {grown} bytes");
        drop(deaf);
    }
}
