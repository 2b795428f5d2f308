//! Questions to scripted upstreams, by way of confined workers. In: a payload. Out: what its client was told, and what
//! the log and the metrics say of it.
//!
//! Never: lets a client see anything of an upstream but its words.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use nix::unistd::geteuid;
use serde_json::Value;

use crate::upstream::{API_KEY, Dialect};
use crate::{Client, Daemon, Response, Upstream, eventually};

/// The formats that we write ourselves.
pub const FORMATS: [&str; 4] = ["content", "text", "openai", "events"];

/// One attempt at a question, and nobody rests.
pub const ONCE: &str = "retries = 0\nbreaker_failures = 0\n";

/// A daemon with confined workers, and what its clients may not see.
#[derive(Debug)]
pub struct Asker {
    /// The daemon.
    pub daemon: Daemon,
    secrets: Vec<String>,
    asked: AtomicUsize,
}

/// What was told.
#[derive(Clone, Debug)]
pub struct Told {
    /// To the client.
    pub response: Response,
    /// In the log.
    pub session: Value,
    /// Of how the client wanted it.
    pub format: String,
}

impl Asker {
    /// A daemon with these backends, of which the first is the default one. `keys` are of each of them, and `toml` is what
    /// else is configured.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn start(toml: &str, backends: &[(&str, &Upstream, Dialect)], keys: &str) -> Self {
        Self::with(toml, &backends.iter().map(|backend| (*backend, keys)).collect::<Vec<_>>())
    }

    /// A daemon whose backends speak Chat Completions: `first`, and `second`, which is asked when that fails.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn with_fallback(toml: &str, first: &Upstream, second: &Upstream) -> Self {
        let keys = format!("fallbacks = [\"second\"]\n{ONCE}");
        let (first, second) = (("first", first, Dialect::OpenAi), ("second", second, Dialect::OpenAi));
        Self::with(toml, &[(first, &keys), (second, ONCE)])
    }

    fn with(toml: &str, backends: &[((&str, &Upstream, Dialect), &str)]) -> Self {
        // As another user where we may.
        let run_as = if geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
        let mut text = format!("[workers]\ncount = 2\nsandbox = \"require\"\n{run_as}\n{toml}\n");
        // Libraries would say a line for each byte that comes by itself.
        text += "[logging]\nformat = \"json\"\nlevel = \"info\"\n";
        let mut secrets = [API_KEY, "/v1", "/chat/completions", "/responses", "/messages", "/api/", "/runs"]
            .map(str::to_owned)
            .to_vec();
        if let Some(((first, ..), _)) = backends.first() {
            let _ = writeln!(text, "[backend]\nprovider = \"{first}\"");
        }
        for ((name, upstream, dialect), keys) in backends {
            text += &upstream.backend_toml(name, *dialect);
            text += keys;
            let address = upstream.address();
            secrets.extend([address.split(':').next().unwrap_or_default().to_owned(), address]);
        }
        Self { daemon: Daemon::start(&text), secrets, asked: AtomicUsize::new(0) }
    }

    /// A daemon whose backends all ask one upstream, each in its own dialect: [`name`] says what it is called.
    ///
    /// # Panics
    /// When it does not become ready.
    #[must_use]
    pub fn in_every_dialect(llm: &Upstream, keys: &str) -> Self {
        Self::start("", &Dialect::ALL.map(|dialect| (name(dialect), llm, dialect)), keys)
    }

    /// Hands over a payload with a prompt and an id; `about` is what else it has.
    ///
    /// # Panics
    /// When the daemon does not take it.
    #[must_use]
    pub fn begin(&self, about: &Value) -> (Client, String) {
        self.begin_with(about, |_| {})
    }

    /// The same, after something is done about this id.
    ///
    /// # Panics
    /// When the daemon does not take it.
    #[must_use]
    pub fn begin_with(&self, about: &Value, prepare: impl FnOnce(&str)) -> (Client, String) {
        let id = format!("r{}", self.asked.fetch_add(1, Ordering::Relaxed));
        prepare(&id);
        let mut payload = serde_json::json!({"prompt": "a question", "request_id": id});
        for (key, value) in about.as_object().into_iter().flatten() {
            payload[key] = value.clone();
        }
        (self.daemon.hand_over(payload.to_string()), id)
    }

    /// Asks, and reads the whole answer.
    ///
    /// # Panics
    /// When there is none, or it holds what no client may see.
    #[track_caller]
    #[must_use]
    pub fn ask(&self, about: &Value) -> Told {
        let (client, id) = self.begin(about);
        self.told(client.response(), &id, about)
    }

    /// What was told to the client with this id, which has this response.
    ///
    /// # Panics
    /// When its session does not end, or it holds what no client may see.
    #[track_caller]
    #[must_use]
    pub fn told(&self, response: Response, id: &str, about: &Value) -> Told {
        let format = about["format"].as_str().unwrap_or("content").to_owned();
        for secret in &self.secrets {
            let is_shown = response.head.contains(secret) || response.body.contains(secret);
            assert!(!is_shown, "a client sees {secret:?}: {response:?}");
        }
        Told { response, session: self.daemon.session(id), format }
    }

    /// The metrics say exactly this of all questions so far: failed attempts by backend and reason, and how leases ended.
    ///
    /// # Panics
    /// When they do not in time.
    #[track_caller]
    pub fn adds_up(&self, failures: &[(&str, &str, u32)], endings: &[(&str, u32)]) {
        let total = |counts: &BTreeMap<String, u32>| counts.values().sum::<u32>();
        let mut failed = BTreeMap::new();
        for (backend, reason, count) in failures {
            *failed.entry(format!("{backend} {reason}")).or_default() += count;
        }
        let mut ended = BTreeMap::new();
        for (outcome, count) in endings {
            *ended.entry((*outcome).to_owned()).or_default() += count;
        }
        let seen = eventually("all is counted", || {
            let (_, text) = self.daemon.get("/metrics")?;
            let seen = (
                count(&text, "handoffd_backend_failures_total", &["backend", "reason"]),
                count(&text, "handoffd_lease_endings_total", &["outcome"]),
            );
            (total(&seen.0) >= total(&failed) && total(&seen.1) >= total(&ended)).then_some(seen)
        });
        assert_eq!(seen, (failed, ended));
    }
}

