//! What our own Apache module puts before the payload: the byte 0x01, one line of JSON, a newline.
//! No JSON starts with that byte, so a message of another sender is never taken for one.

use serde::{Deserialize, Deserializer};
use serde_json::Value;

use super::error::BadHandoff;
use super::lenient::is_token;
use super::options::Method;

const MARK: u8 = 0x01;
/// The version that this worker speaks.
const VERSION: u32 = 1;

const TRACESTATE_BYTES_MAX: usize = 512;

/// The request as Apache saw it.
#[derive(Clone, Debug, Deserialize)]
pub struct Envelope {
    /// Always 1.
    pub v: u32,
    /// As Apache calls the request: visible ASCII. A bad one is none.
    #[serde(default, deserialize_with = "token")]
    pub request_id: Option<String>,
    /// As in the request line.
    #[serde(default)]
    pub method: Option<String>,
    /// Path and query.
    #[serde(default)]
    pub uri: Option<String>,
    /// `HTTP/1.1`.
    #[serde(default)]
    pub proto: Option<String>,
    /// The client's address, after mod_remoteip.
    #[serde(default)]
    pub client: Option<String>,
    /// The client came by TLS.
    #[serde(default)]
    pub tls: bool,
    /// The fd is one end of a socketpair that Apache relays.
    #[serde(default)]
    pub relay: bool,
    /// The forwarded request headers, names in lower case.
    #[serde(default)]
    pub headers: Vec<(String, String)>,
}

impl Envelope {
    /// The first header of this lower-case name, unless it is empty or could not have come by HTTP.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().find(|(known, _)| known == name)?;
        Some(value.as_str()).filter(|value| !value.is_empty() && !value.contains(char::is_control))
    }

    /// The header `tracestate`; several are one list. None that is longer than everybody must take, or no visible ASCII
    /// (W3C Trace Context, 3.3).
    #[must_use]
    pub fn tracestate(&self) -> Option<String> {
        let values =
            self.headers.iter().filter(|(name, _)| name == "tracestate").map(|(_, value)| value.trim());
        let list = values.filter(|value| !value.is_empty()).collect::<Vec<_>>().join(",");
        let is_visible = list.bytes().all(|byte| byte.is_ascii_graphic() || byte == b' ');
        Some(list).filter(|list| (1..=TRACESTATE_BYTES_MAX).contains(&list.len()) && is_visible)
    }

    /// The request's method.
    #[must_use]
    pub fn method(&self) -> Method {
        self.method.as_deref().map_or(Method::Get, Method::from_name)
    }
}

/// Apache takes it from whoever has set it: what cannot be used is no reason to refuse the question.
fn token<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    let value = Value::deserialize(deserializer)?;
    Ok(value.as_str().filter(|text| !text.is_empty() && is_token(text)).map(str::to_owned))
}

/// Parts a message into its envelope, where it has one, and its payload.
pub(super) fn split(message: &[u8]) -> Result<(Option<Envelope>, &[u8]), BadHandoff> {
    let Some((&MARK, rest)) = message.split_first() else {
        return Ok((None, message));
    };
    // A message that ends with its envelope has lost the newline to trimming.
    let end = rest.iter().position(|&byte| byte == b'\n').unwrap_or(rest.len());
    let (line, payload) = rest.split_at(end);
    let mut envelope: Envelope = serde_json::from_slice(line)
        .map_err(|_| BadHandoff::Envelope("not the JSON that mod_socket_handoff writes"))?;
    if envelope.v != VERSION {
        return Err(BadHandoff::Envelope("of another version: module and daemon must be upgraded together"));
    }
    for (name, _) in &mut envelope.headers {
        name.make_ascii_lowercase();
    }
    Ok((Some(envelope), payload))
}
