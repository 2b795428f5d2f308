//! A browser's EventSource asks again when its stream ends. Who has had the whole answer gets a 204, which stops it, and no
//! upstream is asked; who was interrupted is answered anew.

use handoff_e2e::apache::enveloped;
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};
use handoff_e2e::{Daemon, Response};
use serde_json::json;

use crate::an_answer_comes_from_a_real_api::confined;

fn site() -> (Upstream, Daemon) {
    let llm = Upstream::start(Protocol::H1);
    let daemon =
        confined(&(llm.backend_toml("llm", Dialect::OpenAi) + "retries = 0\nbreaker_failures = 0\n"));
    (llm, daemon)
}

/// As a browser asks by way of Apache: with the last id that it has seen, if it has seen any.
fn ask(daemon: &Daemon, format: &str, last_id: Option<&str>) -> Response {
    let headers = last_id.map(|id| ["Last-Event-ID", id]);
    let envelope = json!({"v": 1, "headers": headers.as_slice()});
    daemon
        .hand_over(enveloped(
            &envelope,
            json!({
                "prompt": "hi", "backend": "llm", "format": format,
                "response_headers": {"Access-Control-Allow-Origin": "https://a"},
            })
            .to_string(),
        ))
        .response()
}

fn last_id(response: &Response) -> Option<&str> {
    response.body.lines().filter_map(|line| line.strip_prefix("id: ")).next_back()
}

#[test]
fn in_each_format_that_has_ids() {
    let (llm, daemon) = site();
    for format in ["content", "text", "events"] {
        let number = llm.request_count();
        let first = ask(&daemon, format, None);
        assert_eq!(first.status, 200, "{format}: {first:?}");
        let id = last_id(&first).expect("an id");
        assert!(id.ends_with(":end"), "{format}: {id}");
        let again = ask(&daemon, format, Some(id));
        assert_eq!((again.status, again.body.as_str()), (204, ""), "{format}: {again:?}");
        // Without it a browser takes the 204 of another origin for an error of the network, and asks again.
        assert_eq!(again.header("access-control-allow-origin"), Some("https://a"), "{format}");
        assert_eq!(llm.request_count(), number + 1, "{format}: the upstream was asked again");
    }
}

#[test]
fn but_an_interrupted_one_is_answered_anew() {
    let (llm, daemon) = site();
    for format in ["content", "text", "events"] {
        llm.script(Answer::openai().broken_after(3, [Step::Cut]));
        let number = llm.request_count();
        let broken = ask(&daemon, format, None);
        let id = last_id(&broken).expect("an id");
        assert!(!id.ends_with(":end") && broken.error_code().is_some(), "{format}: {broken:?}");
        llm.script(Answer::openai());
        let again = ask(&daemon, format, Some(id));
        assert!(last_id(&again).is_some_and(|id| id.ends_with(":end")), "{format}: {again:?}");
        assert_eq!(llm.request_count(), number + 2, "{format}");
    }
}

#[test]
fn and_formats_without_ids_leave_it_to_the_page() {
    let (_llm, daemon) = site();
    for format in ["openai", "raw"] {
        let response = ask(&daemon, format, None);
        assert_eq!((response.status, last_id(&response)), (200, None), "{format}: {response:?}");
        assert!(response.body.ends_with("data: [DONE]\n\n"), "{format}: {response:?}");
    }
}
