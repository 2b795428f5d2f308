//! Pages that were written for plain streams of text run unchanged, and show the answer to the character.

use handoff_e2e::browser::Browser;
use handoff_e2e::eventually;
use handoff_e2e::httpd::World;
use handoff_e2e::upstream::Answer;
use serde_json::{Value, json};

use crate::site::{EVENTSOURCE, LINE_READER, Site};

/// What an answer may hold, and a stream of events might be broken by; each is a piece of its own.
const PIECES: [&str; 24] = [
    "  two blanks, ",
    "Grüße, 世界 👩‍👩‍👧 e\u{301} ",
    "\n",
    "\n",
    "# a heading\n\n* a **list**\n    * and one in it\n",
    "```c\nint\tx;\n```\n",
    "data: no field",
    "\ndata:",
    "data",
    ":",
    " ",
    " : no comment\n",
    ": no comment either\n",
    "event: done\n",
    "id: no id:end\n",
    "retry: 1\n\n",
    "<b>&amp;</b>",
    "{\"error\":{\"message\":\"only text\"}}",
    "\\n is no line break\u{2028}, nor is \u{85} or \u{b} or \u{c}\n",
    "a\u{0}b \u{feff}c ",
    "\u{feff}",
    "\n\n\n",
    "trailing blanks  ",
    "\n",
];

/// An answer of these pieces. Before the fourth it waits for the gate `rest`.
fn answer(pieces: &[&str]) -> Answer {
    let chunk = |delta: Value, finish: Value| {
        let choice = json!({"index": 0, "delta": delta, "finish_reason": finish});
        json!({"id": "c", "object": "chat.completion.chunk", "choices": [choice]})
    };
    let mut answer = Answer::sse();
    for (number, piece) in pieces.iter().enumerate() {
        answer = if number == 3 { answer.wait_for("rest") } else { answer };
        answer = answer.event(&chunk(json!({ "content": piece }), Value::Null));
    }
    answer.event(&chunk(json!({}), json!("stop"))).send("data: [DONE]\n\n")
}

/// What the page shows of such an answer: first the pieces that have come, then all.
fn shows(site: &Site<'_>, page: &str, pieces: &[&str], seen: impl Fn(&str) -> String) {
    site.llm.script(answer(pieces));
    site.open(page);
    let early = seen(&pieces[..3].concat());
    eventually("the first pieces", || (site.browser.text("#output").len() >= early.len()).then_some(()));
    assert_eq!(site.browser.text("#output"), early);
    site.llm.open("rest");
    site.browser.wait("document.querySelector('#output.done')");
    assert_eq!(site.browser.text("#output"), seen(&pieces.concat()));
    assert_eq!(site.llm.request_count(), 1, "nobody asks twice");
}

fn shows_by_eventsource(site: &Site<'_>) {
    let pieces = [
        PIECES.as_slice(),
        &["[DONE]", "\r\na CRLF is a line break\ra CR too, and a CRLF in two pieces\r", "\n."],
    ]
    .concat();
    shows(site, EVENTSOURCE, &pieces, |text| text.replace("\r\n", "\n").replace('\r', "\n"));
}

/// Who cuts `data: ` off lines cannot see where a line of the answer ends, with us as with every stream of events: all but
/// the line breaks is there.
fn shows_by_lines(site: &Site<'_>) {
    shows(site, LINE_READER, &PIECES, |text| text.replace('\n', ""));
}

#[test]
fn by_eventsource() {
    let browser = Browser::start();
    for world in World::ALL {
        let site = Site::start(world, &browser);
        shows_by_eventsource(&site);
        site.was_asked(&["sent"]);
        browser.screenshot("eventsource");
    }
}

#[test]
fn by_lines_read_from_fetch() {
    let browser = Browser::start();
    for world in World::ALL {
        let site = Site::start(world, &browser);
        shows_by_lines(&site);
        site.was_asked(&["sent"]);
        browser.screenshot("line-reader");
    }
}

#[test]
fn through_a_relay_by_eventsource() {
    let browser = Browser::start();
    for world in World::ALL {
        let site = Site::relayed(world, &browser);
        shows_by_eventsource(&site);
        site.was_asked(&["relayed"]);
    }
}

#[test]
fn through_a_relay_by_lines_read_from_fetch() {
    let browser = Browser::start();
    for world in World::ALL {
        let site = Site::relayed(world, &browser);
        shows_by_lines(&site);
        site.was_asked(&["relayed"]);
    }
}
