//! Which values errors do not show. In: a key, and its value as an error would show it. Out: yes or no.
//! Never: a yes too few where a key of an API could stand; a yes too many costs a look at the line.

/// What stands for a secret.
pub(crate) const MASK: &str = "<secret>";

/// A run of such characters may be a secret from this length on, if there is a digit in it.
const RUN_CHARS_MIN: usize = 16;

/// Names of credentials have fewer digits than this.
const DIGITS_MIN: usize = 3;

/// Whether nobody may see what is written there.
pub(crate) fn is_secret(key: &str, shown: &str) -> bool {
    if !key.starts_with("backend.") && !key.starts_with("backends.") {
        return false;
    }
    let text = shown.trim_matches(['"', '\'']);
    match key.rsplit('.').next().unwrap_or(key) {
        "api_key" | "proxy" => true,
        _ if key.contains(".headers.") => true,
        "api_base" => text.contains(['@', '?']) || may_be_key(text),
        "api_key_env" => !text.chars().all(|c| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'),
        "api_key_credential" => !is_credential_name(text),
        "api_key_file"
        | "socket"
        | "api_socket"
        | "ca_file"
        | "file"
        | "record"
        | "files_directory"
        | "client_certificate_file"
        | "client_key_file" => !text.starts_with('/') && may_be_key(text),
        _ => may_be_key(text),
    }
}

fn is_credential_name(text: &str) -> bool {
    let digits = text.chars().filter(char::is_ascii_digit).count();
    let is_name = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.');
    digits < DIGITS_MIN && !text.starts_with("sk-") && text.chars().all(is_name)
}

/// Somebody may have put a key in the wrong place.
fn may_be_key(text: &str) -> bool {
    let runs = text.split(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '-' | '_' | '+' | '='));
    runs.into_iter().any(|run| {
        let has_digit = run.contains(|c: char| c.is_ascii_digit());
        let has_letter = run.contains(|c: char| c.is_ascii_alphabetic());
        run.starts_with("sk-") || (run.len() >= RUN_CHARS_MIN && has_digit && has_letter)
    })
}
