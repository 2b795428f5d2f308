use std::fs;
use std::future::poll_fn;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use handoff_config::Config;
use handoff_config::backend::Replay;
use proptest::prelude::*;
use tempfile::TempDir;

use super::*;
use crate::request::parse;
use crate::upstream::recording::RECORDING_BYTES_MAX;
use crate::upstream::replay::{BrokeOff, Playback, Recording};

/// A directory and a backend that records into it.
struct Studio {
    directory: TempDir,
    backend: Backend,
    request: ChatRequest,
}

impl Studio {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut backend = Config::default().backends.find("openai").unwrap().clone();
        backend.record = Some(directory.path().to_owned());
        let request = parse(br#"{"prompt":"a secret question","max_tokens":7,"user_id":"me"}"#).unwrap();
        Self { directory, backend, request }
    }

    fn recordings(&self) -> Rc<Recordings> {
        self.recordings_with(false)
    }

    fn recordings_with(&self, prompts: bool) -> Rc<Recordings> {
        let path = self.directory.path();
        let open = Arc::new(Directory::open(path).unwrap());
        Recordings::new([(path.to_owned(), open)].into(), prompts)
    }

    fn begin(&self, recordings: &Rc<Recordings>) -> Option<Recorder> {
        let about = About { backend: &self.backend, model: "m", request: &self.request, id: "../r 1" };
        recordings.slate(&about)?.begin(200, Some("text/event-stream"))
    }

    /// Records these pieces. The recordings' end waits for the thread.
    fn record(&self, pieces: &[Bytes], end: End) {
        let recordings = self.recordings();
        let mut recorder = self.begin(&recordings).unwrap();
        for bytes in pieces {
            recorder.piece(bytes);
        }
        recorder.finish(end);
    }

    fn files(&self) -> Vec<PathBuf> {
        fs::read_dir(self.directory.path()).unwrap().map(|entry| entry.unwrap().path()).collect()
    }

    fn only_file(&self) -> PathBuf {
        let [file] = &self.files()[..] else { panic!("{:?}", self.files()) };
        file.clone()
    }
}

fn play(file: &Path) -> (Vec<Bytes>, Option<BrokeOff>) {
    let recording = Recording::load(&Replay { file: file.to_owned(), speed: 0.0 }).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
    runtime.block_on(async {
        let mut playback = Playback::new(Arc::new(recording), 0.0);
        let mut heard = Vec::new();
        loop {
            match poll_fn(|cx| playback.poll_bytes(cx)).await {
                Some(Ok(bytes)) => heard.push(bytes),
                Some(Err(broke_off)) => return (heard, Some(broke_off)),
                None => return (heard, None),
            }
        }
    })
}

