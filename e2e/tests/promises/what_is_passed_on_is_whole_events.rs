//! Where an API's own bytes are passed on, what the client has got is whole events at any time: also when the API forgets
//! to end its last one, fails, or goes away in the middle of one.

use handoff_e2e::upstream::{Dialect, Protocol, Upstream};
use handoff_e2e::{Answer, Response};
use serde_json::json;

use crate::an_answer_comes_from_a_real_api::confined;

const FIRST: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{\"content\":\"Hi\"}}] }\n\n";
const STOP: &str = "data: {\"choices\":[{\"index\":0,\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";

fn ask(body: Answer, format: &str) -> Response {
    let llm = Upstream::start(Protocol::H1);
    llm.script(body);
    let daemon = confined(&llm.backend_toml("llm", Dialect::OpenAi));
    let payload = json!({"prompt": "x", "request_id": "r", "backend": "llm", "format": format});
    let response = daemon.hand_over(payload.to_string()).response();
    assert_eq!((response.status, response.broken), (200, None), "{response:?}");
    response
}

#[test]
fn one_that_was_not_ended_is_ended() {
    for (last, raw) in [
        ("data: [DONE]", "data: [DONE]\n\n"),
        ("data: [DONE]\n", "data: [DONE]\n\n"),
        ("data: [DONE]\r\n", "data: [DONE]\r\n\n"),
    ] {
        let body = Answer::sse().send([FIRST, last].concat());
        assert_eq!(ask(body.clone(), "raw").body, [FIRST, raw].concat(), "{last:?}");
        assert_eq!(ask(body, "openai").body, [FIRST, "data: [DONE]\n\n"].concat(), "{last:?}");
    }
    // Complete without `[DONE]`, and with half an event behind it that nobody can read.
    let body = Answer::sse().send([FIRST, STOP, "data: {\"half"].concat());
    assert_eq!(ask(body.clone(), "raw").body, [FIRST, STOP].concat());
    assert_eq!(ask(body, "openai").body, [FIRST, STOP, "data: [DONE]\n\n"].concat());
}

#[test]
fn half_a_one_is_none_and_the_error_is_one_of_its_own() {
    for half in ["data: {\"choices\":[{\"index\":0,\"del", "data: x\ndata: "] {
        let body = || Answer::sse().send([FIRST, half].concat()).cut();
        for (format, name) in [("raw", "event: error\n"), ("openai", "")] {
            let response = ask(body(), format);
            let error = response.body.strip_prefix(FIRST).expect("what had come");
            let data = error.strip_prefix(name).and_then(|rest| rest.strip_prefix("data: ")).expect(name);
            let data = data.strip_suffix("\n\n").expect("its end");
            assert!(!data.contains('\n') && !response.body.contains("[DONE]"), "{response:?}");
            assert_eq!(response.error_code().as_deref(), Some("stream_incomplete"), "{response:?}");
        }
    }
}
