//! A page that leaves its EventSource open asks again, as browsers do. A finished answer costs nothing more then; one that
//! broke off is asked for again, in the browser's own time.

use std::time::Duration;

use handoff_e2e::upstream::{Answer, Step};

use crate::site::{EVENTSOURCE, EVENTSOURCE_LEFT_OPEN, Site};

/// The browser has given up by itself.
const CLOSED: &str = "document.readyState === 'complete' && source.readyState === EventSource.CLOSED";
/// Chromium waits three seconds before it connects again.
const PAUSE_MIN: Duration = Duration::from_secs(2);

#[test]
fn when_the_page_does_not_close() {
    let site = Site::start();
    site.open(EVENTSOURCE_LEFT_OPEN);
    site.browser.wait(CLOSED);
    assert_eq!(site.browser.text("#output"), Answer::openai().text(), "shown once");
    assert_eq!(site.handoffs(), 2.0, "the browser has come back once");
    assert_eq!(site.llm.request_count(), 1, "and nobody was asked");
}

#[test]
fn when_it_broke_off() {
    let site = Site::start();
    let talk = Answer::openai();
    site.llm.script_each([talk.broken_after(3, [Step::Cut]), talk.answer()]);
    site.open(EVENTSOURCE_LEFT_OPEN);
    site.browser.wait(CLOSED);
    let shown = site.browser.text("#output");
    assert!(shown.starts_with("w0 w1 w2 {\"error\":") && shown.ends_with(&talk.text()), "{shown}");
    assert_eq!(site.handoffs(), 3.0, "the answer that broke off, the answer, and who wants no other");
    assert_eq!(site.llm.request_count(), 2);
    let [first, second] = [0, 1].map(|number| site.llm.wait_for_request(number).request.arrived);
    assert!(second - first > PAUSE_MIN, "{:?}", second - first);
}

#[test]
fn when_the_page_closes_on_errors() {
    let site = Site::start();
    site.llm.script(Answer::openai().broken_after(3, [Step::Cut]));
    site.open(EVENTSOURCE);
    site.browser.wait("document.querySelector('#output.failed')");
    assert_eq!((site.handoffs(), site.llm.request_count()), (1.0, 1));
}

#[test]
fn when_nothing_has_begun() {
    let site = Site::start();
    site.llm.script(Answer::openai_error(400, "invalid_request_error", "x", "no"));
    site.open(EVENTSOURCE_LEFT_OPEN);
    site.browser.wait(CLOSED);
    assert_eq!((site.handoffs(), site.llm.request_count()), (1.0, 1), "a status of its own ends it");
}
