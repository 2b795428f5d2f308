//! Every key of `[backend]` and of each `[backends.NAME]`, its default and what it may be. In: settings as written.
//! Out: valid [`Backends`]. Never: makes two backends of one name, or names one that does not exist.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::section::Section;
use super::{api, langgraph, section, timeout};
use crate::backend::{Backend, Backends, Dialect, Kind, Mock, ModelRoute, OPENAI_BASE, Replay, Timeouts};
use crate::reader::Reader;
use crate::settings::Value;
use crate::{Client, Server, allowed};

const MOCK_DELAY_MS: RangeInclusive<u64> = 0..=3_600_000;
const MOCK_EVENTS: RangeInclusive<u32> = 0..=10_000_000;
const REPLAY_SPEED: RangeInclusive<f64> = 0.0..=1_000.0;
const NAME_BYTES_MAX: usize = 64;
const BACKENDS_MAX: usize = 256;
const PATTERN_BYTES_MAX: usize = 256;

const MODELS: &str = "backend.models";
const ANTHROPIC: &str = "https://api.anthropic.com";
const OLLAMA: &str = "http://127.0.0.1:11434";

/// What `kind` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KindName {
    OpenAi,
    Responses,
    Anthropic,
    Ollama,
    LangGraph,
    Replay,
    Mock,
}

const KINDS: [(&str, KindName); 7] = [
    ("openai", KindName::OpenAi),
    ("responses", KindName::Responses),
    ("anthropic", KindName::Anthropic),
    ("ollama", KindName::Ollama),
    ("langgraph", KindName::LangGraph),
    ("replay", KindName::Replay),
    ("mock", KindName::Mock),
];

/// Keys that one kind alone has.
const KEYS_OF_KINDS: &[(&str, KindName)] = &[
    ("version", KindName::Anthropic),
    ("beta", KindName::Anthropic),
    ("max_tokens", KindName::Anthropic),
    ("assistant_id", KindName::LangGraph),
    ("stream_mode", KindName::LangGraph),
    ("file", KindName::Replay),
    ("speed", KindName::Replay),
    ("token_delay_ms", KindName::Mock),
    ("first_token_delay_ms", KindName::Mock),
    ("length", KindName::Mock),
    ("fail_at", KindName::Mock),
    ("burst", KindName::Mock),
    ("allow_request_options", KindName::Mock),
];

/// What one section came to.
struct Found {
    /// None: it can have no fallbacks.
    section: Option<Section>,
    /// Of the section itself, then of its profiles; never empty.
    backends: Vec<Backend>,
}

pub(super) fn backends(reader: &mut Reader<'_>, server: &Server, client: &Client) -> Backends {
    let timeouts = timeouts(reader, server, client);
    let mut found = vec![legacy_mock(reader, timeouts)];
    found.extend(legacy_openai(reader, timeouts));
    let sections = names(reader, "backends");
    if sections.len() > BACKENDS_MAX {
        reader.refuse_all("backends", &format!("must be at most {BACKENDS_MAX} backends"));
    } else {
        found.extend(sections.iter().filter_map(|name| named(reader, name, timeouts)));
    }
    // Also of those that are refused: who names them is not to blame.
    let mut names: Vec<String> = sections;
    for backend in found.iter().flat_map(|found| &found.backends) {
        if !names.contains(&backend.name) {
            names.push(backend.name.clone());
        }
    }
    names.sort_unstable();
    found.iter_mut().for_each(|found| set_fallbacks(reader, found, &names));
    let pairs: Vec<(&str, &str)> = names.iter().map(|name| (name.as_str(), name.as_str())).collect();
    Backends {
        default: reader.value("backend.provider", "mock", allowed::one_of(&pairs)).to_owned(),
        default_model: reader.value("backend.default_model", "gpt-4o".into(), allowed::name),
        models: models(reader, &pairs),
        files_directory: reader.optional("backend.files_directory", allowed::absolute_path),
        all: found.into_iter().flat_map(|found| found.backends).collect(),
    }
}

