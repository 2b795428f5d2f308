//! Asks for settings by key. In: settings. Out: valid values, and at the end every problem at once.
//! Never: stops at the first problem, accepts a key that nobody asked for, shows a secret.

use crate::settings::{Setting, Settings, Value};
use crate::{ConfigError, Problem};

/// Keys whose values appear in no error.
const SECRET_KEYS: &[&str] = &["backend.openai.api_key"];

/// How many edits lie at most between an unknown key and the known one that it may have meant.
const SUGGESTION_EDITS_MAX: usize = 3;

/// Reads settings. Every key it is asked for is a known key; what is left at the end is unknown.
pub(crate) struct Reader<'t> {
    settings: Settings<'t>,
    known: Vec<&'static str>,
    problems: Vec<Problem>,
}

impl<'t> Reader<'t> {
    pub(crate) fn new(settings: Settings<'t>) -> Reader<'t> {
        Reader { settings, known: Vec::new(), problems: Vec::new() }
    }

    /// The value of `key`, or its default. A bad value is noted, and the default stands in for it until
    /// [`Reader::finish`] refuses the whole. `parse` errs with a clause that says what is allowed.
    pub(crate) fn value<T>(
        &mut self,
        key: &'static str,
        default: T,
        parse: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) -> T {
        self.known.push(key);
        let Some(setting) = self.settings.find(key) else { return default };
        match parse(&setting.value) {
            Ok(value) => value,
            Err(allowed) => {
                self.problems.push(bad_value(key, setting, allowed));
                default
            }
        }
    }

    /// The value of a key that has no default. The empty string says "none" as well.
    pub(crate) fn optional<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value<'_>) -> Result<T, String>,
    ) -> Option<T> {
        self.value(key, None, |value| match value.text() {
            Some("") => Ok(None),
            Some(_) | None => parse(value).map(Some),
        })
    }

    /// Notes that the values of `keys`, each valid alone, do not go together. The first of them that somebody
    /// set is named: defaults go together.
    pub(crate) fn refuse(&mut self, keys: &[&'static str], allowed: &str) {
        let set = keys.iter().find_map(|key| Some((*key, self.settings.find(key)?)));
        self.problems.extend(set.map(|(key, setting)| bad_value(key, setting, allowed.to_owned())));
    }

    /// The keys asked for so far.
    #[cfg(test)]
    pub(crate) fn known(&self) -> &[&'static str] {
        &self.known
    }

    /// `value`, if nothing was wrong and no key is left over.
    pub(crate) fn finish<T>(mut self, value: T) -> Result<T, ConfigError> {
        for (key, setting) in self.settings.iter().filter(|(key, _)| !self.known.contains(key)) {
            self.problems.extend(left_over(key, setting, &self.known));
        }
        if self.problems.is_empty() { Ok(value) } else { Err(ConfigError::Invalid(self.problems)) }
    }
}

fn bad_value(key: &str, setting: &Setting<'_>, allowed: String) -> Problem {
    let value = if SECRET_KEYS.contains(&key) { "<secret>" } else { &setting.shown };
    Problem::BadValue { place: setting.place.clone(), key: key.to_owned(), value: value.to_owned(), allowed }
}

/// What is wrong with a key that nobody asked for: nothing, if it is an empty section.
fn left_over(key: &str, setting: &Setting<'_>, known: &[&'static str]) -> Option<Problem> {
    let place = setting.place.clone();
    let is_section =
        known.iter().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')));
    if !is_section {
        return Some(Problem::UnknownKey { place, key: key.to_owned(), suggestion: suggest(key, known) });
    }
    let allowed = format!("must be a table: [{key}]");
    // Its type only: a value in the wrong place may be a secret.
    let value = setting.value.type_name().to_owned();
    (value != "table").then_some(Problem::BadValue { place, key: key.to_owned(), value, allowed })
}

/// The known key with the same name in another section, or else the one that is spelled most alike.
fn suggest(key: &str, known: &[&'static str]) -> Option<&'static str> {
    let name = key.rsplit('.').next();
    let elsewhere = known.iter().copied().find(|known| known.rsplit('.').next() == name);
    elsewhere.or_else(|| {
        known
            .iter()
            .map(|known| (strsim::damerau_levenshtein(key, known), *known))
            .min()
            .filter(|(edits, _)| *edits <= SUGGESTION_EDITS_MAX)
            .map(|(_, known)| known)
    })
}
