//! A secret reaches workers over the channel alone: it is in no argument, no environment of theirs, no status, no
//! metric and no log line, however talkative.

use std::fs;

use handoff_e2e::upstream::{Dialect, Protocol, Proxy};
use handoff_e2e::{Answer, Daemon, Options, Upstream, process};
use nix::sys::signal::Signal;

const SECRET: &str = "sk-0123456789-very-secret";

#[test]
fn wherever_the_key_was_written() {
    let in_file = format!("[backend.openai]\napi_key = \"{SECRET}\"\n");
    let in_environment = vec![("OPENAI_API_KEY".to_owned(), SECRET.to_owned())];
    for (toml, env) in [(in_file, Vec::new()), (String::new(), in_environment)] {
        let workers = process::transparent_workers();
        let toml = format!("{toml}{workers}[logging]\nformat = \"json\"\nlevel = \"trace\"\n");
        let mut daemon = Daemon::with(&Options { toml, env, ..Options::default() });
        assert!(daemon.hand_over(r#"{"prompt":"x","mock":{"length":3}}"#).response().is_complete());
        assert_eq!(daemon.hand_over("no JSON").response().status, 400);
        daemon.signal(Signal::SIGUSR1);
        daemon.signal(Signal::SIGHUP);
        handoff_e2e::eventually("a roll", || {
            daemon.status()["last_reload"].as_str()?.contains("done").then_some(())
        });
        let mut places = vec![("/status", daemon.status().to_string())];
        places.push(("/metrics", daemon.get("/metrics").unwrap().1));
        let workers = daemon.workers("ready");
        assert_eq!(workers.len(), 2);
        let text = |path: String| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        for pid in workers {
            places.push(("environment", text(format!("/proc/{pid}/environ"))));
            places.push(("arguments", text(format!("/proc/{pid}/cmdline"))));
        }
        places.push(("arguments", text(format!("/proc/{}/cmdline", daemon.pid()))));
        daemon.signal(Signal::SIGTERM);
        daemon.wait();
        places.push(("log", daemon.log()));
        places.push(("standard output", daemon.stdout()));
        for (place, text) in places {
            assert!(!text.contains(SECRET), "the key is in the {place}: {text}");
        }
    }
}

/// A backend of this name without a key: for one in another form.
fn keyless(llm: &Upstream, name: &str, dialect: Dialect, form: &str) -> String {
    let toml = llm.backend_toml(name, dialect);
    let lines = toml.lines().filter(|line| !line.starts_with("api_key"));
    format!("{}\n{form}\n", lines.collect::<Vec<_>>().join("\n"))
}

#[test]
fn in_each_form_of_a_key_and_when_it_is_used() {
    // Base64 of `u:pw-very-secret-0123`.
    const TO_THE_PROXY: &str = "dTpwdy12ZXJ5LXNlY3JldC0wMTIz";
    let secret = |name: &str| format!("sk-{name}-0123456789-very-secret");
    let (plain, tls) = (Upstream::start(Protocol::H1), Upstream::start(Protocol::H2Tls));
    let proxy = Proxy::for_whom(&format!("Basic {TO_THE_PROXY}"));
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("key");
    fs::write(&file, format!("{}\n", secret("file"))).expect("a key");
    fs::write(directory.path().join("credential"), secret("credential")).expect("a key");
    let forms = [
        ("here", &tls, Dialect::OpenAi, format!("api_key = \"{}\"", secret("here"))),
        ("file", &plain, Dialect::Anthropic, format!("api_key_file = \"{}\"", file.display())),
        ("env", &tls, Dialect::Responses, "api_key_env = \"KEY_OF_A_TEST\"".to_owned()),
        ("credential", &plain, Dialect::LangGraph, "api_key_credential = \"credential\"".to_owned()),
        ("header", &tls, Dialect::Ollama, format!("headers = {{ x-team = \"{}\" }}", secret("header"))),
        (
            "proxy",
            &plain,
            Dialect::OpenAi,
            format!("proxy = \"http://u:pw-very-secret-0123@{}\"", proxy.address()),
        ),
    ];
    let backends = forms.each_ref().map(|(name, llm, dialect, form)| {
        format!("{}retries = 0\nbreaker_failures = 0\n", keyless(llm, name, *dialect, form))
    });
    let run_as = if nix::unistd::geteuid().is_root() { "user = 61234\ngroup = 61235\n" } else { "" };
    let workers = format!("[workers]\ncount = 2\nsandbox = \"require\"\n{run_as}");
    let toml = format!("{workers}[logging]\nformat = \"json\"\n{}", backends.join("\n"));
    let env = [
        ("RUST_LOG", "trace".to_owned()),
        ("KEY_OF_A_TEST", secret("env")),
        ("CREDENTIALS_DIRECTORY", directory.path().display().to_string()),
    ];
    let env = env.map(|(name, value)| (name.to_owned(), value)).to_vec();
    let mut daemon = Daemon::with(&Options { toml, env, ..Options::default() });
    let mut places = Vec::new();
    for (name, llm, dialect, _) in &forms {
        let payload = format!(r#"{{"prompt":"x","backend":"{name}"}}"#);
        llm.script(handoff_e2e::upstream::Talk::new(*dialect));
        let response = daemon.hand_over(&payload).response();
        assert!(response.is_complete(), "{name}: {response:?}");
        let seen = llm.requests().pop().expect("a request").request;
        let sent = seen.headers.iter().any(|(_, value)| value.contains(&secret(name)));
        assert!(sent || *name == "proxy", "{name}: {:?}", seen.headers);
        // Some say what is wrong with a key by repeating it.
        let sent = if *name == "proxy" { String::new() } else { secret(name) };
        let sentence = format!("{sent} is no key of ours");
        llm.script(Answer::openai_error(401, "invalid_request_error", "invalid_api_key", &sentence));
        let response = daemon.hand_over(&payload).response();
        assert_eq!(response.status, 502, "{name}: {response:?}");
        places.push(("answer", format!("{}{}", response.head, response.body)));
        llm.script(Answer::sse().named_event("error", &serde_json::json!({"error": {"message": sentence}})));
        let response = daemon.hand_over(&payload).response();
        assert!(response.status != 200, "{name}: {response:?}");
        places.push(("answer", format!("{}{}", response.head, response.body)));
    }
    assert_eq!(proxy.asked().iter().filter(|asked| asked.is_served).count(), 3);
    places.push(("/status", daemon.status().to_string()));
    places.push(("/metrics", daemon.get("/metrics").expect("metrics").1));
    for pid in process::children(daemon.pid()).into_iter().chain([daemon.pid()]) {
        let text = |path: String| String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned();
        places.push(("arguments", text(format!("/proc/{pid}/cmdline"))));
        if pid != daemon.pid() {
            places.push(("environment", text(format!("/proc/{pid}/environ"))));
        }
    }
    daemon.signal(Signal::SIGTERM);
    daemon.wait();
    let log = daemon.log();
    assert!(log.contains("\"level\":\"TRACE\""), "the log is as talkative as it can be");
    places.extend([("log", log), ("standard output", daemon.stdout())]);
    for (place, text) in places {
        for trace in ["very-secret", TO_THE_PROXY] {
            let line = text.lines().find(|line| line.contains(trace));
            assert!(line.is_none(), "a key is in the {place}: {line:?}");
        }
    }
}
