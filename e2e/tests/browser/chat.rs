//! The demo's chat behind the real Apache: its files as they are, a daemon, a scripted upstream.

use std::fs;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handoff_e2e::browser::Browser;
use handoff_e2e::container::workspace;
use handoff_e2e::httpd::{self, Httpd, Setup, World};
use handoff_e2e::upstream::{Dialect, Protocol, Upstream};
use handoff_e2e::{Daemon, eventually};

/// How answers come into the page, by the ids of the switch.
pub(crate) const TRANSPORTS: [&str; 2] = ["transport-eventsource", "transport-fetch"];

/// A visitor who has opened the chat, and is signed in.
pub(crate) struct Chat {
    pub(crate) browser: Browser,
    pub(crate) daemon: Daemon,
    pub(crate) llm: Upstream,
    httpd: Httpd,
}

impl Chat {
    /// With nothing said.
    pub(crate) fn open(world: World, browser: Browser) -> Self {
        let llm = Upstream::start(Protocol::H2c);
        let backend = llm.backend_toml("llm", Dialect::OpenAi);
        let daemon = httpd::daemon(&format!("[backend]\nprovider = \"llm\"\n{backend}retries = 0\n"));
        let demo = workspace().join("demo");
        let mut setup = Setup::new(world, &daemon).directives("SetEnv HANDOFFD_SOCKET ${SOCKET}");
        for file in fs::read_dir(demo.join("public")).expect("the demo").flatten() {
            setup = setup.file(&file.file_name().to_string_lossy(), &read(&file.path()));
        }
        // Beside the document root, and so for no visitor.
        let httpd = setup.file("../site.php", &read(&demo.join("site.php"))).start();
        browser.open(&httpd.url("/index.html"));
        browser.wait("document.getElementById('name').textContent === ', Ada'");
        // Before the page's own listener.
        browser.run("addEventListener('click', () => { window.clickedAt = Date.now() }, true)");
        Self { browser, daemon, llm, httpd }
    }

    /// Chooses how answers come, and asks.
    pub(crate) fn ask(&self, transport: &str, question: &str) {
        self.browser.click(&format!("label:has(#{transport})"));
        self.browser.type_into("#prompt", question);
        self.browser.click("#send");
    }

    /// Waits for a state of the current answer.
    #[track_caller]
    pub(crate) fn wait_for(&self, state: &str) {
        self.browser.wait(&format!("document.getElementById('status').dataset.state === {state:?}"));
    }

    /// The current answer's text.
    pub(crate) fn answer(&self) -> String {
        self.browser.text(".message.assistant .text")
    }

    /// Waits until the answer shows exactly this.
    #[track_caller]
    pub(crate) fn shows(&self, text: &str) {
        eventually(&format!("the answer is {text:?}"), || {
            (self.answer().trim() == text.trim()).then_some(())
        });
    }

    /// How often Apache has been asked for an answer; with those that it is still busy with, one less.
    pub(crate) fn requests(&self) -> usize {
        self.httpd.access_log().iter().filter(|line| line.contains("/chat.php")).count()
    }

    /// From the last click in the page to the upstream's seeing that nobody wants this answer any more.
    #[track_caller]
    pub(crate) fn cancelled_after(&self, number: usize) -> Duration {
        let (at, _) = self.llm.wait_for_cancel(number);
        let cancelled_at = (SystemTime::now() - at.elapsed()).duration_since(UNIX_EPOCH).expect("after 1970");
        let clicked_at = self.browser.run("return window.clickedAt").as_u64().expect("a time");
        cancelled_at.saturating_sub(Duration::from_millis(clicked_at))
    }
}

fn read(path: &Path) -> String {
    fs::read_to_string(path).expect("a file of the demo")
}
