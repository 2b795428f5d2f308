//! The page of `handoffctl front` in a browser, in front of a daemon.

use handoff_e2e::Daemon;
use handoff_e2e::browser::Browser;
use handoff_e2e::front::Front;

/// The buttons that ask.
pub(crate) const BUTTONS: [&str; 2] = ["#send-eventsource", "#send-fetch"];

/// A daemon, a front, a browser that has opened its page.
pub(crate) struct Page {
    pub(crate) browser: Browser,
    pub(crate) daemon: Daemon,
    _front: Front,
}

impl Page {
    /// Of a daemon with this configuration.
    pub(crate) fn open(toml: &str) -> Self {
        Self::open_in(Browser::start(), toml)
    }

    /// The same, in this browser.
    pub(crate) fn open_in(browser: Browser, toml: &str) -> Self {
        let daemon = Daemon::start(toml);
        let front = Front::start(&daemon);
        browser.open(front.url());
        Self { browser, daemon, _front: front }
    }

    /// Asks by a button.
    pub(crate) fn ask(&self, button: &str, prompt: &str) {
        self.browser.run("document.getElementById('prompt').value = ''");
        self.browser.type_into("#prompt", prompt);
        self.browser.click(button);
    }

    /// Waits for a state of the answer.
    #[track_caller]
    pub(crate) fn wait_for(&self, state: &str) {
        self.browser.wait(&format!("document.getElementById('status').dataset.state === {state:?}"));
    }

    /// Waits for the answer's beginning; what is there then.
    #[track_caller]
    pub(crate) fn first_words(&self) -> String {
        self.browser.wait("document.getElementById('answer').textContent");
        self.browser.text("#answer")
    }
}
