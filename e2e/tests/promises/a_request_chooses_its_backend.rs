//! Who answers: the backend that a request names, else the one that its model belongs to, else the default one; and a
//! name that is none is told what there is, and costs nobody a question.

use handoff_e2e::upstream::{Dialect, Protocol, Upstream};
use handoff_e2e::{Daemon, Response};
use serde_json::{Value, json};

use crate::an_answer_comes_from_a_real_api::confined;

fn site(llm: &Upstream) -> Daemon {
    let backend = |name: &str, further: &str| {
        let section = llm.backend_toml(name, Dialect::OpenAi);
        section.replace("/v1\"", &format!("/{name}\"")) + further
    };
    confined(&format!(
        "[backend]\nprovider = \"plain\"\ndefault_model = \"the-default\"\n\
         [backend.models]\n\"gpt-*\" = \"west\"\n\"gpt-5*\" = \"east\"\n\"gpt-5\" = \"own\"\n\"*/llama*b\" = \"own\"\n\
         {}{}{}{}{}",
        backend("plain", ""),
        backend("own", "model = \"own-model\"\n"),
        backend("west", ""),
        backend("east", ""),
        llm.backend_toml("graph", Dialect::LangGraph)
            + "[backends.graph.profiles.eu]\nassistant_id = \"eu-agent\"\n",
    ))
}

fn ask(daemon: &Daemon, payload: &Value) -> Response {
    let mut payload = payload.clone();
    payload["prompt"] = json!("x");
    daemon.hand_over(payload.to_string()).response()
}

#[test]
fn by_its_name_or_its_model_or_by_default() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = site(&llm);
    for (number, (payload, path, model)) in [
        (json!({}), "/plain/chat/completions", "the-default"),
        (json!({"model": "unknown"}), "/plain/chat/completions", "unknown"),
        (json!({"backend": "own"}), "/own/chat/completions", "own-model"),
        (json!({"backend": "own", "model": "m"}), "/own/chat/completions", "m"),
        // A name wins over a model.
        (json!({"backend": "plain", "model": "gpt-5"}), "/plain/chat/completions", "gpt-5"),
        // A whole name over a pattern, a longer pattern over a shorter one.
        (json!({"model": "gpt-5"}), "/own/chat/completions", "gpt-5"),
        (json!({"model": "gpt-5-mini"}), "/east/chat/completions", "gpt-5-mini"),
        (json!({"model": "gpt-4"}), "/west/chat/completions", "gpt-4"),
        (json!({"model": "meta/llama-70b"}), "/own/chat/completions", "meta/llama-70b"),
        (json!({"model": "meta/llama-70c"}), "/plain/chat/completions", "meta/llama-70c"),
    ]
    .into_iter()
    .enumerate()
    {
        let response = ask(&daemon, &payload);
        assert!(response.is_complete(), "{payload}: {response:?}");
        let request = llm.wait_for_request(number).request;
        assert_eq!((request.path.as_str(), &request.json()["model"]), (path, &json!(model)), "{payload}");
    }
}

#[test]
fn and_a_profile_of_it() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = site(&llm);
    llm.script(handoff_e2e::Answer::langgraph());
    for (number, (payload, assistant)) in
        [(json!({"backend": "graph"}), "agent"), (json!({"backend": "graph", "profile": "eu"}), "eu-agent")]
            .into_iter()
            .enumerate()
    {
        let response = ask(&daemon, &payload);
        assert!(response.is_complete(), "{payload}: {response:?}");
        assert_eq!(llm.wait_for_request(number).request.json()["assistant_id"], assistant);
    }
}

#[test]
fn one_that_is_not_there_is_told_who_is() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = site(&llm);
    let all = "east, graph, graph/eu, mock, openai, own, plain, west";
    for (payload, what, allowed) in [
        (json!({"backend": "nobody"}), "backend: no such backend", all),
        (json!({"backend": "nobody", "profile": "eu"}), "backend: no such backend", all),
        (json!({"backend": "graph", "profile": "e"}), "profile: no such profile of the backend graph", "eu"),
        (
            json!({"backend": "plain", "profile": "eu"}),
            "profile: no such profile of the backend plain",
            "none",
        ),
    ] {
        let response = ask(&daemon, &payload);
        let said = (response.status, response.error_code());
        assert_eq!(said, (400, Some("bad_handoff".to_owned())), "{payload}: {response:?}");
        let body: Value = serde_json::from_str(&response.body).expect("JSON");
        let message = body["error"]["message"].as_str().unwrap_or_default();
        let (told, names) = message.split_once("; allowed: ").expect("names");
        let mut names: Vec<&str> = names.split(", ").collect();
        names.sort_unstable();
        assert_eq!((told, names.join(", ").as_str()), (what, allowed), "{payload}");
    }
    assert_eq!(llm.request_count(), 0, "nobody was asked");
}
