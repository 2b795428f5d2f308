//! The page in a real browser: tokens appear one by one, stop works, an error shows, nothing reconnects.

#![forbid(unsafe_code)]

use std::fmt::Debug;

use handoff_e2e::browser::Browser;
use handoff_e2e::front::Front;
use handoff_e2e::{Daemon, eventually, process};
use nix::sys::signal::Signal;

const ANSWER: &str = "This answer comes from the embedded mock, word by word, and costs nothing.";

struct Page {
    browser: Browser,
    daemon: Daemon,
    _front: Front,
}

impl Page {
    fn open(mock: &str) -> Self {
        let daemon = Daemon::start(&format!("[backend.mock]\n{mock}"));
        let front = Front::start(&daemon);
        let browser = Browser::start();
        browser.open(front.url());
        Self { browser, daemon, _front: front }
    }

    fn ask(&self, button: &str, prompt: &str) {
        self.browser.run(&format!("document.getElementById('prompt').value = {prompt:?}"));
        self.browser.click(button);
    }

    fn text(&self, id: &str) -> String {
        let script = format!("return document.getElementById('{id}').textContent");
        self.browser.run(&script).as_str().unwrap_or_default().to_owned()
    }

    fn state(&self) -> String {
        let state = self.browser.run("return document.getElementById('status').dataset.state");
        state.as_str().unwrap_or_default().to_owned()
    }

    #[track_caller]
    fn until<T: Debug>(&self, what: &str, question: impl FnMut() -> Option<T>) -> T {
        eventually(what, question)
    }
}

#[test]
fn an_answer_appears_word_by_word_by_eventsource_and_by_fetch() {
    let page = Page::open("token_delay_ms = 40");
    for button in ["send-eventsource", "send-fetch"] {
        page.ask(button, "grüße, 世界");
        let early = page.until("the first words", || {
            let text = page.text("answer");
            (!text.is_empty()).then_some(text)
        });
        assert!(!early.contains(ANSWER), "{button}: everything came at once: {early}");
        page.until("the end", || (page.state() == "complete").then_some(()));
        let answer = page.text("answer");
        assert!(answer.contains("You asked: grüße, 世界") && answer.ends_with(ANSWER), "{button}: {answer}");
        assert!(page.text("ttft").ends_with(" ms"), "{button}: {}", page.text("ttft"));
    }
    assert_eq!(page.daemon.metric("daemon_handoffs_total"), 2.0, "nothing reconnects");
}

#[test]
fn stop_ends_the_stream_for_the_daemon_too() {
    let page = Page::open("token_delay_ms = 100\nlength = 10000");
    for (number, button) in ["send-eventsource", "send-fetch"].into_iter().enumerate() {
        page.ask(button, "a long story");
        page.until("the first word", || (!page.text("answer").is_empty()).then_some(()));
        page.browser.click("stop");
        assert_eq!(page.state(), "stopped");
        page.until("the daemon notices", || {
            let gone = page.daemon.metric("handoffd_lease_endings_total{outcome=\"client_gone\"");
            (gone > number as f64).then_some(())
        });
    }
}

#[test]
fn a_killed_worker_shows_as_an_error_and_never_as_an_answer() {
    let page = Page::open("token_delay_ms = 100\nlength = 10000");
    for button in ["send-eventsource", "send-fetch"] {
        page.ask(button, "a long story");
        page.until("the first word", || (!page.text("answer").is_empty()).then_some(()));
        for worker in page.daemon.workers("ready") {
            process::signal(worker, Signal::SIGKILL);
        }
        page.until("an error", || (page.state() == "failed").then_some(()));
        page.until("new workers", || (page.daemon.workers("ready").len() == 2).then_some(()));
    }
}
