//! Files that a site attaches to a question. In: a request that names them. Out: a request that has them, and the
//! right to remove them once it is answered.
//!
//! A file is removed when the lease is committed, never before: until then another worker may have to read it again.
//! What is refused stays where it is.
//!
//! Never: reads outside of the configured directory, blocks the runtime, repeats a path or a file's content in an
//! error.

mod compose;
mod content;
mod directory;
#[cfg(test)]
mod tests;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use handoff_shared::limits::MEMFD_BYTES_MAX;
use tokio::sync::Semaphore;
use tokio::time::timeout;

use crate::failure::{Code, Failure};
use crate::request::{self, AttachedFile, BadHandoff, ChatRequest, Method, PayloadFile, Role};
use compose::{Piece, compose};
use content::NoPart;
use directory::{Found, ReadError};

pub use directory::Directory;

/// A payload file is this large at most: as large as a payload that comes in a memfd.
const PAYLOAD_BYTES_MAX: usize = MEMFD_BYTES_MAX;
/// All files and images of one question together, in bytes.
const TOTAL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Questions whose files are read at the same time: each takes a thread, and the memory for its files.
const READERS_MAX: usize = 8;
/// Questions whose files are waited for at a worker's end.
const REMOVALS_MAX: usize = 65_536;
/// For all files of a question, from its turn on or before it.
const READ_TIMEOUT: Duration = Duration::from_secs(10);

/// A question that is refused, and whether its answer has a body.
pub type Refused = (Failure, Method);

/// Where files are.
#[derive(Debug)]
pub struct Files {
    directory: Option<Arc<Directory>>,
    readers: Arc<Semaphore>,
    /// One is taken for each question whose files are being removed.
    removals: Arc<Semaphore>,
}

/// Files that were read. Dropped without [`Claimed::remove`], they stay.
#[derive(Debug, Default)]
pub struct Claimed {
    directory: Option<Arc<Directory>>,
    found: Vec<Found>,
    removals: Option<Arc<Semaphore>>,
}

impl Files {
    /// Files beneath this directory; none: there are no files, only images in the payload itself.
    #[must_use]
    pub fn new(directory: Option<Arc<Directory>>) -> Self {
        let [readers, removals] = [READERS_MAX, REMOVALS_MAX].map(|places| Arc::new(Semaphore::new(places)));
        Self { directory, readers, removals }
    }

    /// Resolves when all files are removed that were to be: a runtime that ends forgets what has not begun.
    pub async fn settled(&self) {
        let all = u32::try_from(REMOVALS_MAX).unwrap_or(u32::MAX);
        let _ = self.removals.acquire_many(all).await;
    }

    /// Reads what is attached: the payload file, then the files that it, or the payload, names.
    ///
    /// # Errors
    /// When the site has attached what cannot be had, or it does not come in time.
    pub async fn resolve(&self, request: ChatRequest) -> Result<(ChatRequest, Claimed), Refused> {
        if request.attached.is_empty() {
            return Ok((request, Claimed::default()));
        }
        let method = request.method;
        let reading = async {
            let place = Arc::clone(&self.readers).acquire_owned().await;
            let reader = Reader::new(self.directory.clone());
            // A thread that hangs keeps its place, so that they cannot become many.
            let done = tokio::task::spawn_blocking(move || {
                let _place = place;
                reader.resolve(request)
            });
            done.await
        };
        match timeout(READ_TIMEOUT, reading).await {
            Ok(Ok(resolved)) => resolved.map(|(request, claimed)| {
                let removals = Some(Arc::clone(&self.removals));
                (request, Claimed { removals, ..claimed })
            }),
            Ok(Err(_)) | Err(_) => {
                Err((Failure::new(Code::Overloaded, "the attached files could not be read in time"), method))
            }
        }
    }
}

impl Claimed {
    /// Removes them, in a thread of its own and without waiting for it: nobody else will read them.
    pub fn remove(self) {
        if self.found.is_empty() {
            return;
        }
        let place = self.removals.as_ref().and_then(|places| Arc::clone(places).try_acquire_owned().ok());
        drop(tokio::task::spawn_blocking(move || {
            self.remove_now();
            drop(place);
        }));
    }

    fn remove_now(self) {
        let Some(directory) = self.directory else { return };
        for found in &self.found {
            match directory.remove(found) {
                Ok(()) => {}
                // Attached twice, or the site was quicker.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => tracing::warn!(%error, "an attached file cannot be removed"),
            }
        }
    }
}

/// Reads for one question, in a thread that may block.
struct Reader {
    directory: Option<Arc<Directory>>,
    found: Vec<Found>,
    bytes_left: usize,
}

impl Reader {
    fn new(directory: Option<Arc<Directory>>) -> Self {
        Self { directory, found: Vec::new(), bytes_left: TOTAL_BYTES_MAX }
    }