impl Told {
    /// A status, because nothing had begun.
    ///
    /// # Panics
    /// When it was told otherwise.
    #[track_caller]
    pub fn is_refused(&self, status: u16, code: &str, outcome: &str) {
        let Self { response, session, .. } = self;
        let told = (response.status, response.error_code());
        assert_eq!(told, (status, Some(code.to_owned())), "{response:?} {session}");
        assert_eq!(response.header("content-type"), Some("application/json"), "{response:?}");
        assert_eq!((response.heads(), response.broken), (1, None), "{response:?}");
        let has_retry_after = response.header("retry-after").is_some();
        assert!(has_retry_after || !matches!(status, 429 | 503), "{response:?}");
        assert_eq!(session["outcome"], outcome, "{session}");
    }

    /// One error event, which comes last; before it the words of this number, from 0, and no more.
    ///
    /// # Panics
    /// When it was told otherwise.
    #[track_caller]
    pub fn is_broken_after(&self, words: usize, code: &str, outcome: &str) {
        let Self { response, session, format } = self;
        assert_eq!((response.status, response.broken, response.heads()), (200, None, 1), "{response:?}");
        assert_eq!(session["outcome"], outcome, "{session}");
        let errors = response.body.matches(r#"{"error":{"#).count();
        assert_eq!(errors, 1, "{response:?}");
        let last = response.body.trim_end().rsplit("\n\n").next().unwrap_or_default();
        let data = last.lines().find_map(|line| line.strip_prefix("data: ")).unwrap_or_default();
        let data: Value = serde_json::from_str(data).unwrap_or_default();
        assert_eq!(data["error"]["code"], code, "the error comes last: {response:?}");
        let is_named = matches!(format.as_str(), "events" | "raw");
        assert_eq!(last.starts_with("event: error\n"), is_named, "{response:?}");
        let complete =
            ["[DONE]", "event: done", ":end\n", "message_stop", "response.completed", "event: end"];
        assert!(!complete.iter().any(|end| response.body.contains(end)), "it looks whole: {response:?}");
        for word in 0..words {
            assert!(response.body.contains(&format!("w{word} ")), "w{word} is missing: {response:?}");
        }
        assert!(!response.body.contains(&format!("w{words} ")), "{response:?}");
    }

    /// The whole answer, in the format `content`.
    ///
    /// # Panics
    /// When it was told otherwise.
    #[track_caller]
    pub fn is_complete(&self, text: &str) {
        let Self { response, session, .. } = self;
        assert!(response.is_complete() && response.text() == text, "{response:?} {session}");
        assert_eq!(session["outcome"], "complete", "{session}");
    }

    /// How long it took, as the log has it.
    ///
    /// # Panics
    /// When the log does not have it.
    #[must_use]
    pub fn took(&self) -> Duration {
        Duration::from_secs_f64(self.session["duration_ms"].as_f64().expect("a duration") / 1000.0)
    }
}

/// What the backend of this dialect is called, where there is one of each.
#[must_use]
pub fn name(dialect: Dialect) -> &'static str {
    match dialect {
        Dialect::OpenAi => "chat",
        Dialect::Responses => "responses",
        Dialect::Anthropic => "messages",
        Dialect::Ollama => "local",
        Dialect::LangGraph => "graph",
    }
}

/// The samples of a metric that are not 0, by the values of these labels; all that differ in others are one.
fn count(text: &str, name: &str, labels: &[&str]) -> BTreeMap<String, u32> {
    let mut counts = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('{')) {
        let value = |label: &&str| line.split(&format!("{label}=\"")).nth(1)?.split('"').next();
        let key = labels.iter().filter_map(value).collect::<Vec<_>>().join(" ");
        let count = line.rsplit(' ').next().and_then(|count| count.parse::<u32>().ok()).unwrap_or(0);
        if count > 0 {
            *counts.entry(key).or_default() += count;
        }
    }
    counts
}
