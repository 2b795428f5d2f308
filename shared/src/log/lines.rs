//! Lines on standard error, by a thread of their own. In: one line at a time, from whoever has something to say. Out: as
//! few writes as there can be; how many lines were dropped.
//!
//! Never: makes the one who says something wait for a disk or a pipe, or pay for waking the thread: it wakes by itself
//! a few times a second for as long as there is something to write.

use std::io::{self, Write};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

use tracing_subscriber::fmt::MakeWriter;

/// Lines that may wait for the writer.
const LINES_WAITING_MAX: u64 = 4096;
/// What is said within this time is written together.
const TOGETHER: Duration = Duration::from_millis(5);
/// Processes that share a pipe do not cut each other's lines up to this size (pipe(7), PIPE_BUF).
const ATOMIC_BYTES: usize = 4096;
/// The last words of a process take so long at most.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Where lines are said.
#[derive(Clone, Debug)]
pub(super) struct Lines(Arc<Shared>);

/// Dropped, it waits until what was said is written, but not for ever.
#[derive(Debug)]
pub(super) struct Writer(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    waiting: Mutex<Waiting>,
    /// There is something to write, or this is the end.
    news: Condvar,
    /// All is written.
    end: Condvar,
    dropped: AtomicU64,
}

#[derive(Debug, Default)]
struct Waiting {
    bytes: Vec<u8>,
    lines: u64,
    is_closed: bool,
    has_ended: bool,
}

/// Starts the thread. `wrote`: is told how many lines have left.
///
/// # Errors
/// When no thread can be had.
pub(super) fn start(wrote: impl Fn(u64) + Send + 'static) -> io::Result<(Lines, Writer)> {
    let shared = Arc::<Shared>::default();
    let own = Arc::clone(&shared);
    thread::Builder::new().name("log".to_owned()).spawn(move || own.write(&wrote))?;
    Ok((Lines(Arc::clone(&shared)), Writer(shared)))
}

impl Lines {
    pub(super) fn dropped(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn say(&self, line: &[u8]) {
        let mut waiting = self.lock();
        if waiting.lines >= LINES_WAITING_MAX {
            drop(waiting);
            self.dropped.fetch_add(1, Ordering::Relaxed);
            return;
        }
        waiting.bytes.extend_from_slice(line);
        waiting.lines += 1;
        let is_first = waiting.lines == 1;
        drop(waiting);
        if is_first {
            self.news.notify_one();
        }
    }

    fn write(&self, wrote: &impl Fn(u64)) {
        loop {
            let waiting = self.lock();
            let waiting = self.news.wait_while(waiting, |waiting| waiting.lines == 0 && !waiting.is_closed);
            let mut waiting = waiting.unwrap_or_else(PoisonError::into_inner);
            if waiting.lines == 0 {
                break;
            }
            if !waiting.is_closed {
                // More comes soon, and is written with it.
                let more = self.news.wait_timeout_while(waiting, TOGETHER, |waiting| !waiting.is_closed);
                waiting = more.unwrap_or_else(PoisonError::into_inner).0;
            }
            let bytes = std::mem::take(&mut waiting.bytes);
            let lines = std::mem::take(&mut waiting.lines);
            drop(waiting);
            let mut stderr = io::stderr().lock();
            for piece in pieces(&bytes) {
                // There is nobody to tell.
                let _ = stderr.write_all(piece);
            }
            wrote(lines);
        }
        self.lock().has_ended = true;
        self.end.notify_all();
    }
}

/// As many whole lines at a time as other processes do not cut.
fn pieces(mut bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    std::iter::from_fn(move || {
        let window = &bytes[..bytes.len().min(ATOMIC_BYTES)];
        let end = match window.iter().rposition(|byte| *byte == b'\n') {
            Some(end) => end + 1,
            // One that is longer is cut at its own end.
            None => bytes.iter().position(|byte| *byte == b'\n').map_or(bytes.len(), |end| end + 1),
        };
        let (piece, rest) = bytes.split_at(end);
        bytes = rest;
        (!piece.is_empty()).then_some(piece)
    })
}

impl Drop for Writer {
    fn drop(&mut self) {
        let mut waiting = self.0.lock();
        waiting.is_closed = true;
        self.0.news.notify_all();
        let _ = self.0.end.wait_timeout_while(waiting, LAST_WORDS, |waiting| !waiting.has_ended);
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> Self::Writer {
        self
    }
}

impl Write for &Lines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.say(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_written_together_and_none_is_cut() {
        let long = [b'x'; 2 * ATOMIC_BYTES];
        let mut bytes = Vec::new();
        for number in 0..200 {
            bytes.extend_from_slice(format!("line {number}\n").repeat(number % 40).as_bytes());
            if number == 100 {
                bytes.extend_from_slice(&long);
                bytes.push(b'\n');
            }
        }
        let pieces: Vec<&[u8]> = pieces(&bytes).collect();
        assert_eq!(pieces.concat(), bytes);
        assert!(pieces.iter().all(|piece| piece.ends_with(b"\n")));
        let larger = pieces.iter().filter(|piece| piece.len() > ATOMIC_BYTES).count();
        assert_eq!(larger, 1, "only the line that is longer by itself");
        assert!(pieces.len() < bytes.len() / ATOMIC_BYTES * 2);
    }

    #[test]
    fn what_cannot_wait_is_dropped_and_counted() {
        let shared = Arc::<Shared>::default();
        for _ in 0..LINES_WAITING_MAX + 3 {
            shared.say(b"x\n");
        }
        assert_eq!(Lines(Arc::clone(&shared)).dropped(), 3);
        assert_eq!(shared.lock().lines, LINES_WAITING_MAX);
    }
}
