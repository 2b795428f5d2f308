//! Events out of LLM APIs, whatever their dialect. In: a request. Out: events, one at a time, then the end.
//!
//! [`Upstreams`] chooses who answers;
//! an [`answer`] is one or more [`attempt`]s at one or more [`backend`]s: each [`open`]s a stream over the [`pool`] of its
//! origin's connections, cuts it into events by [`event_reader`] and reads them by [`dialect`], under the eyes of
//! [`watch`]. What fails is a [`trouble`]; [`again`] says who is asked next, and [`rest`] who is left alone.
//!
//! Never: reads ahead of who asks, commits anything to the client.

mod again;
mod answer;
mod attempt;
mod backend;
pub mod dialect;
pub mod event_reader;
pub mod mock;
mod open;
pub mod pool;
pub mod record;
mod recording;
pub mod replay;
mod rest;
mod scribe;
mod tape;
pub mod tls;
pub mod trouble;
mod watch;

use std::cell::RefCell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::IpAddr;
use std::rc::Rc;

use handoff_config::Config;
use handoff_config::backend::Kind;
use handoff_shared::ids::LeaseId;
use handoff_shared::message::{Cooldown, Format};
use handoff_shared::metric::Counts;

pub(crate) use answer::{Answer, Tokens};
use answer::{Choice, Question};
use backend::{Backend, Source};
use open::Tag;
use record::Recordings;
use scribe::Native;

use crate::failure::{Code, Failure};
use crate::moment::Moment;
use crate::opened::{OpenError, Opened};
use crate::report::Reporter;
use crate::request::{ChatRequest, Timeouts};

/// All backends of a worker.
#[derive(Debug)]
pub(crate) struct Upstreams {
    config: Rc<Config>,
    backends: Vec<Rc<Backend>>,
    counts: Rc<RefCell<Counts>>,
    reporter: Rc<Reporter>,
}

impl Upstreams {
    pub(crate) fn new(
        config: &Rc<Config>,
        opened: &Opened,
        counts: &Rc<RefCell<Counts>>,
        reporter: &Rc<Reporter>,
    ) -> Result<Self, OpenError> {
        let all = config.backends.all.iter();
        let default_model = Rc::from(config.backends.default_model.as_str());
        let recordings = Recordings::new(opened.records.clone(), config.logging.prompts);
        Ok(Self {
            backends: all
                .map(|backend| Backend::new(backend, &default_model, opened, &recordings))
                .collect::<Result<_, _>>()?,
            config: Rc::clone(config),
            counts: Rc::clone(counts),
            reporter: Rc::clone(reporter),
        })
    }

    /// Asks the backend that the request names, or that its model belongs to, or the default one.
    ///
    /// # Errors
    /// When there is no such backend, or it has not got what the request wants.
    pub(crate) fn ask(
        &self,
        request: Rc<ChatRequest>,
        request_id: Rc<str>,
        lease: LeaseId,
    ) -> Result<Answer, Failure> {
        let first = self.choose(&request)?;
        let others = first.config.fallbacks.iter().rev().filter_map(|name| self.find(name));
        // Who wants an upstream's own bytes wants them in one dialect.
        let others = others.filter(|other| request.format != Format::Raw || other.speaks_like(first));
        let others = others.map(|other| self.choice(other, &request, false)).collect();
        let choice = self.choice(first, &request, true);
        let tag = Rc::new(Tag {
            request_id: Rc::clone(&request_id),
            idempotency_key: format!("handoffd-{lease}-{:016x}", fingerprint(&request)),
            traceparent: request.traceparent.clone(),
            tracestate: request.tracestate.clone(),
            client: request.client_ip.as_deref().and_then(address),
        });
        let (counts, reporter) = (Rc::clone(&self.counts), Rc::clone(&self.reporter));
        let timeouts = (request.timeouts != Timeouts::default()).then(|| Box::new(request.timeouts));
        let on_disconnect = request.on_disconnect;
        let asked = Some((request, tag));
        let question = Question { asked, request_id, timeouts, on_disconnect, counts, reporter };
        Ok(Answer::new(question, choice, others))
    }

