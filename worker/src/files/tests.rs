use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;

use nix::sys::stat::Mode;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::request::{Part, parse};

/// A directory for files, with a secret beside it.
struct Site {
    above: TempDir,
}

impl Site {
    fn new() -> Self {
        let above = tempfile::tempdir().unwrap();
        fs::create_dir_all(above.path().join("files/inner")).unwrap();
        fs::write(above.path().join("secret"), "secret").unwrap();
        Self { above }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.above.path().join("files").join(name)
    }

    fn write(&self, name: &str, bytes: impl AsRef<[u8]>) {
        fs::write(self.path(name), bytes).unwrap();
    }

    fn reader(&self) -> Reader {
        Reader::new(Some(Arc::new(Directory::open(&self.path("")).unwrap())))
    }

    fn resolve(&self, payload: &Value) -> Result<(ChatRequest, Claimed), Failure> {
        let request = parse(payload.to_string().as_bytes()).unwrap();
        self.reader().resolve(request).map_err(|(failure, _)| failure)
    }

    fn refusal(&self, payload: &Value) -> String {
        self.resolve(payload).unwrap_err().to_string()
    }

    fn attaches(&self, path: &str) -> Result<(ChatRequest, Claimed), Failure> {
        self.resolve(&json!({"prompt": "{a}", "attachments": {"a": path}}))
    }
}

#[test]
fn files_stand_in_the_question_where_it_names_them() {
    let site = Site::new();
    site.write("inner/a.txt", "words");
    site.write("b.png", b"\x89PNG");
    site.write("c.pdf", b"%PDF");
    let (request, _) = site
        .resolve(&json!({
            "prompt": "Compare {a} with {b}.",
            "attachments": {"a": "inner/a.txt", "b": site.path("b.png"), "c": "c.pdf"},
            "images": [{"base64": "AAAA", "mime_type": "image/GIF"}],
        }))
        .unwrap();
    let image = |mime: &str, base64: &str| Part::Image { mime: mime.into(), base64: base64.into() };
    let document =
        Part::Document { mime: "application/pdf".into(), base64: "JVBERg==".into(), name: "c.pdf".into() };
    assert_eq!(
        request.parts,
        [
            image("image/gif", "AAAA"),
            document,
            Part::Text("Compare words with ".into()),
            image("image/png", "iVBORw=="),
            Part::Text(".".into()),
        ]
    );
    assert_eq!(request.last_user_text(), "Compare words with .");
}

#[test]
fn files_belong_to_the_last_user_message() {
    let site = Site::new();
    site.write("a.txt", "words");
    let user = |content: Value| json!({"role": "user", "content": content});
    let with = |messages: Value| json!({"messages": messages, "attachments": {"a": "a.txt"}});
    let (request, _) = site.resolve(&with(json!([user(json!("no {a}")), user(json!("yes {a}"))]))).unwrap();
    assert_eq!(request.parts, [Part::Text("yes words".into())]);
    let (request, _) = site.resolve(&with(json!([user(json!([{"type": "text", "text": "{a}"}]))]))).unwrap();
    assert_eq!(request.parts, [Part::Text("words".into())]);
    // Its own parts would be lost.
    let own = with(json!([user(json!([{"type": "image_url", "image_url": {}}]))]));
    assert!(site.refusal(&own).contains("messages: must be text alone"), "{}", site.refusal(&own));
    let nobody = with(json!([{"role": "assistant", "content": "a"}]));
    assert!(site.refusal(&nobody).contains("messages: must be with a user message"));
}

