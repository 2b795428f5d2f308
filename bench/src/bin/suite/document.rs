//! The tables in docs/PERFORMANCE.md. In: its text, tables by name. Out: its text, with what stands between the
//! markers `<!-- bench:NAME -->` and `<!-- /bench:NAME -->` replaced. Never: touches a word outside of them.

use crate::error::Error;

/// `text` with `content` between the markers of this name.
///
/// # Errors
/// When the markers are not there, exactly once each, in order.
pub(crate) fn replace(text: &str, name: &str, content: &str) -> Result<String, Error> {
    let (begin, end) = (format!("<!-- bench:{name} -->\n"), format!("<!-- /bench:{name} -->\n"));
    let wrong = || {
        Error::Said(format!(
            "the document needs {} and {}, once each, on lines of their own",
            begin.trim(),
            end.trim()
        ))
    };
    let (before, rest) = text.split_once(&begin).ok_or_else(wrong)?;
    let (_, after) = rest.split_once(&end).ok_or_else(wrong)?;
    if after.contains(&begin) || after.contains(&end) || before.contains(&end) {
        return Err(wrong());
    }
    Ok(format!("{before}{begin}\n{}\n\n{end}{after}", content.trim()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario;

    const TEXT: &str = "# A\n\n<!-- bench:churn -->\n\nold\n\n<!-- /bench:churn -->\n\nwords\n<!-- bench:held -->\n<!-- /bench:held -->\n";

    #[test]
    fn only_what_stands_between_the_markers_changes() {
        let once = replace(TEXT, "churn", "| new |\n").unwrap();
        assert_eq!(once, TEXT.replace("old", "| new |"));
        assert_eq!(replace(&once, "churn", "| new |").unwrap(), once, "a second time changes nothing");
        let held = replace(TEXT, "held", "x").unwrap();
        assert!(held.ends_with("words\n<!-- bench:held -->\n\nx\n\n<!-- /bench:held -->\n"), "{held}");
        assert!(held.contains("old"));
    }

    #[test]
    fn markers_that_are_missing_or_doubled_are_an_error() {
        assert!(replace(TEXT, "many", "x").unwrap_err().to_string().contains("<!-- bench:many -->"));
        assert!(replace(&[TEXT, TEXT].concat(), "churn", "x").is_err());
        assert!(replace("<!-- /bench:a -->\n<!-- bench:a -->\n", "a", "x").is_err());
    }

    #[test]
    fn the_document_has_a_place_for_every_scenario() {
        let mut text = include_str!("../../../../docs/PERFORMANCE.md").to_owned();
        for name in scenario::ALL.iter().map(|scenario| scenario.name).chain(["machine", "soak"]) {
            text = replace(&text, name, "x").unwrap();
        }
    }
}
