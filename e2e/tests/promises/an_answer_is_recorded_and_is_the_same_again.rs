//! What a confined worker records of an API's answers is the same answers again, in their own time or faster, and nothing
//! of the question.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use handoff_e2e::upstream::{API_KEY, Dialect, Protocol, Step, Talk, Upstream};
use handoff_e2e::{Answer, Daemon, Response, eventually};
use nix::unistd::geteuid;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::an_answer_comes_from_a_real_api::confined;

/// A directory that workers may write to, and nobody else but us.
struct Shelf(TempDir);

impl Shelf {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        if geteuid().is_root() {
            chown(directory.path(), Some(61_234), Some(61_235)).expect("an owner");
        }
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o755)).expect("a mode");
        Self(directory)
    }

    /// The one recording of this backend, once it is complete.
    fn recording(&self, backend: &str) -> PathBuf {
        eventually("the recording is complete", || {
            let files = fs::read_dir(self.0.path()).ok()?.filter_map(|entry| Some(entry.ok()?.path()));
            let name = format!("-{backend}-");
            files.into_iter().find(|file| {
                let file = file.file_name().unwrap_or_default().to_string_lossy();
                !file.starts_with('.') && file.contains(&name) && file.ends_with(".jsonl")
            })
        })
    }

    /// A backend that writes there.
    fn backend(&self, llm: &Upstream, name: &str, dialect: Dialect) -> String {
        let record =
            format!("record = \"{}\"\nheaders = {{ x-team = \"search-4711\" }}\n", self.0.path().display());
        llm.backend_toml(name, dialect) + &record
    }

    /// A backend that plays what was written of another one, from a copy that its daemon may read.
    fn again(&self, of: &str, name: &str, speed: u8) -> String {
        let file = self.0.path().join(name);
        let text = fs::read(self.recording(of)).expect("a recording");
        fs::write(&file, text).expect("a copy");
        format!("[backends.{name}]\nkind = \"replay\"\nfile = \"{}\"\nspeed = {speed}\n", file.display())
    }
}

fn question(backend: &str, format: &str) -> String {
    let include = json!(["reasoning", "tool_calls", "usage", "finish_reason"]);
    json!({
        "prompt": "a private question", "system": "a private rule", "user_id": "a private name", "request_id": "r",
        "backend": backend, "format": format, "include": include,
    })
    .to_string()
}

fn ask(daemon: &Daemon, backend: &str, format: &str) -> Response {
    let response = daemon.hand_over(question(backend, format)).response();
    assert_eq!((response.status, response.broken), (200, None), "{backend} as {format}: {response:?}");
    response
}

#[test]
fn to_the_byte_whatever_the_api_and_without_a_secret() {
    let llm = Upstream::start(Protocol::H1);
    let talk = |dialect| {
        let talk = Talk::new(dialect).words(3).reasoning(2).tool("f", json!({"town": "Zürich 東京"}));
        // Characters are cut in two.
        talk.answer().in_pieces_of(7)
    };
    llm.script_by_path(
        [
            ("/chat/completions", Dialect::OpenAi),
            ("/responses", Dialect::Responses),
            ("/messages", Dialect::Anthropic),
            ("/api/chat", Dialect::Ollama),
            ("/runs/stream", Dialect::LangGraph),
        ]
        .map(|(path, dialect)| (path, talk(dialect))),
    );
    for format in ["content", "raw", "events"] {
        let shelf = Shelf::new();
        let toml = Dialect::ALL.map(|dialect| shelf.backend(&llm, &format!("a-{}", dialect.kind()), dialect));
        let daemon = confined(&toml.concat());
        let live = Dialect::ALL.map(|dialect| ask(&daemon, &format!("a-{}", dialect.kind()), format).body);
        let toml = Dialect::ALL.map(|dialect| {
            shelf.again(&format!("a-{}", dialect.kind()), &format!("b-{}", dialect.kind()), 0)
        });
        let daemon = confined(&toml.concat());
        for (dialect, live) in Dialect::ALL.into_iter().zip(live) {
            let kind = dialect.kind();
            assert_eq!(ask(&daemon, &format!("b-{kind}"), format).body, live, "{kind} as {format}");
            let file = shelf.recording(&format!("a-{kind}"));
            let text = fs::read_to_string(&file).expect("a recording");
            for secret in ["private", API_KEY, "search-4711", "Bearer"] {
                assert!(!text.contains(secret), "{secret} is in {text}");
            }
            let mode = fs::metadata(&file).expect("a recording").permissions().mode();
            assert_eq!(mode & 0o007, 0, "answers are not for everybody: {mode:o}");
            let head: Value = serde_json::from_str(text.lines().next().unwrap_or_default()).expect("a head");
            assert_eq!((&head["dialect"], &head["status"]), (&json!(kind), &json!(200)), "{head}");
        }
    }
}

#[test]
fn in_its_own_time_or_faster() {
    const WORDS: u32 = 6;
    const PAUSE: Duration = Duration::from_millis(80);
    let llm = Upstream::start(Protocol::H1AndH2c);
    let pause = u64::try_from(PAUSE.as_millis()).unwrap_or_default();
    llm.script(Answer::openai().words(WORDS as usize).pause_ms(pause));
    let shelf = Shelf::new();
    let took = |daemon: &Daemon, backend: &str| {
        let mut client = daemon.hand_over(question(backend, "text"));
        client.read_until("w0 \n\n");
        let began_at = Instant::now();
        let response = client.response();
        assert!(response.body.ends_with("data: [DONE]\n\n"), "{response:?}");
        began_at.elapsed()
    };
    let live = took(&confined(&shelf.backend(&llm, "live", Dialect::OpenAi)), "live");
    let again = ["live"].repeat(3);
    let speeds = [1, 8, 0];
    let toml: String = again
        .into_iter()
        .zip(speeds)
        .map(|(of, speed)| shelf.again(of, &format!("by-{speed}"), speed))
        .collect();
    let daemon = confined(&toml);
    let [own, eighth, none] = speeds.map(|speed| took(&daemon, &format!("by-{speed}")));
    let whole = PAUSE * (WORDS - 1);
    // The first word was on its way when it was seen: so much may be missing.
    let slack = PAUSE;
    assert!(live + slack >= whole, "live {live:?}");
    assert!(own + slack >= whole && own < live + whole, "in its own time {own:?}, live {live:?}");
    assert!(
        eighth + slack / 8 >= whole / 8 && eighth < whole / 2,
        "eight times faster {eighth:?}, live {live:?}"
    );
    assert!(none < whole / 2, "at once {none:?}, live {live:?}");
}

#[test]
fn and_what_nobody_wanted_to_the_end_has_none() {
    let llm = Upstream::start(Protocol::H1);
    llm.script(Answer::openai().broken_after(2, [Step::Hang]));
    let shelf = Shelf::new();
    let daemon = confined(&shelf.backend(&llm, "live", Dialect::OpenAi));
    let mut client = daemon.hand_over(question("live", "text"));
    client.read_until("w1 ");
    client.reset();
    let daemon = confined(&shelf.again("live", "again", 0));
    let response = ask(&daemon, "again", "content");
    assert_eq!(response.text(), "w0 w1 ");
    assert_eq!(response.error_code().as_deref(), Some("stream_incomplete"), "{response:?}");
}
