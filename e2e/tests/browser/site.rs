//! A site of somebody: a page of their own, an endpoint that hands over, a daemon, a scripted upstream. In: the page, the
//! answer. Out: what a browser shows.

use handoff_e2e::Daemon;
use handoff_e2e::browser::Browser;
use handoff_e2e::front::Front;
use handoff_e2e::upstream::{Dialect, Protocol, Upstream};

/// Everything but the page.
pub(crate) struct Site {
    pub(crate) browser: Browser,
    pub(crate) daemon: Daemon,
    pub(crate) llm: Upstream,
    front: Front,
}

impl Site {
    /// Nobody has asked anything yet.
    pub(crate) fn start() -> Self {
        let llm = Upstream::start(Protocol::H1);
        let backend = llm.backend_toml("llm", Dialect::OpenAi);
        let daemon = Daemon::start(&format!("[backend]\nprovider = \"llm\"\n{backend}"));
        let front = Front::start(&daemon);
        Self { browser: Browser::start(), daemon, llm, front }
    }

    /// Opens this page. `CHAT` in it becomes the address that answers in the format `text`.
    pub(crate) fn open(&self, page: &str) {
        let page = page.replace("CHAT", "/stream?format=text&prompt=hello");
        self.browser.open(self.front.url());
        let page = serde_json::Value::from(page);
        self.browser.run(&format!("document.open(); document.write({page}); document.close()"));
    }

    /// How many clients Apache has handed over.
    pub(crate) fn handoffs(&self) -> f64 {
        self.daemon.metric("daemon_handoffs_total")
    }
}

/// As the pages of many sites do it.
pub(crate) const EVENTSOURCE: &str = r#"<!doctype html>
<meta charset="utf-8">
<pre id="output"></pre>
<script>
  const output = document.getElementById("output");
  const source = new EventSource("CHAT");
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
  const source = new EventSource("CHAT");
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
    const response = await fetch("CHAT", { method: "POST", body });
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
