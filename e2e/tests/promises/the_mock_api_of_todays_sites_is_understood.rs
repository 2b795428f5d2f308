//! The mock LLM API with which users of `mod_socket_handoff` test their daemons: what they expect of each of its patterns
//! holds through the real handoff, for clients on TCP and on Unix sockets.

use std::time::Duration;

use handoff_e2e::apache::Kind;
use handoff_e2e::upstream::{Options, Protocol};
use handoff_e2e::{Daemon, Door, Response, Upstream};

use crate::an_answer_comes_from_a_real_api::confined;

fn ask(daemon: &Daemon, kind: Kind, pattern: &str) -> Response {
    let payload = serde_json::json!({"prompt": "test prompt", "user_id": 1, "test_pattern": pattern, "include": ["finish_reason"]});
    daemon.hand_over_by(Door::SeqPacket, kind, payload.to_string().as_bytes()).response()
}

/// What is expected of every pattern: status, a body of event streams' lines, and whether it says that it is whole.
fn check(response: &Response, is_whole: bool) {
    assert_eq!((response.status, response.broken), (200, None), "{response:?}");
    let fields = ["data: ", "event: ", "id: ", ":"];
    let is_field = |line: &str| line.is_empty() || fields.iter().any(|field| line.starts_with(field));
    assert!(response.body.lines().all(is_field), "{response:?}");
    assert!(!response.body.contains('\u{FFFD}'), "valid UTF-8: {response:?}");
    assert_eq!(response.data().contains(&"[DONE]"), is_whole, "{response:?}");
}

#[test]
fn each_pattern_arrives_as_it_was_sent() {
    for protocol in [Protocol::H1, Protocol::H2c, Protocol::Unix] {
        let llm = Upstream::mock_api(Options::new(protocol), Duration::ZERO);
        let daemon = confined(&llm.openai_toml());
        for kind in [Kind::Tcp, Kind::Unix] {
            let unicode = ask(&daemon, kind, "unicode");
            check(&unicode, true);
            for text in
                ["\u{1F600}", "\u{1F680}", "\u{4E2D}", "\u{6587}", "\u{1D400}", "👩‍💻", "\"quoted\" \\ \n end"]
            {
                assert!(unicode.text().contains(text), "{text}: {unicode:?}");
            }
            let short = ask(&daemon, kind, "short");
            check(&short, true);
            assert!(short.data().len() > 10 && short.text().ends_with("né."), "{short:?}");
            let long = ask(&daemon, kind, "long");
            check(&long, true);
            assert_eq!(long.text().len(), 3 * 4096);
            for pattern in
                ["finish:stop", "finish:length", "finish:tool_calls", "finish:of_its_own", "", "unknown"]
            {
                let response = ask(&daemon, kind, pattern);
                check(&response, true);
                assert!(response.text().ends_with("w17 "), "{pattern}: {response:?}");
                let reason = format!(
                    "{{\"finish_reason\":\"{}\"}}",
                    pattern.strip_prefix("finish:").unwrap_or("stop")
                );
                assert!(response.data().contains(&reason.as_str()), "{pattern}: {response:?}");
            }
        }
        let patterns: Vec<_> = llm
            .requests()
            .iter()
            .map(|seen| seen.request.header("x-test-pattern").map(str::to_owned))
            .collect();
        assert_eq!(patterns[0].as_deref(), Some("unicode"), "{patterns:?}");
    }
}

#[test]
fn an_aborted_answer_keeps_what_came_and_never_says_done() {
    let llm = Upstream::mock_api(Options::new(Protocol::H1), Duration::ZERO);
    let daemon = confined(&llm.openai_toml());
    for kind in [Kind::Tcp, Kind::Unix] {
        for (pattern, text) in [("abort:5", "w0 w1 w2 w3 w4 "), ("abort:1", "w0 ")] {
            let response = ask(&daemon, kind, pattern);
            check(&response, false);
            assert_eq!(response.text(), text);
            assert_eq!(response.error_code().as_deref(), Some("stream_incomplete"), "{response:?}");
        }
    }
}

/// The format that its users' daemon writes, which reads as theirs does: each line of data begins with `data: `.
#[test]
fn in_its_own_chunks_too() {
    let llm = Upstream::mock_api(Options::new(Protocol::H1), Duration::ZERO);
    let daemon = confined(&llm.openai_toml());
    for (kind, pattern) in [Kind::Tcp, Kind::Unix].into_iter().flat_map(|kind| {
        ["unicode", "short", "long", "finish:length", "abort:3", "abort:0"].map(|pattern| (kind, pattern))
    }) {
        let payload = serde_json::json!({"prompt": "x", "test_pattern": pattern, "format": "openai"});
        let response = daemon.hand_over_by(Door::SeqPacket, kind, payload.to_string().as_bytes()).response();
        let is_data = |line: &str| line.is_empty() || line.starts_with("data: ");
        match pattern {
            // Nothing has come of it: it can still be told by a status.
            "abort:0" => assert_eq!(response.status, 502, "{response:?}"),
            "abort:3" => {
                check(&response, false);
                assert_eq!(response.data().len(), 3 + 1, "three pieces and an error: {response:?}");
            }
            _ => check(&response, true),
        }
        assert!(response.status != 200 || response.body.lines().all(is_data), "{response:?}");
    }
}
