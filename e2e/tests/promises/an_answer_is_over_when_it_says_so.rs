//! An answer is complete when it has said so in one of its API's ways, whether its connection ends with it or not.

use std::time::Duration;

use handoff_e2e::Asker;
use handoff_e2e::asker::{ONCE, name};
use handoff_e2e::upstream::{Answer, Dialect, End, Parts, Protocol, Step, Talk, Upstream, code, words};
use serde_json::json;

/// What follows a complete answer is waited for no longer than this, by far.
const SOON: Duration = Duration::from_secs(4);

fn asker(llm: &Upstream) -> Asker {
    Asker::in_every_dialect(llm, ONCE)
}

/// All words, and of what makes them whole only these parts.
fn closed_by(talk: &Talk, closing: &[usize], then: &[Step]) -> Answer {
    let Parts { content, closing: all, .. } = talk.parts();
    let closing = closing.iter().map(|index| Step::Send(all[*index].clone()));
    talk.broken_after(content.len(), closing.chain(then.iter().cloned()))
}

/// All at once: what is open is waited for a little.
fn are_complete(asker: &Asker, llm: &Upstream, answers: Vec<(Dialect, Answer)>) {
    let mut asked = Vec::new();
    for (dialect, answer) in answers {
        llm.script(answer.clone());
        let about = json!({"backend": name(dialect)});
        let before = llm.request_count();
        let (client, id) = asker.begin(&about);
        llm.wait_for_request(before);
        asked.push((client, id, about, answer));
    }
    let count = u32::try_from(asked.len()).expect("few");
    for (client, id, about, answer) in asked {
        let told = asker.told(client.response(), &id, &about);
        told.is_complete(&words(10));
        assert!(told.took() < SOON, "{:?}: {about} {:?}", told.took(), answer.steps.last());
    }
    asker.adds_up(&[], &[("complete", count)]);
}

#[test]
fn chunks_by_a_reason_or_by_done() {
    let broken = Step::Reset(code::INTERNAL_ERROR);
    for (protocol, ways) in [
        (Protocol::H1, vec![vec![], vec![Step::Hang], vec![Step::Cut], vec![broken.clone()]]),
        // A connection that is cut takes others along.
        (Protocol::H2c, vec![vec![], vec![Step::Hang], vec![broken]]),
    ] {
        let llm = Upstream::start(protocol);
        let mut answers = Vec::new();
        for closing in [&[0][..], &[2], &[0, 1], &[1, 2]] {
            let closed = ways.iter().map(|then| closed_by(&Answer::openai(), closing, then));
            answers.extend(closed.map(|answer| (Dialect::OpenAi, answer)));
        }
        are_complete(&asker(&llm), &llm, answers);
    }
}

#[test]
fn every_dialect_by_its_own_last_word() {
    let llm = Upstream::start(Protocol::H1);
    let mut answers = Vec::new();
    for (dialect, closing) in [
        (Dialect::Responses, 0),
        (Dialect::Anthropic, 1),
        (Dialect::Anthropic, 0),
        (Dialect::Ollama, 0),
        (Dialect::LangGraph, 0),
    ] {
        for then in [&[][..], &[Step::Hang], &[Step::Cut]] {
            answers.push((dialect, closed_by(&Talk::new(dialect), &[closing], then)));
        }
    }
    are_complete(&asker(&llm), &llm, answers);
}

#[test]
fn a_last_event_needs_no_blank_line() {
    let llm = Upstream::start(Protocol::H1);
    let answers = Dialect::ALL.map(|dialect| {
        let mut answer = Talk::new(dialect).answer();
        if let Some(Step::Send(last)) = answer.steps.last_mut() {
            while last.ends_with(b"\n") {
                last.pop();
            }
        }
        (dialect, answer)
    });
    are_complete(&asker(&llm), &llm, answers.to_vec());
}

#[test]
fn a_run_by_the_end_of_its_body() {
    let llm = Upstream::start(Protocol::H1);
    let whole = Answer::langgraph().broken_after(10, []);
    let mut without_blank_line = whole.clone();
    if let Some(Step::Send(last)) = without_blank_line.steps.last_mut() {
        last.truncate(last.len() - 2);
    }
    let answers = vec![(Dialect::LangGraph, whole), (Dialect::LangGraph, without_blank_line)];
    are_complete(&asker(&llm), &llm, answers);
}

#[test]
fn an_answer_without_a_word_is_one() {
    let llm = Upstream::start(Protocol::H1);
    let asker = asker(&llm);
    for dialect in Dialect::ALL {
        llm.script(Talk::new(dialect).words(0));
        asker.ask(&json!({"backend": name(dialect)})).is_complete("");
    }
    asker.adds_up(&[], &[("complete", 5)]);
}

#[test]
fn a_connection_that_stays_is_used_again() {
    for protocol in [Protocol::H1, Protocol::H2c] {
        let llm = Upstream::start(protocol);
        let asker = asker(&llm);
        for number in 0..8 {
            asker.ask(&json!({})).is_complete(&words(10));
            assert_eq!(llm.wait_for_end(number).1, End::Complete);
        }
        // One for each worker; one more may be there to find out whether HTTP/2 is spoken.
        let used = llm.connections().into_iter().filter(|connection| connection.requests > 0).count();
        assert!(used <= 2, "{protocol:?}: {:?}", llm.connections());
    }
}
