//! A site of somebody: a page and a script of PHP, Apache with our module, a daemon, a scripted upstream. In: the page, the
//! answer. Out: what a browser shows, and who was asked how often.

use std::fs;

use handoff_e2e::browser::Browser;
use handoff_e2e::httpd::{self, Httpd, Setup, World};
use handoff_e2e::upstream::{Dialect, Protocol, Upstream};
use handoff_e2e::{Daemon, eventually};

/// Everything but the page.
pub(crate) struct Site<'b> {
    pub(crate) browser: &'b Browser,
    pub(crate) daemon: Daemon,
    pub(crate) llm: Upstream,
    httpd: Httpd,
    is_tls: bool,
}

/// As it stands in the README of the module that sites have had until now.
const CHAT: &str = r#"<?php
$data = json_encode(['prompt' => $_REQUEST['prompt'], 'user_id' => 7, 'format' => 'text']);
header('X-Socket-Handoff: ' . $_SERVER['SOCKET']);
header('X-Handoff-Data: ' . $data);
exit;
"#;

impl<'b> Site<'b> {
    /// Nobody has asked anything yet.
    pub(crate) fn start(world: World, browser: &'b Browser) -> Self {
        Self::with(world, browser, |setup| setup)
    }

    /// Apache ends TLS, and relays: HTTP/2 where Apache can have it, which is not in the world of prefork.
    pub(crate) fn relayed(world: World, browser: &'b Browser) -> Self {
        let site = Self::with(world, browser, |setup| {
            setup.modules(["http2", "socache_shmcb"]).tls("SocketHandoffRelay On")
        });
        Self { is_tls: true, ..site }
    }

    fn with(world: World, browser: &'b Browser, more: impl FnOnce(Setup) -> Setup) -> Self {
        let llm = Upstream::start(Protocol::H1);
        let backend = llm.backend_toml("llm", Dialect::OpenAi);
        let daemon = httpd::daemon(&format!("[backend]\nprovider = \"llm\"\n{backend}"));
        let httpd = more(Setup::new(world, &daemon).file("chat.php", CHAT)).start();
        Self { browser, daemon, llm, httpd, is_tls: false }
    }

    /// Opens this page.
    pub(crate) fn open(&self, page: &str) {
        fs::write(self.httpd.directory().join("htdocs/page.html"), page).expect("a page");
        let url = if self.is_tls { self.httpd.tls_url("/page.html") } else { self.httpd.url("/page.html") };
        self.browser.open(&url);
    }

    /// Apache has been asked for answers so often, and this came of each (the module's note).
    pub(crate) fn was_asked(&self, outcomes: &[&str]) {
        let asked = || self.httpd.access_log().into_iter().filter(|line| line.contains("/chat.php"));
        eventually("Apache has logged all requests", || (asked().count() >= outcomes.len()).then_some(()));
        let lines: Vec<String> = asked().collect();
        let seen: Vec<&str> = lines.iter().filter_map(|line| line.split(' ').nth(2)).collect();
        assert_eq!(seen, outcomes, "{lines:#?}");
        let protocol = match (self.is_tls, self.httpd.setup().world) {
            (true, World::Event) => "HTTP/2.0\"",
            (true, World::Prefork) | (false, _) => "HTTP/1.1\"",
        };
        assert!(lines.iter().all(|line| line.ends_with(protocol)), "{lines:#?}");
    }
}

/// As the pages of many sites do it.
pub(crate) const EVENTSOURCE: &str = r#"<!doctype html>
<meta charset="utf-8">
<pre id="output"></pre>
<script>
  const output = document.getElementById("output");
  const source = new EventSource("chat.php?prompt=hello");
  source.onmessage = event => { output.textContent += event.data; };
  source.addEventListener("done", () => { source.close(); output.className = "done"; });
  source.onerror = () => { source.close(); output.className = "failed"; };
</script>
"#;

/// Nobody closes this one.
pub(crate) const EVENTSOURCE_LEFT_OPEN: &str = r#"<!doctype html>
<meta charset="utf-8">
<pre id="output"></pre>
<script>
  const output = document.getElementById("output");
  const source = new EventSource("chat.php?prompt=hello");
  source.onmessage = event => { output.textContent += event.data; };
</script>
"#;

/// As the pages of many sites do it: no parser of events, no line that is kept for the next read.
pub(crate) const LINE_READER: &str = r#"<!doctype html>
<meta charset="utf-8">
<pre id="output"></pre>
<script>
  (async () => {
    const output = document.getElementById("output");
    const body = new URLSearchParams({ prompt: "hello" });
    const response = await fetch("chat.php", { method: "POST", body });
    if (!response.ok) {
      output.textContent = (await response.json()).error.message;
      output.className = "failed";
      return;
    }
    const reader = response.body.getReader();
    const decoder = new TextDecoder();
    for (;;) {
      const { done, value } = await reader.read();
      if (done) break;
      for (const line of decoder.decode(value).split("\n")) {
        if (!line.startsWith("data: ")) continue;
        const data = line.slice(6);
        if (data === "[DONE]") { output.className = "done"; return; }
        output.textContent += data;
      }
    }
  })();
</script>
"#;
