//! What clients are told when something fails: a code for programs, a status, a sentence for people.
//! Never: names the upstream's host, key or path.

use std::borrow::Cow;
use std::time::Duration;

use serde::Serialize;

use crate::json;
use crate::request::BadHandoff;

/// Where a 429 or 503 says nothing better.
const RETRY_AFTER_DEFAULT: Duration = Duration::from_secs(1);

/// A failure that the client will be told about.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}", code.as_str())]
pub struct Failure {
    /// For programs.
    pub code: Code,
    /// For people.
    pub message: Cow<'static, str>,
    /// When it is worth to try again.
    pub retry_after: Option<Duration>,
}

impl Failure {
    /// Without a time to try again.
    pub fn new(code: Code, message: impl Into<Cow<'static, str>>) -> Self {
        Self { code, message: message.into(), retry_after: None }
    }

    /// The `Retry-After` header: 429 and 503 always have one. Rounded up.
    #[must_use]
    pub fn retry_after_secs(&self) -> Option<u64> {
        let default = matches!(self.code.status(), 429 | 503).then_some(RETRY_AFTER_DEFAULT);
        let after = self.retry_after.or(default)?;
        Some(after.as_secs().saturating_add(u64::from(after.subsec_nanos() > 0)))
    }

    /// Appends `{"error":{"message","type","code"}}`.
    pub fn write_json(&self, out: &mut Vec<u8>) {
        json::write(out, self);
    }
}

impl From<BadHandoff> for Failure {
    fn from(bad: BadHandoff) -> Self {
        Self::new(Code::BadHandoff, bad.to_string())
    }
}

impl Serialize for Failure {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        #[derive(Serialize)]
        struct Body<'a> {
            error: Error<'a>,
        }
        #[derive(Serialize)]
        struct Error<'a> {
            message: &'a str,
            r#type: &'static str,
            code: &'static str,
        }
        let error = Error { message: &self.message, r#type: self.code.kind(), code: self.code.as_str() };
        Body { error }.serialize(serializer)
    }
}

/// What failed, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Code {
    /// The site's handoff makes no sense.
    BadHandoff,
    /// The handoff was larger than allowed.
    PayloadTooLarge,
    /// The upstream does not accept the question.
    InvalidRequest,
    /// The upstream does not accept our key.
    UpstreamAuth,
    /// The upstream could not be reached.
    UpstreamUnavailable,
    /// The upstream's head did not come in time.
    UpstreamTimeout,
    /// The first event did not come in time.
    FirstTokenTimeout,
    /// The upstream fell silent.
    StreamIdleTimeout,
    /// The upstream's stream ended early.
    StreamIncomplete,
    /// The upstream answered with an error.
    UpstreamError,
    /// The upstream asks for patience.
    RateLimited,
    /// There is no place for another stream.
    Overloaded,
    /// The worker that wrote this stream is gone.
    WorkerCrashed,
    /// The daemon is going away.
    ShuttingDown,
    /// The client stopped reading.
    ClientTooSlow,
    /// The stream was longer than allowed.
    StreamTooLong,
    /// An operator has ended it.
    Canceled,
}

impl Code {
    /// Every code, for tables that must have them all.
    pub const ALL: [Self; 17] = [
        Self::BadHandoff,
        Self::PayloadTooLarge,
        Self::InvalidRequest,
        Self::UpstreamAuth,
        Self::UpstreamUnavailable,
        Self::UpstreamTimeout,
        Self::FirstTokenTimeout,
        Self::StreamIdleTimeout,
        Self::StreamIncomplete,
        Self::UpstreamError,
        Self::RateLimited,
        Self::Overloaded,
        Self::WorkerCrashed,
        Self::ShuttingDown,
        Self::ClientTooSlow,
        Self::StreamTooLong,
        Self::Canceled,
    ];

    /// As clients see it.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::BadHandoff => "bad_handoff",
            Self::PayloadTooLarge => "payload_too_large",
            Self::InvalidRequest => "invalid_request",
            Self::UpstreamAuth => "upstream_auth",
            Self::UpstreamUnavailable => "upstream_unavailable",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::FirstTokenTimeout => "first_token_timeout",
            Self::StreamIdleTimeout => "stream_idle_timeout",
            Self::StreamIncomplete => "stream_incomplete",
            Self::UpstreamError => "upstream_error",
            Self::RateLimited => "rate_limited",
            Self::Overloaded => "overloaded",
            Self::WorkerCrashed => "worker_crashed",
            Self::ShuttingDown => "shutting_down",
            Self::ClientTooSlow => "client_too_slow",
            Self::StreamTooLong => "stream_too_long",
            Self::Canceled => "canceled",
        }
    }

    /// The HTTP status, as long as no head was sent.
    #[must_use]
    pub const fn status(self) -> u16 {
        match self {
            Self::BadHandoff | Self::InvalidRequest => 400,
            Self::ClientTooSlow => 408,
            Self::PayloadTooLarge => 413,
            Self::RateLimited => 429,
            Self::UpstreamAuth
            | Self::UpstreamUnavailable
            | Self::UpstreamError
            | Self::StreamIncomplete
            | Self::WorkerCrashed => 502,
            Self::Overloaded | Self::ShuttingDown | Self::Canceled => 503,
            Self::UpstreamTimeout
            | Self::FirstTokenTimeout
            | Self::StreamIdleTimeout
            | Self::StreamTooLong => 504,
        }
    }

    /// The error's type, in OpenAI's words.
    #[must_use]
    pub const fn kind(self) -> &'static str {
        match self.status() {
            400 | 413 => "invalid_request_error",
            429 => "rate_limit_error",
            408 | 504 => "timeout_error",
            _ => "server_error",
        }
    }
}

/// An error with its causes, without the words that are there already.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.ends_with(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    #[test]
    fn every_code_has_a_status_and_a_type_of_its_own_kind() {
        for code in Code::ALL {
            let kind = code.kind();
            let expected = match code.status() {
                400 | 413 => "invalid_request_error",
                429 => "rate_limit_error",
                502 | 503 => "server_error",
                408 | 504 => "timeout_error",
                other => panic!("{} has status {other}", code.as_str()),
            };
            assert_eq!(kind, expected, "{}", code.as_str());
        }
    }

    #[test]
    fn retry_after_is_never_earlier_than_asked_for() {
        let mut failure = Failure::new(Code::RateLimited, "later");
        assert_eq!(failure.retry_after_secs(), Some(1));
        failure.retry_after = Some(Duration::from_millis(2001));
        assert_eq!(failure.retry_after_secs(), Some(3));
        failure.retry_after = Some(Duration::MAX);
        assert_eq!(failure.retry_after_secs(), Some(u64::MAX));
        assert_eq!(Failure::new(Code::UpstreamError, "no").retry_after_secs(), None);
    }

    proptest! {
        #[test]
        fn an_error_is_valid_json_whatever_its_message(message: String, index in 0..Code::ALL.len()) {
            let failure = Failure::new(Code::ALL[index], message.clone());
            let mut out = Vec::new();
            failure.write_json(&mut out);
            let body: Value = serde_json::from_slice(&out).unwrap();
            prop_assert_eq!(body["error"]["message"].as_str(), Some(message.as_str()));
            prop_assert_eq!(body["error"]["code"].as_str(), Some(failure.code.as_str()));
            prop_assert_eq!(body["error"]["type"].as_str(), Some(failure.code.kind()));
        }
    }
}
