//! Many answers may fail by one short trouble of their upstream: that is one failure, and they are tried again.

use handoff_e2e::upstream::{Dialect, Protocol, Upstream};
use handoff_e2e::{Client, Daemon, eventually};

/// As many as one budget of further attempts is enough for.
const CLIENTS: usize = 8;

#[test]
fn however_many_wait_for_a_server_that_starts_again() {
    for protocol in [Protocol::H1, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        llm.refuse();
        let daemon = Daemon::start(&format!(
            "[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}retry_budget = 5\nbreaker_failures = 4\n",
            llm.backend_toml("llm", Dialect::OpenAi)
        ));
        let clients: Vec<Client> = (0..CLIENTS).map(|_| daemon.hand_over(r#"{"prompt":"x"}"#)).collect();
        eventually("all have failed once", || {
            (daemon.log().matches("upstream failed").count() >= CLIENTS).then_some(())
        });
        llm.listen();
        for client in clients {
            let response = client.response();
            assert!(response.is_complete(), "{protocol:?}: {response:?}");
        }
    }
}
