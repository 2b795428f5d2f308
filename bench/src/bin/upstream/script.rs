//! What every answer says. In: options. Out: server-sent events, one at a time, and when the next one is due.

use std::io::Write;

use nix::time::{ClockId, clock_gettime};
use serde_json::to_string;

use crate::Arguments;

const BEGIN: &str = r#"data: {"id":"chatcmpl-B3nCh0000000000000000000000000","object":"chat.completion.chunk","created":1755137933,"model":"bench-1","service_tier":"default","system_fingerprint":null,"choices":["#;

/// How far an answer has come.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Progress {
    Opening,
    /// So many tokens are still to come.
    Tokens(u32),
    Closing,
}

/// When an answer goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Pace {
    AtOnce,
    AfterInterval,
    /// That was all of it.
    Over,
}

/// The answer's parts, ready to be copied.
#[derive(Debug)]
pub(crate) struct Script {
    tokens: u32,
    at_once: bool,
    opening: Vec<u8>,
    /// Without a text it is a moment, between these two.
    token: Option<Vec<u8>>,
    before_stamp: Vec<u8>,
    after_stamp: Vec<u8>,
    closing: Vec<u8>,
}

impl Script {
    pub(crate) fn new(arguments: &Arguments) -> Self {
        let chunk = |delta: &str, finish: &str| {
            format!(
                "{BEGIN}{{\"index\":0,\"delta\":{delta},\"logprobs\":null,\"finish_reason\":{finish}}}]}}\n\n"
            )
        };
        let token = |text: &str| chunk(&format!("{{\"content\":{text}}}"), "null");
        let stamped = token("\" @|\"");
        let (before, after) = stamped.split_once('|').unwrap_or_default();
        let mut closing = chunk("{}", "\"stop\"");
        if arguments.usage {
            let (output, total) = (arguments.events, u64::from(arguments.events) + 11);
            closing.push_str(&format!(
                "{BEGIN}],\"usage\":{{\"prompt_tokens\":11,\"completion_tokens\":{output},\"total_tokens\":{total}}}}}\n\n"
            ));
        }
        closing.push_str("data: [DONE]\n\n");
        let text = to_string(&arguments.token).unwrap_or_default();
        Self {
            tokens: arguments.events,
            at_once: arguments.interval_ms == 0,
            opening: chunk(r#"{"role":"assistant","content":"","refusal":null}"#, "null").into_bytes(),
            token: (!arguments.stamp).then(|| token(&text).into_bytes()),
            before_stamp: before.as_bytes().to_vec(),
            after_stamp: after.as_bytes().to_vec(),
            closing: closing.into_bytes(),
        }
    }

    /// Puts the next event at the end of `out`. Not to be asked again once it was [`Pace::Over`].
    pub(crate) fn next(&self, progress: &mut Progress, out: &mut Vec<u8>) -> Pace {
        match *progress {
            Progress::Opening => {
                out.extend_from_slice(&self.opening);
                *progress = if self.tokens == 0 { Progress::Closing } else { Progress::Tokens(self.tokens) };
                Pace::AtOnce
            }
            Progress::Tokens(left) => {
                match &self.token {
                    Some(token) => out.extend_from_slice(token),
                    None => self.stamp(out),
                }
                if left > 1 {
                    *progress = Progress::Tokens(left - 1);
                    return if self.at_once { Pace::AtOnce } else { Pace::AfterInterval };
                }
                *progress = Progress::Closing;
                Pace::AtOnce
            }
            Progress::Closing => {
                out.extend_from_slice(&self.closing);
                Pace::Over
            }
        }
    }

    fn stamp(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.before_stamp);
        if let Ok(now) = clock_gettime(ClockId::CLOCK_MONOTONIC) {
            let written = write!(out, "{}{:09}", now.tv_sec(), now.tv_nsec());
            debug_assert!(written.is_ok(), "numbers into memory");
        }
        out.extend_from_slice(&self.after_stamp);
    }
}