#[test]
fn a_payload_file_is_the_payload() {
    let site = Site::new();
    let question = json!({"messages": [{"role": "user", "content": "from the file"}], "request_id": "file"});
    site.write("p.json", format!("{question}\n"));
    let (request, claimed) = site
        .resolve(&json!({
            "payload_file": "p.json", "prompt": "unused", "request_id": "outer", "user_id": 7,
            "response_headers": {"X-A": "b"},
        }))
        .unwrap();
    assert_eq!(request.last_user_text(), "from the file");
    assert_eq!((request.prompt, request.request_id.as_deref()), (None, Some("file")));
    assert_eq!(request.user_id.as_deref(), Some("7"));
    assert_eq!(request.response_headers, [("X-A".to_owned(), "b".to_owned())]);
    assert_eq!(claimed.found.len(), 1);

    site.write("a.txt", "words");
    site.write("p.json", json!({"prompt": "{a}", "attachments": {"a": "a.txt"}}).to_string());
    let (request, claimed) = site.resolve(&json!({"payload_file": site.path("p.json")})).unwrap();
    assert_eq!(request.parts, [Part::Text("words".into())]);
    claimed.remove_now();
    assert!(!site.path("p.json").exists() && !site.path("a.txt").exists());
}

#[test]
fn a_payload_file_that_is_none_is_refused_in_its_own_words() {
    let site = Site::new();
    for (file, words) in [
        ("", "no payload"),
        ("[]", "must be a JSON object"),
        ("{\"prompt\":", "not valid JSON (line 1, column 10)"),
        ("{}", "prompt or messages"),
        ("{\"payload_file\":\"p\"}", "payload_file: must be absent in a payload file"),
    ] {
        site.write("p", file);
        // A prompt beside it does not help: the question is in the file.
        let refusal = site.refusal(&json!({"payload_file": "p", "prompt": "hi"}));
        assert!(refusal.starts_with("bad_handoff: in the payload_file: "), "{refusal}");
        assert!(refusal.contains(words), "{refusal}");
    }
}

#[test]
fn nothing_outside_of_the_directory_is_read() {
    let site = Site::new();
    symlink(site.above.path().join("secret"), site.path("absolute")).unwrap();
    symlink("../secret", site.path("relative")).unwrap();
    symlink("..", site.path("above")).unwrap();
    symlink("/proc/self/root", site.path("magic")).unwrap();
    let secret = site.above.path().join("secret").display().to_string();
    let inside = site.path("../secret").display().to_string();
    for path in [
        "../secret",
        "inner/../../secret",
        "absolute",
        "relative",
        "above/secret",
        "magic/etc/passwd",
        "/etc/passwd",
        &secret,
        &inside,
    ] {
        let refusal = site.attaches(path).unwrap_err().to_string();
        assert_eq!(
            refusal, "bad_handoff: attachments.a: must be a file beneath the configured directory",
            "{path}"
        );
    }
    symlink("inner/../a.txt", site.path("within")).unwrap();
    site.write("a.txt", "words");
    assert!(site.attaches("within").is_ok());
}

#[test]
fn only_regular_files_are_read_and_nothing_blocks() {
    let site = Site::new();
    nix::unistd::mkfifo(&site.path("fifo"), Mode::S_IRWXU).unwrap();
    let _listener = std::os::unix::net::UnixListener::bind(site.path("socket")).unwrap();
    for path in ["fifo", "socket", "inner", "."] {
        let refusal = site.attaches(path).unwrap_err().to_string();
        assert_eq!(refusal, "bad_handoff: attachments.a: must be a regular file", "{path}");
    }
    assert!(site.attaches("none").unwrap_err().to_string().ends_with("must be a file that exists"));
}

#[test]
fn what_is_too_large_is_not_read() {
    let site = Site::new();
    site.write("text.txt", vec![b'a'; content::TEXT_BYTES_MAX]);
    assert!(site.attaches("text.txt").is_ok());
    site.write("text.txt", vec![b'a'; content::TEXT_BYTES_MAX + 1]);
    let failure = site.attaches("text.txt").unwrap_err();
    assert_eq!(failure.code, Code::PayloadTooLarge);
    assert_eq!(failure.message, "attachments.a: must be at most 1 MiB large");

    let image = fs::File::create(site.path("i.png")).unwrap();
    image.set_len(content::BINARY_BYTES_MAX as u64).unwrap();
    let four = json!({"a": "i.png", "b": "i.png", "c": "i.png", "d": "i.png"});
    let failure = site.resolve(&json!({"prompt": "x", "attachments": four})).unwrap_err();
    assert_eq!(failure.message, "attachments.d: must be with all others at most 64 MiB large");
    image.set_len(content::BINARY_BYTES_MAX as u64 + 1).unwrap();
    assert_eq!(site.attaches("i.png").unwrap_err().code, Code::PayloadTooLarge);
}

