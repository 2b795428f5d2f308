//! A page that leaves its EventSource open asks again, as browsers do. A finished answer costs nothing more then; one that
//! broke off is asked for again, in the browser's own time.

use std::time::Duration;

use handoff_e2e::browser::Browser;
use handoff_e2e::httpd::World;
use handoff_e2e::upstream::{Answer, Step};
use nix::sys::signal::Signal;

use crate::site::{EVENTSOURCE, EVENTSOURCE_LEFT_OPEN, Site};

/// The browser has given up by itself.
const CLOSED: &str = "document.readyState === 'complete' && source.readyState === EventSource.CLOSED";
/// Chromium waits three seconds before it connects again.
const PAUSE_MIN: Duration = Duration::from_secs(2);

fn in_both_worlds(promise: impl Fn(&mut Site<'_>)) {
    let browser = Browser::start();
    World::ALL.into_iter().for_each(|world| promise(&mut Site::start(world, &browser)));
}

#[test]
fn when_the_page_does_not_close() {
    in_both_worlds(|site| {
        site.open(EVENTSOURCE_LEFT_OPEN);
        site.browser.wait(CLOSED);
        assert_eq!(site.browser.text("#output"), Answer::openai().text(), "shown once");
        site.was_asked(&["sent", "sent"]);
        assert_eq!(site.llm.request_count(), 1, "the browser has come back, and nobody was asked");
    });
}

#[test]
fn when_the_page_does_not_close_behind_a_relay() {
    let browser = Browser::start();
    for world in World::ALL {
        let site = Site::relayed(world, &browser);
        site.open(EVENTSOURCE_LEFT_OPEN);
        browser.wait(CLOSED);
        assert_eq!(browser.text("#output"), Answer::openai().text(), "{world:?}: shown once");
        site.was_asked(&["relayed", "relayed"]);
        assert_eq!(site.llm.request_count(), 1);
    }
}

#[test]
fn when_it_broke_off() {
    in_both_worlds(|site| {
        let talk = Answer::openai();
        site.llm.script_each([talk.broken_after(3, [Step::Cut]), talk.answer()]);
        site.open(EVENTSOURCE_LEFT_OPEN);
        site.browser.wait(CLOSED);
        let shown = site.browser.text("#output");
        assert!(shown.starts_with("w0 w1 w2 {\"error\":") && shown.ends_with(&talk.text()), "{shown}");
        // What broke off, the answer, and who wants no other.
        site.was_asked(&["sent", "sent", "sent"]);
        assert_eq!(site.llm.request_count(), 2);
        let [first, second] = [0, 1].map(|number| site.llm.wait_for_request(number).request.arrived);
        assert!(second - first > PAUSE_MIN, "{:?}", second - first);
    });
}

#[test]
fn when_the_page_closes_on_errors() {
    in_both_worlds(|site| {
        site.llm.script(Answer::openai().broken_after(3, [Step::Cut]));
        site.open(EVENTSOURCE);
        site.browser.wait("document.querySelector('#output.failed')");
        site.was_asked(&["sent"]);
        assert_eq!(site.llm.request_count(), 1);
    });
}

#[test]
fn when_nothing_has_begun() {
    in_both_worlds(|site| {
        site.llm.script(Answer::openai_error(400, "invalid_request_error", "x", "no"));
        site.open(EVENTSOURCE_LEFT_OPEN);
        site.browser.wait(CLOSED);
        site.was_asked(&["sent"]);
        assert_eq!(site.llm.request_count(), 1, "a status of its own ends it");
    });
}

#[test]
fn when_nobody_is_there() {
    in_both_worlds(|site| {
        site.daemon.signal(Signal::SIGTERM);
        site.daemon.wait();
        site.open(EVENTSOURCE_LEFT_OPEN);
        site.browser.wait(CLOSED);
        site.was_asked(&["unavailable"]);
    });
}
