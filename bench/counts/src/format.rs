//! One event, in each of the formats that clients read.

use std::hint::black_box;

use handoff_shared::message::Format;
use handoff_worker::event::Event;
use handoff_worker::format::{Stream, Writer};
use handoff_worker::request::Include;

use crate::{Case, Operation};

pub(crate) const CASES: &[Case] = &[
    Case::new("format.content_event", || writing(Format::Content, " answer")),
    Case::new("format.text_event", || writing(Format::Text, " answer")),
    Case::new("format.openai_event", || writing(Format::OpenAi, " answer")),
    Case::new("format.events_event", || writing(Format::Events, " answer")),
    Case::new("format.content_event_of_1_kb", || writing(Format::Content, &kilobyte())),
    Case::new("format.text_event_of_1_kb", || writing(Format::Text, &kilobyte())),
];

/// As a stream begins.
pub(crate) fn writer(format: Format) -> Writer {
    Writer::new(Stream {
        format,
        include: Include::default(),
        request_id: "ZfX0aX8AAQEAAFpmB1sAAAAD".into(),
        model: "gpt-4o-mini".into(),
        created_secs: 1_761_822_461,
    })
}

fn writing(format: Format, text: &str) -> Operation {
    let mut writer = writer(format);
    let event = Event::Content(text.to_owned());
    let mut out = Vec::new();
    Box::new(move || {
        writer.event(&mut out, black_box(&event));
        black_box(&out);
        out.clear();
    })
}

/// Lines with quotes and what is no ASCII.
fn kilobyte() -> String {
    "The file “data.csv” has 1,200 lines; each is read by itself:\n\tprint(\"line\");\n".repeat(12)
}
