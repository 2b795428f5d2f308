//! Tokens are counted in the log and in metrics, whether the client wants to know or not; where the upstream has not
//! counted them, ours is an estimate, and says so.

use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Talk, Upstream};
use handoff_e2e::{Daemon, eventually};
use nix::unistd::geteuid;
use serde_json::json;

fn confined(workers: usize, llm: &Upstream, dialect: Dialect, more: &str) -> Daemon {
    let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    let backend = llm.backend_toml("llm", dialect);
    Daemon::start(&format!(
        "[workers]\ncount = {workers}\nsandbox = \"require\"\n{run_as}[backend]\nprovider = \"llm\"\n{backend}{more}"
    ))
}

fn tokens(daemon: &Daemon, kind: &str) -> f64 {
    daemon.metric(&format!("handoffd_backend_tokens_total{{backend=\"llm\",kind=\"{kind}\""))
}

#[test]
fn also_when_the_client_did_not_ask() {
    for dialect in [Dialect::OpenAi, Dialect::Responses, Dialect::Anthropic, Dialect::Ollama] {
        let llm = Upstream::start(Protocol::H1);
        llm.script(Talk::new(dialect));
        let daemon = confined(1, &llm, dialect, "");
        for (number, format) in ["content", "text", "events", "openai"].into_iter().enumerate() {
            let payload = json!({"prompt": "x", "request_id": format, "format": format});
            let response = daemon.hand_over(payload.to_string()).response();
            assert_eq!(response.status, 200, "{response:?}");
            // `events` tells everything.
            let told = response.body.contains(r#""completion_tokens":10"#);
            assert_eq!(told, format == "events", "{dialect:?} {format}: {response:?}");
            let session = daemon.session(format);
            assert_eq!(session["outcome"], "complete", "{session}");
            assert_eq!(session["completion_tokens"], 10, "{dialect:?} {format}: {session}");
            assert!(session["prompt_tokens"].as_u64() > Some(0), "{dialect:?} {format}: {session}");
            assert!(session["completion_tokens_estimated"].is_null(), "{session}");
            let all = 10.0 * (number + 1) as f64;
            eventually("they are counted", || (tokens(&daemon, "completion") == all).then_some(()));
        }
        assert!(tokens(&daemon, "prompt") > 0.0);
        assert_eq!(tokens(&daemon, "completion_estimated"), 0.0);
    }
}

#[test]
fn chunks_that_are_passed_on_have_it_when_it_is_asked_for() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = confined(1, &llm, Dialect::OpenAi, "");
    for (number, include) in [json!([]), json!(["usage"])].into_iter().enumerate() {
        let wanted = number == 1;
        let payload = json!({"prompt": "x", "format": "openai", "include": include});
        let response = daemon.hand_over(payload.to_string()).response();
        let request = llm.wait_for_request(number).request.json();
        assert_eq!(request["stream_options"]["include_usage"], true, "{request}");
        let chunks = response.data().into_iter().filter_map(|data| serde_json::from_str(data).ok());
        let chunks: Vec<serde_json::Value> = chunks.collect();
        let with_usage = chunks.iter().filter(|chunk| chunk["usage"].is_object()).count();
        assert_eq!(with_usage, usize::from(wanted), "{response:?}");
        let without_choices = chunks.iter().filter(|chunk| chunk["choices"] == json!([])).count();
        assert_eq!(without_choices, usize::from(wanted), "{response:?}");
        assert!(response.body.ends_with("data: [DONE]\n\n"), "{response:?}");
    }
}

#[test]
fn of_what_breaks_off_there_is_an_estimate() {
    let llm = Upstream::start(Protocol::H2c);
    llm.script_each([
        Answer::openai().broken_after(8, [Step::Cut]),
        Answer::openai().broken_after(8, [Step::Hang]),
        Answer::openai().without_usage().answer(),
    ]);
    let daemon = confined(1, &llm, Dialect::OpenAi, "");
    let payload = |id: &str| json!({"prompt": "x", "request_id": id}).to_string();
    let broken = daemon.hand_over(payload("broken")).response();
    assert_eq!(broken.error_code().as_deref(), Some("stream_incomplete"), "{broken:?}");
    let mut client = daemon.hand_over(payload("left"));
    client.read_until("w7 \"}\n\n");
    drop(client);
    let _ = daemon.session("left");
    let silent = daemon.hand_over(payload("silent")).response();
    assert!(silent.is_complete(), "{silent:?}");
    // Eight words of 3 bytes, and ten, at 4 bytes a token.
    for (id, estimate) in [("broken", 6), ("left", 6), ("silent", 8)] {
        let session = daemon.session(id);
        assert_eq!(session["completion_tokens_estimated"], estimate, "{session}");
        assert!(session["completion_tokens"].is_null(), "{session}");
    }
    eventually("they are counted", || (tokens(&daemon, "completion_estimated") == 20.0).then_some(()));
    assert_eq!(tokens(&daemon, "completion"), 0.0);
}
