//! How long a site is willing to wait for the parts of one answer: never longer than what is configured.

use std::time::Duration;

use handoff_config::backend::Timeouts as Configured;

use super::error::BadHandoff;
use super::raw::{Keys, Object};

const SECS_MIN: f64 = 0.001;
const SECS_MAX: f64 = 86_400.0;

/// The payload's `timeouts`; those that are missing stay as configured.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    /// Name resolution and TCP.
    pub connect: Option<Duration>,
    /// Until the head of the upstream's answer.
    pub head: Option<Duration>,
    /// Until the first meaningful event.
    pub first_content: Option<Duration>,
    /// Without any byte.
    pub idle: Option<Duration>,
    /// Without a meaningful event.
    pub idle_content: Option<Duration>,
    /// The whole answer.
    pub total: Option<Duration>,
}

impl Timeouts {
    /// What is configured, where it is not longer than asked for.
    #[must_use]
    pub fn lower(&self, configured: Configured) -> Configured {
        let lower = |asked: Option<Duration>, configured: Duration| {
            asked.map_or(configured, |asked| asked.min(configured))
        };
        Configured {
            connect: lower(self.connect, configured.connect),
            head: lower(self.head, configured.head),
            first_content: lower(self.first_content, configured.first_content),
            idle: lower(self.idle, configured.idle),
            idle_content: lower(self.idle_content, configured.idle_content),
            total: match (self.total, configured.total) {
                (Some(asked), Some(configured)) => Some(asked.min(configured)),
                (asked, configured) => asked.or(configured),
            },
            ..configured
        }
    }
}

impl Object<'_> {
    pub(super) fn timeouts(&self) -> Result<Timeouts, BadHandoff> {
        let Some(json) = self.object("timeouts")? else {
            return Ok(Timeouts::default());
        };
        let keys = Keys::Only(&["connect", "head", "first_content", "idle", "idle_content", "total"]);
        let timeouts =
            Object::read("timeouts.", json, keys).ok_or_else(|| self.refuse("timeouts", "an object"))?;
        let seconds = |key| {
            let allowed = "a number of seconds from 0.001 to 86400";
            let secs = timeouts.number(key, allowed, |secs| (SECS_MIN..=SECS_MAX).contains(secs))?;
            Ok(secs.map(Duration::from_secs_f64))
        };
        Ok(Timeouts {
            connect: seconds("connect")?,
            head: seconds("head")?,
            first_content: seconds("first_content")?,
            idle: seconds("idle")?,
            idle_content: seconds("idle_content")?,
            total: seconds("total")?,
        })
    }
}