    /// Another worker has met an upstream that wants to be left alone.
    pub(crate) fn told(&self, cooldown: &Cooldown) {
        if let Some(backend) = self.find(&cooldown.backend) {
            backend.told(cooldown, Moment::now());
        }
    }

    /// Resolves when all upstreams know what nobody wants any more: a worker that ends tells nobody.
    pub(crate) async fn settled(&self) {
        for backend in &self.backends {
            if let Source::Api(remote) = &backend.source {
                remote.settled().await;
            }
        }
    }

    /// For a snapshot: how many connections there are.
    pub(crate) fn count_connections(&self, counts: &mut Counts) {
        for backend in &self.backends {
            if let Source::Api(remote) = &backend.source {
                let gauges = remote.pool.gauges();
                let counts = counts.backend(&backend.config.name);
                counts.connections_opened = gauges.opened;
                counts.connections = gauges.open;
                counts.queued = gauges.queued;
            }
        }
    }

    fn find(&self, name: &str) -> Option<&Rc<Backend>> {
        self.backends.iter().find(|backend| backend.config.name == name)
    }

    fn choose(&self, request: &ChatRequest) -> Result<&Rc<Backend>, Failure> {
        let backends = &self.config.backends;
        let chosen = match (&request.backend, &request.model) {
            (Some(name), _) => name,
            (None, Some(model)) => backends.of_model(model),
            (None, None) => &backends.default,
        };
        let Some(backend) = self.find(chosen) else {
            let names = self.backends.iter().map(|backend| backend.config.name.as_str());
            return Err(unknown("backend: no such backend", names));
        };
        let backend = match &request.profile {
            Some(profile) => self.profile(chosen, profile)?,
            None => backend,
        };
        if request.format == Format::Raw && matches!(backend.config.kind, Kind::Mock(_)) {
            let message = "format: raw needs a backend whose bytes can be passed on";
            return Err(Failure::new(Code::BadHandoff, message));
        }
        Ok(backend)
    }

    /// A backend's profile is a backend of its own.
    fn profile(&self, of: &str, profile: &str) -> Result<&Rc<Backend>, Failure> {
        self.find(&format!("{of}/{profile}")).ok_or_else(|| {
            let names = self.backends.iter().map(|backend| backend.config.name.as_str());
            let profiles = names.filter_map(|name| name.strip_prefix(of)?.strip_prefix('/'));
            unknown(&format!("profile: no such profile of the backend {of}"), profiles)
        })
    }

    /// A fallback is asked for its own model, where it has one: it need not know the first one's.
    fn choice(&self, backend: &Rc<Backend>, request: &ChatRequest, is_first: bool) -> Choice {
        let asked = request.model.as_deref().filter(|_| is_first || backend.config.model.is_none());
        let native = match request.format {
            Format::Raw => Native::Whole,
            Format::OpenAi if backend.speaks_openai() => Native::Data { usage: request.include.usage },
            Format::OpenAi | Format::Content | Format::Text | Format::Events => Native::No,
        };
        let model = match asked {
            Some(asked) if *asked != *backend.model => asked.into(),
            _ => Rc::clone(&backend.model),
        };
        Choice { backend: Rc::clone(backend), model, native }
    }
}

/// An IP address as everybody writes it; none of what is none.
fn address(text: &str) -> Option<String> {
    text.parse::<IpAddr>().ok().map(|address| address.to_canonical().to_string())
}

/// A name that is none, and those that are.
fn unknown<'a>(what: &str, names: impl Iterator<Item = &'a str>) -> Failure {
    let names = names.collect::<Vec<_>>().join(", ");
    let allowed = if names.is_empty() { "none" } else { &names };
    Failure::new(Code::BadHandoff, format!("{what}; allowed: {allowed}"))
}

/// The same in every worker: leases of two machines that use the same key may have the same number, and must not get
/// each other's answers.
fn fingerprint(request: &ChatRequest) -> u64 {
    let mut hasher = DefaultHasher::new();
    (&request.prompt, &request.system, &request.user_id, &request.request_id).hash(&mut hasher);
    request.messages.iter().for_each(|message| message.json.get().hash(&mut hasher));
    hasher.finish()
}
