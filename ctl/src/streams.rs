//! `handoffctl streams`: every session that a worker has.
//! In: the daemon's replies, as they come. Out: a row, or a JSON object, a stream.
//! Never: holds the whole list.

use std::io::{self, BufWriter, Write};

use handoff_shared::control::{Reply, Request, StreamStatus};

use crate::control::Place;
use crate::outcome::{Exit, Failure};

const HELP_TAIL: &str = "\
Phases:
  waiting    the answer has not begun
  streaming  bytes go out
  ending     all is said; the client has not hung up
  epitaph    a dead worker's stream is being ended

Exit codes:
  0  that is all of them
  1  refused, or a worker did not answer; the reason is on stderr
  2  wrong usage
  3  the daemon could not be reached
  4  no reply in time

Examples:
  handoffctl streams
  handoffctl streams --json | jq -r 'select(.age_ms > 600000).id'";

/// Whom to ask, and how to show it.
#[derive(Debug, clap::Args)]
#[command(after_help = HELP_TAIL)]
pub(crate) struct Args {
    /// Print one JSON object a line
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    place: Place,
}

/// Shows them.
pub(crate) fn run(args: &Args) -> Result<Exit, Failure> {
    let mut out = BufWriter::new(io::stdout().lock());
    if !args.json {
        let heads = ["STREAM", "SLOT", "PHASE", "AGE", "BYTES", "USER", "REQUEST"].map(str::to_owned);
        writeln!(out, "{}", line(&heads)).map_err(Failure::Output)?;
    }
    let shown = args.place.ask(&Request::Streams {}, |reply| match reply {
        Reply::Stream { stream } => match args.json {
            true => serde_json::to_string(&stream).map_err(io::Error::from),
            false => Ok(row(&stream)),
        }
        .and_then(|line| writeln!(out, "{line}"))
        .map_err(Failure::Output),
        Reply::Status { .. } | Reply::Done { .. } | Reply::Refused { .. } => Ok(()),
    });
    out.flush().map_err(Failure::Output)?;
    shown.map(|()| Exit::Complete)
}

fn row(stream: &StreamStatus) -> String {
    let StreamStatus { id, slot, phase, age_ms, bytes, user_id, request_id, generation: _, pid: _ } = stream;
    let or_dash = |text: &Option<String>| text.clone().unwrap_or_else(|| "-".to_owned());
    #[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
    let age = format!("{:.1}s", *age_ms as f64 / 1000.0);
    line(&[
        id.clone(),
        slot.to_string(),
        phase.clone(),
        age,
        bytes.to_string(),
        or_dash(user_id),
        or_dash(request_id),
    ])
}

fn line([id, slot, phase, age, bytes, user, request]: &[String; 7]) -> String {
    format!("{id:<16}  {slot:<4}  {phase:<9}  {age:>9}  {bytes:>10}  {user:<16}  {request}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_has_everything_and_dashes_for_what_is_not_known() {
        let stream = StreamStatus {
            id: "0000018bcfe56800".into(),
            slot: 1,
            generation: 2,
            pid: 3,
            phase: "streaming".into(),
            age_ms: 61_250,
            bytes: 4096,
            user_id: Some("u1".into()),
            request_id: None,
        };
        assert_eq!(
            row(&stream),
            "0000018bcfe56800  1     streaming      61.2s        4096  u1                -"
        );
    }
}
