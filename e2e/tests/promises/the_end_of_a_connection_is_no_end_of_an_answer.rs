//! A connection ends in the same way when the server has finished and when it has died: an answer that needs no last
//! word is whole only if the server says where its body ends.

use handoff_e2e::Daemon;
use handoff_e2e::upstream::{Answer, Dialect, Framing, Protocol, Upstream};
use serde_json::json;

#[test]
fn a_run_without_its_end_event_is_whole_in_chunks_and_not_with_the_connection() {
    let llm = Upstream::start(Protocol::H1);
    let daemon = Daemon::start(&format!(
        "[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}",
        llm.backend_toml("llm", Dialect::LangGraph)
    ));
    let message = json!([{"type": "AIMessageChunk", "id": "m", "content": "w0 "}, {}]);
    for (framing, error) in [(Framing::Chunked, None), (Framing::UntilClose, Some("stream_incomplete"))] {
        llm.script(Answer::sse().named_event("messages", &message).framed(framing));
        let response = daemon.hand_over(r#"{"prompt":"x"}"#).response();
        assert_eq!(response.error_code().as_deref(), error, "{framing:?}: {response:?}");
        assert_eq!(response.is_complete(), error.is_none(), "{framing:?}: {response:?}");
    }
}
