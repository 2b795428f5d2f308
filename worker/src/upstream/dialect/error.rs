//! What upstreams say when they fail. In: a status with its headers and body, or an event. Out: [`Trouble`].
//! Never: shows the client the upstream's sentence, trusts a number or a word without a bound, follows a redirect.
//!
//! A client is told a sentence of ours, with the upstream's machine word in brackets: words are for programs
//! (`context_length_exceeded`), sentences may hold anything.

mod said;
#[cfg(test)]
mod tests;
mod wait;

use std::time::{Duration, SystemTime};

use handoff_shared::metric::FailureReason;
use http::{HeaderMap, StatusCode};

use self::said::Said;
pub(super) use self::said::is_truthy;
use crate::failure::Code;
use crate::upstream::trouble::{Again, Trouble};

/// "Site is overloaded": Anthropic's, and of no standard.
const OVERLOADED: u16 = 529;

/// What an error's body says: a machine's word where it has one (`context_length_exceeded`, `insufficient_quota`;
/// lower case, digits and `_` only), and its sentence for the log.
#[must_use]
pub fn error_body(body: &[u8]) -> (Option<String>, String) {
    let said = Said::of_body(body);
    (said.words.into_iter().next(), said.sentence)
}

/// The trouble behind an answer that is no 200. `now` is for dates in `Retry-After`.
#[must_use]
pub fn of_status(status: StatusCode, headers: &HeaderMap, body: &[u8], now: SystemTime) -> Trouble {
    let said = Said::of_body(body);
    let class = match status.as_u16() {
        // 407: whoever is on the way does not know us, which is no fault of the question.
        401..=403 | 407 => Class::Auth,
        429 if said.words.iter().any(|word| Class::of_word(word) == Some(Class::Quota)) => Class::Quota,
        429 => Class::RateLimited,
        503 | OVERLOADED => Class::Overloaded,
        408 | 409 | 500.. => Class::Server,
        300..=399 => Class::Redirect,
        400..=499 => Class::Rejected,
        _ => Class::NotAStream,
    };
    let mut trouble = class.trouble(class.reason(), &said, &format!("status {}", status.as_u16()));
    trouble.again = match (headers.get("x-should-retry").map(http::HeaderValue::as_bytes), trouble.again) {
        (Some(b"true"), Again::Elsewhere | Again::Nobody) => Again::Anybody,
        (Some(b"false"), Again::Anybody) => Again::Elsewhere,
        // What this one does not have, most often the model, another one may.
        (_, Again::Nobody) if status == StatusCode::NOT_FOUND => Again::Elsewhere,
        (_, again) => again,
    };
    trouble.after(retry_after(status, headers, now))
}

/// The trouble behind an event that is an error; `json` is the event's data, or what is known to be the error in it.
pub(super) fn of_event(json: &str) -> Trouble {
    let said = Said::of_body(json.as_bytes());
    let class = said.words.iter().find_map(|word| Class::of_word(word));
    let class = class.or_else(|| said.status.and_then(Class::of_number)).unwrap_or(Class::Server);
    class.trouble(FailureReason::ErrorEvent, &said, "error event")
}

/// The trouble behind an answer that says 200 and is no stream: often an error all the same.
pub(in crate::upstream) fn instead_of_a_stream(content_type: &str, body: &[u8]) -> Trouble {
    let said = Said::of_body(body);
    let class = said.words.iter().find_map(|word| Class::of_word(word)).unwrap_or(Class::NotAStream);
    class.trouble(FailureReason::NotAStream, &said, &format!("200 with content type {content_type:?}"))
}

fn retry_after(status: StatusCode, headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let limits =
        || (status == StatusCode::TOO_MANY_REQUESTS).then(|| wait::until_limits_reset(headers)).flatten();
    wait::retry_after(headers, now).or_else(limits)
}

