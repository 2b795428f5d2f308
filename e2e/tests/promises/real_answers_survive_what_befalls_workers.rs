//! A roll, a worker's death and an upgrade in the middle of answers from a real API: who has a word already gets the rest
//! or a last word, who has none gets a whole answer, and connections to the API go away with their worker.

use std::collections::HashSet;

use handoff_e2e::process::signal;
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream, words};
use handoff_e2e::{Client, Daemon, Options, Response, eventually};
use nix::sys::signal::Signal;
use nix::unistd::geteuid;

const PROTOCOLS: [Protocol; 3] = [Protocol::H1, Protocol::H2Tls, Protocol::H2c];
/// Of each kind.
const CLIENTS: usize = 6;

fn confined(llm: &Upstream, own_binaries: bool) -> Daemon {
    let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    let backend = llm.backend_toml("llm", Dialect::OpenAi);
    let toml = format!(
        "[workers]\ncount = 2\nsandbox = \"require\"\n{run_as}[backend]\nprovider = \"llm\"\n{backend}"
    );
    Daemon::with(&Options { toml, own_binaries, ..Options::default() })
}

/// Clients whose answer has one word, and clients whose answer has none: they wait for the gate.
struct Middle {
    with_a_word: Vec<Client>,
    without: Vec<Client>,
}

impl Middle {
    fn of(llm: &Upstream, daemon: &Daemon) -> Self {
        let gate = || [Step::WaitFor("later".to_owned())];
        let (begun, waiting) =
            (Answer::openai().with_after(1, gate()), Answer::openai().answer().first(gate()));
        llm.answer_with(move |request| match request.header("x-request-id") {
            Some(id) if id.starts_with("with-") => begun.clone(),
            _ => waiting.clone(),
        });
        let ask = |kind: &str, number: usize| {
            daemon.hand_over(format!(r#"{{"prompt":"x","request_id":"{kind}-{number}"}}"#))
        };
        let mut with_a_word: Vec<_> = (0..CLIENTS).map(|number| ask("with", number)).collect();
        let without = (0..CLIENTS).map(|number| ask("without", number)).collect();
        for client in &mut with_a_word {
            client.read_until("w0 \"}\n\n");
        }
        eventually("all have asked", || (llm.request_count() == 2 * CLIENTS).then_some(()));
        Self { with_a_word, without }
    }

    /// What each got; of those with a word, what they got after it.
    fn end(self) -> (Vec<Response>, Vec<Response>) {
        let all = |clients: Vec<Client>| clients.into_iter().map(Client::response).collect();
        (all(self.with_a_word), all(self.without))
    }
}

/// All have everything.
fn are_whole((with_a_word, without): (Vec<Response>, Vec<Response>)) {
    for response in with_a_word {
        assert!(response.body.ends_with("[DONE]\n\n") && response.broken.is_none(), "{response:?}");
        assert_eq!("w0 ".to_owned() + &response.text(), words(10), "{response:?}");
    }
    for response in without {
        assert!(response.is_complete() && response.text() == words(10), "{response:?}");
    }
}

#[test]
fn a_roll() {
    for protocol in PROTOCOLS {
        let llm = Upstream::start(protocol);
        let daemon = confined(&llm, false);
        let middle = Middle::of(&llm, &daemon);
        let before = daemon.workers("ready");
        daemon.signal(Signal::SIGHUP);
        eventually("others have taken their place", || {
            let ready = daemon.workers("ready");
            (ready.len() == 2 && ready.iter().all(|pid| !before.contains(pid))).then_some(())
        });
        llm.open("later");
        are_whole(middle.end());
        assert_eq!(llm.request_count(), 2 * CLIENTS, "{protocol:?}: nobody was asked twice");
        eventually("their connections go with the old workers", || {
            (llm.open_connections() == 0).then_some(())
        });
        assert!(daemon.hand_over(r#"{"prompt":"x","request_id":"new"}"#).response().is_complete());
    }
}

#[test]
fn a_killed_worker() {
    for protocol in PROTOCOLS {
        let llm = Upstream::start(protocol);
        let daemon = confined(&llm, false);
        let middle = Middle::of(&llm, &daemon);
        let closed = || llm.connections().iter().filter(|connection| connection.closed.is_some()).count();
        let closed_before = closed();
        let (victim, leases) = daemon.holders()[0];
        signal(victim, Signal::SIGKILL);
        eventually("its connections are closed", || (closed() > closed_before).then_some(()));
        llm.open("later");
        let (with_a_word, without) = middle.end();
        let cut = with_a_word.iter().filter(|response| {
            response.error_code().as_deref() == Some("worker_crashed") && !response.body.contains("[DONE]")
        });
        let cut = cut.count();
        let whole = with_a_word.iter().filter(|response| response.body.ends_with("[DONE]\n\n")).count();
        assert!(
            cut > 0 && cut + whole == CLIENTS,
            "{protocol:?}: {cut} were told, {whole} are whole: {with_a_word:?}"
        );
        for response in &without {
            assert!(response.is_complete() && response.text() == words(10), "{protocol:?}: {response:?}");
            assert_eq!(response.heads(), 1, "{protocol:?}: {response:?}");
        }
        // Who had no word was asked for again: it is the same question, and says so.
        let again = usize::try_from(leases).expect("a number") - cut;
        let requests = llm.requests();
        assert_eq!(requests.len(), 2 * CLIENTS + again, "{protocol:?}");
        let keys = requests.iter().map(|seen| seen.request.header("idempotency-key").expect("a key"));
        assert_eq!(keys.collect::<HashSet<_>>().len(), 2 * CLIENTS, "{protocol:?}");
    }
}

#[test]
fn an_upgrade() {
    for protocol in PROTOCOLS {
        let llm = Upstream::start(protocol);
        let daemon = confined(&llm, true);
        let middle = Middle::of(&llm, &daemon);
        let starts = || daemon.log().matches("handoffd starts").count();
        daemon.signal(Signal::SIGUSR2);
        eventually("the new image runs", || (starts() == 2 && daemon.is_ready()).then_some(()));
        let between = daemon.hand_over(r#"{"prompt":"x","request_id":"between"}"#);
        llm.open("later");
        assert!(between.response().is_complete());
        are_whole(middle.end());
        assert_eq!(llm.request_count(), 2 * CLIENTS + 1, "{protocol:?}: nobody was asked twice");
    }
}
