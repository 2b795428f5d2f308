//! What an answer with an error status means.

use std::time::SystemTime;

use handoff_shared::metric::FailureReason;
use http::{HeaderMap, StatusCode};

use crate::failure::Code;
use crate::upstream::trouble::{Again, Trouble};

/// A status other than success.
#[must_use]
pub fn of_status(status: StatusCode, _headers: &HeaderMap, _body: &[u8], _now: SystemTime) -> Trouble {
    let message = "the upstream answered with an error";
    Trouble::new(FailureReason::Server, Code::UpstreamError, message, Again::Anybody, status.as_str())
}
