//! Asks for settings by key. In: settings. Out: valid values, and at the end every problem at once.
//! Never: stops at the first problem, accepts a key that nobody asked for, shows a secret.

use std::collections::BTreeSet;
use std::ffi::OsString;

use crate::masking::{MASK, is_secret};
use crate::settings::{Setting, Settings, Value};
use crate::{ConfigError, Problem};

/// How many edits lie at most between an unknown key and the known one that it may have meant.
const SUGGESTION_EDITS_MAX: usize = 3;

/// Reads settings. Every key it is asked for is a known key; what is left at the end is unknown.
pub(crate) struct Reader<'t> {
    settings: Settings<'t>,
    environment: &'t dyn Fn(&str) -> Option<OsString>,
    known: Vec<String>,
    /// Sections that may be empty.
    tables: Vec<String>,
    /// Sections that are not looked at.
    passed_over: Vec<String>,
    problems: Vec<Problem>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(
        settings: Settings<'t>,
        environment: &'t dyn Fn(&str) -> Option<OsString>,
    ) -> Reader<'t> {
        Reader {
            settings,
            environment,
            known: Vec::new(),
            tables: Vec::new(),
            passed_over: Vec::new(),
            problems: Vec::new(),
        }
    }

    /// The value of `key`, or its default. A bad value is noted, and the default stands in for it until
    /// [`Reader::finish`] refuses the whole. `parse` errs with a clause that says what is allowed.
    pub(crate) fn value<T>(
        &mut self,
        key: &str,
        default: T,
        parse: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) -> T {
        self.pass_over(key);
        let Some(setting) = self.settings.find(key) else { return default };
        match parse(&setting.value) {
            Ok(value) => value,
            Err(allowed) => {
                let problem = bad_value(key, setting, allowed);
                self.note(problem);
                default
            }
        }
    }

    /// The value of a key that has no default. The empty string says "none" as well.
    pub(crate) fn optional<T>(
        &mut self,
        key: &str,
        parse: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) -> Option<T> {
        self.value(key, None, |value| match value.text() {
            Some("") => Ok(None),
            Some(_) | None => parse(value).map(Some),
        })
    }

    /// The value of a key in the section `section` that must have one; none: a problem is noted. `allowed` says what is.
    pub(crate) fn required<T>(
        &mut self,
        section: &str,
        key: &str,
        allowed: &str,
        parse: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) -> Option<T> {
        if !self.says(key) {
            self.pass_over(key);
            let place = self.settings.place(section).unwrap_or_default().to_owned();
            self.note(Problem::Missing { place, key: key.to_owned(), allowed: allowed.to_owned() });
            return None;
        }
        self.optional(key, parse)
    }

    /// `key` is known, and its value is not looked at.
    pub(crate) fn pass_over(&mut self, key: &str) {
        self.known.push(key.to_owned());
    }

    /// Nor is what is in the section `path`.
    pub(crate) fn pass_over_all(&mut self, path: &str) {
        self.passed_over.push(path.to_owned());
    }

    /// `path` must be a section, and may be empty.
    pub(crate) fn table(&mut self, path: &str) {
        self.tables.push(path.to_owned());
    }

    /// Notes what is wrong with a whole section, or a key of any name; what is in it is not looked at.
    pub(crate) fn refuse_all(&mut self, path: &str, allowed: &str) {
        let place = self.settings.place(path).unwrap_or_default().to_owned();
        let value = self.settings.find(path).map_or("table", |setting| setting.value.type_name());
        self.note(Problem::BadValue {
            place,
            key: path.to_owned(),
            value: value.to_owned(),
            allowed: allowed.to_owned(),
        });
        self.pass_over_all(path);
    }

    /// The full paths of what is directly in the section `path`.
    pub(crate) fn beneath(&self, path: &str) -> BTreeSet<String> {
        self.settings.beneath(path)
    }

    /// The setting of `key`, if there is one.
    pub(crate) fn setting(&self, key: &str) -> Option<&Setting<'t>> {
        self.settings.find(key)
    }

    /// Whether somebody has said anything but "none".
    pub(crate) fn says(&self, key: &str) -> bool {
        self.settings.find(key).is_some_and(|setting| setting.value.text() != Some(""))
    }

    /// A variable that belongs to no key.
    pub(crate) fn environment(&self) -> &'t dyn Fn(&str) -> Option<OsString> {
        self.environment
    }

    /// Notes that the values of `keys`, each valid alone, do not go together. The first of them that somebody
    /// set is named: defaults go together.
    pub(crate) fn refuse(&mut self, keys: &[&str], allowed: &str) {
        let set = keys.iter().find_map(|key| Some((*key, self.settings.find(key)?)));
        let problem = set.map(|(key, setting)| bad_value(key, setting, allowed.to_owned()));
        problem.into_iter().for_each(|problem| self.note(problem));
    }

    /// Notes that a variable, which may hold a password, cannot be used for `key`.
    pub(crate) fn refuse_variable(&mut self, variable: &str, key: &str, allowed: String) {
        // Said once, though it concerns every backend.
        let is_known =
            |problem: &Problem| matches!(problem, Problem::BadValue { place, .. } if place == variable);
        if !self.problems.iter().any(is_known) {
            let (place, key, value) = (variable.to_owned(), key.to_owned(), MASK.to_owned());
            self.note(Problem::BadValue { place, key, value, allowed });
        }
    }

    fn note(&mut self, problem: Problem) {
        if !self.problems.contains(&problem) {
            self.problems.push(problem);
        }
    }

    /// The keys asked for so far.
    #[cfg(test)]
    pub(crate) fn known(&self) -> &[String] {
        &self.known
    }

    /// `value`, if nothing was wrong and no key is left over.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, ConfigError> {
        let known: BTreeSet<&str> = self.known.iter().map(String::as_str).collect();
        for (key, setting) in self.settings.iter().filter(|(key, _)| !known.contains(key)) {
            if !self.passed_over.iter().any(|path| key == path || is_beneath(key, path)) {
                self.problems.extend(left_over(key, setting, &known, &self.tables));
            }
        }
        if self.problems.is_empty() { Ok(value) } else { Err(ConfigError::Invalid(self.problems)) }
    }
}

