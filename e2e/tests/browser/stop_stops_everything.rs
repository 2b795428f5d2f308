//! Stop ends the stream in the page and, within 100 ms of the click, the work for it at the upstream.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use handoff_e2e::browser::Browser;
use handoff_e2e::httpd::World;
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Upstream};

use crate::page::{BUTTONS, Page};
use crate::site::{EVENTSOURCE, LINE_READER, Site};

/// From the event of the click in the page to the upstream's seeing that its client has left.
const CANCELLED_WITHIN: Duration = Duration::from_millis(100);
const CLICKS: usize = 10;
/// The slowest click is the machine's.
const IN_TIME: usize = 9;

#[test]
fn for_the_upstream_too() {
    let llm = Upstream::start(Protocol::H2c);
    let word = Answer::openai().parts().content.swap_remove(0);
    llm.script(Answer::sse().head().step(Step::SendForever(word, Duration::from_millis(20))));
    let backend = llm.backend_toml("llm", Dialect::OpenAi);
    let page = Page::open_in(Browser::start_alone(), &format!("[backend]\nprovider = \"llm\"\n{backend}"));
    // Before the page's own listener.
    page.browser.run("addEventListener('click', () => { window.clickedAt = Date.now() }, true)");
    let mut delays = Vec::new();
    for number in 0..CLICKS {
        page.ask(BUTTONS[number % BUTTONS.len()], "a long story");
        page.first_words();
        page.browser.click("#stop");
        page.wait_for("stopped");
        let (at, _) = llm.wait_for_cancel(number);
        let cancelled_at = (SystemTime::now() - at.elapsed()).duration_since(UNIX_EPOCH).expect("after 1970");
        let clicked_at = page.browser.run("return window.clickedAt").as_u64().expect("a time");
        delays.push(cancelled_at.saturating_sub(Duration::from_millis(clicked_at)));
    }
    delays.sort();
    eprintln!("from the click to the upstream: {delays:?}");
    assert!(delays[IN_TIME - 1] < CANCELLED_WITHIN, "{delays:?}");
    assert_eq!(llm.request_count(), CLICKS, "nothing reconnects");
    assert_eq!(page.daemon.metric("handoffd_lease_endings_total{outcome=\"client_gone\""), CLICKS as f64);
}

#[test]
fn for_who_leaves_the_page() {
    let llm = Upstream::start(Protocol::H2c);
    let page =
        Page::open(&format!("[backend]\nprovider = \"llm\"\n{}", llm.backend_toml("llm", Dialect::OpenAi)));
    llm.script(Answer::openai().with_after(1, [Step::Hang]));
    for (number, button) in BUTTONS.into_iter().enumerate() {
        page.ask(button, "a long story");
        page.first_words();
        page.browser.open("about:blank");
        llm.wait_for_cancel(number);
        page.browser.run("history.back()");
        page.wait_for("idle");
    }
    assert_eq!(llm.request_count(), 2, "nothing reconnects");
}

/// Apache learns it first, and has to let the daemon know.
#[test]
fn behind_a_relay() {
    let browser = Browser::start_alone();
    for world in World::ALL {
        for page in [EVENTSOURCE, LINE_READER] {
            let site = Site::relayed(world, &browser);
            site.llm.script(Answer::openai().with_after(1, [Step::Hang]));
            site.open(page);
            browser.wait("document.getElementById('output').textContent");
            let left_at = Instant::now();
            browser.open("about:blank");
            let (at, _) = site.llm.wait_for_cancel(0);
            eprintln!("from the page's end to the upstream, relayed by {world:?}: {:?}", at - left_at);
            site.was_asked(&["gone"]);
        }
    }
}
