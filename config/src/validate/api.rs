//! An API over HTTP: its address, its key, its headers. In: a section. Out: a valid [`Api`]. Never: lets a configured
//! header stand in for one of HTTP's own, or for the key's.

use std::num::NonZeroU32;
use std::ops::RangeInclusive;

use super::section::Section;
use super::{connection, key};
use crate::allowed;
use crate::backend::{Anthropic, Api, Dialect, Secret};
use crate::reader::Reader;

const TOKENS: RangeInclusive<u32> = 1..=100_000_000;
const HEADER_NAME_BYTES_MAX: usize = 64;

/// Said by whoever sends the request: how it is framed, in what form the answer comes, who connects.
const OF_HTTP: [&str; 15] = [
    "accept",
    "accept-encoding",
    "connection",
    "content-encoding",
    "content-length",
    "content-type",
    "expect",
    "host",
    "keep-alive",
    "proxy-authorization",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Asks for every key that all dialects have. None: it has no base address and needs one.
pub(super) fn api(
    reader: &mut Reader<'_>,
    section: &Section,
    dialect: Dialect,
    base: Option<&str>,
) -> Option<Api> {
    let key = section.key("api_base");
    let base = match base {
        Some(default) => Some(reader.value(&key, default.to_owned(), allowed::base_address)),
        None => {
            let allowed = "set the API's address, http:// or https://";
            reader.required(section.path(), &key, allowed, allowed::base_address)
        }
    };
    let secret = key::key(reader, section);
    let headers = headers(reader, section, &dialect, secret.is_some());
    let x_forwarded_for = reader.value(&section.key("x_forwarded_for"), false, allowed::flag);
    let trace_context = reader.value(&section.key("trace_context"), true, allowed::flag);
    let connection = connection::connection(reader, section, base.as_deref().unwrap_or_default());
    Some(Api { dialect, base: base?, key: secret, headers, x_forwarded_for, trace_context, connection })
}

/// Asks for what Anthropic's API wants beside the request.
pub(super) fn anthropic(reader: &mut Reader<'_>, section: &Section) -> Anthropic {
    let tokens = reader.value(&section.key("max_tokens"), 4_096, allowed::whole(TOKENS));
    Anthropic {
        version: reader.value(&section.key("version"), "2023-06-01".into(), allowed::token),
        beta: reader.optional(&section.key("beta"), allowed::header_value),
        max_tokens: NonZeroU32::new(tokens).unwrap_or(NonZeroU32::MIN),
    }
}

fn headers(
    reader: &mut Reader<'_>,
    section: &Section,
    dialect: &Dialect,
    has_key: bool,
) -> Vec<(String, Secret)> {
    let path = section.key("headers");
    reader.table(&path);
    let mut headers: Vec<(String, Secret)> = Vec::new();
    for key in reader.beneath(&path) {
        let name = key.strip_prefix(&format!("{path}.")).unwrap_or(&key).to_ascii_lowercase();
        if let Some(fault) = fault_of_name(&name, dialect, has_key) {
            reader.refuse_all(&key, &fault);
        } else if headers.iter().any(|(other, _)| *other == name) {
            reader.refuse_all(&key, "this header is there twice");
        } else if let Some(value) = reader.value(&key, None, |value| allowed::header_value(value).map(Some)) {
            headers.push((name, Secret::new(value)));
        }
    }
    headers
}

/// What is wrong with the name of a header, if anything is.
fn fault_of_name(name: &str, dialect: &Dialect, has_key: bool) -> Option<String> {
    let is_name = (1..=HEADER_NAME_BYTES_MAX).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'));
    let of_key = match dialect {
        Dialect::OpenAi | Dialect::Responses | Dialect::Ollama => "authorization",
        Dialect::Anthropic(_) | Dialect::LangGraph(_) => "x-api-key",
    };
    let is_version =
        matches!(dialect, Dialect::Anthropic(_)) && matches!(name, "anthropic-version" | "anthropic-beta");
    if !is_name {
        Some(format!("a header's name must be 1 to {HEADER_NAME_BYTES_MAX} letters, digits, - and _"))
    } else if OF_HTTP.contains(&name) {
        Some("this header is handoffd's own".to_owned())
    } else if has_key && name == of_key {
        Some("the key goes into this header".to_owned())
    } else if is_version {
        Some("set it by the keys version and beta".to_owned())
    } else {
        None
    }
}
