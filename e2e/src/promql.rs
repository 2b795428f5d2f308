//! What a PromQL query speaks of. In: its text. Out: metrics, labels and values that it names.
//!
//! Never: computes anything; accepts a word that it does not know.

/// One query.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Query {
    /// Metrics, in the order of the text.
    pub selectors: Vec<Selector>,
    /// Labels in `by`, `on` and the like.
    pub kept: Vec<String>,
    /// Labels in `without` and `ignoring`.
    pub dropped: Vec<String>,
    /// Something in it is summed up over all labels: none is left.
    pub is_total: bool,
}

/// A metric, and what its labels must be.
#[derive(Debug, PartialEq, Eq)]
pub struct Selector {
    /// Its name.
    pub metric: String,
    /// Label and value.
    pub matchers: Vec<(String, String)>,
}

/// The functions that we use. A name that is not here is a mistake until somebody adds it.
const FUNCTIONS: [&str; 8] = [
    "absent",
    "changes",
    "histogram_quantile",
    "increase",
    "max_over_time",
    "min_over_time",
    "rate",
    "resets",
];

/// So with these, whose labels are said before their brackets: `sum by (slot) (…)`.
const AGGREGATIONS: [&str; 3] = ["max", "min", "sum"];

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Word(String),
    Text(String),
    Sign(char),
}

impl Query {
    /// Reads it.
    ///
    /// # Panics
    /// When a word is unknown, or a bracket or a quote has no other half.
    #[must_use]
    pub fn read(text: &str) -> Self {
        let mut query = Self::default();
        let mut tokens = tokens(text).into_iter().peekable();
        while let Some(token) = tokens.next() {
            let Token::Word(word) = token else { continue };
            let next = tokens.peek().cloned();
            match (word.as_str(), next) {
                ("by" | "on" | "group_left" | "group_right", Some(Token::Sign('('))) => {
                    query.kept.extend(words_until(&mut tokens, ')'));
                }
                ("without" | "ignoring", Some(Token::Sign('('))) => {
                    query.dropped.extend(words_until(&mut tokens, ')'));
                }
                ("and" | "or" | "unless" | "bool" | "offset", _) => {}
                (word, next) if AGGREGATIONS.contains(&word) => {
                    query.is_total |= next == Some(Token::Sign('('));
                }
                (function, Some(Token::Sign('('))) => {
                    assert!(FUNCTIONS.contains(&function), "unknown function {function:?} in {text}");
                }
                (_, Some(Token::Sign('{'))) => {
                    let matchers = matchers(&mut tokens);
                    query.selectors.push(Selector { metric: word, matchers });
                }
                (_, _) => query.selectors.push(Selector { metric: word, matchers: Vec::new() }),
            }
        }
        query
    }
}

fn words_until(tokens: &mut impl Iterator<Item = Token>, end: char) -> Vec<String> {
    let inside = tokens.take_while(|token| *token != Token::Sign(end));
    inside.filter_map(|token| if let Token::Word(word) = token { Some(word) } else { None }).collect()
}

fn matchers(tokens: &mut impl Iterator<Item = Token>) -> Vec<(String, String)> {
    let mut matchers = Vec::new();
    let mut label = None;
    for token in tokens.take_while(|token| *token != Token::Sign('}')) {
        match token {
            Token::Word(word) => label = Some(word),
            Token::Text(value) => matchers.push((label.take().expect("a label before its value"), value)),
            Token::Sign(_) => {}
        }
    }
    matchers
}

/// Numbers and ranges in brackets are left out: they name nothing.
fn tokens(text: &str) -> Vec<Token> {
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let mut tokens = Vec::new();
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '"' => {
                let length = rest[1..].find('"').unwrap_or_else(|| panic!("an open quote in {text}"));
                tokens.push(Token::Text(rest[1..=length].to_owned()));
                length + 2
            }
            '[' => rest.find(']').unwrap_or_else(|| panic!("an open bracket in {text}")) + 1,
            c if is_word(c) => {
                let length = rest.find(|c| !is_word(c)).unwrap_or(rest.len());
                if !c.is_ascii_digit() {
                    tokens.push(Token::Word(rest[..length].to_owned()));
                }
                length
            }
            c => {
                if !c.is_whitespace() {
                    tokens.push(Token::Sign(c));
                }
                c.len_utf8()
            }
        };
        rest = &rest[length..];
    }
    tokens
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_labels_and_values_are_found() {
        let query = Query::read(
            r#"sum by (le, slot) (rate(a_total{reason=~"x|y", slot!="1"}[5m])) > 0.05 * b and on (instance) c{}"#,
        );
        let names: Vec<&str> = query.selectors.iter().map(|selector| selector.metric.as_str()).collect();
        assert_eq!(names, ["a_total", "b", "c"]);
        let matchers = [("reason", "x|y"), ("slot", "1")].map(|(key, value)| (key.into(), value.into()));
        assert_eq!(query.selectors[0].matchers, matchers);
        assert_eq!(query.kept, ["le", "slot", "instance"]);
        assert_eq!(Query::read("max without (slot) (x)").dropped, ["slot"]);
        assert!(Query::read("sum(x)").is_total && !query.is_total);
    }

    #[test]
    #[should_panic(expected = "unknown function \"rat\"")]
    fn a_word_that_is_no_function_is_a_mistake() {
        let _ = Query::read("rat(a[5m])");
    }
}
