//! Logging that never blocks. In: `tracing` events. Out: lines on stderr, or entries in systemd's journal, by
//! a thread of their own. What that thread cannot keep up with is dropped and counted.
//!
//! Never: makes a stream wait for a disk, a pipe or a stopped journald.

mod journald;

use std::io::{self, IsTerminal};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use handoff_config::{LogFormat, Logging};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt};

/// Lines that may wait for the writer.
const LINES_WAITING_MAX: usize = 4096;

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
    /// Somebody has set up logging before.
    #[error("logging is set up twice")]
    Twice,
}

/// Keeps the writer alive; dropped last, it writes what is still waiting.
#[derive(Debug)]
pub struct Log {
    dropped: Dropped,
    _writer: Option<WorkerGuard>,
}

#[derive(Clone, Debug)]
enum Dropped {
    Lines(ErrorCounter),
    Entries(Arc<AtomicU64>),
}

impl Log {
    /// Sends every `tracing` event of this process where the configuration says.
    ///
    /// `journald` without a journal falls back to JSON lines on stderr, and says so.
    ///
    /// # Errors
    /// When the level cannot be understood.
    pub fn start(logging: &Logging) -> Result<Self, LogError> {
        let filter = filter(&logging.level)?;
        let (layer, log, fallback) = match logging.format {
            LogFormat::Pretty => lines(|writer| {
                let colours = io::stderr().is_terminal();
                fmt::layer().with_writer(writer).with_target(false).with_ansi(colours).boxed()
            }),
            LogFormat::Json => {
                lines(|writer| fmt::layer().json().flatten_event(true).with_writer(writer).boxed())
            }
            LogFormat::Journald => match journald::start(LINES_WAITING_MAX) {
                Ok((layer, dropped)) => {
                    (layer.boxed(), Self { dropped: Dropped::Entries(dropped), _writer: None }, None)
                }
                Err(error) => {
                    let json = |writer| fmt::layer().json().flatten_event(true).with_writer(writer).boxed();
                    let (layer, log, _) = lines(json);
                    (layer, log, Some(error))
                }
            },
        };
        Registry::default().with(layer.with_filter(filter)).try_init().map_err(|_| LogError::Twice)?;
        if let Some(error) = fallback {
            tracing::warn!(%error, "journald cannot be reached; logging JSON to stderr");
        }
        Ok(log)
    }

    /// How many lines were dropped because the writer could not keep up.
    #[must_use]
    pub fn lines_dropped(&self) -> u64 {
        match &self.dropped {
            Dropped::Lines(counter) => counter.dropped_lines() as u64,
            Dropped::Entries(counter) => counter.load(Ordering::Relaxed),
        }
    }
}

/// Checks a level as [`Log::start`] would.
///
/// # Errors
/// When it is neither a level nor filter directives.
pub fn filter(level: &str) -> Result<EnvFilter, LogError> {
    EnvFilter::builder().parse(level).map_err(|source| LogError::Level { level: level.to_owned(), source })
}

type BoxedLayer = Box<dyn Layer<Registry> + Send + Sync>;

fn lines(layer: impl FnOnce(NonBlocking) -> BoxedLayer) -> (BoxedLayer, Log, Option<io::Error>) {
    let (writer, guard) = NonBlockingBuilder::default()
        .lossy(true)
        .buffered_lines_limit(LINES_WAITING_MAX)
        .thread_name("log")
        .finish(io::stderr());
    let dropped = Dropped::Lines(writer.error_counter());
    (layer(writer), Log { dropped, _writer: Some(guard) }, None)
}
