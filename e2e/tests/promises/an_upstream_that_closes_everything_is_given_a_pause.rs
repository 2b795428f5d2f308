//! A server that takes connections and closes them again is not stormed: one question is few requests, with pauses.

use handoff_e2e::Daemon;
use handoff_e2e::upstream::{Answer, Dialect, LastStream, Protocol, Step, Upstream, code};

#[test]
fn a_question_that_no_connection_takes_is_sent_a_bounded_number_of_times() {
    let llm = Upstream::start(Protocol::H2Tls);
    let away = Answer::sse().step(Step::GoAway(LastStream::BeforeThis, code::NO_ERROR));
    llm.script(away.hang());
    let daemon = Daemon::start(&format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}retries = 0\n",
        llm.backend_toml("llm", Dialect::OpenAi)
    ));
    let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
    assert_eq!(response.error_code().as_deref(), Some("upstream_unavailable"), "{response:?}");
    assert_eq!(llm.request_count(), 4, "one and three more at once");
}
