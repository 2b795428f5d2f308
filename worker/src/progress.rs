//! How far each session is, for an operator who asks. In: what happens to it. Out: a line about it.
//! Never: keeps what was asked or answered.

use std::cell::{Cell, OnceCell};

use handoff_shared::ids::LeaseId;
use handoff_shared::limits::SHOWN_CHARS_MAX;
use handoff_shared::message::{Phase, SessionView};

use crate::cut::Cut;
use crate::moment::Moment;

/// One session, shared by those who serve it and those who show it.
#[derive(Debug)]
pub(crate) struct Progress {
    began_at: Moment,
    phase: Cell<Phase>,
    bytes: Cell<u64>,
    names: OnceCell<Box<Names>>,
    /// An operator ends it.
    pub(crate) cut: Cut,
    /// The supervisor knows that bytes may be out.
    pub(crate) is_committed: Cell<bool>,
}

#[derive(Debug, Default)]
struct Names {
    user_id: Option<Box<str>>,
    request_id: Option<Box<str>>,
}

impl Progress {
    pub(crate) fn new(phase: Phase) -> Self {
        Self {
            began_at: Moment::now(),
            phase: Cell::new(phase),
            bytes: Cell::new(0),
            names: OnceCell::new(),
            cut: Cut::default(),
            is_committed: Cell::new(false),
        }
    }

    /// Who asks, and what the site calls it; said once.
    pub(crate) fn name(&self, user_id: Option<&str>, request_id: Option<&str>) {
        let shown = |text: &str| text.chars().take(SHOWN_CHARS_MAX).collect::<String>().into_boxed_str();
        if user_id.is_some() || request_id.is_some() {
            let names = Names { user_id: user_id.map(shown), request_id: request_id.map(shown) };
            self.names.get_or_init(|| Box::new(names));
        }
    }

    /// Bytes have gone out.
    pub(crate) fn wrote(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        if self.phase.get() == Phase::Waiting {
            self.phase.set(Phase::Streaming);
        }
    }

    /// All is said.
    pub(crate) fn ending(&self) {
        self.phase.set(Phase::Ending);
    }

    pub(crate) fn view(&self, lease: LeaseId) -> SessionView {
        let names = self.names.get();
        let name = |of: fn(&Names) -> Option<&str>| names.and_then(|names| of(names)).map(str::to_owned);
        SessionView {
            lease,
            phase: self.phase.get(),
            age_ms: u64::try_from(self.began_at.elapsed().as_millis()).unwrap_or(u64::MAX),
            bytes: self.bytes.get(),
            user_id: name(|names| names.user_id.as_deref()),
            request_id: name(|names| names.request_id.as_deref()),
        }
    }
}
