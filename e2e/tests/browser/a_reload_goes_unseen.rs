//! The daemon's reload in the middle of an answer: the page does not notice.

use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};
use handoff_e2e::{eventually, process};
use nix::sys::signal::Signal;

use crate::page::{BUTTONS, Page};

#[test]
fn by_eventsource_and_by_fetch() {
    let llm = Upstream::start(Protocol::H2c);
    let backend = llm.backend_toml("llm", Dialect::OpenAi);
    let page = Page::open(&format!("[backend]\nprovider = \"llm\"\n{backend}"));
    let talk = Answer::openai();
    for (number, button) in BUTTONS.into_iter().enumerate() {
        let gate = format!("rest of {number}");
        llm.script(talk.with_after(4, [Step::WaitFor(gate.clone())]));
        page.ask(button, "hello");
        page.first_words();
        let before = page.daemon.workers("ready");
        page.daemon.signal(Signal::SIGHUP);
        let rolled = number as f64 + 1.0;
        eventually("all workers are new", || {
            (page.daemon.metric("handoffd_reloads_total{result=\"done\"") == rolled).then_some(())
        });
        let after = page.daemon.workers("ready");
        assert!(after.iter().all(|worker| !before.contains(worker)), "{before:?}, {after:?}");
        assert_eq!(page.browser.text("#answer"), "w0 w1 w2 w3 ");
        llm.open(&gate);
        page.wait_for("complete");
        assert_eq!(page.browser.text("#answer"), talk.text());
        eventually("the old ones end", || before.iter().all(|pid| !process::is_alive(*pid)).then_some(()));
    }
    assert_eq!(page.daemon.metric("daemon_handoffs_total"), 2.0, "nothing reconnects");
    assert_eq!(llm.request_count(), 2);
}