#[test]
fn a_refusal_names_what_it_is_about() {
    let site = Site::new();
    site.write("zip", b"PK\x03\x04\xff");
    site.write("latin.txt", b"\xe4");
    assert_eq!(
        site.attaches("zip").unwrap_err().message,
        "attachments.a: must be a text, an image or a PDF; attachment_types may say which"
    );
    assert_eq!(
        site.attaches("latin.txt").unwrap_err().message,
        "attachments.a: must be UTF-8, as it is a text"
    );
    let image = json!({"prompt": "x", "images": [{"base64": "*", "mime_type": "image/png"}]});
    assert_eq!(site.refusal(&image), "bad_handoff: images[0].base64: must be base64 without a data: prefix");
}

#[test]
fn without_a_directory_there_are_images_and_no_files() {
    let request = |payload: Value| parse(payload.to_string().as_bytes()).unwrap();
    let files = request(json!({"prompt": "x", "attachments": {"a": "a"}}));
    let (failure, _) = Reader::new(None).resolve(files).unwrap_err();
    assert_eq!(
        failure.message,
        "attachments.a: must be absent: there is no directory for files on this server"
    );
    let image = request(json!({"prompt": "x", "images": [{"base64": "AAAA", "mime_type": "image/png"}]}));
    assert_eq!(Reader::new(None).resolve(image).unwrap().0.parts.len(), 2);
}

#[test]
fn files_stay_until_they_are_removed() {
    let site = Site::new();
    site.write("inner/a.txt", "words");
    drop(site.attaches("inner/a.txt").unwrap());
    assert!(site.path("inner/a.txt").exists());
    let (_, claimed) = site.attaches("inner/a.txt").unwrap();
    claimed.remove_now();
    assert!(!site.path("inner/a.txt").exists());

    site.write("a.txt", "words");
    let (_, claimed) = site.attaches("a.txt").unwrap();
    site.write("new", "another question's");
    fs::rename(site.path("new"), site.path("a.txt")).unwrap();
    claimed.remove_now();
    assert!(site.path("a.txt").exists(), "another file has taken its place");
}

#[test]
fn a_file_that_moved_outside_meanwhile_stays() {
    let site = Site::new();
    site.write("inner/secret", "words");
    let (_, claimed) = site.attaches("inner/secret").unwrap();
    fs::rename(site.path("inner/secret"), site.above.path().join("secret")).unwrap();
    fs::remove_dir(site.path("inner")).unwrap();
    symlink(site.above.path(), site.path("inner")).unwrap();
    claimed.remove_now();
    assert!(site.above.path().join("secret").exists());
}

#[test]
fn a_finished_stream_needs_no_files_and_gives_them_up() {
    let site = Site::new();
    site.write("a.txt", "words");
    let payload = json!({"last_event_id": "r:end", "attachments": {"a": "a.txt", "b": "none"}});
    let (request, claimed) = site.resolve(&payload).unwrap();
    assert!(request.already_finished());
    claimed.remove_now();
    assert!(!site.path("a.txt").exists());
}

#[tokio::test]
async fn many_questions_are_read_a_few_at_a_time() {
    let site = Site::new();
    site.write("a.txt", "words");
    let directory = Some(Arc::new(Directory::open(&site.path("")).unwrap()));
    let files = Files::new(directory);
    let payload = json!({"prompt": "{a}", "attachments": {"a": "a.txt"}}).to_string();
    let taken =
        Arc::clone(&files.readers).acquire_many_owned(u32::try_from(READERS_MAX).unwrap()).await.unwrap();
    let mut waits = std::pin::pin!(files.resolve(parse(payload.as_bytes()).unwrap()));
    assert!(std::future::poll_fn(|cx| std::task::Poll::Ready(waits.as_mut().poll(cx).is_pending())).await);
    drop(taken);
    let (request, claimed) = waits.await.unwrap();
    assert_eq!(request.last_user_text(), "words");
    claimed.remove();
    assert_eq!(files.readers.available_permits(), READERS_MAX);
}
