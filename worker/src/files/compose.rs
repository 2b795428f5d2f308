//! Puts files where the question names them. In: the question's text, with `{reference}` where a file belongs. Out: its
//! parts, in order.
//!
//! Never: looks for references inside of what a file says; puts a file in twice.

use crate::request::Part;

/// A file of which everything is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Piece {
    /// Its name in the text.
    pub(super) reference: String,
    pub(super) part: Part,
}

/// What the text does not name: images and documents come before it, images of the site's list first; texts behind
/// it.
pub(super) fn compose(text: &str, images: Vec<Part>, pieces: Vec<Piece>) -> Vec<Part> {
    let mut pieces: Vec<Option<Piece>> = pieces.into_iter().map(Some).collect();
    let mut middle = Parts::default();
    let mut rest = text;
    while let Some((before, piece, behind)) = next_reference(rest, &mut pieces) {
        middle.text(before);
        middle.add(piece.part);
        rest = behind;
    }
    middle.text(rest);

    let (texts, others): (Vec<Piece>, Vec<Piece>) =
        pieces.into_iter().flatten().partition(|piece| piece.part.text().is_some());
    let mut parts = Parts::default();
    for part in images.into_iter().chain(others.into_iter().map(|piece| piece.part)).chain(middle.0) {
        parts.add(part);
    }
    for piece in texts {
        parts.text("\n\n");
        parts.add(piece.part);
    }
    parts.0
}

/// The first reference to a file that is still to be placed: the text before it, the file, the text behind it.
fn next_reference<'a>(text: &'a str, pieces: &mut [Option<Piece>]) -> Option<(&'a str, Piece, &'a str)> {
    let mut from = 0;
    while let Some(open) = text[from..].find('{').map(|at| from + at) {
        let inside = &text[open + 1..];
        let close = inside.find(['{', '}'])?;
        if inside[close..].starts_with('}') {
            let name = &inside[..close];
            let named = |piece: &&mut Option<Piece>| piece.as_ref().is_some_and(|p| p.reference == name);
            if let Some(piece) = pieces.iter_mut().find(named).and_then(Option::take) {
                return Some((&text[..open], piece, &inside[close + 1..]));
            }
        }
        from = open + 1;
    }
    None
}

/// Texts that follow each other are one.
#[derive(Default)]
struct Parts(Vec<Part>);

impl Parts {
    fn text(&mut self, text: &str) {
        match self.0.last_mut() {
            Some(Part::Text(before)) => before.push_str(text),
            Some(Part::Image { .. } | Part::Document { .. }) | None if !text.is_empty() => {
                self.0.push(Part::Text(text.to_owned()));
            }
            Some(Part::Image { .. } | Part::Document { .. }) | None => {}
        }
    }

    fn add(&mut self, part: Part) {
        match part {
            Part::Text(text) => self.text(&text),
            part @ (Part::Image { .. } | Part::Document { .. }) => self.0.push(part),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn text(text: &str) -> Part {
        Part::Text(text.to_owned())
    }

    fn image(base64: &str) -> Part {
        Part::Image { mime: "image/png".to_owned(), base64: base64.to_owned() }
    }

    fn piece(reference: &str, part: Part) -> Piece {
        Piece { reference: reference.to_owned(), part }
    }

    #[test]
    fn a_file_stands_where_the_text_names_it_first() {
        let pieces = vec![piece("a", text("AAA")), piece("b", image("BBB"))];
        let parts = compose("see {a}, {b}; {a} again, {c} {", vec![], pieces);
        assert_eq!(parts, [text("see AAA, "), image("BBB"), text("; {a} again, {c} {")]);
    }

    #[test]
    fn what_the_text_does_not_name_has_its_place_too() {
        let pieces = vec![piece("a", text("AAA")), piece("b", image("BBB")), piece("c", text("CCC"))];
        let parts = compose("look", vec![image("first")], pieces);
        assert_eq!(parts, [image("first"), image("BBB"), text("look\n\nAAA\n\nCCC")]);
    }

    #[test]
    fn a_file_cannot_name_another_one() {
        let pieces = vec![piece("a", text("{b}")), piece("b", text("secret"))];
        assert_eq!(compose("{a}", vec![], pieces), [text("{b}\n\nsecret")]);
    }

    #[test]
    fn braces_around_a_reference_are_text() {
        let pieces = vec![piece("a", text("A"))];
        assert_eq!(compose("{{a}} {x{a}", vec![], pieces), [text("{A} {x{a}")]);
    }

    proptest! {
        #[test]
        fn every_file_is_there_once_and_no_word_is_lost(before in "[^{}A]*", behind in "[^{}A]*", named: bool) {
            let question = if named { format!("{before}{{a}}{behind}") } else { format!("{before}{behind}") };
            let parts = compose(&question, vec![], vec![piece("a", image("AAA"))]);
            let words: String = parts.iter().filter_map(Part::text).collect();
            prop_assert_eq!(words, format!("{before}{behind}"));
            prop_assert_eq!(parts.iter().filter(|part| **part == image("AAA")).count(), 1);
        }
    }
}
