//! A connection to an upstream grows old: who is streaming there goes on, who comes later goes to a new one, and it ends
//! with its last stream.

use std::time::Duration;

use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};
use handoff_e2e::{Daemon, eventually};
use nix::unistd::geteuid;

fn confined(workers: usize, llm: &Upstream, dialect: Dialect, more: &str) -> Daemon {
    let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    let backend = llm.backend_toml("llm", dialect);
    Daemon::start(&format!(
        "[workers]\ncount = {workers}\nsandbox = \"require\"\n{run_as}[backend]\nprovider = \"llm\"\n{backend}{more}"
    ))
}

const AGE: &str = "connection_age_max_secs = 1\n";

#[test]
fn who_streams_goes_on_and_who_comes_later_goes_elsewhere() {
    for protocol in [Protocol::H2c, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        llm.script_each([
            Answer::openai().with_after(1, [Step::WaitFor("later".to_owned())]),
            Answer::openai().answer(),
        ]);
        let daemon = confined(1, &llm, Dialect::OpenAi, AGE);
        let mut client = daemon.hand_over(r#"{"prompt":"x"}"#);
        client.read_until("w0 \"}\n\n");
        let old = llm.wait_for_request(0).request.connection;
        eventually("who comes later goes elsewhere", || {
            let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
            assert!(response.is_complete(), "{response:?}");
            llm.requests().last().filter(|seen| seen.request.connection != old).map(|_| ())
        });
        let connections = llm.connections();
        let age = connections[old].opened.elapsed();
        assert!((Duration::from_millis(800)..Duration::from_millis(1700)).contains(&age), "{age:?}");
        assert!(connections[old].closed.is_none(), "somebody streams there");
        assert!(connections[old].requests > 1, "it was used as long as it was young");
        llm.open("later");
        let response = client.response();
        assert!(response.body.ends_with("[DONE]\n\n") && response.body.contains("w9 "), "{response:?}");
        eventually("the old one ends with its last stream", || llm.connections()[old].closed);
    }
}

#[test]
fn one_that_nobody_uses_ends_when_it_is_old() {
    for protocol in [Protocol::H1, Protocol::H2Tls, Protocol::Unix] {
        let llm = Upstream::start(protocol);
        let daemon = confined(1, &llm, Dialect::OpenAi, AGE);
        for _ in 0..3 {
            assert!(daemon.hand_over(r#"{"prompt":"x"}"#).response().is_complete());
        }
        let used = llm.wait_for_request(0).request.connection;
        assert_eq!(llm.wait_for_request(2).request.connection, used, "{protocol:?}: it is used again");
        let closed = eventually("it is closed", || llm.connections()[used].closed);
        let age = closed - llm.connections()[used].opened;
        assert!(
            (Duration::from_millis(800)..Duration::from_millis(1700)).contains(&age),
            "{protocol:?}: {age:?}"
        );
        assert!(daemon.hand_over(r#"{"prompt":"x"}"#).response().is_complete());
    }
}