/// What an error is, whoever reports it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    Auth,
    /// There is no money left: it does not help to wait.
    Quota,
    RateLimited,
    Overloaded,
    Server,
    Rejected,
    Redirect,
    NotAStream,
}

impl Class {
    fn of_word(word: &str) -> Option<Self> {
        Some(match word {
            "invalid_api_key"
            | "authentication_error"
            | "permission_error"
            | "permission_denied"
            | "unauthenticated"
            | "unauthorized"
            | "forbidden"
            | "account_deactivated" => Self::Auth,
            "insufficient_quota"
            | "billing_error"
            | "billing_hard_limit_reached"
            | "insufficient_balance"
            | "insufficient_credits" => Self::Quota,
            "rate_limit_exceeded"
            | "rate_limit_error"
            | "rate_limited"
            | "too_many_requests"
            | "resource_exhausted"
            | "requests"
            | "tokens" => Self::RateLimited,
            "overloaded_error"
            | "overloaded"
            | "engine_overloaded"
            | "unavailable"
            | "unavailable_error"
            | "service_unavailable"
            | "slow_down" => Self::Overloaded,
            "server_error"
            | "api_error"
            | "internal"
            | "internal_error"
            | "internal_server_error"
            | "timeout_error"
            | "timeout" => Self::Server,
            "invalid_request_error"
            | "invalid_request"
            | "invalid_prompt"
            | "invalid_argument"
            | "context_length_exceeded"
            | "content_filter"
            | "not_found_error"
            | "model_not_found"
            | "request_too_large"
            | "unsupported_parameter"
            | "bad_request"
            | "bad_request_error" => Self::Rejected,
            _ => return None,
        })
    }

    /// A status that stands in an event.
    fn of_number(number: u64) -> Option<Self> {
        Some(match number {
            401 | 403 => Self::Auth,
            402 => Self::Quota,
            429 => Self::RateLimited,
            503 | 529 => Self::Overloaded,
            408 | 409 | 500..=599 => Self::Server,
            400..=499 => Self::Rejected,
            _ => return None,
        })
    }

    fn reason(self) -> FailureReason {
        match self {
            Self::Auth => FailureReason::Auth,
            Self::Quota | Self::RateLimited => FailureReason::RateLimited,
            Self::Overloaded | Self::Server => FailureReason::Server,
            Self::Rejected => FailureReason::Rejected,
            Self::Redirect => FailureReason::Redirect,
            Self::NotAStream => FailureReason::NotAStream,
        }
    }

    fn trouble(self, reason: FailureReason, said: &Said, what: &str) -> Trouble {
        let (code, sentence, again) = match self {
            Self::Auth => (Code::UpstreamAuth, "the upstream does not accept us", Again::Elsewhere),
            Self::Quota => (Code::RateLimited, "the upstream has nothing left for us", Again::Elsewhere),
            Self::RateLimited => (Code::RateLimited, "the upstream asks for patience", Again::Anybody),
            Self::Overloaded => (Code::Overloaded, "the upstream is overloaded", Again::Anybody),
            Self::Server => (Code::UpstreamError, "the upstream failed", Again::Anybody),
            Self::Rejected => {
                (Code::InvalidRequest, "the upstream does not accept the question", Again::Nobody)
            }
            Self::Redirect => (Code::UpstreamError, "the upstream points elsewhere", Again::Elsewhere),
            Self::NotAStream => (Code::UpstreamError, "the upstream's answer is no stream", Again::Anybody),
        };
        let Said { words, sentence: theirs, .. } = said;
        let all_words = words.join(" ");
        let detail = [what, &all_words, theirs].into_iter().filter(|part| !part.is_empty());
        let detail = detail.collect::<Vec<_>>().join(": ");
        match words.first() {
            Some(word) => Trouble::new(reason, code, format!("{sentence} ({word})"), again, detail),
            None => Trouble::new(reason, code, sentence, again, detail),
        }
    }
}
