//! A server that cannot show who it is gets neither key nor question: the client is told that the API cannot be reached,
//! and the log why. Whoever says that any certificate will do is believed.

use handoff_e2e::upstream::{API_KEY, Certificate, Dialect, Options, Protocol, Upstream};
use serde_json::json;

use crate::an_answer_comes_from_a_real_api::confined;

const QUESTION: &str = r#"{"prompt":"a secret question","backend":"llm","request_id":"r"}"#;

const BAD: [(Certificate, &str); 3] = [
    (Certificate::WrongName, "not valid for name"),
    (Certificate::Expired, "expired"),
    (Certificate::Unknown, "UnknownIssuer"),
];

#[test]
fn whatever_is_wrong_with_its_certificate() {
    for (certificate, why) in BAD {
        for protocol in [Protocol::H1Tls, Protocol::H2Tls] {
            let llm = Upstream::with(Options { certificate, ..Options::new(protocol) });
            let daemon = confined(&llm.backend_toml("llm", Dialect::OpenAi));
            let response = daemon.hand_over(QUESTION).response();
            assert_eq!(
                (response.status, response.error_code().as_deref()),
                (502, Some("upstream_unavailable")),
                "{certificate:?}: {response:?}"
            );
            // What is wrong is for the operator alone.
            assert!(!response.body.to_lowercase().contains("certificate"), "{response:?}");
            let session = daemon.session("r");
            assert_eq!(session["backend"], json!("llm"), "{session}");
            let log = daemon.log();
            let line = log.lines().find(|line| line.contains("upstream failed")).unwrap_or_default();
            assert!(line.contains("TLS failed") && line.contains(why), "{certificate:?}: {line}");
            assert!(!log.contains(API_KEY) && !log.contains("a secret question"), "{certificate:?}");
            assert_eq!(llm.request_count(), 0, "{certificate:?}");
            let failures = "handoffd_backend_failures_total{backend=\"llm\",reason=\"tls\"";
            handoff_e2e::eventually("it is counted", || (daemon.metric(failures) == 1.0).then_some(()));
        }
    }
}

#[test]
fn unless_any_certificate_will_do() {
    for (certificate, _) in BAD {
        let llm = Upstream::with(Options { certificate, ..Options::new(Protocol::H2Tls) });
        let daemon = confined(&(llm.backend_toml("llm", Dialect::OpenAi) + "insecure_ssl = true\n"));
        let response = daemon.hand_over(QUESTION).response();
        assert!(response.is_complete(), "{certificate:?}: {response:?}");
    }
}
