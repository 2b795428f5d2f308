//! Logging that never blocks. In: `tracing` events. Out: lines on stderr, or entries in systemd's journal, by
//! a thread of their own. What that thread cannot keep up with is dropped and counted.
//!
//! [`Log::open`] opens what has to be opened; [`Opened::start`] starts the thread. In between a process may give
//! up its right to do the former.
//!
//! Never: makes a stream wait for a disk, a pipe or a stopped journald.

mod journald;
mod lines;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use handoff_config::{LogFormat, Logging};
use lines::{Lines, Writer};
use tracing::{Dispatch, Event, Subscriber};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::{Context, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{Layer, Registry, fmt, reload};

/// Entries that may wait for the journal.
const ENTRIES_WAITING_MAX: usize = 4096;

/// Why logging could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// `logging.level` is neither a level nor filter directives.
    #[error(
        "logging.level: \"{level}\" is neither a level (trace, debug, info, warn, error, off) nor filter directives: {source}"
    )]
    Level {
        /// The value.
        level: String,
        /// What is wrong with it.
        source: tracing_subscriber::filter::ParseError,
    },
    /// The writer's thread cannot be started.
    #[error("the log's writer cannot be started: {0}")]
    Writer(#[source] io::Error),
    /// Somebody has set up logging before.
    #[error("logging is set up twice")]
    Twice,
    /// The level cannot be changed any more.
    #[error("the log level cannot be changed")]
    Fixed(#[source] reload::Error),
}

/// Keeps the writer alive; dropped last, it writes what is still waiting.
#[derive(Debug)]
pub struct Log {
    progress: Arc<Progress>,
    dropped: Dropped,
    _writer: Option<Writer>,
    level: Option<reload::Handle<Targets, Registry>>,
}

/// How far the writer is.
#[derive(Debug, Default)]
struct Progress {
    said: AtomicU64,
    written: AtomicU64,
}

#[derive(Clone, Debug)]
enum Dropped {
    Lines(Lines),
    Entries(Arc<AtomicU64>),
}

/// A log with nobody to write it yet.
#[derive(Debug)]
pub struct Opened {
    filter: Targets,
    sink: Sink,
}

#[derive(Debug)]
enum Sink {
    Lines(LogFormat),
    Journal(Dispatch),
    /// There is no journal: JSON lines instead.
    NoJournal(io::Error),
}

impl Log {
    /// Opens what the log needs: for `journald` a socket. No thread yet.
    ///
    /// # Errors
    /// When the level cannot be understood.
    pub fn open(logging: &Logging) -> Result<Opened, LogError> {
        let sink = match logging.format {
            LogFormat::Pretty | LogFormat::Json => Sink::Lines(logging.format),
            LogFormat::Journald => match journald::open() {
                Ok(journal) => Sink::Journal(journal),
                Err(error) => Sink::NoJournal(error),
            },
        };
        Ok(Opened { filter: filter(&logging.level)?, sink })
    }

    /// Logs by other directives from here on.
    ///
    /// # Errors
    /// When they cannot be understood: everything stays as it was.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        let filter = filter(level)?;
        self.level.as_ref().map_or(Ok(()), |level| level.reload(filter)).map_err(LogError::Fixed)
    }

    /// Everything that was said is written, or dropped.
    #[must_use]
    pub fn is_flushed(&self) -> bool {
        let done = self.progress.written.load(Ordering::Relaxed) + self.lines_dropped();
        self.progress.said.load(Ordering::Relaxed) <= done
    }

    /// How many lines were dropped because the writer could not keep up.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        match &self.dropped {
            Dropped::Lines(lines) => lines.dropped(),
            Dropped::Entries(counter) => counter.load(Ordering::Relaxed),
        }
    }
}

impl Opened {
    /// Starts the writer: from here on every `tracing` event of this process goes where the configuration says.
    ///
    /// `journald` without a journal falls back to JSON lines on stderr, and says so.
    ///
    /// # Errors
    /// When it was done before, or no thread can be had.
    pub fn start(self) -> Result<Log, LogError> {
        let progress = Arc::new(Progress::default());
        let (layer, mut log, fallback) = match self.sink {
            Sink::Lines(LogFormat::Pretty) => {
                let (layer, log) = lines(&progress, |writer| {
                    let colours = io::stderr().is_terminal();
                    fmt::layer().with_writer(writer).with_target(false).with_ansi(colours).boxed()
                })?;
                (layer, log, None)
            }
            Sink::Lines(LogFormat::Json | LogFormat::Journald) => {
                let (layer, log) = lines(&progress, json)?;
                (layer, log, None)
            }
            Sink::NoJournal(error) => {
                let (layer, log) = lines(&progress, json)?;
                (layer, log, Some(error))
            }
            Sink::Journal(journal) => {
                let written = Arc::clone(&progress);
                let (layer, dropped) =
                    journald::start(journal, ENTRIES_WAITING_MAX, move || written.wrote(1))
                        .map_err(LogError::Writer)?;
                let dropped = Dropped::Entries(dropped);
                (
                    layer.boxed(),
                    Log { progress: Arc::clone(&progress), dropped, _writer: None, level: None },
                    None,
                )
            }
        };
        let (filter, level) = reload::Layer::new(self.filter);
        log.level = Some(level);
        let layer = layer.and_then(Count(progress));
        Registry::default().with(layer.with_filter(filter)).try_init().map_err(|_| LogError::Twice)?;
        if let Some(error) = fallback {
            tracing::warn!(%error, "journald cannot be reached; logging JSON to stderr");
        }
        Ok(log)
    }
}

/// Checks a level as [`Log::open`] would.
///
/// # Errors
/// When it is neither a level nor filter directives.
pub fn filter(level: &str) -> Result<Targets, LogError> {
    level.parse::<Targets>().map_err(|source| LogError::Level { level: level.to_owned(), source })
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn json(writer: Lines) -> BoxedLayer {
    fmt::layer().json().flatten_event(true).with_writer(writer).boxed()
}

fn lines(
    progress: &Arc<Progress>,
    layer: impl FnOnce(Lines) -> BoxedLayer,
) -> Result<(BoxedLayer, Log), LogError> {
    let written = Arc::clone(progress);
    let (lines, writer) = lines::start(move |lines| written.wrote(lines)).map_err(LogError::Writer)?;
    let (progress, dropped) = (Arc::clone(progress), Dropped::Lines(lines.clone()));
    Ok((layer(lines), Log { progress, dropped, _writer: Some(writer), level: None }))
}

impl Progress {
    fn wrote(&self, lines: u64) {
        self.written.fetch_add(lines, Ordering::Relaxed);
    }
}

/// Counts what is said.
struct Count(Arc<Progress>);

impl<S: Subscriber> Layer<S> for Count {
    fn on_event(&self, _: &Event<'_>, _: Context<'_, S>) {
        self.0.said.fetch_add(1, Ordering::Relaxed);
    }
}
