//! What each operation cost when it was last looked at. In: counts, and the file in which they were recorded. Out: what has
//! changed too much, or the file anew.
//!
//! Never: forgives a change because it is an improvement. What is recorded as more than it is hides the next regression.

use std::collections::BTreeMap;
use std::fmt::{self, Write};

use serde::Deserialize;

/// Instructions of one operation, by name.
pub type Counts = BTreeMap<String, u64>;

/// A change of so much fails, in percent.
const CHANGE_PERCENT_MAX: u64 = 5;
/// The same where another compiler or C library has made the machine code.
const CHANGE_PERCENT_MAX_ELSEWHERE: u64 = 25;

const HEAD: &str = "\
# Instructions of one operation, each a case in bench/counts/src. Written by `make counts`; `make test` fails where one has
# become 5 % more or less. Record a change with what caused it, and say in the commit why it is worth it.
";

/// What the machine code comes from beside our own sources.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Toolchain {
    /// `std::env::consts::ARCH`.
    pub architecture: String,
    /// As `rustc --version` says.
    pub compiler: String,
    /// As `getconf GNU_LIBC_VERSION` says.
    pub libc: String,
}

/// The file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Baseline {
    /// Of the counts.
    pub toolchain: Toolchain,
    /// By name.
    pub instructions: Counts,
}

/// What a comparison says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Nothing has changed much.
    Same,
    /// Nothing can be said: these instructions are those of another architecture.
    Incomparable,
    /// A sentence on each count that has changed too much.
    Changed(Vec<String>),
}

impl Baseline {
    /// Reads the file.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, toml::de::Error> {
        toml::from_str(text)
    }

    /// Whether the counts are still what they were.
    #[must_use]
    pub fn compare(&self, now: &Self) -> Verdict {
        if self.toolchain.architecture != now.toolchain.architecture {
            return Verdict::Incomparable;
        }
        let limit = match self.toolchain == now.toolchain {
            true => CHANGE_PERCENT_MAX,
            false => CHANGE_PERCENT_MAX_ELSEWHERE,
        };
        let gone = self.instructions.keys().filter(|name| !now.instructions.contains_key(*name));
        let gone = gone.map(|name| format!("{name} is recorded, and counted no more"));
        let changed = now.instructions.iter().filter_map(|(name, is)| {
            let Some(was) = self.instructions.get(name) else {
                return Some(format!("{name} costs {is} instructions, and was not recorded"));
            };
            let is_too_much = is.abs_diff(*was) * 100 >= (*was).max(1) * limit;
            is_too_much.then(|| {
                format!("{name} costs {is} instructions, and cost {was} ({:+.1} %)", percent(*was, *is))
            })
        });
        let said: Vec<String> = gone.chain(changed).collect();
        if said.is_empty() { Verdict::Same } else { Verdict::Changed(said) }
    }
}

/// As the file has it.
impl fmt::Display for Baseline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Toolchain { architecture, compiler, libc } = &self.toolchain;
        let mut counts = String::new();
        for (name, count) in &self.instructions {
            writeln!(counts, "\"{name}\" = {count}")?;
        }
        write!(
            f,
            "{HEAD}\n[toolchain]\narchitecture = \"{architecture}\"\ncompiler = \"{compiler}\"\nlibc = \"{libc}\"\n\n\
             [instructions]\n{counts}"
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn percent(was: u64, is: u64) -> f64 {
    (is as f64 - was as f64) * 100.0 / was.max(1) as f64
}
