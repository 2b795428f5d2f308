//! What an upstream says before its answer begins is held back, and bounded: it cannot fill a worker's memory.

use std::time::Duration;

use handoff_e2e::Daemon;
use handoff_e2e::process::own_memory;
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};

#[test]
fn counts_of_tokens_without_end_are_let_through_at_last() {
    let llm = Upstream::start(Protocol::H1);
    let usage =
        "data: {\"choices\":[],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":0}}\n\n".repeat(1000);
    llm.script(Answer::sse().step(Step::SendForever(usage.into_bytes(), Duration::ZERO)));
    let daemon = Daemon::start(&format!(
        "[client]\ncommit_after_secs = 60\n[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}first_content_timeout_secs = 60\n",
        llm.backend_toml("llm", Dialect::OpenAi)
    ));
    let worker = daemon.workers("ready")[0];
    let before = own_memory(worker);
    let mut client = daemon.hand_over(r#"{"prompt":"x","include":["usage"]}"#);
    let begin = client.read_until("usage");
    assert!(begin.starts_with("HTTP/1.1 200 "), "{begin}");
    let grown = own_memory(worker).saturating_sub(before);
    assert!(grown < 24 << 20, "the worker has grown by {grown} bytes");
}
