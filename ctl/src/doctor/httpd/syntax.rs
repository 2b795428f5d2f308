//! The language of Apache's configuration files. In: a file's text. Out: its directives and sections, line by line.
//! Never: opens a file, knows what a directive means.

use std::collections::BTreeMap;

/// One line that says something.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// As an editor counts; of a line that is continued, its first.
    pub(super) number: usize,
    pub(super) item: Item,
}

/// What it says. Names are in lower case: Apache does not tell cases apart.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Item {
    /// `<Name words…>`.
    Open { name: String, words: Vec<String> },
    /// `</Name>`.
    Close { name: String },
    /// `Name words…`.
    Directive { name: String, written: String, words: Vec<String> },
}

/// `${NAME}`s that have a value.
pub(super) type Variables = BTreeMap<String, String>;

/// The lines of a file, without comments; a backslash at its end continues a line.
pub(super) fn raw_lines(text: &str) -> Vec<(usize, String)> {
    let mut lines = Vec::new();
    let mut open: Option<(usize, String)> = None;
    for (index, line) in text.lines().enumerate() {
        let (number, mut whole) = open.take().unwrap_or((index + 1, String::new()));
        match line.strip_suffix('\\') {
            Some(continued) => {
                whole.push_str(continued);
                open = Some((number, whole));
            }
            None => {
                whole.push_str(line);
                lines.push((number, whole));
            }
        }
    }
    lines.extend(open);
    lines.retain(|(_, line)| !line.trim().is_empty() && !line.trim_start().starts_with('#'));
    lines.into_iter().map(|(number, line)| (number, line.trim().to_owned())).collect()
}

/// What a line says, with the variables put in.
pub(super) fn parse(number: usize, line: &str, variables: &Variables) -> Line {
    let line = expand(line, variables);
    let item = match (line.strip_prefix("</"), line.strip_prefix('<')) {
        (Some(name), _) => Item::Close { name: name.trim_end_matches('>').trim().to_lowercase() },
        (None, Some(rest)) => {
            let rest = rest.strip_suffix('>').unwrap_or(rest);
            let (name, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
            Item::Open { name: name.to_lowercase(), words: words(rest) }
        }
        (None, None) => {
            let (name, rest) = line.split_once(char::is_whitespace).unwrap_or((&line, ""));
            Item::Directive { name: name.to_lowercase(), written: name.to_owned(), words: words(rest) }
        }
    };
    Line { number, item }
}

/// `${NAME}` by its value; as it is where there is none, as Apache does it.
pub(super) fn expand(text: &str, variables: &Variables) -> String {
    let mut expanded = String::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("${") {
        expanded.push_str(before);
        let Some((name, behind)) = after.split_once('}') else {
            rest = &rest[before.len()..];
            break;
        };
        match variables.get(name) {
            Some(value) => expanded.push_str(value),
            None => expanded.push_str(&format!("${{{name}}}")),
        }
        rest = behind;
    }
    expanded.push_str(rest);
    expanded
}

/// The arguments: separated by white space, or in quotes.
fn words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut characters = text.chars().peekable();
    loop {
        while characters.next_if(|character| character.is_whitespace()).is_some() {}
        let Some(first) = characters.peek().copied() else { return words };
        let quote = (first == '"' || first == '\'').then_some(first);
        if quote.is_some() {
            characters.next();
        }
        let mut word = String::new();
        while let Some(character) = characters.next() {
            let escapes = character == '\\' && quote.is_some();
            match characters.peek().copied() {
                Some(next) if escapes && (Some(next) == quote || next == '\\') => {
                    word.push(next);
                    characters.next();
                }
                _ if Some(character) == quote || (quote.is_none() && character.is_whitespace()) => break,
                Some(_) | None => word.push(character),
            }
        }
        words.push(word);
    }
}

/// The variables of Debian's `envvars`, a shell script: `export NAME=value` with `$NAME`s in it.
pub(super) fn shell_variables(text: &str) -> Variables {
    let mut variables = Variables::new();
    for line in text.lines() {
        let Some((name, value)) = line.trim().strip_prefix("export ").and_then(|rest| rest.split_once('='))
        else {
            continue;
        };
        let value = value.trim().trim_matches(['"', '\'']);
        variables.insert(name.trim().to_owned(), shell_value(value, &variables));
    }
    variables
}

fn shell_value(value: &str, variables: &Variables) -> String {
    let mut pieces = value.split('$');
    let mut expanded = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let is_braced = piece.starts_with('{');
        let piece = piece.trim_start_matches('{');
        let end = piece.find(|character: char| !character.is_ascii_alphanumeric() && character != '_');
        let (name, rest) = piece.split_at(end.unwrap_or(piece.len()));
        expanded.push_str(variables.get(name).map_or("", String::as_str));
        expanded.push_str(if is_braced { rest.split_once('}').map_or("", |(_, rest)| rest) } else { rest });
    }
    expanded
}

#[cfg(test)]
mod tests {
    use super::*;

    fn items(text: &str) -> Vec<(usize, Item)> {
        let variables = Variables::from([("DIR".to_owned(), "/srv".to_owned())]);
        raw_lines(text)
            .into_iter()
            .map(|(number, line)| (number, parse(number, &line, &variables).item))
            .collect()
    }

    fn directive(written: &str, words: &[&str]) -> Item {
        Item::Directive {
            name: written.to_lowercase(),
            written: written.to_owned(),
            words: words.iter().map(|word| (*word).to_owned()).collect(),
        }
    }

    #[test]
    fn lines_are_read_as_apache_reads_them() {
        let text = "# a comment\n\n  ServerRoot \"/etc/apache2\"\nLogFormat \"%h \\\"%r\\\"\" common\n\
            Protocols h2 \\\n  http/1.1\n<VirtualHost *:443>\n</VirtualHost>\nUser ${DIR}/${NONE}\nBare\n";
        assert_eq!(
            items(text),
            [
                (3, directive("ServerRoot", &["/etc/apache2"])),
                (4, directive("LogFormat", &["%h \"%r\"", "common"])),
                (5, directive("Protocols", &["h2", "http/1.1"])),
                (7, Item::Open { name: "virtualhost".into(), words: vec!["*:443".into()] }),
                (8, Item::Close { name: "virtualhost".into() }),
                (9, directive("User", &["/srv/${NONE}"])),
                (10, directive("Bare", &[])),
            ]
        );
    }

    #[test]
    fn debians_variables_are_understood() {
        let text = "unset HOME\nif x; then\n\tSUFFIX=\"-y\"\nfi\nexport APACHE_RUN_USER=www-data\n\
            export APACHE_PID_FILE=/var/run/apache2$SUFFIX/apache2.pid\nexport LANG\nexport B=\"${APACHE_RUN_USER}x\"\n";
        let variables = shell_variables(text);
        assert_eq!(variables.get("APACHE_PID_FILE").unwrap(), "/var/run/apache2/apache2.pid");
        assert_eq!(variables.get("B").unwrap(), "www-datax");
        assert!(!variables.contains_key("LANG"));
    }

    #[test]
    fn no_text_is_too_odd() {
        for text in ["${", "a ${x", "<", "</", "\"", "a \"b", "a \\", "\\", "x '\\", "<a \"", "$"] {
            let _ = items(text);
            let _ = shell_variables(&format!("export A={text}"));
        }
    }
}
