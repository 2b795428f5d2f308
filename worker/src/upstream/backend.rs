//! One backend at work: how it is reached, what is left of its budget, when it rests. In: questions. Out: attempts'
//! means, and the word to other workers when it wants to be left alone.
//! Never: shows its key.

use std::borrow::Cow;
use std::cell::{Cell, RefCell};
use std::hash::{BuildHasher, Hasher, RandomState};
use std::mem::discriminant;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use handoff_config::backend::{Api, Backend as Config, Dialect, Kind, Mock, Secret};
use handoff_shared::message::Cooldown;
use handoff_shared::metric::FailureReason;
use http::{HeaderMap, HeaderName, HeaderValue, Uri};
use tokio::sync::Semaphore;

use super::again::{Left, Next, next};
use super::dialect;
use super::pool::Pool;
use super::record::Recordings;
use super::replay::Recording;
use super::rest::{Insistence, NewRest, Rest, Resting, Span};
use super::trouble::Trouble;
use crate::moment::Moment;
use crate::opened::{OpenError, Opened};
use crate::request::Timeouts as Patience;

/// The budget for further attempts is filled up to this many: a quiet site has some too.
const BUDGET_MAX: f64 = 10.0;

/// Answers that an upstream is told to stop at the same time; what is beyond ends by itself.
const CANCELS_MAX: usize = 10_000;
/// Shorter ones may be anybody's words.
const SECRET_BYTES_MIN: usize = 8;
const MASK: &str = "<secret>";

/// One backend.
#[derive(Debug)]
pub(super) struct Backend {
    pub(super) config: Config,
    /// What it is asked for where the site names none.
    pub(super) model: Rc<str>,
    pub(super) source: Source,
    pub(super) recordings: Rc<Recordings>,
    rest: RefCell<Rest>,
    budget: Cell<f64>,
    /// Of its address and key.
    account: u64,
}

/// Where its answers come from.
#[derive(Debug)]
pub(super) enum Source {
    Mock(Mock),
    Replay(Arc<Recording>, f64),
    Api(Rc<Remote>),
}

/// An API, as it is reached.
#[derive(Debug)]
pub(super) struct Remote {
    pub(super) api: Api,
    pub(super) pool: Rc<Pool>,
    /// The key and the configured headers.
    pub(super) headers: HeaderMap,
    /// One is taken for each answer that the upstream is told to stop.
    pub(super) cancels: Arc<Semaphore>,
}

impl Backend {
    pub(super) fn new(
        config: &Config,
        default_model: &Rc<str>,
        opened: &Opened,
        recordings: &Rc<Recordings>,
    ) -> Result<Rc<Self>, OpenError> {
        let (source, account) = match &config.kind {
            Kind::Mock(mock) => (Source::Mock(mock.clone()), 0),
            Kind::Replay(replay) => {
                let recording = opened.replays.get(&config.name).ok_or_else(|| unopened(&config.name))?;
                (Source::Replay(Arc::clone(recording), replay.speed), 0)
            }
            Kind::Api(api) => {
                let tls = opened.tls.get(&config.name).ok_or_else(|| unopened(&config.name))?;
                let remote = Remote::new(api, Arc::clone(tls)).ok_or_else(|| unopened(&config.name))?;
                (Source::Api(Rc::new(remote)), account_of(api))
            }
        };
        Ok(Rc::new(Self {
            config: config.clone(),
            model: config.model.as_deref().map_or_else(|| Rc::clone(default_model), Rc::from),
            source,
            recordings: Rc::clone(recordings),
            rest: RefCell::default(),
            budget: Cell::new(BUDGET_MAX),
            account,
        }))
    }

    /// Its events can be passed on to a client that wants OpenAI's chunks.
    pub(super) fn speaks_openai(&self) -> bool {
        matches!(self.dialect(), Some(Dialect::OpenAi))
    }

    /// It keeps conversations, if it is asked within one.
    pub(super) fn keeps_threads(&self) -> bool {
        matches!(&self.source, Source::Api(remote) if matches!(remote.api.dialect, Dialect::LangGraph(_)))
    }

    /// Its events are of the same dialect as another one's.
    pub(super) fn speaks_like(&self, other: &Self) -> bool {
        self.dialect().map(discriminant) == other.dialect().map(discriminant)
    }

    fn dialect(&self) -> Option<&Dialect> {
        match &self.source {
            Source::Mock(_) => None,
            Source::Replay(recording, _) => Some(recording.dialect()),
            Source::Api(remote) => Some(&remote.api.dialect),
        }
    }

    /// Somebody asks: that pays for a fraction of a further attempt.
    pub(super) fn asked(&self) {
        self.budget.set((self.budget.get() + self.config.retry.budget).min(BUDGET_MAX));
    }

    /// Until when it is left alone with this model.
    pub(super) fn resting(&self, model: &str, now: Moment) -> Option<Resting> {
        self.rest.borrow().of(model, now)
    }

    /// An answer has begun.
    pub(super) fn succeeded(&self) {
        self.rest.borrow_mut().succeeded();
    }

    /// An attempt has failed. What other workers have to know, if anything.
    pub(super) fn failed(
        &self,
        trouble: &Trouble,
        model: &str,
        asked: &Patience,
        span: Span,
    ) -> Option<Cooldown> {
        if self.is_hurried(trouble.reason, asked) {
            return None;
        }
        let retry = self.config.retry;
        let after = trouble.failure.retry_after;
        let mut rest = self.rest.borrow_mut();
        let new = rest.failed(trouble.reason, span, after, model, retry.cooldown, retry.breaker)?;
        rest.begin(&new, span.failed);
        Some(Cooldown {
            backend: self.config.name.clone(),
            account: self.account,
            must: new.insistence == Insistence::Must,
            remaining_ms: u64::try_from(new.lasts.as_millis()).unwrap_or(u64::MAX),
            model: new.model,
        })
    }

