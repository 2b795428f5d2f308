//! Why an attempt at an upstream failed: for the client, for the log, and for whoever decides whether to try again.
//! Never: carries a key; shows the client what the upstream said in its own words.

use std::borrow::Cow;
use std::time::Duration;

use handoff_shared::metric::FailureReason;

use super::event_reader::TooLarge;
use crate::failure::{Code, Failure};

/// The detail is cut to this many characters: it goes into a log line.
const DETAIL_CHARS_MAX: usize = 300;

/// A failed attempt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{}: {detail}", reason.as_str())]
pub struct Trouble {
    /// What the client is told when nobody else can answer.
    pub failure: Failure,
    /// For metrics, logs and the rules of trying again.
    pub reason: FailureReason,
    /// Who may be asked again.
    pub again: Again,
    /// For the log alone: what happened, in the upstream's words where it has any; one line.
    pub detail: String,
}

/// Who may be asked again after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Again {
    /// The same backend later, or another one now.
    Anybody,
    /// Another backend; this one would say the same again.
    Elsewhere,
    /// Nobody: the question itself is at fault.
    Nobody,
}

impl Trouble {
    /// The upstream may have begun with the question, and done what it was asked to do.
    pub(super) const fn may_have_begun(&self) -> bool {
        match self.reason {
            FailureReason::Broken
            | FailureReason::HeadTimeout
            | FailureReason::FirstContentTimeout
            | FailureReason::IdleTimeout
            | FailureReason::ContentTimeout
            | FailureReason::TotalTimeout
            | FailureReason::NotAStream
            | FailureReason::Malformed
            | FailureReason::TooLarge
            | FailureReason::Incomplete
            | FailureReason::ErrorEvent => true,
            FailureReason::Connect
            | FailureReason::ConnectTimeout
            | FailureReason::Tls
            | FailureReason::Queue
            | FailureReason::Server
            | FailureReason::Auth
            | FailureReason::RateLimited
            | FailureReason::Rejected
            | FailureReason::Redirect
            | FailureReason::Cooldown => false,
        }
    }

    /// A failure that the client would be told with these words.
    pub fn new(
        reason: FailureReason,
        code: Code,
        message: impl Into<Cow<'static, str>>,
        again: Again,
        detail: impl AsRef<str>,
    ) -> Self {
        let detail = detail.as_ref().chars().map(|c| if c.is_control() { ' ' } else { c });
        let detail = detail.take(DETAIL_CHARS_MAX).collect();
        Self { failure: Failure::new(code, message), reason, again, detail }
    }

    /// With the time at which it is worth to try again, as the upstream says.
    #[must_use]
    pub fn after(mut self, retry_after: Option<Duration>) -> Self {
        self.failure.retry_after = retry_after;
        self
    }

    /// An event that this dialect does not have.
    pub fn malformed(detail: impl AsRef<str>) -> Self {
        let message = "the upstream's answer cannot be read";
        Self::new(FailureReason::Malformed, Code::UpstreamError, message, Again::Anybody, detail)
    }

    /// An answer that is no stream of events.
    pub fn not_a_stream(detail: impl AsRef<str>) -> Self {
        let message = "the upstream's answer is no stream";
        Self::new(FailureReason::NotAStream, Code::UpstreamError, message, Again::Anybody, detail)
    }

    /// A question that this dialect cannot say.
    pub fn refused(failure: &Failure) -> Self {
        let detail = failure.to_string();
        Self { failure: failure.clone(), reason: FailureReason::Rejected, again: Again::Elsewhere, detail }
    }

    /// An event larger than allowed.
    pub fn too_large(error: &TooLarge) -> Self {
        let message = "the upstream's answer cannot be read";
        let detail = error.to_string();
        Self::new(FailureReason::TooLarge, Code::UpstreamError, message, Again::Elsewhere, detail)
    }

    /// A question that cannot be asked of this upstream.
    pub fn rejected(detail: impl AsRef<str>) -> Self {
        let message = "the upstream cannot be asked this";
        Self::new(FailureReason::Rejected, Code::UpstreamError, message, Again::Elsewhere, detail)
    }

    /// The stream ended before the answer did.
    pub fn incomplete(detail: impl AsRef<str>) -> Self {
        let message = "the upstream's answer ended early";
        Self::new(FailureReason::Incomplete, Code::StreamIncomplete, message, Again::Anybody, detail)
    }
}
