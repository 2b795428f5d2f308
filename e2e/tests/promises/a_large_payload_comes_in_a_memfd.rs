//! Payloads of up to 32 MiB come in a sealed memfd, and reach the upstream as they were written. What is larger is refused
//! with a 413, what is not sealed is not read; and the memory goes back.

use std::os::fd::AsFd;

use handoff_e2e::apache::{enveloped, hand_over_with, memfd};
use handoff_e2e::process::{fds, own_memory};
use handoff_e2e::upstream::{Dialect, Protocol, Upstream};
use handoff_e2e::{Client, Daemon, eventually};
use serde_json::{Value, json};

use crate::an_answer_comes_from_a_real_api::confined;

const MEBIBYTE: usize = 1024 * 1024;

fn site() -> (Upstream, Daemon) {
    let llm = Upstream::start(Protocol::H1);
    let daemon = confined(&llm.backend_toml("llm", Dialect::OpenAi));
    (llm, daemon)
}

/// A conversation of about this many bytes, no two parts of which are the same.
fn conversation(bytes: usize, salt: usize) -> String {
    let mut text = String::with_capacity(bytes + 64);
    let mut number = salt;
    while text.len() < bytes {
        text += &format!("{number:x} grüezi ");
        number = number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    }
    text
}

fn payload(id: &str, text: &str) -> String {
    json!({"messages": [{"role": "user", "content": text}], "backend": "llm", "request_id": id}).to_string()
}

fn ask(daemon: &Daemon, envelope: &Value, payload: &[u8]) -> Client {
    hand_over_with(&daemon.socket(), &enveloped(envelope, ""), memfd(payload, true).as_fd())
}

/// What the supervisor and all workers have in memory, in MiB.
fn memory_of_all(daemon: &Daemon) -> u64 {
    let of_workers: u64 = daemon.workers("ready").into_iter().map(own_memory).sum();
    (own_memory(daemon.pid()) + of_workers) >> 20
}

#[test]
fn thirty_megabytes_arrive_byte_for_byte_and_leave_nothing_behind() {
    let (llm, daemon) = site();
    let (memory, open) = (memory_of_all(&daemon), daemon.fds());
    let text = conversation(30_000_000, 1);
    let response = ask(&daemon, &json!({"v": 1}), payload("r", &text).as_bytes()).response();
    assert!(response.is_complete(), "{response:?}");
    let sent = llm.wait_for_request(0).request.json();
    assert!(sent["messages"][0]["content"] == text.as_str(), "the question has changed on its way");
    // One more is the connection to the upstream, which is kept.
    eventually("fds and memory go back", || {
        (daemon.fds() <= open + 1 && memory_of_all(&daemon) < memory + 12).then_some(())
    });
}

#[test]
fn eight_at_once_are_all_answered() {
    let (llm, daemon) = site();
    let memory = memory_of_all(&daemon);
    let workers = daemon.workers("ready");
    let texts: Vec<String> = (0..8).map(|salt| conversation(30 * MEBIBYTE, salt)).collect();
    let clients: Vec<Client> = texts
        .iter()
        .enumerate()
        .map(|(number, text)| ask(&daemon, &json!({"v": 1}), payload(&format!("r{number}"), text).as_bytes()))
        .collect();
    for client in clients {
        let response = client.response();
        assert!(response.is_complete(), "{response:?}");
    }
    for seen in llm.requests() {
        let number =
            seen.request.header("x-request-id").and_then(|id| id.trim_start_matches('r').parse().ok());
        let text = texts.get(number.unwrap_or(usize::MAX)).expect("a question of ours");
        assert!(seen.request.json()["messages"][0]["content"] == text.as_str(), "r{number:?} has changed");
    }
    assert_eq!(llm.request_count(), 8);
    eventually("memory goes back", || (memory_of_all(&daemon) < memory + 24).then_some(()));
    assert_eq!(daemon.workers("ready"), workers, "no worker was lost");
}

#[test]
fn who_leaves_while_it_is_read_is_not_answered() {
    let (llm, daemon) = site();
    let large = payload("r", &conversation(30 * MEBIBYTE, 3));
    drop(ask(&daemon, &json!({"v": 1, "request_id": "left"}), large.as_bytes()));
    assert_eq!(daemon.session("left")["outcome"], "client_gone");
    assert_eq!(llm.request_count(), 0);
}

#[test]
fn more_is_too_much() {
    let (llm, daemon) = site();
    let open = fds(daemon.pid());
    for bytes in [32 * MEBIBYTE + 1, 33 * MEBIBYTE, 100 * MEBIBYTE] {
        let large = vec![b' '; bytes];
        let envelope = json!({"v": 1, "request_id": "large", "method": "GET"});
        let response = ask(&daemon, &envelope, &large).response();
        let told = (response.status, response.error_code(), response.header("x-request-id"));
        assert_eq!(told, (413, Some("payload_too_large".to_owned()), Some("large")), "{response:?}");
        assert!(response.body.contains("32 MiB in a memfd"), "{response:?}");
        let response = ask(&daemon, &json!({"v": 1, "method": "HEAD"}), &large).response();
        assert_eq!((response.status, response.body.as_str()), (413, ""), "{response:?}");
    }
    // As much as there may be, and nothing in it.
    let blank = vec![b' '; 32 * MEBIBYTE];
    assert_eq!(ask(&daemon, &json!({"v": 1}), &blank).response().status, 400);
    assert_eq!(llm.request_count(), 0);
    eventually("every fd is closed", || (fds(daemon.pid()) <= open).then_some(()));
}

#[test]
fn and_what_can_still_be_changed_is_not_read() {
    let (_llm, daemon) = site();
    for (is_sealed, bytes) in [(false, payload("r", "unsealed")), (true, String::new())] {
        let memfd = memfd(bytes.as_bytes(), is_sealed);
        let message = enveloped(&json!({"v": 1}), "");
        let response = hand_over_with(&daemon.socket(), &message, memfd.as_fd()).response();
        assert_eq!((response.status, response.error_code().as_deref()), (400, Some("bad_handoff")));
        assert!(response.body.contains("sealed against writing, growing and shrinking"), "{response:?}");
    }
    // Half of it: no JSON, whatever the reason.
    let half = payload("r", &conversation(MEBIBYTE, 7));
    let half = &half.as_bytes()[..half.len() / 2];
    let response = ask(&daemon, &json!({"v": 1}), half).response();
    assert!(response.status == 400 && response.body.contains("not valid"), "{response:?}");
}
