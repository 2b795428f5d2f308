//! Where there is no place on any connection, questions wait for one in their order, for as long as configured; then their
//! clients are told to come back. Those who wait cost the upstream nothing.

use handoff_e2e::upstream::{Dialect, Options, Protocol, Step, words};
use handoff_e2e::{Answer, Daemon, Upstream, eventually};
use serde_json::json;

/// One worker with one connection.
fn narrow(llm: &Upstream, keys: &str) -> Daemon {
    let backend = llm.backend_toml("llm", Dialect::OpenAi);
    let backend = format!(
        "[backend]\nprovider = \"llm\"\n{backend}connections_max = 1\nstreams_max = 1\nretries = 0\n"
    );
    Daemon::confined(1, &format!("{backend}{keys}"))
}

#[test]
fn when_an_upstream_accepts_late() {
    const WAITING: usize = 60;
    let llm = Upstream::start(Protocol::H1);
    let daemon = narrow(&llm, "http2 = false\nqueue_timeout_secs = 0.4\n");
    llm.pause_accepting();
    let mut clients: Vec<_> = (0..=WAITING).map(|_| daemon.hand_over(r#"{"prompt":"x"}"#)).collect();
    let late = clients.split_off(1);
    let gauge = "handoffd_backend_queued{backend=\"llm\"";
    for client in late {
        let response = client.response();
        assert_eq!(
            (response.status, response.error_code().as_deref()),
            (503, Some("overloaded")),
            "{response:?}"
        );
        assert!(response.header("retry-after").is_some(), "{response:?}");
    }
    assert_eq!(llm.request_count(), 0);
    llm.listen();
    for client in clients {
        let response = client.response();
        assert!(response.is_complete() && response.text() == words(10), "{response:?}");
    }
    assert_eq!((llm.request_count(), llm.connections().len()), (1, 1), "who has gone is not asked for");
    eventually("nobody waits", || (daemon.metric(gauge) == 0.0).then_some(()));
}

#[test]
fn in_the_order_in_which_they_came() {
    const WAITING: usize = 30;
    let options = Options { max_concurrent_streams: Some(1), ..Options::new(Protocol::H2c) };
    let llm = Upstream::with(options);
    llm.script_each([
        Answer::openai().with_after(1, [Step::WaitFor("next".to_owned())]),
        Answer::openai().answer(),
    ]);
    let daemon = narrow(&llm, "");
    let mut first = daemon.hand_over(r#"{"prompt":"first"}"#);
    first.read_until("w0 \"}\n\n");
    let questions = (0..WAITING).map(|number| json!({ "prompt": number.to_string() }).to_string());
    let clients: Vec<_> = questions.map(|question| daemon.hand_over(&question)).collect();
    let gauge = "handoffd_backend_queued{backend=\"llm\"";
    eventually("all wait", || (daemon.metric(gauge) == WAITING as f64).then_some(()));
    assert_eq!(llm.request_count(), 1);
    llm.open("next");
    for client in clients {
        let response = client.response();
        assert!(response.is_complete() && response.text() == words(10), "{response:?}");
    }
    let order: Vec<_> = llm.requests().iter().skip(1).map(|seen| seen.request.json()).collect();
    let order: Vec<_> = order.iter().filter_map(|body| body["messages"][0]["content"].as_str()).collect();
    let asked: Vec<_> = (0..WAITING).map(|number| number.to_string()).collect();
    assert_eq!(order, asked);
    assert!(llm.connections().iter().all(|connection| connection.streams_max <= 1));
}
