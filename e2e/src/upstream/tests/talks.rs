//! Every answer over every protocol, as hyper's client reads it.

use super::client::{Asker, run, trust};
use crate::upstream::{Answer, Dialect, End, Protocol, Spoken, Talk, Upstream, words};
use serde_json::{Value, json};

fn asks(llm: &Upstream, protocol: Protocol) -> impl Future<Output = Asker> {
    let (tls, h2) = match protocol {
        Protocol::H1 | Protocol::Unix | Protocol::H1AndH2c => (None, false),
        Protocol::H2c => (None, true),
        Protocol::H1Tls => (Some(trust(llm, false, &["h2", "http/1.1"])), false),
        Protocol::H2Tls => (Some(trust(llm, false, &["h2", "http/1.1"])), true),
        Protocol::TlsWithoutAlpn => (Some(trust(llm, false, &["h2", "http/1.1"])), false),
    };
    Asker::connect(llm, tls, h2)
}

#[test]
fn an_answer_comes_whole_over_each_protocol_and_the_request_is_known() {
    for protocol in Protocol::ALL {
        let llm = Upstream::start(protocol);
        llm.script(Answer::openai().words(3));
        run(async {
            let mut asker = asks(&llm, protocol).await;
            for number in 0..2 {
                let got = asker.ask().await;
                assert!(got.error.is_none(), "{protocol:?}: {got:?}");
                assert_eq!(got.status, 200);
                assert_eq!(got.headers["content-type"], "text/event-stream; charset=utf-8");
                assert_eq!(
                    got.text().into_bytes(),
                    Answer::openai().words(3).answer().body(),
                    "{protocol:?}"
                );
                assert_eq!(llm.wait_for_end(number).1, End::Complete, "{protocol:?}");
            }
        });
        let seen = llm.wait_for_request(1);
        let request = &seen.request;
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", "/v1/chat/completions"));
        assert_eq!(request.json(), json!({"model": "m"}), "{protocol:?}");
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!((request.number, request.connection), (1, 0), "{protocol:?}");
        let spoken =
            if matches!(protocol, Protocol::H2c | Protocol::H2Tls) { Spoken::H2 } else { Spoken::H1 };
        assert_eq!(request.spoken, spoken);
        assert!(seen.head_sent.unwrap() >= request.arrived);
        let length = Answer::openai().words(3).answer().body().len();
        assert_eq!(seen.bytes_sent, u64::try_from(length).unwrap());
        assert_eq!((llm.connections().len(), llm.connections()[0].requests), (1, 2));
    }
}

#[test]
fn both_protocols_are_known_by_their_first_bytes() {
    let llm = Upstream::start(Protocol::H1AndH2c);
    run(async {
        for h2 in [false, true] {
            let got = Asker::connect(&llm, None, h2).await.ask().await;
            assert!(got.error.is_none() && got.text().contains("[DONE]"), "{got:?}");
        }
    });
    let spoken: Vec<_> = llm.connections().iter().filter_map(|connection| connection.spoken).collect();
    assert_eq!(spoken, [Spoken::H1, Spoken::H2]);
}

/// The documents of an answer, in order.
fn documents(talk: &Talk) -> Vec<Value> {
    let body = String::from_utf8(talk.answer().body()).unwrap();
    let lines = body.lines().map(|line| line.strip_prefix("data: ").unwrap_or(line));
    lines.filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// All strings at this place, one after another.
fn joined(documents: &[Value], pointer: &str) -> String {
    documents.iter().filter_map(|document| document.pointer(pointer)?.as_str()).collect()
}

#[test]
fn each_dialect_carries_its_words_reasoning_tools_and_usage() {
    let places = [
        (
            Dialect::OpenAi,
            "/choices/0/delta/content",
            "/choices/0/delta/reasoning_content",
            "/usage/completion_tokens",
        ),
        (Dialect::Anthropic, "/delta/text", "/delta/thinking", "/usage/output_tokens"),
        (Dialect::Ollama, "/message/content", "/message/thinking", "/eval_count"),
    ];
    for (dialect, words_at, thoughts_at, tokens_at) in places {
        let talk = Talk::new(dialect).words(4).reasoning(2).tool("get_weather", json!({"city": "Zürich"}));
        let documents = documents(&talk);
        assert_eq!(joined(&documents, words_at), words(4), "{dialect:?}");
        assert_eq!(joined(&documents, thoughts_at), "t0 t1 ", "{dialect:?}");
        let tokens =
            documents.iter().filter_map(|document| document.pointer(tokens_at)?.as_u64()).next_back();
        assert_eq!(tokens, Some(6), "{dialect:?}");
        assert!(talk.clone().without_usage().answer().body().len() < talk.answer().body().len());
        assert_eq!(talk.parts().content.len(), 7, "{dialect:?}: 2 thoughts, 4 words, 1 call");
    }
    let talk = Answer::responses().words(4).reasoning(2).tool("get_weather", json!({}));
    let events = documents(&talk);
    let of =
        |kind: &str| -> Vec<Value> { events.iter().filter(|event| event["type"] == kind).cloned().collect() };
    assert_eq!(joined(&of("response.output_text.delta"), "/delta"), words(4));
    assert_eq!(joined(&of("response.reasoning_summary_text.delta"), "/delta"), "t0 t1 ");
    assert_eq!(joined(&of("response.function_call_arguments.delta"), "/delta"), "{}");
    assert_eq!(of("response.completed")[0]["response"]["usage"]["output_tokens"], 6);
    assert_eq!(of("response.completed")[0]["response"]["output"].as_array().unwrap().len(), 3);
    let numbers = events.iter().map(|event| event["sequence_number"].as_u64().unwrap());
    assert!(numbers.eq(0..events.len() as u64), "numbered without a gap");
    assert_eq!(talk.parts().content.len(), 7);

    let talk = Answer::langgraph().words(4);
    let pieces: Vec<Value> = documents(&talk).into_iter().filter(Value::is_array).collect();
    assert_eq!(joined(&pieces, "/0/content"), words(4));
    assert!(String::from_utf8(talk.answer().body()).unwrap().contains("event: end\n"));
}

#[test]
fn an_answer_can_be_broken_after_any_piece() {
    for dialect in Dialect::ALL {
        let talk = Talk::new(dialect).words(5);
        let broken = String::from_utf8(talk.broken_after(3, []).body()).unwrap();
        let whole = String::from_utf8(talk.answer().body()).unwrap();
        assert!(broken.contains("w2 ") && !broken.contains("w3 "), "{dialect:?}: {broken}");
        assert!(whole.starts_with(&broken), "{dialect:?}: the rest is what is missing");
        assert_eq!(talk.with_after(3, []).body(), talk.answer().body(), "{dialect:?}");
    }
}