/// What all backends begin with.
fn timeouts(reader: &mut Reader<'_>, server: &Server, client: &Client) -> Timeouts {
    let idle = timeout(reader, "backend.timeout_secs", 120);
    Timeouts {
        connect: Duration::from_secs(5),
        tls: Duration::from_secs(5),
        queue: Duration::from_secs(10),
        head: timeout(reader, "server.backend_timeout_secs", 30),
        first_content: idle,
        idle,
        idle_content: idle,
        total: client.stream_max,
        client_write: server.write_timeout,
    }
}

fn legacy_mock(reader: &mut Reader<'_>, timeouts: Timeouts) -> Found {
    let section = Section::legacy("backend.mock");
    let kind = Kind::Mock(mock(reader, &section));
    Found { section: None, backends: vec![section::plain("mock", kind, timeouts)] }
}

fn legacy_openai(reader: &mut Reader<'_>, timeouts: Timeouts) -> Option<Found> {
    let section = Section::legacy("backend.openai");
    // Of no effect: windows that follow the bandwidth let one client that does not read stop all others.
    reader.value("backend.openai.http2.adaptive_window", true, allowed::flag);
    let kind =
        api::api(reader, &section, Dialect::OpenAi, Some(OPENAI_BASE)).map(|api| Kind::Api(Box::new(api)));
    let backend = section::backend(reader, &section, "openai", kind, timeouts)?;
    Some(Found { section: Some(section), backends: vec![backend] })
}

/// The names of the sections in the section `path`: those of backends, and of profiles.
pub(super) fn names(reader: &mut Reader<'_>, path: &str) -> Vec<String> {
    reader.table(path);
    let mut names = Vec::new();
    for key in reader.beneath(path) {
        let name = key.strip_prefix(&format!("{path}.")).unwrap_or(&key).to_owned();
        let is_name = name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
        if !is_name || !(1..=NAME_BYTES_MAX).contains(&name.len()) {
            let allowed = format!("a name must be 1 to {NAME_BYTES_MAX} letters, digits, - and _");
            reader.refuse_all(&key, &allowed);
        } else if path == "backends" && matches!(name.as_str(), "mock" | "openai") {
            reader.refuse_all(&key, &format!("this backend is there already: set it in [backend.{name}]"));
        } else {
            reader.table(&key);
            names.push(name);
        }
    }
    names
}

/// One `[backends.NAME]`: the backend, and those of its profiles. None: it is refused.
fn named(reader: &mut Reader<'_>, name: &str, timeouts: Timeouts) -> Option<Found> {
    let section = Section::new(format!("backends.{name}"));
    let names: Vec<String> = KINDS.iter().map(|(name, _)| format!("{name:?}")).collect();
    let allowed = format!("must be {}", names.join(" or "));
    let one = |value: &Value<'_>| allowed::one_of(&KINDS)(value);
    let kind = reader.required(section.path(), &section.key("kind"), &allowed, one);
    refuse_keys_of_other_kinds(reader, &section, kind);
    let value = match kind {
        Some(kind) => value_of(reader, &section, kind),
        // What most kinds have is checked all the same: all problems are told at once.
        None => api::api(reader, &section, Dialect::OpenAi, Some(OPENAI_BASE)).and(None),
    };
    let backend = section::backend(reader, &section, name, value, timeouts);
    let mut backends: Vec<Backend> = backend.into_iter().collect();
    if kind.is_none_or(|kind| kind == KindName::LangGraph) {
        let profiles = langgraph::profiles(reader, &section, backends.first());
        backends.extend(profiles);
    }
    (!backends.is_empty()).then_some(Found { section: Some(section), backends })
}

fn refuse_keys_of_other_kinds(reader: &mut Reader<'_>, section: &Section, kind: Option<KindName>) {
    for (key, of_kind) in KEYS_OF_KINDS.iter().filter(|(_, of_kind)| Some(*of_kind) != kind) {
        let key = section.key(key);
        reader.pass_over(&key);
        if kind.is_some() {
            let wanted = KINDS.iter().find(|(_, kind)| kind == of_kind).map_or("", |(name, _)| name);
            reader.refuse(&[&key], &format!("goes with kind = {wanted:?} only"));
        }
    }
}

