//! Each example in docs/PROTOCOL.md, sent to a running daemon, is answered byte for byte as the document says.

use std::io::{Read, Write};

use handoff_e2e::{Daemon, operator};

const DOCUMENT: &str = include_str!("../../../docs/PROTOCOL.md");

#[test]
fn every_handoff_in_the_document_gets_the_documented_answer() {
    let daemon = Daemon::start("");
    let mut examples = 0;
    for (handoff, kind, expected) in examples_of(DOCUMENT) {
        // The one byte that cannot stand in a document.
        let mut client = daemon.hand_over(handoff.replacen("\\x01", "\x01", 1));
        match kind {
            "answer" => {
                let mut text = String::new();
                client.read_to_string(&mut text).expect("an answer");
                assert_eq!(without_time(&text), on_the_wire(expected), "{handoff}");
            }
            "status" => {
                let response = client.response();
                let status = format!("{} {}", response.status, response.error_code().unwrap_or_default());
                assert_eq!(status, expected.trim(), "{handoff}");
            }
            other => panic!("an example of kind {other}"),
        }
        examples += 1;
    }
    assert_eq!(examples, 13, "examples in the document");
}

#[test]
fn every_request_in_the_document_gets_the_documented_reply() {
    let daemon = Daemon::start("");
    let mut examples = 0;
    for rest in DOCUMENT.split("```request\n").skip(1) {
        let (request, rest) = rest.split_once("```\n```reply\n").expect("a reply follows its request");
        let expected = rest.split("```").next().expect("an end");
        let mut connection = operator::dial(&daemon);
        connection.write_all(request.as_bytes()).expect("a request");
        let mut reply = String::new();
        connection.read_to_string(&mut reply).expect("a reply");
        assert_eq!(reply, expected, "{request}");
        examples += 1;
    }
    assert_eq!(examples, 2, "examples in the document");
}

/// Handoff, kind of what is expected, and what is expected.
fn examples_of(document: &str) -> impl Iterator<Item = (&str, &str, &str)> {
    document.split("```handoff\n").skip(1).map(|rest| {
        let (handoff, rest) = rest.split_once("\n```\n```").expect("an answer follows its handoff");
        let (kind, rest) = rest.split_once('\n').expect("a block");
        let expected = rest.split("```").next().expect("an end");
        (handoff, kind, expected)
    })
}

/// `"created":1795228255` becomes `"created":0`.
fn without_time(text: &str) -> String {
    let mut parts = text.split("\"created\":");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + "\"created\":0" + part.trim_start_matches(|c: char| c.is_ascii_digit())
    })
}

/// In the document lines end as lines do; on the wire those of a head end with CR LF, and a JSON body has no
/// line end at all.
fn on_the_wire(documented: &str) -> String {
    let (head, body) = documented.split_once("\n\n").expect("a head ends with an empty line");
    let body = if body.starts_with('{') { body.trim_end() } else { body };
    format!("{}\r\n\r\n{body}", head.replace('\n', "\r\n"))
}
