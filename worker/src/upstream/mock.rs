//! The embedded upstream: a canned answer, word by word, with the faults that a developer asks for.
//! In: configuration and the last question. Out: steps, each with the delay before it.
//! Never: needs a network, keeps more than the question and its frame.

use std::num::NonZeroU32;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use handoff_config::backend::Mock;

use crate::alarm::Alarm;
use crate::event::{Event, Usage};
use crate::failure::{Code, Failure};
use crate::moment::{Millis, Moment};
use crate::request::{ChatRequest, MockOptions};

/// A longer word is sent in pieces: prompts may come without any space.
const WORD_BYTES_MAX: usize = 64;

const BEFORE_ECHO: &str = "Hello from handoffd! You asked: ";
const AFTER_ECHO: &str = "\n\nThis answer comes from the embedded mock, word by word, and costs nothing.";

/// What comes next.
#[derive(Clone, Debug)]
pub struct Step {
    /// To wait before it.
    pub delay: Duration,
    /// An event, or the failure that ends the answer.
    pub event: Result<Event, Failure>,
}

/// One answer: its words, the finish, the usage; then nothing more.
#[derive(Clone, Debug)]
pub struct Answer {
    prompt: Box<str>,
    /// Where the next word begins, in bytes of the whole text.
    position: usize,
    length: Option<NonZeroU32>,
    token_delay: Millis,
    first_token_delay: Millis,
    fail_at: Option<NonZeroU32>,
    burst: Option<NonZeroU32>,
    prompt_words: u64,
    words_sent: u64,
    events_sent: u64,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Words,
    Usage,
    Over,
}

impl Answer {
    /// The answer to this prompt. The request's options count only where the configuration allows it.
    #[must_use]
    pub fn new(config: &Mock, request: &MockOptions, prompt: &str) -> Self {
        let request = if config.allow_request_options { *request } else { MockOptions::default() };
        Self {
            prompt: prompt.into(),
            position: 0,
            length: request.length.or(config.length),
            token_delay: request.token_delay.unwrap_or(config.token_delay).into(),
            first_token_delay: request.first_token_delay.unwrap_or(config.first_token_delay).into(),
            fail_at: request.fail_at.or(config.fail_at),
            burst: config.burst,
            prompt_words: prompt.split_whitespace().map(|_| 1).sum(),
            words_sent: 0,
            events_sent: 0,
            stage: Stage::Words,
        }
    }

    /// To wait before the next step.
    fn delay(&self) -> Duration {
        if self.events_sent == 0 {
            self.first_token_delay.duration()
        } else if self.stage == Stage::Words && self.has_words() {
            self.token_delay.duration()
        } else {
            Duration::ZERO
        }
    }

    fn next_event(&mut self) -> Option<Event> {
        match self.stage {
            Stage::Words if self.has_words() => Some(Event::Content(self.next_word())),
            Stage::Words => {
                self.stage = Stage::Usage;
                Some(Event::Finish { reason: "stop".to_owned() })
            }
            Stage::Usage => {
                self.stage = Stage::Over;
                Some(Event::Usage(Usage {
                    prompt_tokens: self.prompt_words,
                    completion_tokens: self.words_sent,
                    total_tokens: self.prompt_words + self.words_sent,
                    ..Usage::default()
                }))
            }
            Stage::Over => None,
        }
    }

    /// The text once, or as many words as asked for.
    fn has_words(&self) -> bool {
        match self.length {
            None => self.position < self.text_bytes(),
            Some(length) => self.words_sent < u64::from(length.get()),
        }
    }

    /// From the beginning again where the text ends.
    fn next_word(&mut self) -> String {
        let is_again = self.position == self.text_bytes();
        if is_again {
            self.position = 0;
        }
        let mut word = self.window();
        word.truncate(word_length(&word));
        self.position += word.len();
        self.words_sent += 1;
        if is_again {
            word.insert(0, ' ');
        }
        word
    }

    /// The text is made when it is said: it is not kept for each answer.
    fn parts(&self) -> [&str; 3] {
        [BEFORE_ECHO, &self.prompt, AFTER_ECHO]
    }

    fn text_bytes(&self) -> usize {
        self.parts().iter().map(|part| part.len()).sum()
    }

    /// What may be the next word, and some of what follows.
    fn window(&self) -> String {
        let mut window = String::with_capacity(WORD_BYTES_MAX);
        let mut skipped = self.position;
        for part in self.parts() {
            let rest = &part[skipped.min(part.len())..];
            skipped = skipped.saturating_sub(part.len());
            let fits = &rest[..rest.floor_char_boundary(WORD_BYTES_MAX - window.len())];
            window.push_str(fits);
            if fits.len() < rest.len() {
                break;
            }
        }
        window
    }
}

impl Iterator for Answer {
    type Item = Step;

    fn next(&mut self) -> Option<Step> {
        let delay = self.delay();
        let event = self.next_event()?;
        self.events_sent += 1;
        if self.fail_at.is_some_and(|number| u64::from(number.get()) == self.events_sent) {
            self.stage = Stage::Over;
            let failure = Failure::new(Code::UpstreamError, "the mock fails here, as it was told to");
            return Some(Step { delay, event: Err(failure) });
        }
        Some(Step { delay, event: Ok(event) })
    }
}

/// Bytes of the first word, with the white space in front of it, as models split their tokens.
fn word_length(text: &str) -> usize {
    let mut has_begun = false;
    let end = text.find(|c: char| {
        let ends = has_begun && c.is_whitespace();
        has_begun |= !c.is_whitespace();
        ends
    });
    end.unwrap_or(text.len())
}

