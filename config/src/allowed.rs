//! What a value may be. In: one value as written. Out: the same as a type that can hold nothing else, or a
//! clause that says what is allowed. Never: knows keys or defaults.

use std::fmt::Display;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::unistd::{Group, Uid, User};

use crate::SocketMode;
use crate::address::Address;
use crate::settings::Value;

/// The length of `sun_path`, less its terminating NUL.
const SOCKET_PATH_BYTES_MAX: usize = 107;

/// `PATH_MAX`, less its terminating NUL.
const PATH_BYTES_MAX: usize = 4095;

/// Longest text that is neither a path nor a list.
const TEXT_BYTES_MAX: usize = 4096;

/// `u32::MAX` means "unchanged" to `chown`, so it is nobody's id.
const ID_MAX: u64 = u32::MAX as u64 - 1;

/// Most users or groups in one list.
const IDS_MAX: usize = 1024;

/// Most words in one list.
const WORDS_MAX: usize = 16;

/// Longest name of a header.
const HEADER_NAME_BYTES_MAX: usize = 64;

/// Headers that nobody may have in a log: who reads it could pass for the client.
const CREDENTIALS: [&str; 3] = ["authorization", "cookie", "proxy-authorization"];

const LEVELS: [&str; 6] = ["trace", "debug", "info", "warn", "error", "off"];

/// `Err` holds the clause that says what is allowed.
type Allowed<T> = Result<T, String>;

/// A whole number in a range.
pub(crate) fn whole<T>(range: RangeInclusive<T>) -> impl Fn(&Value<'_>) -> Allowed<T>
where
    T: TryFrom<u64> + PartialOrd + Display,
{
    move |value| {
        let number = value.whole().and_then(|number| T::try_from(number).ok());
        number
            .filter(|number| range.contains(number))
            .ok_or_else(|| format!("must be a whole number from {} to {}", range.start(), range.end()))
    }
}

/// A number with or without a fraction.
pub(crate) fn number(range: RangeInclusive<f64>) -> impl Fn(&Value<'_>) -> Allowed<f64> {
    move |value| {
        let number = value.number().filter(|number| range.contains(number));
        number.ok_or_else(|| format!("must be a number from {} to {}", range.start(), range.end()))
    }
}

/// Seconds, whole or with a fraction.
pub(crate) fn seconds(range: RangeInclusive<f64>) -> impl Fn(&Value<'_>) -> Allowed<Duration> {
    move |value| {
        let seconds = value.number().filter(|seconds| range.contains(seconds));
        seconds.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()).ok_or_else(|| {
            format!("must be seconds from {} to {}, such as 30 or 0.5", range.start(), range.end())
        })
    }
}

/// As [`seconds`], or 0 for "off".
pub(crate) fn seconds_or_off(range: RangeInclusive<f64>) -> impl Fn(&Value<'_>) -> Allowed<Option<Duration>> {
    let seconds = seconds(range);
    move |value| match value.number() {
        Some(0.0) => Ok(None),
        Some(_) | None => seconds(value).map(Some).map_err(|allowed| format!("{allowed}, or 0 for off")),
    }
}

/// Whole milliseconds.
pub(crate) fn milliseconds(range: RangeInclusive<u64>) -> impl Fn(&Value<'_>) -> Allowed<Duration> {
    let whole = whole(range);
    move |value| whole(value).map(Duration::from_millis)
}

/// True or false.
pub(crate) fn flag(value: &Value<'_>) -> Allowed<bool> {
    value.flag().ok_or_else(|| match value {
        Value::Toml(_) => "must be true or false".to_owned(),
        Value::Word(_) => "must be true, 1, false or 0".to_owned(),
    })
}

/// One of several names.
pub(crate) fn one_of<T: Copy>(names: &[(&str, T)]) -> impl Fn(&Value<'_>) -> Allowed<T> {
    move |value| {
        let found = names.iter().find(|(name, _)| value.text() == Some(name));
        found.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let names: Vec<String> = names.iter().map(|(name, _)| format!("{name:?}")).collect();
            format!("must be {}", names.join(" or "))
        })
    }
}

/// A name that is shown to people and sent to upstreams.
pub(crate) fn name(value: &Value<'_>) -> Allowed<String> {
    let text = value.text().filter(|text| !text.chars().any(char::is_control));
    text.filter(|text| (1..=TEXT_BYTES_MAX).contains(&text.len()))
        .map(str::to_owned)
        .ok_or_else(|| format!("must be text of 1 to {TEXT_BYTES_MAX} bytes without control characters"))
}

/// A bearer token: it goes into a header as it is.
pub(crate) fn token(value: &Value<'_>) -> Allowed<String> {
    let text = value.text().filter(|text| text.chars().all(|c| c.is_ascii_graphic()));
    text.filter(|text| (1..=TEXT_BYTES_MAX).contains(&text.len())).map(str::to_owned).ok_or_else(|| {
        format!("must be 1 to {TEXT_BYTES_MAX} visible ASCII characters, without spaces or line ends")
    })
}

