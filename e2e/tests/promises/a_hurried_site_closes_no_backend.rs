//! A backend is left alone for its own failures: a site that has no patience says nothing about it to the others.

use handoff_e2e::Daemon;
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Upstream};
use serde_json::json;

#[test]
fn its_timeouts_do_not_count_as_the_backends_failures() {
    let llm = Upstream::start(Protocol::H1);
    llm.answer_with(|request| match request.json()["messages"][0]["content"].as_str() {
        Some("slow") => Answer::sse().hang(),
        _ => Answer::openai().into(),
    });
    let daemon = Daemon::start(&format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}breaker_failures = 2\n",
        llm.backend_toml("llm", Dialect::OpenAi)
    ));
    for timeouts in [json!({"head": 0.02}), json!({"first_content": 0.02})] {
        for _ in 0..3 {
            let payload = json!({"prompt": "slow", "timeouts": timeouts});
            assert_eq!(daemon.hand_over(payload.to_string()).response().status, 504);
        }
    }
    let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
    assert!(response.is_complete(), "{response:?}");
    assert_eq!(daemon.metric("handoffd_backend_cooldowns_total{backend=\"llm\""), 0.0);
}
