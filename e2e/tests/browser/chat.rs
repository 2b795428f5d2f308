//! The demo's chat behind the real Apache: its files as they are, a daemon, a scripted upstream.

use std::fs;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use handoff_e2e::browser::Browser;
use handoff_e2e::container::workspace;
use handoff_e2e::httpd::{self, Httpd, Setup, World};
use handoff_e2e::upstream::{Dialect, Protocol, Upstream};
use handoff_e2e::{Daemon, eventually};

/// How answers come into the page, by the ids of the switch.
pub(crate) const TRANSPORTS: [&str; 2] = ["transport-eventsource", "transport-fetch"];

/// A visitor who has opened the chat, and is signed in.
pub(crate) struct Chat<'b> {
    pub(crate) browser: &'b Browser,
    pub(crate) daemon: Daemon,
    pub(crate) llm: Upstream,
    httpd: Httpd,
}

impl<'b> Chat<'b> {
    /// With nothing said.
    pub(crate) fn open(world: World, browser: &'b Browser) -> Self {
        let llm = Upstream::start(Protocol::H2c);
        let backend = llm.backend_toml("llm", Dialect::OpenAi);
        let daemon = httpd::daemon(&format!("[backend]\nprovider = \"llm\"\n{backend}retries = 0\n"));
        // As they lie in the repository: pages ask for files beside the document root.
        let mut setup = Setup::new(world, &daemon)
            .directives("DocumentRoot ${DIRECTORY}/htdocs/demo/public\nSetEnv HANDOFFD_SOCKET ${SOCKET}");
        for directory in ["demo", "demo/public", "php"] {
            let entries = fs::read_dir(workspace().join(directory)).expect("a directory").flatten();
            for file in entries.map(|entry| entry.path()).filter(|path| path.is_file()) {
                let name = file.file_name().expect("a name").to_string_lossy();
                let content = fs::read_to_string(&file).expect("a file");
                setup = setup.file(&format!("{directory}/{name}"), &content);
            }
        }
        let httpd = setup.start();
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

    /// Apache has been asked for this many answers, and the upstream too; no more.
    #[track_caller]
    pub(crate) fn was_asked(&self, times: usize) {
        eventually("Apache has logged all requests", || (self.requests() >= times).then_some(()));
        assert_eq!((self.requests(), self.llm.request_count()), (times, times), "Apache, the upstream");
    }

    fn requests(&self) -> usize {
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