/// The value of a header (RFC 9110, 5.5).
pub(crate) fn header_value(value: &Value<'_>) -> Allowed<String> {
    let text = value.text().filter(|text| text.chars().all(|c| c.is_ascii_graphic() || c == ' '));
    text.filter(|text| (1..=TEXT_BYTES_MAX).contains(&text.len()) && text.trim() == *text)
        .map(str::to_owned)
        .ok_or_else(|| {
            format!("must be 1 to {TEXT_BYTES_MAX} visible ASCII characters, with spaces between them only")
        })
}

/// The base address of an HTTP API, without its last slash.
pub(crate) fn base_address(value: &Value<'_>) -> Allowed<String> {
    let text = value.text().filter(|text| text.len() <= TEXT_BYTES_MAX);
    let address = text.and_then(Address::parse);
    let is_base = address.is_some_and(|a| a.user.is_none() && !a.path.contains(['?', '#']));
    text.filter(|_| is_base).map(|text| text.trim_end_matches('/').to_owned()).ok_or_else(|| {
        "must be an address that begins with http:// or https://, without spaces, user or query".to_owned()
    })
}

/// A proxy's address; without a scheme it is `http://`.
pub(crate) fn proxy_address(value: &Value<'_>) -> Allowed<String> {
    let text = value.text().filter(|text| text.len() <= TEXT_BYTES_MAX).unwrap_or_default();
    let whole = if text.contains("://") { text.to_owned() } else { format!("http://{text}") };
    let is_proxy = Address::parse(&whole).is_some_and(|address| matches!(address.path, "" | "/"));
    is_proxy.then(|| whole.trim_end_matches('/').to_owned()).ok_or_else(|| {
        "must be http://host:port or https://host:port, also with user:password@ before the host".to_owned()
    })
}

/// A file's path.
pub(crate) fn path(value: &Value<'_>) -> Allowed<PathBuf> {
    path_of(value, PATH_BYTES_MAX)
}

/// A path from the root: workers have no directory of their own, and their sandbox is made of such paths.
pub(crate) fn absolute_path(value: &Value<'_>) -> Allowed<PathBuf> {
    path(value).and_then(from_root)
}

/// A Unix socket's path from the root.
pub(crate) fn absolute_socket_path(value: &Value<'_>) -> Allowed<PathBuf> {
    socket_path(value).and_then(from_root)
}

fn from_root(path: PathBuf) -> Allowed<PathBuf> {
    if path.is_absolute() { Ok(path) } else { Err("must be a path that begins with /".to_owned()) }
}

/// A Unix socket's path.
pub(crate) fn socket_path(value: &Value<'_>) -> Allowed<PathBuf> {
    path_of(value, SOCKET_PATH_BYTES_MAX)
}

/// Whether a path that we have made ourselves is as short as a socket's must be.
pub(crate) fn is_socket_path(path: &Path) -> bool {
    path.as_os_str().len() <= SOCKET_PATH_BYTES_MAX
}

fn path_of(value: &Value<'_>, bytes_max: usize) -> Allowed<PathBuf> {
    let text = value.text().filter(|text| (1..=bytes_max).contains(&text.len()) && !text.contains('\0'));
    text.map(PathBuf::from).ok_or_else(|| format!("must be a path in UTF-8 of 1 to {bytes_max} bytes"))
}

/// Permission bits, always in octal digits: a plain `660` means what `0o660` means.
pub(crate) fn socket_mode(value: &Value<'_>) -> Allowed<SocketMode> {
    let mode = value.octal().filter(|mode| *mode <= 0o777);
    mode.map(SocketMode).ok_or_else(|| "must be octal digits, such as \"0o660\", at most 0o777".to_owned())
}

/// A user's name or numeric id.
pub(crate) fn user(value: &Value<'_>) -> Allowed<u32> {
    id_of(value, "user", |name| Ok(User::from_name(name)?.map(|user| user.uid.as_raw())))
}

/// A group's name or numeric id.
pub(crate) fn group(value: &Value<'_>) -> Allowed<u32> {
    id_of(value, "group", |name| Ok(Group::from_name(name)?.map(|group| group.gid.as_raw())))
}

/// The primary group of a user that this host knows.
pub(crate) fn primary_group(uid: u32) -> Option<u32> {
    User::from_uid(Uid::from_raw(uid)).ok().flatten().map(|user| user.gid.as_raw())
}

