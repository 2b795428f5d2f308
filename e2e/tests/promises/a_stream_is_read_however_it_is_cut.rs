//! A stream says the same however its bytes are cut, and whichever of the forms its format allows they have.

use handoff_e2e::Asker;
use handoff_e2e::asker::{ONCE, name};
use handoff_e2e::upstream::{Answer, Dialect, Protocol, Step, Talk, Upstream, words};
use serde_json::json;

fn asker(llm: &Upstream) -> Asker {
    Asker::in_every_dialect(llm, ONCE)
}

/// The same answer in all forms that this framing allows.
fn forms(answer: &Answer, dialect: Dialect) -> Vec<(&'static str, Answer)> {
    let bytes = Step::Send(b"\xef\xbb\xbf".to_vec());
    let mut forms = vec![
        ("as it is", answer.clone()),
        ("bytewise", answer.clone().bytewise()),
        ("in pieces of 7", answer.clone().in_pieces_of(7)),
        ("in one piece", answer.clone().in_pieces_of(1 << 20)),
        ("CRLF", answer.clone().line_ends("\r\n")),
        ("CRLF, bytewise", answer.clone().line_ends("\r\n").bytewise()),
        ("a byte order mark", answer.clone().first([bytes.clone()])),
        ("a byte order mark, bytewise", answer.clone().first([bytes]).bytewise()),
    ];
    if dialect == Dialect::Ollama {
        forms.push(("blank lines", answer.clone().line_ends("\n\n \r\n")));
        return forms;
    }
    let comments = answer.clone().replace("data:", ": a comment\nid: 7\nretry: 10\nunknown: x\n:\ndata:");
    forms.extend([
        ("CR", answer.clone().line_ends("\r")),
        ("CR, bytewise", answer.clone().line_ends("\r").bytewise()),
        ("no space", answer.clone().replace("data: ", "data:")),
        ("trailing spaces", answer.clone().replace("}\n", "}   \n")),
        ("several data lines", answer.clone().replace(",\"", "\ndata: ,\ndata:\"")),
        ("several data lines, CRLF, bytewise", {
            answer.clone().replace(",\"", "\ndata: ,\ndata:\"").line_ends("\r\n").bytewise()
        }),
        ("comments and other fields", comments.clone()),
        ("comments and other fields, CR, pieces of 3", comments.line_ends("\r").in_pieces_of(3)),
        ("many blank lines", answer.clone().line_ends("\n").replace("\n\n", "\n\n\n\n\n")),
    ]);
    forms
}

fn says_the_same(protocol: Protocol) {
    let llm = Upstream::start(protocol);
    let asker = asker(&llm);
    // Letters of one to four bytes, and ends of lines that are none.
    let special = "é\u{4e2d}\u{1f600}\u{2028}\u{85}";
    let text = words(10).replace("w4 ", special);
    for dialect in Dialect::ALL {
        let answer = Talk::new(dialect).answer().replace("w4 ", special);
        for (form, answer) in forms(&answer, dialect) {
            llm.script(answer);
            let told = asker.ask(&json!({"backend": name(dialect)}));
            assert_eq!(told.response.text(), text, "{dialect:?}, {protocol:?}, {form}: {told:?}");
            told.is_complete(&text);
        }
    }
    asker.adds_up(&[], &[("complete", u32::try_from(llm.request_count()).expect("few"))]);
}

#[test]
fn over_http_1() {
    says_the_same(Protocol::H1);
}

#[test]
fn over_http_2() {
    says_the_same(Protocol::H2c);
}

#[test]
fn and_passed_on_as_it_is_where_that_is_wanted() {
    let llm = Upstream::start(Protocol::H1);
    let asker = asker(&llm);
    let answer = Answer::anthropic().answer();
    for cut in [answer.clone(), answer.clone().bytewise(), answer.clone().line_ends("\r\n").in_pieces_of(5)] {
        llm.script(cut.clone());
        let told = asker.ask(&json!({"backend": "messages", "format": "raw"}));
        assert_eq!(told.response.body.as_bytes(), cut.body(), "{told:?}");
        assert_eq!(told.session["outcome"], "complete");
    }
}
