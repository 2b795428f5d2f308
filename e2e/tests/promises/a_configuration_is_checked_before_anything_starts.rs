//! A configuration that is wrong ends the start with exit 78 and says which key, which value, and what is
//! allowed. Default < file < environment < command line.

use std::os::unix::fs::PermissionsExt;

use handoff_e2e::{Daemon, Options, eventually};

/// Starts with these, and waits for the end.
fn ended(toml: &str, args: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
    let mut daemon = Daemon::with(&Options {
        toml: toml.to_owned(),
        args: args.iter().map(|arg| (*arg).to_owned()).collect(),
        env: env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        no_wait: true,
        ..Options::default()
    });
    (daemon.wait().code(), daemon.log() + &daemon.stdout())
}

#[test]
fn check_says_yes_and_starts_nothing() {
    let (code, said) = ended("max_connections = 5\n", &["--check"], &[]);
    let expected = concat!("handoffd ", env!("CARGO_PKG_VERSION"), ", protocol 2: configuration is valid\n");
    assert_eq!((code, said.as_str()), (Some(0), expected));
}

#[test]
fn every_mistake_is_named_with_key_value_and_what_is_allowed() {
    for (toml, args, env, facts) in [
        ("max_connections = 0\n", &[][..], &[][..], &["server.max_connections", "0", "1 to 10000000"][..]),
        (
            "max_conections = 1\n",
            &[],
            &[],
            &["unknown key server.max_conections", "did you mean server.max_connections"],
        ),
        ("[workers]\ncount = \"two\"\n", &[], &[], &["workers.count", "two"]),
        ("[logging]\nformat = \"xml\"\n", &[], &[], &["logging.format", "xml", "pretty", "json", "journald"]),
        ("[logging]\nlevel = \"inof\"\n", &[], &[], &["logging.level", "inof", "debug"]),
        ("", &["--workers", "x"], &[], &["--workers", "workers.count", "x"]),
        (
            "",
            &[],
            &[("DAEMON_SOCKET_MODE", "rw")],
            &["DAEMON_SOCKET_MODE", "server.socket_mode", "rw", "octal"],
        ),
        ("", &[], &[("RUST_LOG", "loud")], &["RUST_LOG", "logging.level", "loud"]),
    ] {
        for check in [&["--check"][..], &[]] {
            let (code, said) = ended(toml, &[args, check].concat(), env);
            assert_eq!(code, Some(78), "{toml}{args:?}{env:?}: {said}");
            for fact in facts {
                assert!(said.contains(fact), "{toml}{args:?}{env:?}: {fact:?} is not in {said:?}");
            }
        }
    }
}

#[test]
fn an_unknown_backend_is_refused_and_the_known_ones_are_listed() {
    let toml = "[backends.claude]\nkind = \"anthropic\"\n";
    for (args, env) in [(&["--backend", "gpt"][..], &[][..]), (&[], &[("DAEMON_BACKEND_PROVIDER", "gpt")])] {
        let (code, said) = ended(toml, args, env);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains("must be \"claude\" or \"mock\" or \"openai\""), "{said}");
    }
}

#[test]
fn a_missing_file_and_a_wrong_command_line_have_their_own_codes() {
    let command = |args: &[&str]| {
        let mut command = std::process::Command::new(handoff_e2e::daemon::binary("handoffd"));
        command.args(args).env_clear().output().expect("handoffd runs")
    };
    let missing = command(&["/nonexistent/daemon.toml"]);
    assert_eq!(missing.status.code(), Some(78));
    assert!(String::from_utf8_lossy(&missing.stderr).contains("/nonexistent/daemon.toml"), "{missing:?}");
    assert_eq!(command(&["--nonsense"]).status.code(), Some(2));
    let version = command(&["-V"]);
    assert_eq!(version.status.code(), Some(0));
    assert!(version.stdout.starts_with(b"handoffd "), "{version:?}");
}

#[test]
fn the_environment_wins_over_the_file_and_the_command_line_over_both() {
    let elsewhere = tempfile::tempdir().expect("a directory");
    let (by_variable, by_option) =
        (elsewhere.path().join("variable.sock"), elsewhere.path().join("option.sock"));
    let text = |path: &std::path::Path| path.to_str().expect("UTF-8").to_owned();
    let env = vec![
        ("DAEMON_SOCKET_PATH".to_owned(), text(&by_variable)),
        ("DAEMON_SOCKET_MODE".to_owned(), "0o600".to_owned()),
        ("DAEMON_MAX_CONNECTIONS".to_owned(), "77".to_owned()),
        ("DAEMON_TOKEN_DELAY_MS".to_owned(), "1".to_owned()),
        ("DAEMON_LOG_FORMAT".to_owned(), "json".to_owned()),
        ("DAEMON_LOG_LEVEL".to_owned(), "error".to_owned()),
    ];
    let toml = "max_connections = 5\nsocket_mode = \"0o666\"\n[workers]\ncount = 1\n[logging]\nformat = \"pretty\"\nlevel = \"info\"\n";
    let args = vec![
        "--socket".to_owned(),
        text(&by_option),
        "--workers".to_owned(),
        "3".to_owned(),
        "--debug".to_owned(),
    ];
    let daemon = Daemon::with(&Options { toml: toml.to_owned(), env, args, ..Options::default() });
    assert!(by_option.exists() && !by_variable.exists() && !daemon.socket().exists());
    assert_eq!(by_option.metadata().expect("a socket").permissions().mode() & 0o777, 0o600);
    assert_eq!(daemon.status()["max_connections"], 77);
    eventually("three workers", || (daemon.workers("ready").len() == 3).then_some(()));
    let line = daemon.logged("\"level\":\"INFO\"");
    assert!(line.starts_with('{'), "{line}");
}
