//! An answer appears as it comes, by EventSource and by fetch, and nothing asks twice.

use crate::page::{BUTTONS, Page};

const ANSWER: &str = "This answer comes from the embedded mock, word by word, and costs nothing.";

#[test]
fn by_eventsource_and_by_fetch() {
    let page = Page::open("[backend.mock]\ntoken_delay_ms = 40");
    for button in BUTTONS {
        page.ask(button, "grüße, 世界");
        let early = page.first_words();
        assert!(!early.contains(ANSWER), "{button}: everything came at once: {early}");
        page.wait_for("complete");
        let answer = page.browser.text("#answer");
        assert!(answer.contains("You asked: grüße, 世界") && answer.ends_with(ANSWER), "{button}: {answer}");
        let first_token = page.browser.text("#ttft");
        assert!(first_token.ends_with(" ms"), "{button}: {first_token}");
    }
    assert_eq!(page.daemon.metric("daemon_handoffs_total"), 2.0, "nothing reconnects");
    page.browser.screenshot("front");
}