/// Asks for the keys of a kind.
fn value_of(reader: &mut Reader<'_>, section: &Section, kind: KindName) -> Option<Kind> {
    let (dialect, base) = match kind {
        KindName::Mock => return Some(Kind::Mock(mock(reader, section))),
        KindName::Replay => return replay(reader, section).map(Kind::Replay),
        KindName::OpenAi => (Some(Dialect::OpenAi), Some(OPENAI_BASE)),
        KindName::Responses => (Some(Dialect::Responses), Some(OPENAI_BASE)),
        KindName::Ollama => (Some(Dialect::Ollama), Some(OLLAMA)),
        KindName::Anthropic => (Some(Dialect::Anthropic(api::anthropic(reader, section))), Some(ANTHROPIC)),
        KindName::LangGraph => (langgraph::langgraph(reader, section).map(Dialect::LangGraph), None),
    };
    let is_whole = dialect.is_some();
    let api = api::api(reader, section, dialect.unwrap_or(Dialect::OpenAi), base);
    api.filter(|_| is_whole).map(|api| Kind::Api(Box::new(api)))
}

fn mock(reader: &mut Reader<'_>, section: &Section) -> Mock {
    let delay = allowed::milliseconds(MOCK_DELAY_MS);
    let mut events = |name| NonZeroU32::new(reader.value(&section.key(name), 0, allowed::whole(MOCK_EVENTS)));
    let (length, fail_at, burst) = (events("length"), events("fail_at"), events("burst"));
    let mut delay_of = |name, default| reader.value(&section.key(name), default, &delay);
    Mock {
        token_delay: delay_of("token_delay_ms", Duration::from_millis(50)),
        first_token_delay: delay_of("first_token_delay_ms", Duration::ZERO),
        length,
        fail_at,
        burst,
        allow_request_options: reader.value(&section.key("allow_request_options"), false, allowed::flag),
    }
}

fn replay(reader: &mut Reader<'_>, section: &Section) -> Option<Replay> {
    let speed = reader.value(&section.key("speed"), 1.0, allowed::number(REPLAY_SPEED));
    let allowed = "set the path of a recording";
    let file = reader.required(section.path(), &section.key("file"), allowed, allowed::absolute_path)?;
    Some(Replay { file, speed })
}

/// Who is asked after the backends of a section.
fn set_fallbacks(reader: &mut Reader<'_>, found: &mut Found, names: &[String]) {
    let Some(section) = &found.section else { return };
    let own = found.backends.first().map(|backend| backend.name.clone());
    let others: Vec<&str> =
        names.iter().filter(|name| Some(*name) != own.as_ref()).map(String::as_str).collect();
    let fallbacks = reader.value(&section.key("fallbacks"), Vec::new(), allowed::some_of(&others));
    for backend in &mut found.backends {
        backend.fallbacks.clone_from(&fallbacks);
        // A profile may be among its own platform's.
        backend.fallbacks.retain(|name| *name != backend.name);
    }
}

/// A whole name wins over a pattern, and a longer pattern over a shorter one, in whatever order they are written.
fn models(reader: &mut Reader<'_>, names: &[(&str, &str)]) -> Vec<ModelRoute> {
    reader.table(MODELS);
    let mut routes = Vec::new();
    for key in reader.beneath(MODELS) {
        let written = key.strip_prefix(&format!("{MODELS}.")).unwrap_or(&key);
        let pattern = written.trim_matches('"').to_owned();
        if reader.setting(&key).is_none() {
            reader.refuse_all(&key, "must be the name of a backend; a model's name with a dot needs quotes");
        } else if !(1..=PATTERN_BYTES_MAX).contains(&pattern.len()) || pattern.contains(['"', '\\']) {
            let allowed = format!(
                "a model's name or pattern must be 1 to {PATTERN_BYTES_MAX} bytes without quotes, backslashes and \
                 control characters"
            );
            reader.refuse_all(&key, &allowed);
        } else if let Some(backend) =
            reader.value(&key, None, |value| allowed::one_of(names)(value).map(Some))
        {
            routes.push(ModelRoute { pattern, backend: backend.to_owned() });
        }
    }
    routes.sort_by_key(|route| {
        let pattern = route.pattern.clone();
        (pattern.contains('*'), std::cmp::Reverse(pattern.len()), pattern)
    });
    routes
}