/// An answer with its delays.
#[derive(Debug)]
pub(super) struct Playing {
    steps: Answer,
    /// For the next step, whose time this is. A wake-up that comes late delays one step, and not all that follow.
    is_waiting: bool,
    due_at: Option<Moment>,
    /// Steps that came together so far.
    together: u32,
}

impl Playing {
    pub(super) fn new(config: &Mock, request: &ChatRequest) -> Self {
        Self {
            steps: Answer::new(config, &request.mock, &request.last_user_text()),
            is_waiting: false,
            due_at: None,
            together: 0,
        }
    }

    /// The next event; none after the last.
    pub(super) fn poll_next(
        &mut self,
        cx: &mut Context<'_>,
        alarm: &Alarm,
    ) -> Poll<Option<Result<Event, Failure>>> {
        let now = alarm.now();
        if !self.is_waiting {
            if self.steps.burst.is_some_and(|burst| self.together >= burst.get()) {
                // As if the rest were on its way.
                self.together = 0;
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            self.due_at = Some((self.due_at.unwrap_or(now) + self.steps.delay()).max(now));
            self.is_waiting = true;
        }
        ready!(alarm.poll_until(self.due_at.unwrap_or(now)));
        self.is_waiting = false;
        self.together += 1;
        Poll::Ready(self.steps.next().map(|step| step.event))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn config() -> Mock {
        Mock {
            token_delay: Duration::from_millis(50),
            first_token_delay: Duration::from_millis(200),
            length: None,
            fail_at: None,
            burst: None,
            allow_request_options: false,
        }
    }

    fn words(answer: Answer) -> Vec<String> {
        answer
            .filter_map(|step| match step.event {
                Ok(Event::Content(word)) => Some(word),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn an_answer_is_words_then_the_finish_then_the_usage() {
        let steps: Vec<Step> = Answer::new(&config(), &MockOptions::default(), "two words").collect();
        let [words @ .., finish, usage] = steps.as_slice() else { panic!("{steps:?}") };
        assert!(matches!(&finish.event, Ok(Event::Finish { reason }) if reason == "stop"));
        let Ok(Event::Usage(usage)) = &usage.event else { panic!("{usage:?}") };
        assert_eq!((usage.prompt_tokens, usage.completion_tokens), (2, words.len() as u64));
        assert_eq!(usage.total_tokens, 2 + words.len() as u64);
    }

    #[test]
    fn the_first_word_waits_for_the_first_token_delay_and_the_end_for_nothing() {
        let steps: Vec<Step> = Answer::new(&config(), &MockOptions::default(), "hi").collect();
        let delays: Vec<u128> = steps.iter().map(|step| step.delay.as_millis()).collect();
        let [first, words @ .., finish, usage] = delays.as_slice() else { panic!("{delays:?}") };
        assert_eq!((*first, *finish, *usage), (200, 0, 0));
        assert!(words.iter().all(|delay| *delay == 50));
    }

    #[test]
    fn what_waits_for_nothing_is_ready_at_once() {
        let at_once = Mock { token_delay: Duration::ZERO, first_token_delay: Duration::ZERO, ..config() };
        let alarm = Alarm::begin();
        let mut playing = Playing::new(&at_once, &crate::request::parse(br#"{"prompt":"hi"}"#).unwrap());
        let mut cx = Context::from_waker(std::task::Waker::noop());
        while let Poll::Ready(event) = playing.poll_next(&mut cx, &alarm) {
            if event.is_none() {
                return;
            }
        }
        panic!("it waits: {playing:?}");
    }

    #[test]
    fn a_length_is_kept_exactly_and_repeats_the_text_with_a_space() {
        for length in [1, 7, 100] {
            let config = Mock { length: NonZeroU32::new(length), ..config() };
            let words = words(Answer::new(&config, &MockOptions::default(), "hi"));
            assert_eq!(words.len(), length as usize);
            assert_eq!(words.concat().split_whitespace().count(), length as usize);
        }
    }

    #[test]
    fn a_failure_comes_instead_of_its_event_and_is_the_last() {
        for number in [1, 3] {
            let config = Mock { fail_at: NonZeroU32::new(number), ..config() };
            let mut answer = Answer::new(&config, &MockOptions::default(), "hi");
            for _ in 1..number {
                assert!(answer.next().unwrap().event.is_ok());
            }
            assert_eq!(answer.next().unwrap().event.unwrap_err().code, Code::UpstreamError);
            assert!(answer.next().is_none());
        }
    }

    #[test]
    fn the_request_decides_only_where_it_may() {
        let request = MockOptions { length: NonZeroU32::new(2), ..MockOptions::default() };
        assert!(words(Answer::new(&config(), &request, "hi")).len() > 2);
        let config = Mock { allow_request_options: true, ..config() };
        assert_eq!(words(Answer::new(&config, &request, "hi")).len(), 2);
    }

    proptest! {
        #[test]
        fn the_words_are_the_text_and_each_is_short(prompt: String) {
            let words = words(Answer::new(&config(), &MockOptions::default(), &prompt));
            prop_assert_eq!(words.concat(), [BEFORE_ECHO, &prompt, AFTER_ECHO].concat());
            prop_assert!(words.iter().all(|word| !word.is_empty() && word.len() <= WORD_BYTES_MAX));
        }
    }
}
