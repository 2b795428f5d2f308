//! A client gets nothing before the first word of its answer, or before `client.commit_after_secs`: so a failure has a
//! status of its own for as long as that, and even afterwards somebody else may still answer.

use std::time::Duration;

use handoff_e2e::upstream::{Answer, Protocol, Step, Upstream, words};
use handoff_e2e::{Asker, Client, Response};
use serde_json::json;

/// The head goes out soon, and heartbeats come often.
const EARLY: &str = "[client]\ncommit_after_secs = 0.2\nheartbeat_secs = 0.1\n";

/// What comes after the head and two heartbeats, with them.
fn after_heartbeats(mut client: Client, then: impl FnOnce()) -> Response {
    let mut begin = client.read_until("\r\n\r\n");
    begin += &client.read_until("\n\n");
    begin += &client.read_until("\n\n");
    then();
    let (head, body) = begin.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{begin}");
    assert!(!body.contains("data:"), "a heartbeat is no event: {begin}");
    let mut response = client.read_response();
    (response.status, response.head) = (200, head.to_owned());
    drop(client);
    response.body.insert_str(0, body);
    response
}

#[test]
fn an_opening_without_a_word_is_none() {
    let (first, second) = (Upstream::start(Protocol::H1), Upstream::start(Protocol::H1));
    let asker = Asker::with_fallback("", &first, &second);
    second.script(Answer::openai_error(500, "server_error", "server_error", "no"));
    for format in ["content", "openai", "raw"] {
        first.script(Answer::openai().broken_after(0, [Step::WaitFor(format.to_owned())]));
        let (mut client, id) = asker.begin(&json!({"format": format}));
        client.patience(Duration::from_millis(200));
        let nothing = std::io::Read::read(&mut client, &mut [0]);
        assert!(nothing.is_err(), "the opening has arrived, and nothing goes out: {nothing:?}");
        client.patience(handoff_e2e::PATIENCE);
        first.open(format);
        let about = json!({"format": format});
        let told = asker.told(client.response(), &id, &about);
        told.is_refused(502, "upstream_error", "upstream_failed");
    }
    asker.adds_up(&[("first", "incomplete", 3), ("second", "server", 3)], &[("upstream_failed", 3)]);
}

#[test]
fn after_the_head_a_failure_is_one_event() {
    let (first, second) = (Upstream::start(Protocol::H1), Upstream::start(Protocol::H1));
    let asker = Asker::with_fallback(EARLY, &first, &second);
    first.script(Answer::sse().wait_for("end").cut());
    second.script(Answer::openai_error(500, "server_error", "server_error", "no"));
    let (client, id) = asker.begin(&json!({}));
    let response = after_heartbeats(client, || first.open("end"));
    asker.told(response, &id, &json!({})).is_broken_after(0, "upstream_error", "upstream_failed");
    asker.adds_up(&[("first", "broken", 1), ("second", "server", 1)], &[("upstream_failed", 1)]);
}

#[test]
fn after_the_head_somebody_else_may_still_answer() {
    for opening in [Answer::sse(), Answer::openai().broken_after(0, [])] {
        let (first, second) = (Upstream::start(Protocol::H1), Upstream::start(Protocol::H2c));
        let asker = Asker::with_fallback(EARLY, &first, &second);
        first.script(opening.wait_for("end").cut());
        let (client, id) = asker.begin(&json!({}));
        let response = after_heartbeats(client, || first.open("end"));
        asker.told(response, &id, &json!({})).is_complete(&words(10));
        assert_eq!((first.request_count(), second.request_count()), (1, 1));
    }
}

#[test]
fn after_the_first_word_nobody_else_is_asked() {
    let (first, second) = (Upstream::start(Protocol::H1), Upstream::start(Protocol::H1));
    let asker = Asker::with_fallback("", &first, &second);
    first.script(Answer::openai().broken_after(1, []));
    asker.ask(&json!({})).is_broken_after(1, "stream_incomplete", "stream_incomplete");
    assert_eq!((first.request_count(), second.request_count()), (1, 0));
    asker.adds_up(&[("first", "incomplete", 1)], &[("stream_incomplete", 1)]);
}