fn id_of(value: &Value<'_>, kind: &str, find: impl Fn(&str) -> nix::Result<Option<u32>>) -> Allowed<u32> {
    let number = value.whole().or_else(|| value.text().and_then(|text| text.parse().ok()));
    match (number, value.text()) {
        (Some(number), _) => match u32::try_from(number) {
            Ok(id) if number <= ID_MAX => Ok(id),
            Ok(_) | Err(_) => Err(format!("must be the name of a {kind} or a numeric id up to {ID_MAX}")),
        },
        (None, Some(name)) => match find(name) {
            Ok(Some(id)) => Ok(id),
            Ok(None) => Err(format!("this host knows no {kind} {name:?}")),
            Err(errno) => Err(format!("looking up the {kind} {name:?} went wrong: {}", errno.desc())),
        },
        (None, None) => Err(format!("must be the name of a {kind} or a numeric id up to {ID_MAX}")),
    }
}

/// A list of what `one` reads; every bad element is named.
pub(crate) fn list_of(one: impl Fn(&Value<'_>) -> Allowed<u32>) -> impl Fn(&Value<'_>) -> Allowed<Vec<u32>> {
    move |value| {
        let elements = value.list().filter(|elements| elements.len() <= IDS_MAX);
        let elements = elements.ok_or_else(|| format!("must be a list of at most {IDS_MAX} names or ids"))?;
        let mut ids = Vec::new();
        let mut faults: Vec<String> = Vec::new();
        for element in &elements {
            match one(element) {
                Ok(id) => ids.push(id),
                Err(fault) => faults.push(fault),
            }
        }
        if faults.is_empty() { Ok(ids) } else { Err(faults.join("; ")) }
    }
}

/// A list of 1 to [`WORDS_MAX`] words without spaces.
pub(crate) fn words(value: &Value<'_>) -> Allowed<Vec<String>> {
    let words = value.list().filter(|elements| (1..=WORDS_MAX).contains(&elements.len()));
    let words = words.and_then(|elements| elements.iter().map(|element| token(element).ok()).collect());
    words.ok_or_else(|| format!("must be a list of 1 to {WORDS_MAX} words in visible ASCII characters"))
}

/// A list of up to [`WORDS_MAX`] names of headers, each once, in lower case; none of [`CREDENTIALS`].
pub(crate) fn logged_headers(value: &Value<'_>) -> Allowed<Vec<String>> {
    let is_name = |name: &str| {
        (1..=HEADER_NAME_BYTES_MAX).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))
    };
    let elements = value.list().filter(|elements| elements.len() <= WORDS_MAX).unwrap_or_default();
    let names: Vec<String> = elements
        .iter()
        .filter_map(|element| element.text().filter(|name| is_name(name)).map(str::to_ascii_lowercase))
        .collect();
    if let Some(secret) = names.iter().find(|name| CREDENTIALS.contains(&name.as_str())) {
        return Err(format!("must be without {secret:?}: who reads the log could pass for the client"));
    }
    let is_fine = value.list().is_some_and(|elements| elements.len() == names.len())
        && names.iter().enumerate().all(|(at, name)| !names[..at].contains(name));
    is_fine.then_some(names).ok_or_else(|| {
        format!("must be a list of up to {WORDS_MAX} names of headers (letters, digits, - and _), each once")
    })
}

/// A list of some of `names`, each once.
pub(crate) fn some_of(names: &[&str]) -> impl Fn(&Value<'_>) -> Allowed<Vec<String>> {
    move |value| {
        let mut chosen: Vec<String> = Vec::new();
        let elements = value.list();
        let is_fine = elements.is_some_and(|elements| {
            elements.iter().all(|element| match element.text() {
                Some(name) if names.contains(&name) && !chosen.iter().any(|other| other == name) => {
                    chosen.push(name.to_owned());
                    true
                }
                Some(_) | None => false,
            })
        });
        is_fine.then_some(chosen).ok_or_else(|| {
            let names: Vec<String> = names.iter().map(|name| format!("{name:?}")).collect();
            format!("must be a list of some of {}, each at most once", names.join(", "))
        })
    }
}

/// An IP address and a port.
pub(crate) fn listen_addr(value: &Value<'_>) -> Allowed<SocketAddr> {
    let address = value.text().and_then(|text| text.parse().ok());
    address.ok_or_else(|| "must be an IP address and a port, such as 127.0.0.1:9090 or [::1]:9090".to_owned())
}

/// A level, or `tracing` filter directives. A lone word must be a level, though `tracing` would take `inof`
/// for the name of a module and log nothing else. Spans are not named: there are none.
pub(crate) fn log_level(value: &Value<'_>) -> Allowed<String> {
    let is_directive = |part: &str| {
        let part = part.trim();
        LEVELS.iter().any(|level| part.eq_ignore_ascii_case(level))
            || (part.contains('=') && !part.contains('['))
    };
    let text = value.text().filter(|text| text.len() <= TEXT_BYTES_MAX);
    text.filter(|text| {
        text.chars().all(|c| c.is_ascii_graphic() || c == ' ') && text.split(',').all(is_directive)
    })
    .map(str::to_owned)
    .ok_or_else(|| {
        format!("must be one of {}, or filter directives such as \"info,hyper=warn\"", LEVELS.join(", "))
    })
}
