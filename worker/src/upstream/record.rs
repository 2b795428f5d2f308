//! Answers as they come, kept for later. In: the pieces of a body. Out: one file each, which appears under its name when
//! it is complete; [`super::replay`] plays it.
//!
//! One thread of the worker writes all of them. What waits for it is bounded: when the disk is too slow, a recording is
//! cut, and the answer is not.
//!
//! Never: delays an answer or makes it fail; writes a key, or a prompt that may not be in the log.

use std::borrow::Cow;
use std::cell::{Cell, OnceCell};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use handoff_config::backend::{Backend, Kind};
use hyper::body::Bytes;

use super::recording::{Head, Line, Summary, VERSION, name_of};
use super::tape::Tape;
use crate::files::Directory;
use crate::request::ChatRequest;

pub use super::recording::End;

/// Bytes that may wait for the disk, of all recordings together.
const WAITING_BYTES_MAX: usize = 32 * 1024 * 1024;
/// What a waiting piece costs besides its bytes.
const PIECE_BYTES: usize = 128;
/// A worker that ends waits this long for the disk.
const LAST_WRITES: Duration = Duration::from_secs(1);
/// Characters of a backend's name and of a request's id in a file's name.
const NAME_CHARS_MAX: usize = 64;

/// All recordings of a worker.
#[derive(Debug)]
pub struct Recordings {
    directories: BTreeMap<PathBuf, Arc<Directory>>,
    /// Prompts may be in the log.
    prompts: bool,
    /// Started with the first recording.
    writer: OnceCell<Option<Rc<Writer>>>,
    next: Cell<u64>,
}

/// Whose answer it is.
#[derive(Clone, Copy, Debug)]
pub struct About<'a> {
    /// Who answers.
    pub backend: &'a Backend,
    /// Who it is asked for.
    pub model: &'a str,
    /// What is asked.
    pub request: &'a ChatRequest,
    /// The request's id, else the lease.
    pub id: &'a str,
}

/// An answer that is going to be recorded, if there is one.
#[derive(Debug)]
pub struct Slate {
    recordings: Rc<Recordings>,
    directory: Arc<Directory>,
    head: Box<Head>,
    asked_at: Instant,
}

/// One answer that is being recorded. Dropped without [`Recorder::finish`], it was abandoned.
#[derive(Debug)]
pub struct Recorder {
    writer: Rc<Writer>,
    number: u64,
    asked_at: Instant,
    end: End,
}

/// What the thread is told, in order.
enum Note {
    Begin { number: u64, directory: Arc<Directory>, name: String, head: Box<Head> },
    Piece { number: u64, at: Duration, bytes: Bytes },
    End { number: u64, at: Duration, end: End },
}

/// The way to the thread.
#[derive(Debug)]
struct Writer {
    /// None only while it is dropped.
    notes: Option<Sender<Note>>,
    waiting_bytes: Arc<AtomicUsize>,
    done: Receiver<()>,
}

impl Recordings {
    /// Into these directories, none yet. `prompts`: they may be in the log, so in a recording too.
    #[must_use]
    pub fn new(directories: BTreeMap<PathBuf, Arc<Directory>>, prompts: bool) -> Rc<Self> {
        Rc::new(Self { directories, prompts, writer: OnceCell::new(), next: Cell::new(0) })
    }

    /// A question is asked now. None: this backend's answers are not recorded.
    #[must_use]
    pub fn slate(self: &Rc<Self>, about: &About<'_>) -> Option<Slate> {
        let Kind::Api(api) = &about.backend.kind else { return None };
        let directory = self.directories.get(about.backend.record.as_ref()?)?;
        let at_ms = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
        let head = Box::new(Head {
            handoffd_recording: VERSION,
            backend: about.backend.name.clone(),
            dialect: name_of(&api.dialect).to_owned(),
            model: about.model.to_owned(),
            status: 0,
            content_type: None,
            at_ms: u64::try_from(at_ms).unwrap_or_default(),
            request: summary(about, self.prompts),
        });
        let directory = Arc::clone(directory);
        Some(Slate { recordings: Rc::clone(self), directory, head, asked_at: Instant::now() })
    }
}

impl Slate {
    /// The answer begins, with this head. None: the disk is too slow for another one.
    #[must_use]
    pub fn begin(self, status: u16, content_type: Option<&str>) -> Option<Recorder> {
        let Self { recordings, directory, mut head, asked_at } = self;
        head.status = status;
        head.content_type = content_type.map(str::to_owned);
        let writer = recordings.writer.get_or_init(Writer::start).as_ref()?;
        let number = recordings.next.replace(recordings.next.get() + 1);
        let (backend, id) = (in_a_name(&head.backend), in_a_name(&head.request.id));
        // The process and the number: two workers may answer the same request at the same time.
        let name = format!("{}-{backend}-{id}-{}.{number}.jsonl", head.at_ms, std::process::id());
        let cost = head.request.prompt.as_ref().map_or(0, String::len);
        let is_begun = writer.tell(Note::Begin { number, directory, name, head }, cost);
        is_begun.then(|| Recorder { writer: Rc::clone(writer), number, asked_at, end: End::Abandoned })
    }
}

