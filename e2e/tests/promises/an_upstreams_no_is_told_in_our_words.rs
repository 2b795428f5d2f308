//! What an upstream does not accept its client is told with our status and the upstream's machine word: a question at
//! fault is asked of nobody else, a key that is refused is never the client's fault, and no key goes elsewhere.

use handoff_e2e::upstream::{self, Dialect, Protocol, words};
use handoff_e2e::{Answer, Daemon, Response, Upstream};

const SENTENCE: &str = "You said: my secret question";

fn is_told(response: &Response, (status, code, words): (u16, &str, &str)) {
    assert_eq!((response.status, response.error_code().as_deref()), (status, Some(code)), "{response:?}");
    assert!(response.body.contains(words), "{response:?}");
    assert!(!response.body.contains(SENTENCE), "the upstream's sentence may hold anything: {response:?}");
}

#[test]
fn a_question_at_fault_is_asked_once_and_of_nobody_else() {
    let (llm, other) = (Upstream::start(Protocol::H2Tls), Upstream::start(Protocol::H1));
    let daemon = Daemon::confined(
        2,
        &format!(
            "[backend]\nprovider = \"llm\"\n{}fallbacks = [\"other\"]\n{}",
            llm.backend_toml("llm", Dialect::OpenAi),
            other.backend_toml("other", Dialect::OpenAi)
        ),
    );
    let told = |word| (400, "invalid_request", word);
    let cases = [
        (400, "invalid_request_error", "context_length_exceeded", told("context_length_exceeded")),
        (400, "invalid_request_error", "unsupported_parameter", told("unsupported_parameter")),
        (413, "invalid_request_error", "request_too_large", told("request_too_large")),
        (422, "invalid_request_error", "unprocessable", told("unprocessable")),
    ];
    let count = cases.len();
    for (status, kind, word, told) in cases {
        llm.script(Answer::openai_error(status, kind, word, SENTENCE));
        is_told(&daemon.hand_over(r#"{"prompt":"my secret question"}"#).response(), told);
    }
    assert_eq!((llm.request_count(), other.request_count()), (count, 0));
    assert_eq!(daemon.metric("handoffd_backend_retries_total"), 0.0);
    assert_eq!(daemon.metric("handoffd_backend_failovers_total"), 0.0);
}

#[test]
fn a_model_that_is_missing_may_be_elsewhere() {
    let (llm, other) = (Upstream::start(Protocol::H1), Upstream::start(Protocol::H1));
    llm.script(Answer::openai_error(404, "invalid_request_error", "model_not_found", SENTENCE));
    let backends = [("alone", &llm, ""), ("llm", &llm, "fallbacks = [\"other\"]\n"), ("other", &other, "")];
    let toml = backends.map(|(name, llm, keys)| llm.backend_toml(name, Dialect::OpenAi) + keys);
    let daemon = Daemon::confined(2, &toml.concat());
    let response = daemon.hand_over(r#"{"prompt":"x","backend":"alone"}"#).response();
    is_told(&response, (400, "invalid_request", "model_not_found"));
    assert_eq!(llm.request_count(), 1, "it would say the same again");
    let response = daemon.hand_over(r#"{"prompt":"x","backend":"llm"}"#).response();
    assert!(response.is_complete() && response.text() == words(10), "{response:?}");
}

#[test]
fn a_refused_key_is_never_the_clients_fault() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = Daemon::confined(
        2,
        &format!(
            "[backend]\nprovider = \"llm\"\n{}breaker_failures = 1\n",
            llm.backend_toml("llm", Dialect::Anthropic)
        ),
    );
    let cases = [(401, "authentication_error"), (403, "permission_error")];
    for (status, kind) in cases {
        llm.script(Answer::anthropic_error(status, kind, SENTENCE));
        let told = (502, "upstream_auth", kind);
        for _ in 0..2 {
            is_told(&daemon.hand_over(r#"{"prompt":"my secret question"}"#).response(), told);
        }
    }
    assert_eq!(llm.request_count(), 4, "each question once");
}

#[test]
fn no_key_follows_a_redirect() {
    for protocol in [Protocol::H1, Protocol::H2Tls] {
        let (llm, elsewhere) = (Upstream::start(protocol), Upstream::start(protocol));
        let daemon = Daemon::confined(
            2,
            &format!(
                "[backend]\nprovider = \"llm\"\n{}retries = 1\n",
                llm.backend_toml("llm", Dialect::OpenAi)
            ),
        );
        let statuses = [301, 302, 303, 307, 308];
        for status in statuses {
            let location = format!("{}/v1/chat/completions", elsewhere.origin());
            llm.script(Answer::redirect(status, &location));
            let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
            is_told(&response, (502, "upstream_error", "elsewhere"));
            assert!(response.header("location").is_none() && !response.body.contains(&location));
        }
        assert_eq!(llm.request_count(), statuses.len(), "each question once");
        assert!(elsewhere.connections().is_empty(), "{protocol:?}: nobody went there");
        assert!(!daemon.log().contains(upstream::API_KEY), "a key in the log");
    }
}

#[test]
fn what_nobody_here_can_read_is_nobodys_answer() {
    let (llm, other) = (Upstream::start(Protocol::H1), Upstream::start(Protocol::H1));
    llm.script(Answer::openai().answer().gzip());
    let daemon = Daemon::confined(
        2,
        &format!(
            "{}retries = 0\n{}retries = 0\nfallbacks = [\"other\"]\n{}",
            llm.backend_toml("alone", Dialect::OpenAi),
            llm.backend_toml("llm", Dialect::OpenAi),
            other.backend_toml("other", Dialect::OpenAi)
        ),
    );
    let response = daemon.hand_over(r#"{"prompt":"x","backend":"alone"}"#).response();
    is_told(&response, (502, "upstream_error", "no stream"));
    let response = daemon.hand_over(r#"{"prompt":"x","backend":"llm"}"#).response();
    assert!(response.is_complete() && response.text() == words(10), "{response:?}");
    let request = llm.wait_for_request(0).request;
    assert_eq!(request.header("accept-encoding"), Some("identity"), "it was not asked for");
}
