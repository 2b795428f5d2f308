//! An upstream that cannot be reached, or hangs up before it answers, is a 502 with a code of its own, whatever it speaks.

use handoff_e2e::asker::ONCE;
use handoff_e2e::upstream::{
    Answer, Certificate, Dialect, Opening, Options, Protocol, Step, Upstream, words,
};
use handoff_e2e::{Asker, eventually};
use serde_json::json;

/// A backend for each of these.
fn asker(llms: &[(&str, Upstream)]) -> Asker {
    let backends: Vec<_> = llms.iter().map(|(name, llm)| (*name, llm, Dialect::OpenAi)).collect();
    Asker::start("", &backends, ONCE)
}

#[test]
fn when_nobody_listens() {
    let llms = [
        ("h1", Upstream::start(Protocol::H1)),
        ("h2", Upstream::start(Protocol::H2Tls)),
        ("unix", Upstream::start(Protocol::Unix)),
    ];
    let asker = asker(&llms);
    for (name, llm) in &llms {
        llm.refuse();
        for format in ["content", "openai", "raw"] {
            let told = asker.ask(&json!({"backend": name, "format": format}));
            told.is_refused(502, "upstream_unavailable", "upstream_failed");
        }
    }
    asker.adds_up(&llms.each_ref().map(|(name, _)| (*name, "connect", 3)), &[("upstream_failed", 9)]);
    for (name, llm) in &llms {
        llm.listen();
        asker.ask(&json!({"backend": name})).is_complete(&words(10));
    }
}

#[test]
fn when_it_hangs_up_before_its_answer() {
    let start = |opening, protocol| Upstream::with(Options { opening, ..Options::new(protocol) });
    let (closes, resets) = (Opening::Close, Opening::Reset);
    // With TLS that is where TLS fails; without, the question may be out already.
    let llms = [
        ("h1-closes", start(closes, Protocol::H1)),
        ("h1-resets", start(resets, Protocol::H1)),
        ("unix-closes", start(closes, Protocol::Unix)),
        ("unix-resets", start(resets, Protocol::Unix)),
        ("tls-h1-closes", start(closes, Protocol::H1Tls)),
        ("tls-h1-resets", start(resets, Protocol::H1Tls)),
        ("tls-h2-closes", start(closes, Protocol::H2Tls)),
        ("tls-h2-resets", start(resets, Protocol::H2Tls)),
    ];
    let asker = asker(&llms);
    for (name, llm) in &llms {
        asker.ask(&json!({"backend": name})).is_refused(502, "upstream_unavailable", "upstream_failed");
        assert_eq!(llm.request_count(), 0, "{name}");
        let connections = llm.connections().len();
        assert!(connections <= 12, "{name}: asked {connections} times");
    }
    for (name, _) in &llms {
        let reason = if name.starts_with("tls") { "tls" } else { "broken" };
        // How often it is asked depends on whether a byte of the question had gone out, and a connection may be reset
        // while it is made.
        eventually("it is counted", || {
            let failed = |reason: &str| {
                let sample =
                    format!("handoffd_backend_failures_total{{backend=\"{name}\",reason=\"{reason}\"");
                asker.daemon.metric(&sample)
            };
            (failed(reason) + failed("connect") >= 1.0).then_some(())
        });
    }
}

#[test]
fn when_it_hangs_up_after_the_question() {
    let start = |protocol, step| {
        let llm = Upstream::start(protocol);
        llm.script(Answer::sse().step(step));
        llm
    };
    let llms = [
        ("h1-closes", start(Protocol::H1, Step::Cut)),
        ("h1-resets", start(Protocol::H1, Step::ResetConnection)),
        ("h2c-closes", start(Protocol::H2c, Step::Cut)),
        ("h2c-resets", start(Protocol::H2c, Step::ResetConnection)),
        ("h2-closes", start(Protocol::H2Tls, Step::Cut)),
        ("h2-resets", start(Protocol::H2Tls, Step::ResetConnection)),
    ];
    let asker = asker(&llms);
    for (name, llm) in &llms {
        asker.ask(&json!({"backend": name})).is_refused(502, "upstream_unavailable", "upstream_failed");
        assert_eq!(llm.request_count(), 1, "{name}: it may have seen the question");
    }
    asker.adds_up(&llms.each_ref().map(|(name, _)| (*name, "broken", 1)), &[("upstream_failed", 6)]);
}

#[test]
fn when_it_is_not_who_it_should_be() {
    let start = |certificate| Upstream::with(Options { certificate, ..Options::new(Protocol::H2Tls) });
    let llms = [
        ("wrong-name", start(Certificate::WrongName)),
        ("expired", start(Certificate::Expired)),
        ("unknown", start(Certificate::Unknown)),
    ];
    let asker = asker(&llms);
    for (name, llm) in &llms {
        asker.ask(&json!({"backend": name})).is_refused(502, "upstream_unavailable", "upstream_failed");
        assert_eq!(llm.request_count(), 0, "{name}: no question, and no key");
    }
    asker.adds_up(&llms.each_ref().map(|(name, _)| (*name, "tls", 1)), &[("upstream_failed", 3)]);
}
