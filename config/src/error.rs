//! What is wrong with a configuration. In: problems. Out: text for the person who has to mend it, one problem
//! a line. Never: a secret.

use std::fmt;
use std::io;
use std::path::PathBuf;

/// Why there is no [`Config`](crate::Config).
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file could not be read.
    #[error("{}: cannot read the configuration: {reason}", path.display())]
    Unreadable {
        /// The file as it was named.
        path: PathBuf,
        /// Part of the text above, so not a `source` that would print it twice.
        reason: io::Error,
    },
    /// A file that holds a secret could not be read.
    #[error("{}: cannot read the credential: {reason}", path.display())]
    Credential {
        /// In systemd's directory of credentials.
        path: PathBuf,
        /// Part of the text above, so not a `source` that would print it twice.
        reason: io::Error,
    },
    /// The file is not TOML; what it holds was not looked at.
    #[error("{place}: not valid TOML: {message}")]
    Syntax {
        /// File, line and column.
        place: String,
        /// What the parser expected.
        message: String,
    },
    /// Everything that is wrong with what was configured; at least one problem.
    #[error("{}", Lines(.0))]
    Invalid(Vec<Problem>),
}

/// One thing wrong with one key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nobody knows this key.
    #[error("{place}: unknown key {key}{}", DidYouMean(suggestion))]
    UnknownKey {
        /// File and line.
        place: String,
        /// The key's full path.
        key: String,
        /// A known key that looks like it.
        suggestion: Option<String>,
    },
    /// A key without a default has no value.
    #[error("{place}: {key} is missing: {allowed}")]
    Missing {
        /// File and line of its section.
        place: String,
        /// The key's full path.
        key: String,
        /// A clause that says what is allowed.
        allowed: String,
    },
    /// The value is not allowed.
    #[error("{place}: {key} = {value}: {allowed}")]
    BadValue {
        /// File and line, the environment variable, or the option.
        place: String,
        /// The key's full path.
        key: String,
        /// The value as written, shortened; `<secret>` for a secret.
        value: String,
        /// A clause that says what is allowed.
        allowed: String,
    },
}

/// One problem: its own line. Several: a head line, and each on an indented line.
struct Lines<'a>(&'a [Problem]);

impl fmt::Display for Lines<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let [problem] = self.0 {
            return write!(f, "{problem}");
        }
        write!(f, "the configuration has {} problems:", self.0.len())?;
        self.0.iter().try_for_each(|problem| write!(f, "\n  {problem}"))
    }
}

struct DidYouMean<'a>(&'a Option<String>);

impl fmt::Display for DidYouMean<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Some(key) => write!(f, "; did you mean {key}?"),
            None => Ok(()),
        }
    }
}
