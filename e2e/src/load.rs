//! People who stream while something happens to the daemon: long streams that were there before, whose every token is
//! timed, and 100 new handoffs a second. Out: that nobody noticed.

use std::io::Read;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crate::client::{Client, Response};
use crate::crowd::Crowd;
use crate::{PATIENCE, pause};

/// Between two tokens of the long streams.
const TOKEN_DELAY: Duration = Duration::from_millis(200);
/// Tokens of the long streams.
const TOKENS: usize = 60;
/// Long streams.
const LONG: usize = 6;
/// Between two new handoffs.
const INTERVAL: Duration = Duration::from_millis(10);
/// Before and after what happens.
const CALM: Duration = Duration::from_millis(500);

/// What one long stream heard.
struct Heard {
    response: Response,
    /// The longest silence between two reads after the first.
    largest_gap: Duration,
}

/// Hands over all the time, from before `happen` begins until after it ends; `happen` has a thread of its own.
/// Returns the number of short streams.
///
/// # Panics
/// When a stream is cut or late, or a handoff is lost or answered twice.
#[track_caller]
pub fn nobody_notices(hand_over: impl Fn(&str) -> Client, happen: impl FnOnce() + Send) -> usize {
    all_but(0, hand_over, happen)
}

/// As [`nobody_notices`]; but so many handoffs may have been in a supervisor's own hands when it was killed: received,
/// and not sent to a worker yet. They get no byte.
///
/// # Panics
/// As [`nobody_notices`].
#[track_caller]
pub fn all_but(lost_max: usize, hand_over: impl Fn(&str) -> Client, happen: impl FnOnce() + Send) -> usize {
    let payload = format!(
        r#"{{"prompt":"x","mock":{{"length":{TOKENS},"token_delay_ms":{}}}}}"#,
        TOKEN_DELAY.as_millis()
    );
    let long: Vec<JoinHandle<Heard>> = (0..LONG)
        .map(|_| {
            let mut client = hand_over(&payload);
            client.read_until("\n\n");
            thread::spawn(move || listen(client))
        })
        .collect();
    let crowd = thread::scope(|scope| {
        let happening = scope.spawn(|| {
            crate::throughout(CALM, || {});
            happen();
            crate::throughout(CALM, || {});
        });
        let (mut crowd, began_at, mut number) = (Crowd::default(), Instant::now(), 0_u32);
        while !happening.is_finished() {
            crowd.join(hand_over(r#"{"prompt":"x","mock":{"length":10,"token_delay_ms":20}}"#));
            number += 1;
            crowd.listen((began_at + INTERVAL * number).saturating_duration_since(Instant::now()));
        }
        happening.join().expect("what happens is as it should");
        crowd
    });
    let short = crowd.responses(PATIENCE);
    let lost = short.iter().filter(|response| response.head.is_empty() && response.body.is_empty()).count();
    assert!(lost <= lost_max, "{lost} handoffs got no byte");
    let answered = |response: &&Response| !response.head.is_empty() || !response.body.is_empty();
    for (number, response) in short.iter().filter(answered).enumerate() {
        assert!(response.is_complete() && response.heads() == 1, "handoff {number}: {response:?}");
    }
    for (number, heard) in long.into_iter().map(|long| long.join().expect("a listener")).enumerate() {
        let Heard { response, largest_gap } = heard;
        assert!(
            response.body.ends_with("event: done\ndata: [DONE]\n\n"),
            "long stream {number}: {response:?}"
        );
        // One token was read before.
        let tokens = response.body.matches(r#"data: {"content":"#).count() + 1;
        assert_eq!(tokens, TOKENS, "long stream {number}: {response:?}");
        assert!(largest_gap < 2 * TOKEN_DELAY, "long stream {number} heard nothing for {largest_gap:?}");
    }
    short.len()
}

/// The rest of a stream.
fn listen(mut client: Client) -> Heard {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 65536]);
    let (mut last, mut largest_gap) = (None, Duration::ZERO);
    let broken = loop {
        match client.read(&mut buffer) {
            Ok(0) => break None,
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => pause(),
            Err(error) => break Some(error.kind()),
        }
        let now = Instant::now();
        largest_gap = largest_gap.max(last.map_or(Duration::ZERO, |last| now - last));
        last = Some(now);
    };
    Heard { response: Response::parse(&bytes, broken), largest_gap }
}
