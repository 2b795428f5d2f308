//! What the site asks for. In: the bytes of one handoff message, trusted by nobody. Out: a [`ChatRequest`]
//! whose every value is valid, or a [`BadHandoff`] that names the key and what is allowed.
//! Never: panics, recurses with the depth of the JSON, repeats the payload's content in an error.
//!
//! Values that only an upstream understands (messages, `extra_body`) stay raw JSON: passed on untouched, byte
//! for byte, where a parsed tree would reorder keys, round numbers, and take many times the memory.

mod attached;
mod caller;
mod envelope;
mod error;
mod headers;
mod langgraph;
mod lenient;
mod message;
mod options;
mod part;
mod raw;
mod scan;
#[cfg(test)]
mod tests;
mod timeouts;

use std::borrow::Cow;
use std::time::Duration;

use handoff_config::backend::OnDisconnect;
use handoff_shared::message::Format;
use serde_json::value::RawValue;

pub use attached::{Attached, AttachedFile, AttachedImage, PayloadFile};
pub use caller::{Caller, Said};
pub use envelope::Envelope;
pub use error::BadHandoff;
pub use langgraph::LangGraphOptions;
pub use message::{Message, Role};
pub use options::{Include, Method, MockOptions};
pub use part::Part;
pub use timeouts::Timeouts;

use raw::Object;

/// One valid handoff.
#[derive(Clone, Debug)]
pub struct ChatRequest {
    /// The question, when there are no messages.
    pub prompt: Option<String>,
    /// The conversation; wins over the prompt.
    pub messages: Vec<Message>,
    /// The content of the last user message, else of the prompt, in order, where files are attached to it: it stands
    /// for that message's own. Empty: nothing is attached.
    pub parts: Vec<Part>,
    /// What `parts` are made of, as long as nobody has read it.
    pub attached: Attached,
    /// Goes first. None also when the messages have a system message of their own.
    pub system: Option<String>,
    /// None: the configured default.
    pub model: Option<String>,
    /// To the upstream.
    pub max_tokens: Option<u32>,
    /// To the upstream; finite.
    pub temperature: Option<f64>,
    /// Who asks; for the log, free of control characters.
    pub user_id: Option<String>,
    /// Visible ASCII, so safe in a header; from the payload, else Apache's; none: derives from the lease.
    pub request_id: Option<String>,
    /// A configured backend by name.
    pub backend: Option<String>,
    /// For LangGraph platforms.
    pub langgraph: LangGraphOptions,
    /// A JSON object to merge into the upstream's body.
    pub extra_body: Option<Box<RawValue>>,
    /// For the response head: token names, values free of control characters.
    pub response_headers: Vec<(String, String)>,
    /// How events are written.
    pub format: Format,
    /// What events carry besides the answer.
    pub include: Include,
    /// Between heartbeats.
    pub heartbeat: Option<Duration>,
    /// A variation of the backend.
    pub profile: Option<String>,
    /// How long the parts of the answer may take, where that is less than configured.
    pub timeouts: Timeouts,
    /// What becomes of the upstream's answer when the client leaves.
    pub on_disconnect: Option<OnDisconnect>,
    /// For the upstream's `X-Test-Pattern` header; visible ASCII.
    pub test_pattern: Option<String>,
    /// Where an interrupted client was; from the payload, else from its header.
    pub last_event_id: Option<String>,
    /// As Apache saw it, else as the payload says.
    pub client_ip: Option<String>,
    /// W3C trace context, visible ASCII; from the payload, else from the client's header.
    pub traceparent: Option<String>,
    /// What goes with a `traceparent` of the client's own, and with no other.
    pub tracestate: Option<String>,
    /// The page's origin; from the payload, else from the client's header.
    pub origin: Option<String>,
    /// As Apache saw it, else as the payload says.
    pub proto: Option<String>,
    /// As Apache saw it, else as the payload says, else GET.
    pub method: Method,
    /// What a developer asks of the mock.
    pub mock: MockOptions,
    /// What our own Apache module knows of the request.
    pub envelope: Option<Envelope>,
}

/// The payload's keys that are read. All others are ignored, whatever they hold.
const KEYS: &[&str] = &[
    "prompt",
    "messages",
    "system",
    "model",
    "max_tokens",
    "temperature",
    "user_id",
    "request_id",
    "backend",
    "extra_body",
    "response_headers",
    "format",
    "include",
    "heartbeat",
    "on_disconnect",
    "profile",
    "timeouts",
    "test_pattern",
    "last_event_id",
    "client_ip",
    "traceparent",
    "origin",
    "proto",
    "method",
    "mock",
    "thread_id",
    "assistant_id",
    "stream_mode",
    "langgraph_input",
    "payload_file",
    "attachments",
    "attachment_types",
    "images",
];

/// Keys beside `payload_file` that the file does not take over: the question is in the file.
const OF_THE_FILE_ALONE: &[&str] = &["payload_file", "prompt", "messages"];

/// Reads one handoff message.
///
/// # Errors
/// A [`BadHandoff`] says what the site has to change.
pub fn parse(message: &[u8]) -> Result<ChatRequest, BadHandoff> {
    let (envelope, payload) = envelope::split(trim(message))?;
    let (payload, object) = read_payload(payload).map_err(|bad| match (bad, &envelope) {
        (BadHandoff::NoPayload, Some(_)) => BadHandoff::NoPayloadInEnvelope,
        (bad, _) => bad,
    })?;
    let mut request = ChatRequest::read(&object, envelope)?;
    request.attached.payload_file = attached::payload_file(&object, payload)?;
    match request.attached.payload_file {
        Some(_) => Ok(request),
        None => request.checked(),
    }
}

