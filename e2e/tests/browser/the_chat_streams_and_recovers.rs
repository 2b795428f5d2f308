//! The demo's chat, behind Apache's both worlds, by EventSource and by fetch: answers come word by word, stop stops them
//! everywhere, an error says so and the next try answers, a reload is not seen, and nobody is asked without being told to.

use std::time::Duration;

use handoff_e2e::browser::{Browser, Scheme};
use handoff_e2e::httpd::World;
use handoff_e2e::upstream::{Answer, Step};
use handoff_e2e::{eventually, throughout};
use nix::sys::signal::Signal;

use crate::chat::{Chat, TRANSPORTS};

/// From the event of the click in the page to the upstream's seeing that its client has left.
const CANCELLED_WITHIN: Duration = Duration::from_millis(100);
const CLICKS: usize = 10;
/// The slowest click is the machine's.
const IN_TIME: usize = 9;
/// Chromium's EventSource connects again after three seconds.
const LONGER_THAN_A_RECONNECT: Duration = Duration::from_secs(4);

fn in_both_worlds(promise: impl Fn(World, Chat<'_>)) {
    let browser = Browser::start();
    World::ALL.into_iter().for_each(|world| promise(world, Chat::open(world, &browser)));
}

#[test]
fn answers_appear_word_by_word() {
    in_both_worlds(|world, chat| {
        let talk = Answer::openai();
        for (number, transport) in TRANSPORTS.into_iter().enumerate() {
            let gate = format!("rest of {number}");
            chat.llm.script(talk.with_after(4, [Step::WaitFor(gate.clone())]));
            chat.ask(transport, &format!("question {number}"));
            chat.wait_for("streaming");
            chat.shows("w0 w1 w2 w3");
            if world == World::Event {
                chat.browser.screenshot(&format!("chat-streaming-{transport}"));
            }
            chat.llm.open(&gate);
            chat.wait_for("complete");
            chat.shows(&talk.text());
            assert!(chat.browser.text("#ttft").ends_with(" ms"), "{}", chat.browser.text("#ttft"));
        }
        // The second question brings what was said before.
        let asked = chat.llm.wait_for_request(1).request.json();
        let said: Vec<_> =
            asked["messages"].as_array().into_iter().flatten().map(|one| &one["content"]).collect();
        assert_eq!(said, ["question 0", &talk.text(), "question 1"]);
        chat.was_asked(2);
    });
}

#[test]
fn stop_stops_the_upstream() {
    let browser = Browser::start_alone();
    let chat = Chat::open(World::Prefork, &browser);
    let word = Answer::openai().parts().content.swap_remove(0);
    chat.llm.script(Answer::sse().head().step(Step::SendForever(word, Duration::from_millis(20))));
    let mut delays: Vec<Duration> = (0..CLICKS)
        .map(|number| {
            chat.ask(TRANSPORTS[number % TRANSPORTS.len()], "a long story");
            chat.wait_for("streaming");
            chat.browser.click("#stop");
            chat.wait_for("stopped");
            chat.cancelled_after(number)
        })
        .collect();
    delays.sort();
    eprintln!("from the click to the upstream, through Apache: {delays:?}");
    assert!(delays[IN_TIME - 1] < CANCELLED_WITHIN, "{delays:?}");
    chat.was_asked(CLICKS);
}

#[test]
fn an_error_shows_and_the_next_try_answers() {
    in_both_worlds(|world, chat| {
        let talk = Answer::openai();
        let broken = talk.broken_after(3, [Step::Cut]);
        let refused = Answer::openai_error(500, "server_error", "x", "no");
        for (number, transport) in TRANSPORTS.into_iter().enumerate() {
            chat.llm.script_each([broken.clone(), refused.clone(), talk.answer()]);
            chat.ask(transport, &format!("question {number}"));
            chat.wait_for("failed");
            chat.shows("w0 w1 w2");
            // In the middle of an answer an error is an event, which both can see.
            assert!(
                chat.browser.text(".error").contains("stream_incomplete"),
                "{}",
                chat.browser.text(".error")
            );
            chat.browser.screenshot(&format!("chat-failed-{transport}"));
            chat.browser.click(".retry");
            // Before its first word it is a status, which an EventSource is not told.
            let code = if transport == "transport-fetch" { "HTTP 50" } else { "No answer has begun" };
            chat.browser.wait(&format!("document.querySelector('.error')?.textContent.includes({code:?})"));
            chat.wait_for("failed");
            chat.browser.click(".retry");
            chat.wait_for("complete");
            chat.shows(&talk.text());
            assert_eq!(chat.browser.text(".error"), "", "{world:?}: nothing is left of the errors");
        }
        chat.was_asked(6);
    });
}

#[test]
fn nothing_connects_again_by_itself() {
    let browser = Browser::start();
    let chat = Chat::open(World::Event, &browser);
    let talk = Answer::openai();
    let mut asked = 0;
    for transport in TRANSPORTS {
        for (answer, state) in [(talk.broken_after(3, [Step::Cut]), "failed"), (talk.answer(), "complete")] {
            chat.llm.script(answer);
            chat.ask(transport, "question");
            chat.wait_for(state);
            asked += 1;
        }
    }
    throughout(LONGER_THAN_A_RECONNECT, || chat.was_asked(asked));
}

#[test]
fn a_reload_is_not_seen() {
    in_both_worlds(|_, chat| {
        let talk = Answer::openai();
        for (number, transport) in TRANSPORTS.into_iter().enumerate() {
            let gate = format!("rest of {number}");
            chat.llm.script(talk.with_after(4, [Step::WaitFor(gate.clone())]));
            chat.ask(transport, "question");
            chat.shows("w0 w1 w2 w3");
            chat.daemon.signal(Signal::SIGHUP);
            let rolled = number as f64 + 1.0;
            eventually("all workers are new", || {
                (chat.daemon.metric("handoffd_reloads_total{result=\"done\"") == rolled).then_some(())
            });
            chat.llm.open(&gate);
            chat.wait_for("complete");
            chat.shows(&talk.text());
        }
        chat.was_asked(2);
    });
}

#[test]
fn it_can_be_looked_at_by_day_and_by_night_and_on_a_narrow_screen() {
    for (scheme, name) in [(Scheme::Light, "light"), (Scheme::Dark, "dark")] {
        let browser = Browser::start_with(scheme);
        let chat = Chat::open(World::Event, &browser);
        chat.browser.screenshot(&format!("chat-welcome-{name}"));
        chat.ask("transport-fetch", "What is a handoff?");
        chat.wait_for("complete");
        chat.browser.screenshot(&format!("chat-{name}"));
        chat.browser.resize(500, 800);
        let widths = "[document.documentElement.scrollWidth, innerWidth]";
        chat.browser.wait("innerWidth <= 500");
        let widths = chat.browser.run(&format!("return {widths}"));
        assert!(widths[0].as_u64() <= widths[1].as_u64(), "nothing is wider than the screen: {widths}");
        chat.browser.screenshot(&format!("chat-narrow-{name}"));
    }
}