#[test]
fn a_recording_says_whose_answer_it_is_and_no_secret() {
    let studio = Studio::new();
    studio.record(&[Bytes::from_static(b"data: hi\n\n")], End::Clean);
    let file = studio.only_file();
    let name = file.file_name().unwrap().to_str().unwrap();
    assert!(name.contains("-openai-___r_1-") && name.ends_with(".0.jsonl"), "{name}");
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    let text = fs::read_to_string(&file).unwrap();
    let head: serde_json::Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert_eq!((&head["backend"], &head["dialect"]), (&"openai".into(), &"openai".into()));
    assert_eq!((&head["model"], &head["status"]), (&"m".into(), &200.into()));
    assert_eq!((&head["request"]["max_tokens"], &head["request"]["prompt_bytes"]), (&7.into(), &17.into()));
    assert!(!text.contains("secret") && !text.contains("me\""), "{text}");

    let studio = Studio::new();
    let recordings = studio.recordings_with(true);
    drop(studio.begin(&recordings));
    drop(recordings);
    let text = fs::read_to_string(studio.only_file()).unwrap();
    assert!(text.contains("a secret question") && text.contains(r#""end":"abandoned"}"#), "{text}");
}

#[test]
fn a_file_has_its_name_when_it_is_complete() {
    let studio = Studio::new();
    let recordings = studio.recordings();
    let mut recorder = studio.begin(&recordings).unwrap();
    recorder.piece(&Bytes::from_static(b"a"));
    drop(recordings);
    let writer = Rc::clone(&recorder.writer);
    while writer.waiting_bytes.load(Ordering::Relaxed) > 0 {
        thread::yield_now();
    }
    assert!(studio.only_file().file_name().unwrap().to_str().unwrap().ends_with(".jsonl.part"));
    recorder.finish(End::Broken);
    drop(writer);
    assert_eq!(
        play(&studio.only_file()),
        (vec![Bytes::from_static(b"a")], Some(BrokeOff { end: End::Broken }))
    );
}

#[test]
fn a_slow_disk_cuts_the_recording_and_nothing_else() {
    let studio = Studio::new();
    let recordings = studio.recordings();
    let mut recorder = studio.begin(&recordings).unwrap();
    recorder.piece(&Bytes::from_static(b"a"));
    recorder.writer.waiting_bytes.fetch_add(WAITING_BYTES_MAX, Ordering::Relaxed);
    recorder.piece(&Bytes::from_static(b"lost"));
    assert!(studio.begin(&recordings).is_none());
    recorder.writer.waiting_bytes.fetch_sub(WAITING_BYTES_MAX, Ordering::Relaxed);
    recorder.piece(&Bytes::from_static(b"after a gap"));
    recorder.finish(End::Clean);
    drop(recordings);
    assert_eq!(play(&studio.only_file()), (vec![Bytes::from_static(b"a")], Some(BrokeOff { end: End::Cut })));
}

#[test]
fn a_recording_ends_where_it_is_large_enough() {
    let studio = Studio::new();
    let recordings = studio.recordings();
    let mut recorder = studio.begin(&recordings).unwrap();
    // Twice as long in JSON.
    let piece = Bytes::from(vec![b'\n'; 4 << 20]);
    for _ in 0..9 {
        while recorder.writer.waiting_bytes.load(Ordering::Relaxed) > 0 {
            thread::yield_now();
        }
        recorder.piece(&piece);
    }
    recorder.finish(End::Clean);
    drop(recordings);
    assert!(fs::metadata(studio.only_file()).unwrap().len() <= RECORDING_BYTES_MAX as u64);
    let (pieces, end) = play(&studio.only_file());
    assert_eq!((pieces.len(), end), (7, Some(BrokeOff { end: End::Cut })));
}

#[test]
fn a_directory_that_is_gone_costs_the_recording_alone() {
    let studio = Studio::new();
    let recordings = studio.recordings();
    fs::remove_dir(studio.directory.path()).unwrap();
    let mut recorder = studio.begin(&recordings).unwrap();
    recorder.piece(&Bytes::from_static(b"a"));
    recorder.finish(End::Clean);
    drop(recordings);
    assert!(!studio.directory.path().exists());
    fs::create_dir(studio.directory.path()).unwrap();
}

#[test]
fn only_backends_that_want_it_are_recorded() {
    let mut studio = Studio::new();
    let recordings = studio.recordings();
    studio.backend.record = None;
    assert!(studio.begin(&recordings).is_none());
    assert!(recordings.writer.get().is_none(), "no thread is started for nothing");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]
    #[test]
    fn what_is_recorded_is_played_byte_for_byte(
        pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..12),
        text: String,
        cut in 0..20_usize,
    ) {
        let studio = Studio::new();
        let text = text.into_bytes();
        let (first, second) = text.split_at(cut.min(text.len()));
        let pieces = pieces.into_iter().chain([first.to_vec(), second.to_vec()]);
        let pieces: Vec<Bytes> = pieces.map(Bytes::from).collect();
        studio.record(&pieces, End::Clean);
        prop_assert_eq!(play(&studio.only_file()), (pieces, None));
    }
}
