use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::sync::LazyLock;

use proptest::collection::vec;
use proptest::prelude::*;

use crate::cli::Cli;
use crate::environment::VARIABLES;
use crate::tests::sample::{SAMPLE, keys_asked_for, known_keys, with_examples};
use crate::{Config, ConfigFile};

/// Both, the file and what is in it, may be refused; neither may panic.
fn load_bytes(bytes: Vec<u8>) {
    let file = ConfigFile::from_bytes(Path::new("any.toml"), bytes);
    if let Ok(file) = file
        && let Err(error) = Config::from_file(&file, &Cli::default(), &|_| None)
    {
        assert!(!error.to_string().is_empty());
    }
}

/// Values of every TOML type, at and beyond the edges.
fn toml_value() -> impl Strategy<Value = String> {
    prop_oneof![
        any::<i128>().prop_map(|number| number.to_string()),
        any::<f64>().prop_map(|number| number.to_string()),
        any::<bool>().prop_map(|flag| flag.to_string()),
        any::<String>().prop_map(|text| format!("{text:?}")),
        any::<u64>().prop_map(|number| format!("{number:#x}")),
        vec(any::<u32>(), 0..4).prop_map(|list| format!("{list:?}")),
        Just("1979-05-27T07:32:00Z".to_owned()),
        Just("{ a = { } }".to_owned()),
    ]
}

/// What an API's key looks like.
fn secret() -> impl Strategy<Value = String> {
    "[A-Za-z]{2}[-_]?[A-Za-z0-9]{16,40}[0-9][A-Za-z]"
}

/// Every key of every example of the sample.
static KEYS_OF_EXAMPLES: LazyLock<Vec<String>> = LazyLock::new(|| {
    keys_asked_for(&with_examples()).into_iter().filter(|key| key.starts_with("backend")).collect()
});

/// The error of a file of these bytes, if it is one.
fn error_of_bytes(bytes: Vec<u8>) -> Option<String> {
    let file = ConfigFile::from_bytes(Path::new("any.toml"), bytes);
    let config = file.and_then(|file| Config::from_file(&file, &Cli::default(), &|_| None));
    config.err().map(|error| format!("{error} {error:?}"))
}

/// How a key may stand behind an equals sign: S is the key.
const FORMS: [&str; 7] = ["\"S\"", "[\"S\"]", "{ a = \"S\" }", "[[\"S\"]]", "\"x S\"", "S", "\"S\\u0001\""];

proptest! {
    #[test]
    fn any_bytes_as_a_file_never_panic(bytes in vec(any::<u8>(), 0..512)) {
        load_bytes(bytes);
    }

    #[test]
    fn any_text_as_a_file_never_panics(text in any::<String>()) {
        load_bytes(text.into_bytes());
    }

    #[test]
    fn any_damage_to_the_sample_never_panics(at in 0..SAMPLE.len(), bytes in vec(any::<u8>(), 0..8), cut in 0_usize..64) {
        let mut damaged = SAMPLE.as_bytes().to_vec();
        let end = (at + cut).min(damaged.len());
        damaged.splice(at..end, bytes);
        load_bytes(damaged);
    }

    #[test]
    fn any_value_of_any_known_key_never_panics(index in any::<prop::sample::Index>(), value in toml_value()) {
        load_bytes(format!("{} = {value}", index.get(&known_keys())).into_bytes());
    }

    #[test]
    fn any_value_of_any_key_of_any_backend_never_panics(
        index in any::<prop::sample::Index>(),
        kind in "(openai|responses|anthropic|ollama|langgraph|replay|mock|)",
        value in toml_value(),
    ) {
        let name = index.get(&KEYS_OF_EXAMPLES).rsplit('.').next().unwrap();
        load_bytes(format!("[backends.x]\nkind = {kind:?}\n{name} = {value}").into_bytes());
        load_bytes(format!("[backend.openai]\n{name} = {value}").into_bytes());
    }

    #[test]
    fn a_key_as_the_value_of_any_key_of_any_backend_is_never_shown(
        index in any::<prop::sample::Index>(),
        secret in secret(),
        form in prop::sample::select(&FORMS),
    ) {
        let key = index.get(&KEYS_OF_EXAMPLES).clone();
        let misspelt = format!("{}x", key);
        for key in [key, misspelt] {
            let text = format!("{key} = {}", form.replace('S', &secret));
            if let Some(error) = error_of_bytes(text.into_bytes()) {
                prop_assert!(!error.contains(&secret), "{error}");
            }
        }
    }

    #[test]
    fn any_damage_to_backends_with_keys_never_panics_and_never_shows_one(
        at in any::<prop::sample::Index>(), bytes in vec(any::<u8>(), 0..8), cut in 0_usize..64, secret in secret(),
    ) {
        let mut damaged = with_examples();
        for (example, real) in [
            ("# # api_key = \"sk-example\"", "api_key = \"S\""),
            ("# # headers = { x-team = \"search\" }", "headers = { x = \"S\" }"),
        ] {
            prop_assert!(damaged.contains(example));
            damaged = damaged.replace(example, &real.replace('S', &secret));
        }
        prop_assert_eq!(error_of_bytes(damaged.clone().into_bytes()), None);
        let mut damaged = damaged.into_bytes();
        let start = at.index(damaged.len());
        let end = (start + cut).min(damaged.len());
        damaged.splice(start..end, bytes);
        if let Some(error) = error_of_bytes(damaged) {
            prop_assert!(!error.contains(&secret), "{error}");
        }
    }

    #[test]
    fn any_value_of_any_variable_never_panics(index in 0..VARIABLES.len(), value in vec(any::<u8>(), 0..64)) {
        let value = OsString::from_vec(value);
        let environment = |name: &str| (name == VARIABLES[index].0).then(|| value.clone());
        if let Err(error) = Config::load(&Cli::default(), &environment) {
            prop_assert!(error.to_string().starts_with(VARIABLES[index].0));
        }
    }
}

#[test]
fn deep_nesting_never_overflows_the_stack() {
    for (open, close) in [("[", "]"), ("{a=", "}"), ("[{a=", "}]")] {
        load_bytes(format!("a = {}1{}", open.repeat(10_000), close.repeat(10_000)).into_bytes());
    }
    load_bytes(format!("{}a = 1", "a.".repeat(10_000)).into_bytes());
    load_bytes(format!("[{}a]", "a.".repeat(10_000)).into_bytes());
}
