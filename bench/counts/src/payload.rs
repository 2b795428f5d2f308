//! What a site sends, read.

use std::hint::black_box;

use handoff_worker::request::parse;

use crate::{Case, Operation};

pub(crate) const CASES: &[Case] = &[
    Case::new("payload.prompt_of_100_bytes", prompt),
    Case::new("payload.conversation_of_8_kb", conversation),
    Case::new("payload.conversation_of_8_kb_in_an_envelope", envelope),
];

const PROMPT: &str =
    r#"{"prompt":"How do I read a file line by line in PHP?","user_id":"u-4711","format":"content"}"#;

const ENVELOPE: &str = concat!(
    "\u{1}",
    r#"{"v":1,"request_id":"ZfX0aX8AAQEAAFpmB1sAAAAD","method":"GET","uri":"/chat.php?q=1","proto":"HTTP/1.1","#,
    r#""client":"203.0.113.9","tls":false,"relay":false,"headers":[["origin","https://www.example.com"],"#,
    r#"["traceparent","00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"]]}"#,
    "\n"
);

fn prompt() -> Operation {
    reading(PROMPT.to_owned())
}

fn conversation() -> Operation {
    reading(eight_kilobytes())
}

fn envelope() -> Operation {
    reading(format!("{ENVELOPE}{}", eight_kilobytes()))
}

fn reading(message: String) -> Operation {
    assert!(parse(message.as_bytes()).is_ok(), "it is a payload");
    Box::new(move || {
        let _ = black_box(parse(black_box(message.as_bytes())));
    })
}

/// A system message and ten turns, of prose, code and what is no ASCII, as PHP's `json_encode` writes it.
fn eight_kilobytes() -> String {
    const ASKED: &str = r#"{"role":"user","content":"Warum gibt \u201efgetcsv\u201c bei mir nur die erste Zeile aus?\n\n```php\n$file = fopen(\"data.csv\", \"r\");\n$row = fgetcsv($file, 0, \";\");\nprint_r($row);\n```\nDie Datei hat 1200 Zeilen, jede mit \u00e4hnlichen Feldern, und ich m\u00f6chte sie alle ausgeben."}"#;
    const SAID: &str = r#"{"role":"assistant","content":"Because fgetcsv() reads one line at a time: call it until it returns false.\n\n```php\n$file = fopen(\"data.csv\", \"r\");\nwhile (($row = fgetcsv($file, 0, \";\")) !== false) {\n    print_r($row);\n}\nfclose($file);\n```\n\nTwo more things: check the result of fopen() before you read, since it returns false when the file is not there, and think of the encoding, since fgetcsv() expects the one of the current locale. With SplFileObject and its flag READ_CSV the loop becomes a foreach."}"#;
    let mut messages =
        vec![r#"{"role":"system","content":"You are a patient tutor for PHP. Answer briefly."}"#];
    for _ in 0..9 {
        messages.extend([ASKED, SAID]);
    }
    messages.push(ASKED);
    let messages = messages.join(",");
    format!(
        r#"{{"messages":[{messages}],"model":"gpt-4o-mini","max_tokens":1024,"temperature":0.7,"user_id":"u-4711","format":"content","include":["usage"],"response_headers":{{"X-Chat":"42"}}}}"#
    )
}
