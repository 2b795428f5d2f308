//! Why there is no handoff: the status that the client gets, the word for the access log, the sentence for the error
//! log.

use crate::payload::Refused;
use crate::send::Unsent;

const UNAVAILABLE: i32 = 503;
/// The word for a 503, which says when to come back.
pub(crate) const UNAVAILABLE_OUTCOME: &str = "unavailable";

/// A handoff that is not made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Refusal {
    pub(crate) status: i32,
    pub(crate) outcome: &'static str,
    pub(crate) why: String,
}

impl Refusal {
    /// The socket is not where sockets may be.
    pub(crate) fn forbidden(why: &str) -> Self {
        Self { status: 403, outcome: "forbidden", why: why.to_owned() }
    }

    /// The configuration does not allow it.
    pub(crate) fn refused(why: &str) -> Self {
        Self { status: 500, outcome: "refused", why: why.to_owned() }
    }

    /// Something has failed.
    pub(crate) fn failed(why: &str) -> Self {
        Self { status: 500, outcome: "failed", why: why.to_owned() }
    }

    /// The daemon has taken it, and its answer is none.
    pub(crate) fn bad_gateway(status: i32, why: &str) -> Self {
        Self { status, outcome: "failed", why: why.to_owned() }
    }

    /// The request's body cannot be read: httpd has said how to answer.
    pub(crate) fn bad_body(status: i32) -> Self {
        Self { status, outcome: "failed", why: "the request's body cannot be read to its end".to_owned() }
    }

    pub(crate) fn unsent(unsent: &Unsent) -> Self {
        let why = format!("cannot hand over to {}: {}", unsent.path.display(), unsent.why());
        match unsent.is_unavailable() {
            true => Self { status: UNAVAILABLE, outcome: UNAVAILABLE_OUTCOME, why },
            false => Self::failed(&why),
        }
    }
}

impl From<Refused> for Refusal {
    fn from(refused: Refused) -> Self {
        match refused {
            Refused::TooLarge(limit) => Self::failed(&format!("the payload has more than {limit} bytes")),
            Refused::Io(error) => Self::failed(&format!("no room for the payload: {error}")),
        }
    }
}
