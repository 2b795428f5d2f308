//! A secret reaches workers over the channel alone: it is in no argument, no environment of theirs, no status, no
//! metric and no log line, however talkative.

use handoff_e2e::upstream::{API_KEY, Answer, Dialect, Protocol, Upstream};
use handoff_e2e::{Daemon, Options, process};
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

#[test]
fn also_when_it_is_sent_and_the_upstream_says_it_back() {
    for protocol in [Protocol::H1, Protocol::H2Tls] {
        let llm = Upstream::start(protocol);
        let message = format!("no such key: {API_KEY}");
        llm.script(Answer::openai_error(401, "invalid_request_error", "invalid_api_key", &message));
        let daemon = Daemon::start(&format!(
            "[logging]\nformat = \"json\"\nlevel = \"trace\"\n[workers]\ncount = 1\nsandbox = \"require\"\n[backend]\nprovider = \"llm\"\n{}",
            llm.backend_toml("llm", Dialect::OpenAi)
        ));
        let response = daemon.hand_over(r#"{"prompt":"x","request_id":"r"}"#).response();
        assert_eq!(response.error_code().as_deref(), Some("upstream_auth"), "{response:?}");
        assert!(!response.body.contains(API_KEY), "{response:?}");
        let _ = daemon.session("r");
        let log = daemon.log();
        assert!(log.contains("no such key: <secret>"), "the rest of the sentence is there: {log}");
        assert!(!log.contains(API_KEY), "{protocol:?}: the key is in the log: {log}");
    }
}