    fn resolve(mut self, mut request: ChatRequest) -> Result<(ChatRequest, Claimed), Refused> {
        let mut method = request.method;
        if let Some(file) = request.attached.payload_file.take() {
            request = self.payload(file, request).map_err(|failure| (failure, method))?;
            method = request.method;
        }
        self.attach(&mut request).map_err(|failure| (failure, method))?;
        Ok((request, Claimed { directory: self.directory, found: self.found, removals: None }))
    }

    fn payload(&mut self, file: PayloadFile, outer: ChatRequest) -> Result<ChatRequest, Failure> {
        let bytes = self.read("payload_file", &file.path, PAYLOAD_BYTES_MAX)?;
        request::parse_file(&bytes, file, outer.envelope)
            .map_err(|bad| Failure::new(Code::BadHandoff, format!("in the payload_file: {bad}")))
    }

    fn attach(&mut self, request: &mut ChatRequest) -> Result<(), Failure> {
        let attached = std::mem::take(&mut request.attached);
        if request.method == Method::Head || request.already_finished() {
            // Nobody is asked; but the files have been handed over.
            for file in attached.files {
                let _ = self.read("attachments", &file.path, content::BINARY_BYTES_MAX);
            }
            return Ok(());
        }
        if attached.is_empty() {
            return Ok(());
        }
        check_place(request)?;
        let mut images = Vec::new();
        for (index, image) in attached.images.into_iter().enumerate() {
            let key = format!("images[{index}].base64");
            self.spend(&key, image.base64.len() / 4 * 3)?;
            images.push(content::image(image).map_err(|why| no_part(&key, why))?);
        }
        let mut pieces = Vec::new();
        for file in attached.files {
            pieces.push(self.piece(file)?);
        }
        request.parts = compose(&request.last_user_text(), images, pieces);
        Ok(())
    }

    fn piece(&mut self, file: AttachedFile) -> Result<Piece, Failure> {
        let key = format!("attachments.{}", file.reference);
        let kind = content::kind(file.mime.as_deref(), &file.path);
        let bytes = self.read(&key, &file.path, kind.bytes_max())?;
        let part = kind.part(bytes, &file.path).map_err(|why| no_part(&key, why))?;
        Ok(Piece { reference: file.reference, part })
    }

    fn read(&mut self, key: &str, path: &str, bytes_max: usize) -> Result<Vec<u8>, Failure> {
        let Some(directory) = &self.directory else {
            return Err(refuse(key, "absent: there is no directory for files on this server"));
        };
        let (bytes, found) = directory.read(path, bytes_max).map_err(|error| no_file(key, &error))?;
        if !self.found.contains(&found) {
            self.found.push(found);
        }
        self.spend(key, bytes.len())?;
        Ok(bytes)
    }

    fn spend(&mut self, key: &str, bytes: usize) -> Result<(), Failure> {
        let left = self.bytes_left.checked_sub(bytes);
        self.bytes_left = left.ok_or_else(|| too_large(key, TOTAL_BYTES_MAX, "with all others at most"))?;
        Ok(())
    }
}

/// There is a user's text to attach files to, and nothing in it that parts would replace.
fn check_place(request: &ChatRequest) -> Result<(), Failure> {
    if request.messages.is_empty() {
        return Ok(());
    }
    match request.messages.iter().rev().find(|message| message.role == Role::User) {
        Some(message) if message.is_text() => Ok(()),
        Some(_) => {
            Err(refuse("messages", "text alone in the last user message, where files or images are attached"))
        }
        None => Err(refuse("messages", "with a user message, where files or images are attached")),
    }
}

fn refuse(key: &str, allowed: &'static str) -> Failure {
    Failure::from(BadHandoff::Value { key: key.to_owned(), allowed: allowed.into() })
}

fn too_large(key: &str, bytes_max: usize, words: &str) -> Failure {
    let mebibytes = bytes_max / (1024 * 1024);
    Failure::new(Code::PayloadTooLarge, format!("{key}: must be {words} {mebibytes} MiB large"))
}

fn no_part(key: &str, why: NoPart) -> Failure {
    match why {
        NoPart::NotText => refuse(key, "UTF-8, as it is a text"),
        NoPart::Unsupported => refuse(key, "a text, an image or a PDF; attachment_types may say which"),
        NoPart::NotBase64 => refuse(key, "base64 without a data: prefix"),
        NoPart::TooLarge(bytes_max) => too_large(key, bytes_max, "at most"),
    }
}

fn no_file(key: &str, error: &ReadError) -> Failure {
    match error {
        ReadError::Outside => refuse(key, "a file beneath the configured directory"),
        ReadError::NotRegular => refuse(key, "a regular file"),
        ReadError::TooLarge { bytes_max } => too_large(key, *bytes_max, "at most"),
        ReadError::Io(error) if error.kind() == io::ErrorKind::NotFound => refuse(key, "a file that exists"),
        ReadError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            refuse(key, "a file that handoffd's workers may read")
        }
        ReadError::Io(error) => {
            tracing::warn!(%error, key, "an attached file cannot be read");
            refuse(key, "a file that can be read")
        }
    }
}
