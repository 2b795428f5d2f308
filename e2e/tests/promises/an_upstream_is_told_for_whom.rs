//! A backend that is configured so hears for whom it is asked: the client's address, if it is one. It hears of the trace
//! that the question is part of, unless it is configured not to.

use handoff_e2e::Daemon;
use handoff_e2e::apache::enveloped;
use handoff_e2e::upstream::book::Request;
use handoff_e2e::upstream::{Dialect, Protocol, Upstream};
use serde_json::{Value, json};

use crate::an_answer_comes_from_a_real_api::confined;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// The backends `quiet`, `told` and `untraced`, at one server.
fn site() -> (Upstream, Daemon) {
    let llm = Upstream::start(Protocol::H1);
    let section = |name: &str, key: &str| llm.backend_toml(name, Dialect::OpenAi) + key + "\n";
    let toml = section("quiet", "")
        + &section("told", "x_forwarded_for = true")
        + &section("untraced", "trace_context = false");
    let daemon = confined(&toml);
    (llm, daemon)
}

fn ask(llm: &Upstream, daemon: &Daemon, message: impl AsRef<[u8]>) -> Request {
    let number = llm.request_count();
    let response = daemon.hand_over(message).response();
    assert!(response.is_complete(), "{response:?}");
    llm.wait_for_request(number).request
}

fn question(backend: &str) -> String {
    json!({"prompt": "hi", "backend": backend}).to_string()
}

#[test]
fn by_the_clients_address_where_that_is_wanted() {
    let (llm, daemon) = site();
    let envelope =
        |client: &str| json!({"v": 1, "client": client, "headers": [["x-forwarded-for", "192.0.2.66"]]});
    for (client, told) in [
        ("203.0.113.9", Some("203.0.113.9")),
        ("2001:db8::0:9", Some("2001:db8::9")),
        ("::ffff:203.0.113.9", Some("203.0.113.9")),
        ("203.0.113.9, 10.0.0.1", None),
        ("client.example", None),
        ("203.0.113.9\r\nx-a: b", None),
        ("", None),
    ] {
        let request = ask(&llm, &daemon, enveloped(&envelope(client), question("told")));
        assert_eq!(request.header("x-forwarded-for"), told, "{client:?}");
    }
    let request = ask(&llm, &daemon, enveloped(&envelope("203.0.113.9"), question("quiet")));
    assert_eq!(request.header("x-forwarded-for"), None, "nobody has asked for it");
    // PHP may know it too; Apache knows better.
    let payload = json!({"prompt": "hi", "backend": "told", "client_ip": "192.0.2.1"}).to_string();
    assert_eq!(ask(&llm, &daemon, &payload).header("x-forwarded-for"), Some("192.0.2.1"));
    let request = ask(&llm, &daemon, enveloped(&envelope("203.0.113.9"), &payload));
    assert_eq!(request.header("x-forwarded-for"), Some("203.0.113.9"));
}

#[test]
fn and_as_part_of_which_trace() {
    let (llm, daemon) = site();
    let envelope: Value = json!({
        "v": 1,
        "headers": [["Traceparent", PARENT], ["tracestate", "a=1"], ["tracestate", "b=2"]],
    });
    let trace = |request: &Request| {
        ["traceparent", "tracestate"].map(|name| request.header(name).unwrap_or_default().to_owned())
    };
    let request = ask(&llm, &daemon, enveloped(&envelope, question("quiet")));
    assert_eq!(trace(&request), [PARENT, "a=1,b=2"]);
    let request = ask(&llm, &daemon, enveloped(&envelope, question("untraced")));
    assert_eq!(trace(&request), ["", ""]);
    // The site's own trace has no part in the state of the client's.
    let own = json!({"prompt": "hi", "backend": "quiet", "traceparent": "00-of-the-site"}).to_string();
    assert_eq!(trace(&ask(&llm, &daemon, enveloped(&envelope, own))), ["00-of-the-site", ""]);
}