impl Recorder {
    /// The next piece of the body.
    pub fn piece(&mut self, bytes: &Bytes) {
        if self.end == End::Cut {
            return;
        }
        let note = Note::Piece { number: self.number, at: self.asked_at.elapsed(), bytes: bytes.clone() };
        if !self.writer.tell(note, bytes.len()) {
            self.end = End::Cut;
        }
    }

    /// The body has ended.
    pub fn finish(mut self, end: End) {
        if self.end != End::Cut {
            self.end = end;
        }
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        let (number, at, end) = (self.number, self.asked_at.elapsed(), self.end);
        self.writer.tell_the_end(Note::End { number, at, end });
    }
}

impl Writer {
    fn start() -> Option<Rc<Self>> {
        let (notes, listens) = channel();
        let (ends, done) = channel();
        let waiting_bytes = Arc::new(AtomicUsize::new(0));
        let waiting = Arc::clone(&waiting_bytes);
        let thread = thread::Builder::new().name("recordings".to_owned());
        let started = thread.spawn(move || {
            write_all(&listens, &waiting);
            drop(ends);
        });
        match started {
            Ok(_) => Some(Rc::new(Self { notes: Some(notes), waiting_bytes, done })),
            Err(error) => {
                tracing::warn!(%error, "answers are not recorded: no thread can be started");
                None
            }
        }
    }

    /// False: too much is waiting already.
    fn tell(&self, note: Note, bytes: usize) -> bool {
        let cost = bytes + PIECE_BYTES;
        if self.waiting_bytes.load(Ordering::Relaxed) + cost > WAITING_BYTES_MAX {
            return false;
        }
        self.waiting_bytes.fetch_add(cost, Ordering::Relaxed);
        self.send(note)
    }

    /// There is one for each beginning, so these are bounded without being counted.
    fn tell_the_end(&self, note: Note) {
        self.send(note);
    }

    fn send(&self, note: Note) -> bool {
        self.notes.as_ref().is_some_and(|notes| notes.send(note).is_ok())
    }
}

impl Drop for Writer {
    /// The thread ends when it has written what it was told.
    fn drop(&mut self) {
        drop(self.notes.take());
        let _ = self.done.recv_timeout(LAST_WRITES);
    }
}

/// The life of the thread.
fn write_all(notes: &Receiver<Note>, waiting_bytes: &AtomicUsize) {
    let mut tapes: BTreeMap<u64, Tape> = BTreeMap::new();
    let mut is_failing = false;
    while let Ok(note) = notes.recv() {
        let (number, cost) = note.about();
        let written = match note {
            Note::Begin { directory, name, head, .. } => Tape::begin(directory, name, &head).map(|tape| {
                tapes.insert(number, tape);
            }),
            Note::Piece { at, bytes, .. } => match tapes.get_mut(&number) {
                Some(tape) => tape.write(&piece(at, &bytes)),
                None => Ok(()),
            },
            Note::End { at, end, .. } => match tapes.remove(&number) {
                Some(tape) => tape.end(at, end).inspect(|()| is_failing = false),
                None => Ok(()),
            },
        };
        waiting_bytes.fetch_sub(cost, Ordering::Relaxed);
        if let Err(error) = written {
            if !is_failing {
                tracing::warn!(%error, "answers cannot be recorded");
            }
            is_failing = true;
            if let Some(tape) = tapes.remove(&number) {
                tape.discard();
            }
        }
    }
}

impl Note {
    /// Which recording, and what it has cost.
    fn about(&self) -> (u64, usize) {
        match self {
            Self::Begin { number, head, .. } => {
                (*number, PIECE_BYTES + head.request.prompt.as_ref().map_or(0, String::len))
            }
            Self::Piece { number, bytes, .. } => (*number, PIECE_BYTES + bytes.len()),
            Self::End { number, .. } => (*number, 0),
        }
    }
}

fn piece(at: Duration, bytes: &Bytes) -> Line<'_> {
    let t_ms = u64::try_from(at.as_millis()).unwrap_or(u64::MAX);
    match std::str::from_utf8(bytes) {
        Ok(text) => Line { t_ms, text: Some(Cow::Borrowed(text)), ..Line::default() },
        Err(_) => Line { t_ms, base64: Some(Cow::Owned(STANDARD.encode(bytes))), ..Line::default() },
    }
}

fn summary(about: &About<'_>, prompts: bool) -> Summary {
    let prompt = about.request.last_user_text();
    Summary {
        id: about.id.to_owned(),
        messages: about.request.messages.len(),
        prompt_bytes: prompt.len(),
        max_tokens: about.request.max_tokens,
        temperature: about.request.temperature,
        prompt: prompts.then(|| prompt.into_owned()),
    }
}

/// What a file's name may have of a text.
fn in_a_name(text: &str) -> String {
    let safe = |c: char| if c.is_ascii_alphanumeric() || c == '-' { c } else { '_' };
    text.chars().take(NAME_CHARS_MAX).map(safe).collect()
}

#[cfg(test)]
#[path = "record_tests.rs"]
mod tests;
