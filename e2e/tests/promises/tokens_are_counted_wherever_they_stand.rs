//! What an answer has cost is known wherever the upstream says it: in an event of its own, with the last words, with all
//! of them, as zero; where it does not say it, it is estimated, and said to be.

use handoff_e2e::upstream::{Dialect, Protocol, Step, words};
use handoff_e2e::{Answer, Daemon, Upstream, eventually};
use serde_json::{Value, json};

/// Ten words; this usage with each, and that one with the last chunk.
fn answer(usage_of_each: impl Fn(usize) -> Value, last: Value) -> Answer {
    let chunk = |index: usize, delta: Value, finish: Value, usage: Value| {
        let mut chunk = json!({"choices": [{"index": 0, "delta": delta, "finish_reason": finish}]});
        if !usage.is_null() || index.is_multiple_of(2) {
            chunk["usage"] = usage;
        }
        chunk
    };
    let mut answer = Answer::sse();
    for index in 0..10 {
        let word = json!({"content": format!("w{index} ")});
        answer = answer.event(&chunk(index, word, Value::Null, usage_of_each(index)));
    }
    answer.event(&chunk(10, json!({}), json!("stop"), last)).send("data: [DONE]\n\n")
}

fn usage(prompt: u64, completion: u64) -> Value {
    json!({"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion})
}

#[test]
fn in_log_and_metrics() {
    let none = |_: usize| Value::Null;
    let each = |index: usize| usage(11, index as u64 + 1);
    let cases = [
        ("apart", Answer::openai().answer(), Some((11, 10))),
        ("with-the-last", answer(none, usage(7, 10)), Some((7, 10))),
        // It grows: the last one counts.
        ("with-each", answer(each, usage(11, 12)), Some((11, 12))),
        ("with-each-word", answer(each, Value::Null), Some((11, 10))),
        ("zero", answer(none, usage(0, 0)), Some((0, 0))),
        ("absent", Answer::openai().without_usage().answer(), None),
        ("null", answer(none, Value::Null), None),
    ];
    let llm = Upstream::start(Protocol::H1);
    let daemon = Daemon::confined(
        2,
        &format!("[backend]\nprovider = \"llm\"\n{}", llm.backend_toml("llm", Dialect::OpenAi)),
    );
    let (mut prompt, mut completion, mut estimated) = (0, 0, 0);
    for (name, answer, expected) in cases {
        llm.script(answer);
        let response = daemon.hand_over(json!({"prompt": "x", "request_id": name}).to_string()).response();
        assert!(response.is_complete() && response.text() == words(10), "{name}: {response:?}");
        assert!(!response.body.contains("usage"), "{name}: nobody asked for it: {response:?}");
        let session = daemon.session(name);
        let tokens = session["prompt_tokens"].as_u64().zip(session["completion_tokens"].as_u64());
        assert_eq!(tokens, expected, "{name}: {session}");
        let estimate = session["completion_tokens_estimated"].as_u64();
        assert_eq!(estimate.is_some_and(|tokens| tokens > 0), expected.is_none(), "{name}: {session}");
        let (read, written) = expected.unwrap_or_default();
        prompt += read;
        completion += written;
        estimated += estimate.unwrap_or_default();
    }
    for (kind, count) in [("prompt", prompt), ("completion", completion), ("completion_estimated", estimated)]
    {
        let name = format!("handoffd_backend_tokens_total{{backend=\"llm\",kind=\"{kind}\"");
        eventually(&format!("{count} {kind} tokens"), || {
            (daemon.metric(&name) == count as f64).then_some(())
        });
    }
}

#[test]
fn also_of_an_answer_that_breaks_off() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = Daemon::confined(
        2,
        &format!("[backend]\nprovider = \"llm\"\n{}", llm.backend_toml("llm", Dialect::OpenAi)),
    );
    llm.script(Answer::openai().broken_after(8, [Step::Cut]));
    assert!(daemon.hand_over(r#"{"prompt":"x","request_id":"cut"}"#).response().error_code().is_some());
    let session = daemon.session("cut");
    let estimate = session["completion_tokens_estimated"].as_u64();
    assert!(matches!(estimate, Some(1..=24)) && session["completion_tokens"].is_null(), "{session}");
}
