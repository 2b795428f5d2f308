//! `tracing-journald` behind a bounded queue and a thread. In: events, copied. Out: journal entries.
//! Never: lets the caller wait. tracing-journald alone stalls the process after ten lines when journald stops.

use std::fmt;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use tracing::field::{Field, Visit, display};
use tracing::{Dispatch, Event, Metadata, Subscriber, Value, dispatcher};
use tracing_subscriber::layer::{Context, Layer, SubscriberExt};
use tracing_subscriber::registry::Registry;

/// Opens the socket that entries are sent from.
pub(super) fn open() -> io::Result<Dispatch> {
    Ok(Dispatch::new(Registry::default().with(tracing_journald::layer()?.with_field_prefix(None))))
}

/// Starts the thread. `wrote` is called for each entry that was sent; the counter is of those that found the queue
/// full.
pub(super) fn start(
    journal: Dispatch,
    entries_waiting_max: usize,
    wrote: impl Fn() + Send + 'static,
) -> io::Result<(Queue, Arc<AtomicU64>)> {
    let (entries, waiting) = sync_channel(entries_waiting_max);
    let dropped = Arc::new(AtomicU64::new(0));
    thread::Builder::new().name("log".to_owned()).spawn(move || write_entries(&journal, &waiting, wrote))?;
    Ok((Queue { entries, dropped: Arc::clone(&dropped) }, dropped))
}

/// The layer that copies events into the queue.
pub(super) struct Queue {
    entries: SyncSender<Entry>,
    dropped: Arc<AtomicU64>,
}

impl<S: Subscriber> Layer<S> for Queue {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut entry = Entry { metadata: event.metadata(), values: Vec::new() };
        event.record(&mut entry);
        if self.entries.try_send(entry).is_err() {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// An event that outlives its callsite: its values as text.
struct Entry {
    metadata: &'static Metadata<'static>,
    values: Vec<(Field, String)>,
}

impl Visit for Entry {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.values.push((field.clone(), value.to_owned()));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.values.push((field.clone(), format!("{value:?}")));
    }
}

fn write_entries(journal: &Dispatch, waiting: &Receiver<Entry>, wrote: impl Fn()) {
    for entry in waiting {
        let shown: Vec<_> = entry.values.iter().map(|(field, value)| (field, display(value))).collect();
        let fields = entry.metadata.fields();
        let in_order: Vec<Option<&dyn Value>> = fields
            .iter()
            .map(|field| shown.iter().find(|(own, _)| **own == field).map(|(_, value)| value as &dyn Value))
            .collect();
        dispatcher::with_default(journal, || {
            Event::dispatch(entry.metadata, &fields.value_set_all(&in_order));
        });
        wrote();
    }
}
