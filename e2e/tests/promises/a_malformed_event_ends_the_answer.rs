//! An event that cannot be read ends its answer, as an error: what it would have said is not left out in silence.

use handoff_e2e::Asker;
use handoff_e2e::asker::{ONCE, name};
use handoff_e2e::upstream::{Dialect, Protocol, Step, Talk, Upstream};
use serde_json::json;

fn malformed(dialect: Dialect) -> [String; 4] {
    let event = |json: &str| match dialect {
        Dialect::Ollama => format!("{json}\n"),
        Dialect::LangGraph => format!("event: messages\ndata: {json}\n\n"),
        Dialect::OpenAi => format!("data: {json}\n\n"),
        Dialect::Responses => format!("event: response.output_text.delta\ndata: {json}\n\n"),
        Dialect::Anthropic => format!("event: content_block_delta\ndata: {json}\n\n"),
    };
    ["{\"choices\":[{\"del", "no JSON", "{\"text\": nul}", "{\"a\":1}}"].map(event)
}

#[test]
fn before_and_after_the_first_word() {
    for protocol in [Protocol::H1, Protocol::H2c] {
        let llm = Upstream::start(protocol);
        let asker = Asker::in_every_dialect(&llm, ONCE);
        for dialect in Dialect::ALL {
            let about = |format| json!({"backend": name(dialect), "format": format});
            for event in malformed(dialect) {
                let bytes = Step::Send(event.into_bytes());
                llm.script(Talk::new(dialect).with_after(0, [bytes.clone()]));
                asker.ask(&about("content")).is_refused(502, "upstream_error", "upstream_failed");
                llm.script(Talk::new(dialect).with_after(4, [bytes]));
                for format in ["content", "raw"] {
                    asker.ask(&about(format)).is_broken_after(4, "upstream_error", "upstream_failed");
                }
            }
        }
        let failures = Dialect::ALL.map(|dialect| (name(dialect), "malformed", 12));
        asker.adds_up(&failures, &[("upstream_failed", 60)]);
    }
}
