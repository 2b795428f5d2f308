//! Any text, in every format, is a sequence of well-formed events: no line that is not a field or a comment.
#![no_main]

use handoff_shared::message::Format;
use handoff_worker::event::Event;
use handoff_worker::format::{Stream, Writer};
use handoff_worker::request::Include;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    for format in [Format::Content, Format::Text, Format::OpenAi, Format::Events] {
        let stream = Stream {
            format,
            include: Include::default(),
            request_id: "r".to_owned(),
            model: "m".into(),
            created_secs: 0,
        };
        let mut writer = Writer::new(stream);
        let mut out = Vec::new();
        writer.event(&mut out, &Event::Content(text.to_owned()));
        writer.end(&mut out);
        let out = String::from_utf8(out).expect("UTF-8 in, UTF-8 out");
        assert!(out.ends_with("\n\n") && !out.contains('\r'));
        for line in out.lines() {
            let known = ["data: ", "event: ", "id: ", ":"].iter().any(|field| line.starts_with(field));
            assert!(line.is_empty() || known || line == "data:", "{line:?}");
        }
    }
});