    /// The site was in more of a hurry than the operator: that says nothing about the backend.
    fn is_hurried(&self, reason: FailureReason, asked: &Patience) -> bool {
        let own = self.config.timeouts;
        let lowered = asked.lower(own);
        let hurries = [
            (FailureReason::ConnectTimeout, lowered.connect < own.connect),
            (FailureReason::HeadTimeout, lowered.head < own.head),
            (FailureReason::FirstContentTimeout, lowered.first_content < own.first_content),
        ];
        hurries.contains(&(reason, true))
    }

    /// Another worker has met it.
    pub(super) fn told(&self, cooldown: &Cooldown, now: Moment) {
        if cooldown.account == self.account {
            let insistence = if cooldown.must { Insistence::Must } else { Insistence::Rather };
            let lasts = Duration::from_millis(cooldown.remaining_ms);
            let new = NewRest { model: cooldown.model.clone(), lasts, insistence };
            self.rest.borrow_mut().begin(&new, now);
        }
    }

    /// What an upstream has said may hold what it was sent.
    pub(super) fn without_secrets<'a>(&self, text: &'a str) -> Cow<'a, str> {
        match &self.source {
            Source::Api(remote) => remote.without_secrets(text),
            Source::Mock(_) | Source::Replay(..) => text.into(),
        }
    }

    /// Whether an answer is asked for again, and where; takes what it costs.
    pub(super) fn next(&self, trouble: &Trouble, model: &str, repeated: u8, others: bool) -> Next {
        let (budget, now) = (self.budget.get(), Moment::now());
        let resting = self.resting(model, now);
        let left = Left {
            repeated,
            repeats_max: self.config.retry.max,
            budget: budget >= 1.0,
            others,
            rests_for: resting.map_or(Duration::ZERO, |resting| resting.until.duration_since(now)),
            dice: dice(),
        };
        let next = next(trouble, left);
        if let Next::Same { .. } = next {
            self.budget.set(budget - 1.0);
        }
        next
    }
}

impl Remote {
    /// None: an address, a key or a header that HTTP does not have, which the configuration should have refused.
    fn new(api: &Api, tls: Arc<rustls::ClientConfig>) -> Option<Self> {
        let base: Uri = api.base.parse().ok()?;
        let mut headers = HeaderMap::new();
        if let Some(key) = &api.key {
            let (header, before) = dialect::key_header(&api.dialect);
            headers.insert(header, secret(&format!("{before}{}", key.expose()))?);
        }
        for (header, value) in &api.headers {
            headers.append(HeaderName::from_bytes(header.as_bytes()).ok()?, secret(value.expose())?);
        }
        let pool = Pool::new(&base, &api.connection, tls);
        Some(Self { api: api.clone(), pool, headers, cancels: Arc::new(Semaphore::new(CANCELS_MAX)) })
    }

    /// Resolves when the upstream is told to stop all answers that it was to be told to.
    pub(super) async fn settled(&self) {
        let _ = self.cancels.acquire_many(u32::try_from(CANCELS_MAX).unwrap_or(u32::MAX)).await;
    }

    /// The text without the key and the values of configured headers. It may have been cut within one of them.
    pub(super) fn without_secrets<'a>(&self, text: &'a str) -> Cow<'a, str> {
        let of_headers = self.api.headers.iter().map(|(_, value)| value);
        let secrets = self.api.key.iter().chain(of_headers).map(Secret::expose);
        let long = secrets.filter(|secret| secret.len() >= SECRET_BYTES_MIN);
        long.fold(text.into(), |text, secret| without_secret(text, secret))
    }
}

fn unopened(name: &str) -> OpenError {
    OpenError::Address { name: name.to_owned() }
}

/// A header's value that shows itself to nobody, also not in a log of HTTP.
fn secret(value: &str) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(value).ok()?;
    value.set_sensitive(true);
    Some(value)
}

fn without_secret<'a>(text: Cow<'a, str>, secret: &str) -> Cow<'a, str> {
    let whole = text.contains(secret).then(|| text.replace(secret, MASK));
    let text = whole.map_or(text, Cow::Owned);
    let is_at_end = |bytes: &usize| secret.get(..*bytes).is_some_and(|part| text.ends_with(part));
    match (SECRET_BYTES_MIN..secret.len()).rev().find(is_at_end) {
        Some(bytes) => Cow::Owned(format!("{}{MASK}", &text[..text.len() - bytes])),
        None => text,
    }
}

/// The same in every worker of a generation; not so random that it differs, not so plain that it tells the key.
fn account_of(api: &Api) -> u64 {
    let mut hasher = std::hash::DefaultHasher::new();
    hasher.write(api.base.as_bytes());
    hasher.write(api.key.as_ref().map_or("", |key| key.expose()).as_bytes());
    hasher.finish()
}

/// From 0 to 1.
fn dice() -> f64 {
    f64::from(u32::try_from(RandomState::new().hash_one(()) >> 32).unwrap_or_default()) / f64::from(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_not_shown_whole_or_cut() {
        let key = "sk-0123456789abcdef";
        for (text, shown) in [
            ("nothing to hide", "nothing to hide"),
            ("no such key: sk-0123456789abcdef!", "no such key: <secret>!"),
            ("no such key: sk-01234567", "no such key: <secret>"),
            ("an sk-", "an sk-"),
        ] {
            assert_eq!(without_secret(text.into(), key), shown);
        }
    }
}