/// Reads the payload that is in a file. What came beside the file's name fills in what the file does not say, except
/// the question itself.
///
/// # Errors
/// A [`BadHandoff`] says what the site has to change in the file.
pub fn parse_file(
    file: &[u8],
    from: PayloadFile,
    envelope: Option<Envelope>,
) -> Result<ChatRequest, BadHandoff> {
    let (_, mut object) = read_payload(file)?;
    if !object.value("payload_file").is_null() {
        return Err(object.refuse("payload_file", "absent in a payload file"));
    }
    let (_, beside) = read_payload(from.beside.as_bytes())?;
    object.fill_from(&beside, OF_THE_FILE_ALONE);
    ChatRequest::read(&object, envelope)?.checked()
}

fn read_payload(payload: &[u8]) -> Result<(&str, Object<'_>), BadHandoff> {
    let payload = trim(payload);
    if payload.is_empty() {
        return Err(BadHandoff::NoPayload);
    }
    let payload = std::str::from_utf8(payload).map_err(|_| BadHandoff::NotUtf8)?;
    if !payload.starts_with('{') {
        return Err(BadHandoff::NotAnObject);
    }
    let object = Object::parse(payload, KEYS, "messages")
        .map_err(|e| BadHandoff::Syntax { line: e.line(), column: e.column() })?;
    Ok((payload, object))
}

impl ChatRequest {
    /// The client has seen this stream's end: there is nothing left to send.
    #[must_use]
    pub fn already_finished(&self) -> bool {
        self.last_event_id.as_deref().is_some_and(|id| id.ends_with(":end"))
    }

    /// Apache passes the answer on, to a client whose socket it cannot hand over.
    #[must_use]
    pub fn is_relayed(&self) -> bool {
        self.envelope.as_ref().is_some_and(|envelope| envelope.relay)
    }

    /// What the user said last: the text of the parts, else of the last user message, else the prompt.
    #[must_use]
    pub fn last_user_text(&self) -> Cow<'_, str> {
        if !self.parts.is_empty() {
            return Cow::Owned(self.parts.iter().filter_map(Part::text).collect());
        }
        match self.messages.iter().rev().find(|message| message.role == Role::User) {
            Some(message) => Cow::Owned(message.text()),
            None => Cow::Borrowed(self.prompt.as_deref().unwrap_or_default()),
        }
    }

    /// A question, or something that needs none.
    fn checked(self) -> Result<Self, BadHandoff> {
        if self.asks_nothing() && self.langgraph.input.is_none() {
            return Err(BadHandoff::NoPrompt);
        }
        Ok(self)
    }

    /// An upstream would be paid for nothing.
    fn asks_nothing(&self) -> bool {
        let prompt_is_blank = self.prompt.as_deref().is_none_or(|prompt| prompt.trim().is_empty());
        let needs_none = self.method == Method::Head || self.already_finished();
        prompt_is_blank && self.messages.is_empty() && !needs_none
    }

    fn read(object: &Object<'_>, envelope: Option<Envelope>) -> Result<Self, BadHandoff> {
        let seen = envelope.as_ref();
        let header = |name| seen.and_then(|envelope| envelope.header(name)).map(str::to_owned);
        let messages = message::read(object)?;
        // Often the browser's own: a bad one is no reason to refuse its question.
        let traceparent = |text: &String| lenient::is_token(text);
        let of_site = object.text("traceparent")?;
        let of_client = header("traceparent").filter(|_| of_site.is_none()).filter(traceparent);
        let has_system = messages.iter().any(|message| message.role == Role::System);
        Ok(Self {
            prompt: object.text("prompt")?,
            system: object.text("system")?.filter(|_| !has_system),
            messages,
            parts: Vec::new(),
            attached: Attached::read(object)?,
            model: object.label("model")?,
            max_tokens: object.number("max_tokens", "a whole number from 1", |n| *n > 0)?,
            temperature: object.number("temperature", "a number", |t: &f64| t.is_finite())?,
            user_id: object.label("user_id")?,
            request_id: object.token("request_id")?.or_else(|| seen.and_then(|e| e.request_id.clone())),
            backend: object.label("backend")?,
            langgraph: object.langgraph()?,
            extra_body: object.raw_object("extra_body")?,
            response_headers: headers::read(object)?,
            format: object.format()?,
            include: object.include()?,
            heartbeat: object.heartbeat()?,
            profile: object.label("profile")?,
            timeouts: object.timeouts()?,
            on_disconnect: object.on_disconnect()?,
            test_pattern: object.token("test_pattern")?,
            last_event_id: object.text("last_event_id")?.or_else(|| header("last-event-id")),
            client_ip: seen.and_then(|e| e.client.clone()).or(object.label("client_ip")?),
            tracestate: of_client.as_ref().and_then(|_| seen?.tracestate()),
            traceparent: of_site.filter(traceparent).or(of_client),
            origin: object.label("origin")?.or_else(|| header("origin")),
            proto: seen.and_then(|e| e.proto.clone()).or(object.label("proto")?),
            method: match seen {
                Some(envelope) => envelope.method(),
                None => object.text("method")?.map_or(Method::Get, |name| Method::from_name(&name)),
            },
            mock: object.mock()?,
            envelope,
        })
    }
}

/// Without the NULs and white space around it: the module sends one NUL for no data, PHP adds newlines.
fn trim(mut bytes: &[u8]) -> &[u8] {
    let blank = |byte: &u8| byte.is_ascii_whitespace() || matches!(byte, 0 | 0x0b);
    while let Some((_, rest)) = bytes.split_first().filter(|(first, _)| blank(first)) {
        bytes = rest;
    }
    while let Some((_, rest)) = bytes.split_last().filter(|(last, _)| blank(last)) {
        bytes = rest;
    }
    bytes
}
