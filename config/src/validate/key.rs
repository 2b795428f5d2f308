//! A backend's key, in one of four ways. In: a section. Out: the key. Never: shows it, or reads two of them.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use super::section::Section;
use crate::backend::Secret;
use crate::reader::Reader;
use crate::settings::Value;
use crate::{allowed, credentials};

/// The key itself comes first.
const WAYS: [&str; 4] = ["api_key", "api_key_file", "api_key_env", "api_key_credential"];

/// Longest name of a variable or a credential.
const NAME_BYTES_MAX: usize = 128;

/// Whether the section says anything about a key, also that there is none (`api_key = ""`).
pub(super) fn is_said(reader: &Reader<'_>, section: &Section) -> bool {
    WAYS.iter().any(|way| reader.setting(&section.key(way)).is_some())
}

/// The key, if there is one.
pub(super) fn key(reader: &mut Reader<'_>, section: &Section) -> Option<Secret> {
    let [plain, file, variable, credential] = WAYS.map(|way| section.key(way));
    let others = [&file, &variable, &credential];
    if reader.says(&plain) && reader.setting(&plain).is_some_and(|setting| setting.value.is_word()) {
        // Of the environment or of systemd: the file's word does not count.
        others.into_iter().for_each(|key| reader.pass_over(key));
        return reader.optional(&plain, allowed::token).map(Secret::new);
    }
    let said: Vec<&String> = [&plain].into_iter().chain(others).filter(|key| reader.says(key)).collect();
    if let [_, second, ..] = said[..] {
        reader.refuse(&[second], &format!("there is another key: set one of {}", WAYS.join(", ")));
    }
    let environment = reader.environment();
    let of_file = reader.optional(&file, |value| of_file(&allowed::absolute_path(value)?));
    let of_variable = reader.optional(&variable, |value| of_variable(value, environment));
    let of_credential = reader.optional(&credential, |value| of_credential(value, environment));
    let of_section = reader.optional(&plain, allowed::token);
    of_section.or(of_file).or(of_variable).or(of_credential).map(Secret::new)
}

fn of_file(path: &Path) -> Result<String, String> {
    let bytes = credentials::read(path).map_err(|reason| format!("cannot read it: {reason}"))?;
    token(bytes, "what the file holds")
}

fn of_variable(value: &Value<'_>, environment: &dyn Fn(&str) -> Option<OsString>) -> Result<String, String> {
    let is_name = |name: &&str| {
        (1..=NAME_BYTES_MAX).contains(&name.len())
            && !name.starts_with(|c: char| c.is_ascii_digit())
            && name.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_')
    };
    let name = value.text().filter(is_name).ok_or_else(|| {
        format!("must be the name of a variable: capital letters, digits and _, at most {NAME_BYTES_MAX}")
    })?;
    let word = environment(name).ok_or("the environment has no such variable")?;
    token(word.into_vec().trim_ascii().to_vec(), "what the variable holds")
}

fn of_credential(
    value: &Value<'_>,
    environment: &dyn Fn(&str) -> Option<OsString>,
) -> Result<String, String> {
    let is_name = |name: &&str| {
        (1..=NAME_BYTES_MAX).contains(&name.len())
            && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.'))
            && !matches!(*name, "." | "..")
    };
    let name = value.text().filter(is_name).ok_or_else(|| {
        format!("must be the name of a credential: letters, digits, _, - and ., at most {NAME_BYTES_MAX}")
    })?;
    let directory = environment(credentials::DIRECTORY).filter(|path| !path.is_empty());
    let directory = directory
        .map(PathBuf::from)
        .ok_or_else(|| format!("systemd passes no credentials: {} is not set", credentials::DIRECTORY))?;
    let bytes = credentials::read(&directory.join(name))
        .map_err(|reason| format!("cannot read it in {}: {reason}", directory.display()))?;
    token(bytes, "what the credential holds")
}

fn token(bytes: Vec<u8>, what: &str) -> Result<String, String> {
    allowed::token(&Value::Word(OsString::from_vec(bytes))).map_err(|allowed| format!("{what} {allowed}"))
}
