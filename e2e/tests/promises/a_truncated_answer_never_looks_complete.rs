//! An answer that its upstream did not end never looks complete: whatever the dialect, the protocol, the format and the way
//! it broke off, there is one error event, or a status when there was no word yet.

use handoff_e2e::Asker;
use handoff_e2e::asker::{FORMATS, ONCE, name};
use handoff_e2e::upstream::{
    Answer, Dialect, Framing, LastStream, Protocol, Step, Talk, Upstream, code, words,
};
use serde_json::{Value, json};

/// Ways to break off, and whether the body has ended as bodies do.
fn ways(protocol: Protocol) -> Vec<(Vec<Step>, bool)> {
    let mut ways = vec![(vec![], true), (vec![Step::Cut], false), (vec![Step::ResetConnection], false)];
    if matches!(protocol, Protocol::H2c | Protocol::H2Tls) {
        ways.extend([
            (vec![Step::Reset(code::INTERNAL_ERROR)], false),
            (vec![Step::Reset(code::NO_ERROR)], false),
            (vec![Step::GoAway(LastStream::This, code::INTERNAL_ERROR), Step::Cut], false),
        ]);
    }
    ways
}

fn asker(llm: &Upstream) -> Asker {
    Asker::in_every_dialect(llm, ONCE)
}

/// However it ends, after some words and before the first one, in each format.
fn breaks_off(asker: &Asker, llm: &Upstream, dialect: Dialect, protocol: Protocol) -> u32 {
    let mut incomplete = 0;
    for (steps, is_clean) in ways(protocol) {
        // Runs of LangGraph may end with their body.
        if is_clean && dialect == Dialect::LangGraph {
            continue;
        }
        for format in FORMATS.into_iter().chain(["raw"]) {
            let about = json!({"backend": name(dialect), "format": format});
            broken_when_read(asker, llm, &about, |gate| {
                Talk::new(dialect).broken_after(4, [vec![gate], steps.clone()].concat())
            });
        }
        incomplete += 5;
        if is_clean {
            llm.script(Talk::new(dialect).broken_after(0, []));
            let told = asker.ask(&json!({"backend": name(dialect)}));
            told.is_refused(502, "stream_incomplete", "stream_incomplete");
            incomplete += 1;
        }
    }
    incomplete
}

/// An answer that goes on at the gate, behind its words: a reset takes along what nobody has read yet.
#[track_caller]
fn broken_when_read(asker: &Asker, llm: &Upstream, about: &Value, answer: impl FnOnce(Step) -> Answer) {
    let (client, id) = asker.begin_with(about, |id| llm.script(answer(Step::WaitFor(id.to_owned()))));
    let response = client.response_with("w3 ", || llm.open(&id));
    asker.told(response, &id, about).is_broken_after(4, "stream_incomplete", "stream_incomplete");
}

fn in_every_dialect(protocol: Protocol) {
    let llm = Upstream::start(protocol);
    let asker = asker(&llm);
    let incomplete = Dialect::ALL
        .map(|dialect| (name(dialect), "incomplete", breaks_off(&asker, &llm, dialect, protocol)));
    let all = incomplete.iter().map(|(_, _, count)| count).sum();
    asker.adds_up(&incomplete, &[("stream_incomplete", all)]);
}

/// Some gateways end every stream with `[DONE]`, whatever came of it: where that is not the API's own word, it proves
/// nothing.
#[test]
fn although_a_gateway_says_that_it_is_done() {
    let llm = Upstream::start(Protocol::H1);
    let asker = asker(&llm);
    for dialect in [Dialect::Responses, Dialect::Anthropic] {
        llm.script(Talk::new(dialect).broken_after(4, [Step::Send(b"data: [DONE]\n\n".to_vec())]));
        for format in FORMATS.into_iter().chain(["raw"]) {
            let told = asker.ask(&json!({"backend": name(dialect), "format": format}));
            told.is_broken_after(4, "stream_incomplete", "stream_incomplete");
        }
    }
}

/// Where it breaks off with its head, the head may be lost too.
#[test]
fn before_the_first_word() {
    for protocol in [Protocol::H1, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        let asker = asker(&llm);
        for (steps, _) in ways(protocol) {
            llm.script(Answer::openai().broken_after(0, [vec![Step::Head], steps].concat()));
            let told = asker.ask(&json!({}));
            let code = told.response.error_code().unwrap_or_default();
            match code.as_str() {
                "stream_incomplete" => told.is_refused(502, &code, "stream_incomplete"),
                _ => told.is_refused(502, "upstream_unavailable", "upstream_failed"),
            }
        }
    }
}

#[test]
fn over_http_1() {
    in_every_dialect(Protocol::H1);
}

#[test]
fn over_http_2() {
    in_every_dialect(Protocol::H2Tls);
}

#[test]
fn in_the_middle_of_a_body_of_known_length() {
    let llm = Upstream::start(Protocol::H1);
    let asker = asker(&llm);
    for step in [Step::Cut, Step::ResetConnection] {
        broken_when_read(&asker, &llm, &json!({"backend": "graph"}), |gate| {
            Answer::langgraph().broken_after(4, [gate, step]).framed(Framing::Length(1_000_000))
        });
    }
    asker.adds_up(&[("graph", "incomplete", 2)], &[("stream_incomplete", 2)]);
}

#[test]
fn in_the_middle_of_an_event() {
    let llm = Upstream::start(Protocol::H1);
    let asker = asker(&llm);
    for dialect in Dialect::ALL {
        let parts = Talk::new(dialect).parts();
        let half = &parts.content[4][..parts.content[4].len() / 2];
        for steps in [vec![Step::Cut], vec![]] {
            let steps = [vec![Step::Send(half.to_vec())], steps].concat();
            llm.script(Talk::new(dialect).broken_after(4, steps));
            let told = asker.ask(&json!({"backend": name(dialect)}));
            told.is_broken_after(4, "stream_incomplete", "stream_incomplete");
        }
    }
}

/// What was not looked at would be asked again elsewhere; but its words are out.
#[test]
fn with_a_connection_that_takes_the_question_back() {
    let llm = Upstream::start(Protocol::H2c);
    let asker = asker(&llm);
    let away = Step::GoAway(LastStream::BeforeThis, code::NO_ERROR);
    llm.script(Answer::openai().broken_after(4, [Step::WaitFor("words".to_owned()), away, Step::Hang]));
    let (mut client, id) = asker.begin(&json!({}));
    let begin = client.read_until("w3 \"}\n\n");
    llm.open("words");
    let mut response = client.read_response();
    drop(client);
    let (head, body) = begin.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{begin}");
    (response.status, response.head) = (200, head.to_owned());
    response.body.insert_str(0, body);
    let told = asker.told(response, &id, &json!({}));
    told.is_broken_after(4, "stream_incomplete", "stream_incomplete");
    assert_eq!(llm.request_count(), 1);
    asker.adds_up(&[("chat", "incomplete", 1)], &[("stream_incomplete", 1)]);
}

/// No new streams on that connection: the one under way goes on.
#[test]
fn an_announced_end_of_the_connection_breaks_nothing_off() {
    let llm = Upstream::start(Protocol::H2c);
    let asker = asker(&llm);
    for last in [LastStream::This, LastStream::All] {
        llm.script(Answer::openai().with_after(4, [Step::GoAway(last, code::NO_ERROR)]));
        asker.ask(&json!({})).is_complete(&words(10));
    }
    asker.adds_up(&[], &[("complete", 2)]);
}
