//! Each question to a backend ends in one way: well, badly, or because nobody wanted it any more.

use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream, words};
use handoff_e2e::{Daemon, eventually};

#[test]
fn an_answer_that_took_too_long_has_failed_and_was_not_cancelled() {
    let llm = Upstream::start(Protocol::H1);
    llm.script(Answer::openai().with_after(5, [Step::Hang]));
    let daemon = Daemon::start(&format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}total_timeout_secs = 0.3\n",
        llm.backend_toml("llm", Dialect::OpenAi)
    ));
    let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
    assert_eq!(response.error_code().as_deref(), Some("stream_too_long"), "{response:?}");
    assert!(response.text().starts_with(&words(5)), "{response:?}");
    llm.wait_for_cancel(0);
    let of_backend = |name: &str| daemon.metric(&format!("{name}{{backend=\"llm\""));
    eventually("it is counted", || (of_backend("daemon_backend_errors_total") == 1.0).then_some(()));
    assert_eq!(of_backend("handoffd_backend_cancelled_total"), 0.0);
}

#[test]
fn a_question_that_goes_to_another_backend_is_a_question_to_each() {
    let llm = Upstream::start(Protocol::H1);
    let other = Upstream::start(Protocol::H1);
    llm.script(Answer::openai_error(500, "server_error", "server_error", "no"));
    let daemon = Daemon::start(&format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}retries = 0\nfallbacks = [\"other\"]\n{}",
        llm.backend_toml("llm", Dialect::OpenAi),
        other.backend_toml("other", Dialect::OpenAi)
    ));
    assert!(daemon.hand_over(r#"{"prompt":"x"}"#).response().is_complete());
    let questions = |backend| daemon.metric(&format!("daemon_backend_requests_total{{backend=\"{backend}\""));
    eventually("they are counted", || ((questions("llm"), questions("other")) == (1.0, 1.0)).then_some(()));
}
