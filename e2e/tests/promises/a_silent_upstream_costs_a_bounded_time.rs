//! An upstream that says nothing, or nothing that means anything, costs its client a bounded time, in each phase, and
//! then there is a real status.

use std::time::Duration;

use handoff_e2e::Asker;
use handoff_e2e::asker::{ONCE, Told, name};
use handoff_e2e::upstream::{Answer, Dialect, Opening, Options, Protocol, Step, Talk, Upstream};
use serde_json::{Value, json};

/// What it may take beyond the time that is allowed, on a machine with other things to do.
const LATE_MAX: Duration = Duration::from_millis(900);

/// The one timeout that is short; all others are as they are.
fn keys(short: &str) -> String {
    format!("{ONCE}{short} = 0.4\n")
}

/// One client of each upstream, all at once; then what each was told.
fn ask_all(asker: &Asker, questions: &[Value]) -> Vec<Told> {
    let asked: Vec<_> = questions.iter().map(|about| (asker.begin(about), about)).collect();
    asked.into_iter().map(|((client, id), about)| asker.told(client.response(), &id, about)).collect()
}

fn took_no_longer(told: &Told, what: &str) {
    let (least, most) = (Duration::from_millis(390), Duration::from_millis(400) + LATE_MAX);
    assert!((least..most).contains(&told.took()), "{what}: {:?} instead of 400 ms", told.took());
}

#[test]
fn before_tls() {
    let silent = |protocol| Upstream::with(Options { opening: Opening::Silent, ..Options::new(protocol) });
    let [first, second] = [Protocol::H1Tls, Protocol::H2Tls].map(silent);
    let backends = [("first", &first, Dialect::OpenAi), ("second", &second, Dialect::Anthropic)];
    let asker = Asker::start("", &backends, &keys("tls_timeout_secs"));
    for told in ask_all(&asker, &[json!({"backend": "first"}), json!({"backend": "second"})]) {
        told.is_refused(502, "upstream_unavailable", "upstream_failed");
        took_no_longer(&told, "TLS");
    }
    asker.adds_up(&[("first", "tls", 1), ("second", "tls", 1)], &[("upstream_failed", 2)]);
}

#[test]
fn before_the_head() {
    // Silent at once, or after TLS, or from the question on.
    let silent = |opening, protocol| Upstream::with(Options { opening, ..Options::new(protocol) });
    let late = |protocol| {
        let llm = Upstream::start(protocol);
        llm.script(Answer::openai().answer().first([Step::Wait(Duration::from_secs(20))]));
        llm
    };
    let not_accepting = Upstream::start(Protocol::H1);
    not_accepting.pause_accepting();
    let llms = [
        ("silent", silent(Opening::Silent, Protocol::H1)),
        ("silent-unix", silent(Opening::Silent, Protocol::Unix)),
        ("silent-h1-tls", silent(Opening::SilentAfterTls, Protocol::H1Tls)),
        ("silent-h2-tls", silent(Opening::SilentAfterTls, Protocol::H2Tls)),
        ("not-accepting", not_accepting),
        ("late-h1", late(Protocol::H1)),
        ("late-h2c", late(Protocol::H2c)),
        ("late-h2-tls", late(Protocol::H2Tls)),
    ];
    let backends: Vec<_> = llms.iter().map(|(name, llm)| (*name, llm, Dialect::OpenAi)).collect();
    let asker = Asker::start("", &backends, &keys("head_timeout_secs"));
    let questions = llms.each_ref().map(|(name, _)| json!({"backend": name}));
    for (told, (name, _)) in ask_all(&asker, &questions).iter().zip(&llms) {
        told.is_refused(504, "upstream_timeout", "upstream_timeout");
        took_no_longer(told, name);
    }
    let failures = llms.each_ref().map(|(name, _)| (*name, "head_timeout", 1));
    asker.adds_up(&failures, &[("upstream_timeout", 8)]);
}

#[test]
fn after_the_head() {
    for (short, reason) in
        [("idle_timeout_secs", "idle_timeout"), ("first_content_timeout_secs", "first_content_timeout")]
    {
        let (first, second) = (Upstream::start(Protocol::H1), Upstream::start(Protocol::H2Tls));
        first.script(Answer::sse().head().hang());
        second.script(Answer::sse().head().hang());
        let backends = [("first", &first, Dialect::OpenAi), ("second", &second, Dialect::OpenAi)];
        let asker = Asker::start("", &backends, &keys(short));
        for told in ask_all(&asker, &[json!({"backend": "first"}), json!({"backend": "second"})]) {
            told.is_refused(504, "first_token_timeout", "upstream_timeout");
            took_no_longer(&told, reason);
        }
        first.wait_for_cancel(0);
        second.wait_for_cancel(0);
        asker.adds_up(&[("first", reason, 1), ("second", reason, 1)], &[("upstream_timeout", 2)]);
    }
}

#[test]
fn with_signs_of_life_that_mean_nothing() {
    let pings = |dialect| match dialect {
        Dialect::OpenAi => {
            ": keep-alive\n\ndata: {\"choices\":[{\"index\":0,\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n"
        }
        Dialect::Responses => "event: response.in_progress\ndata: {\"type\":\"response.in_progress\"}\n\n",
        Dialect::Anthropic => "event: ping\ndata: {\"type\":\"ping\"}\n\n",
        Dialect::Ollama => "{\"message\":{\"role\":\"assistant\",\"content\":\"\"},\"done\":false}\n",
        Dialect::LangGraph => ": heartbeat\n\nevent: metadata\ndata: {\"run_id\":\"1\"}\n\n",
    };
    let llms = Dialect::ALL.map(|dialect| {
        let llm = Upstream::start(if dialect == Dialect::OpenAi { Protocol::H2Tls } else { Protocol::H1 });
        let for_ever = Step::SendForever(pings(dialect).as_bytes().to_vec(), Duration::from_millis(20));
        llm.script(Talk::new(dialect).broken_after(0, [for_ever]));
        (dialect, llm)
    });
    let backends = llms.each_ref().map(|(dialect, llm)| (name(*dialect), llm, *dialect));
    let asker = Asker::start("", &backends, &keys("first_content_timeout_secs"));
    for format in ["content", "openai", "raw"] {
        let questions = Dialect::ALL.map(|dialect| json!({"backend": name(dialect), "format": format}));
        for (told, dialect) in ask_all(&asker, &questions).iter().zip(Dialect::ALL) {
            told.is_refused(504, "first_token_timeout", "upstream_timeout");
            took_no_longer(told, name(dialect));
        }
    }
    for (_, llm) in &llms {
        llm.wait_for_cancel(2);
    }
    let failures = Dialect::ALL.map(|dialect| (name(dialect), "first_content_timeout", 3));
    asker.adds_up(&failures, &[("upstream_timeout", 15)]);
}