fn bad_value(key: &str, setting: &Setting<'_>, allowed: String) -> Problem {
    let value = if is_secret(key, &setting.shown) { MASK } else { &setting.shown };
    Problem::BadValue { place: setting.place.clone(), key: key.to_owned(), value: value.to_owned(), allowed }
}

/// What is wrong with a key that nobody asked for: nothing, if it is an empty section.
fn left_over(key: &str, setting: &Setting<'_>, known: &BTreeSet<&str>, tables: &[String]) -> Option<Problem> {
    let place = setting.place.clone();
    let is_section =
        tables.iter().any(|table| table == key) || known.iter().any(|known| is_beneath(known, key));
    if !is_section {
        return Some(Problem::UnknownKey { place, key: key.to_owned(), suggestion: suggest(key, known) });
    }
    let allowed = format!("must be a table: [{key}]");
    // Its type only: a value in the wrong place may be a secret.
    let value = setting.value.type_name().to_owned();
    (value != "table").then_some(Problem::BadValue { place, key: key.to_owned(), value, allowed })
}

fn is_beneath(key: &str, section: &str) -> bool {
    key.strip_prefix(section).is_some_and(|rest| rest.starts_with('.'))
}

/// The known key of the same section that is spelled most alike, or the one with the same name in another section, or
/// else the one of all that is spelled most alike.
fn suggest(key: &str, known: &BTreeSet<&str>) -> Option<String> {
    let most_alike = |known: &mut dyn Iterator<Item = &&str>| {
        let nearest = known.map(|known| (strsim::damerau_levenshtein(key, known), *known)).min();
        nearest.filter(|(edits, _)| *edits <= SUGGESTION_EDITS_MAX).map(|(_, known)| known.to_owned())
    };
    let (section, name) = key.rsplit_once('.').unwrap_or(("", key));
    let elsewhere = || known.iter().find(|known| known.rsplit('.').next() == Some(name));
    most_alike(&mut known.iter().filter(|known| is_beneath(known, section)))
        .or_else(|| elsewhere().map(|known| (*known).to_owned()))
        .or_else(|| most_alike(&mut known.iter()))
}
