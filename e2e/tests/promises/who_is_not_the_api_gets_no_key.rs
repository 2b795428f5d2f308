//! A server that cannot show who it is gets neither key nor question: the client is told that the API cannot be reached,
//! and the log why. Whoever says that any certificate will do is believed.

use handoff_e2e::upstream::{API_KEY, Certificate, Dialect, Options, Protocol, Upstream};
use handoff_e2e::{Answer, eventually};
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
    for protocol in [Protocol::H1Tls, Protocol::H2Tls] {
        let llms =
            BAD.map(|(certificate, _)| Upstream::with(Options { certificate, ..Options::new(protocol) }));
        let name = |certificate: Certificate| format!("{certificate:?}");
        let sections = llms.iter().zip(BAD);
        let toml: String = sections
            .map(|(llm, (certificate, _))| llm.backend_toml(&name(certificate), Dialect::OpenAi))
            .collect();
        let daemon = confined(&toml);
        for (llm, (certificate, why)) in llms.iter().zip(BAD) {
            let backend = name(certificate);
            let payload = json!({"prompt": "a secret question", "backend": backend, "request_id": backend});
            let response = daemon.hand_over(payload.to_string()).response();
            let said = (response.status, response.error_code());
            assert_eq!(said, (502, Some("upstream_unavailable".to_owned())), "{backend}: {response:?}");
            // What is wrong is for the operator alone.
            assert!(!response.body.to_lowercase().contains("certificate"), "{response:?}");
            assert_eq!(daemon.session(&backend)["backend"], json!(backend));
            let log = daemon.log();
            let is_ours = |line: &&str| line.contains("upstream failed") && line.contains(&backend);
            let line = log.lines().find(is_ours).unwrap_or_default();
            assert!(line.contains("TLS failed") && line.contains(why), "{backend}: {line}");
            assert!(!log.contains(API_KEY) && !log.contains("a secret question"), "{backend}");
            assert_eq!(llm.request_count(), 0, "{backend}");
        }
        for (certificate, _) in BAD {
            let backend = name(certificate);
            let failures = format!("handoffd_backend_failures_total{{backend=\"{backend}\",reason=\"tls\"");
            eventually("it is counted", || (daemon.metric(&failures) == 1.0).then_some(()));
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

#[test]
fn a_profile_that_lives_elsewhere_has_a_key_and_headers_of_its_own() {
    let (home, elsewhere) = (Upstream::start(Protocol::H1), Upstream::start(Protocol::H2c));
    home.script(Answer::langgraph());
    elsewhere.script(Answer::langgraph());
    let toml = home.backend_toml("graph", Dialect::LangGraph);
    let profile = |name: &str, keys: &str| format!("[backends.graph.profiles.{name}]\n{keys}");
    let there = format!("api_base = \"{}\"\n", elsewhere.origin());
    let daemon = confined(
        &[
            toml + "headers = { x-team = \"search\" }\n",
            profile("near", "assistant_id = \"other\"\n"),
            profile("far", &format!("{there}api_key = \"sk-far\"\n")),
            profile("open", &format!("{there}api_key = \"\"\n")),
        ]
        .concat(),
    );
    for (number, (profile, llm, key, team)) in [
        ("near", &home, Some(API_KEY), Some("search")),
        ("far", &elsewhere, Some("sk-far"), None),
        ("open", &elsewhere, None, None),
    ]
    .into_iter()
    .enumerate()
    {
        let payload = json!({"prompt": "x", "backend": "graph", "profile": profile});
        let response = daemon.hand_over(payload.to_string()).response();
        assert!(response.is_complete(), "{profile}: {response:?}");
        let request = llm.wait_for_request(number.saturating_sub(1)).request;
        assert_eq!((request.header("x-api-key"), request.header("x-team")), (key, team), "{profile}");
    }
}
